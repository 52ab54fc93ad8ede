"""`eomt config`: show every setting that a training run would have, and where each comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from eomt.cli.console import print_json, printable
from eomt.cli.options import Switch, check_names, named_first, parse, run_action
from eomt.cli.recipes import find, flat, written
from eomt.config import Recipe, to_json
from eomt.errors import ConfigError

__all__ = ["run"]

PROG = "eomt config show"
PURPOSE = "Settings of a training run."
SHOW = "Print every setting of a run, and where its value comes from."
DESCRIPTION = """\
Print every setting that `eomt train` would use with the same recipe and
options, and where it comes from: the default, the recipe, its file, or the
command line.

Example: eomt config show small --optim.lr 2e-4"""


@dataclass(frozen=True)
class ConfigArguments:
    """What `eomt config show` accepts."""

    recipe: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE", help_behavior_hint="(required)")
    ] = ""
    """Name of a recipe, or a JSON file such as a run's recipe.json."""
    data: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The data set. The same as --data.root."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the keys recipe, settings (by dotted name,
    each with value and origin)."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    """The recipe, field by field."""


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments ask and give the exit code."""
    return run_action("config", PURPOSE, {"show": (show, SHOW)}, arguments)


def show(arguments: Sequence[str]) -> int:
    """Print each setting with its value and its origin."""
    check_names(ConfigArguments, arguments, PROG)  # before a recipe is sought

    def read(name: str) -> tuple[ConfigArguments, Recipe, dict[str, str]]:
        base, origins = find(name) if name else (Recipe(), {})
        return parse(ConfigArguments, arguments, PROG, DESCRIPTION, ConfigArguments(settings=base)), base, origins

    first = named_first(arguments) or ""
    options, base, origins = read(first)
    if not options.recipe:
        raise ConfigError(f"{PROG} needs a RECIPE: a name (eomt recipes ls lists them) or a run's recipe.json")
    if options.recipe != first:  # it stands behind options
        options, base, origins = read(options.recipe)
    recipe = options.settings
    if options.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, root=options.data))

    before, after = flat(to_json(base)), flat(to_json(recipe))
    given = named_settings(arguments) | {setting for setting in after if after[setting] != before[setting]}
    origins |= dict.fromkeys(given & set(after), "command line")
    if options.json:
        settings = {
            setting: {"value": value, "origin": origins.get(setting, "default")}
            for setting, value in after.items()
        }
        print_json({"recipe": options.recipe, "settings": settings})
        return 0
    rows = [(setting, written(value), origins.get(setting, "default")) for setting, value in after.items()]
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for setting, value, origin in rows:
        print(f"{setting:<{name_width}}  {value:<{value_width}}  {printable(origin)}")
    return 0


def named_settings(arguments: Sequence[str]) -> set[str]:
    """Give the dotted names of the settings that options name, also where they repeat the recipe's value."""
    settings = set()
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            section, dot, name = argument.partition("=")[0][2:].replace("-", "_").rpartition(".")
            settings |= {section + dot + name, section + dot + name.removeprefix("no_")}
    return settings | ({"data.root"} if "data" in settings else set())
