"""`eomt recipes`: list the recipes, show one; and the recipe that a name or a file means, for other commands."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from eomt.cli.console import note, print_json, printable
from eomt.cli.options import Switch, parse, run_action
from eomt.cli.usage import nearest
from eomt.config import Recipe, flat, from_json, to_json
from eomt.errors import ConfigError
from eomt.recipes import OWN_DATA, PUBLISHED, RECIPES, with_batch_size

__all__ = ["find", "origins_of", "run", "written"]

PURPOSE = "Recipes: complete settings of training runs, which `eomt train` takes by name."
LIST = "List the recipes: for your own data, and the published configurations."
SHOW = "Show a recipe: what it is, what it costs, and its settings."


@dataclass(frozen=True)
class ListArguments:
    """What `eomt recipes ls` accepts."""

    json: Switch = False
    """Print one JSON object as the last line of standard output, with the key recipes: a list of objects."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class ShowArguments:
    """What `eomt recipes show` accepts."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="(required)")] = ""
    """Name of the recipe."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the keys name, description, settings."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments ask and give the exit code."""
    return run_action("recipes", PURPOSE, {"ls": (list_recipes, LIST), "show": (show_recipe, SHOW)}, arguments)


def list_recipes(arguments: Sequence[str]) -> int:
    """Print each recipe's name and what it is."""
    options = parse(ListArguments, arguments, "eomt recipes ls", LIST)
    if options.json:
        print_json({"recipes": [_row(name) for name in RECIPES]})
        return 0
    width = max(map(len, RECIPES))
    for title, recipes in (("for your own data", OWN_DATA), ("published configurations", PUBLISHED)):
        print(f"{title}:")
        for name in recipes:
            print(f"  {name:<{width}}  {summary(name)}")
    note("next: eomt recipes show NAME; eomt train NAME --data PATH --out DIR")
    return 0


def show_recipe(arguments: Sequence[str]) -> int:
    """Print a recipe's description and all its settings."""
    options = parse(ShowArguments, arguments, "eomt recipes show", SHOW)
    if not options.name:
        raise ConfigError("eomt recipes show needs a NAME; eomt recipes ls lists them")
    name = canonical(options.name)
    if name not in RECIPES:
        raise ConfigError(no_recipe(options.name))
    recipe = RECIPES[name]()
    if options.json:
        print_json({"name": name, "description": description(name), "settings": to_json(recipe)})
        return 0
    print(f"{name}\n\n{description(name)}\n")
    settings = flat(to_json(recipe))
    width = max(map(len, settings))
    for setting, value in settings.items():
        print(f"{setting:<{width}}  {written(value)}")
    return 0


def _row(name: str) -> dict[str, Any]:
    recipe = RECIPES[name]()
    return {
        "name": name,
        "summary": summary(name),
        "published": name in PUBLISHED,
        "task": recipe.task,
        "backbone": recipe.model.backbone,
        "image_size": recipe.model.image_size,
        "epochs": recipe.epochs if recipe.steps is None else None,
        "steps": recipe.steps,
    }


def description(name: str) -> str:
    """Give the docstring of a recipe."""
    return inspect.getdoc(RECIPES[name]) or ""


def summary(name: str) -> str:
    """Give the first line of a recipe's docstring."""
    return description(name).partition("\n")[0]


def canonical(name: str) -> str:
    """Read hyphens as underscores."""
    return name.replace("-", "_")


def find(name: str) -> tuple[Recipe, dict[str, str]]:
    """Give the recipe of a name, or of a JSON file such as a run leaves, and where its settings come from.

    The origins name the settings, by their dotted names, that have another value than the class's default, or
    that stand in the file. Raises ConfigError where there is no such recipe, or the file is none.
    """
    if canonical(name) in RECIPES:
        recipe = RECIPES[canonical(name)]()
        default = flat(to_json(Recipe()))
        changed = (setting for setting, value in flat(to_json(recipe)).items() if value != default[setting])
        return recipe, dict.fromkeys(changed, f"recipe {canonical(name)}")
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        raise ConfigError(no_recipe(name))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {name}: cannot read this file ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {name}: this is no JSON ({error})") from error
    recipe = from_json(Recipe, values, name)
    return recipe, dict.fromkeys(flat(values), f"file {name}")


def origins_of(
    arguments: Sequence[str], base: Recipe, origins: Mapping[str, str], recipe: Recipe
) -> dict[str, str]:
    """Say where each setting comes from, by dotted name: `find` tells it of the base, which options changed."""
    before, after = flat(to_json(base)), flat(to_json(recipe))
    given = _named_settings(arguments) | {setting for setting in after if after[setting] != before[setting]}
    told = {**origins, **dict.fromkeys(given, "command line")}
    if follows_batch(arguments, base, recipe):
        told["optim.lr"] = "data.batch_size, by its square root"
    return {setting: told.get(setting, "default") for setting in after}


def follows_batch(arguments: Sequence[str], base: Recipe, recipe: Recipe) -> bool:
    """Tell whether options change a recipe's batch, but do not say at which learning rate."""
    return recipe.data.batch_size != base.data.batch_size and "optim.lr" not in _named_settings(arguments)


def with_followed_rate(arguments: Sequence[str], base: Recipe, recipe: Recipe) -> Recipe:
    """Let the learning rate follow the batch where options change only the batch (`recipes.with_batch_size`)."""
    if recipe.data.batch_size < 1 or not follows_batch(arguments, base, recipe):
        return recipe  # training refuses a batch of nothing
    followed = with_batch_size(base, recipe.data.batch_size).optim.lr
    return replace(recipe, optim=replace(recipe.optim, lr=followed))


def _named_settings(arguments: Sequence[str]) -> set[str]:
    """Give the dotted names of the settings that options name, also where they repeat the recipe's value."""
    settings = set()
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            section, dot, name = argument.partition("=")[0][2:].replace("-", "_").rpartition(".")
            settings |= {section + dot + name, section + dot + name.removeprefix("no_")}
    return settings | ({"data.root"} if "data" in settings else set())


def no_recipe(name: str) -> str:
    """Say that a recipe is not there, and what may have been meant."""
    near = nearest(canonical(name), RECIPES)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    folder = Path(name)
    if (folder / "recipe.json").is_file():
        hint = f"; did you mean {folder / 'recipe.json'}?"
    return (
        f"there is no recipe {name}{hint}\n"
        f"Recipes: {', '.join(OWN_DATA)}, the published ones (eomt recipes ls), or a run's recipe.json"
    )


def written(value: Any) -> str:
    """Write a setting's value as the command line reads it."""
    if isinstance(value, list | tuple):
        return " ".join(map(written, value))
    return printable(value)
