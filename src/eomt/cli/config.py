"""`eomt config`: show every setting that a training run would have, and where each comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from eomt.cli.console import print_json, printable
from eomt.cli.options import Switch, check_names, named_first, parse, run_action
from eomt.cli.recipes import find, origins_of, with_followed_rate, written
from eomt.config import Recipe, TaskName, flat, num_upscale_blocks, to_json
from eomt.errors import ConfigError

__all__ = ["run"]

PROG = "eomt config show"
PURPOSE = "Settings of a training run."
SHOW = "Print every setting of a run, and where its value comes from."
DESCRIPTION = """\
Print every setting that `eomt train` would use with the same recipe and
options, and where it comes from: the default, the recipe, its file, or the
command line. None (...) says in brackets what a setting that is left open
comes to.

Example: eomt config show small --optim.lr 2e-4"""


SETTLED: dict[str, Callable[[Recipe], object]] = {
    "task": lambda recipe: "as the data are",
    "steps": lambda recipe: "by the epochs",
    "patience": lambda recipe: "all steps are taken",
    "model.zoom": lambda recipe: "each image is scaled to the view",
    "model.depth": lambda recipe: "all blocks",
    "model.num_upscale_blocks": lambda recipe: num_upscale_blocks(recipe.model),
    "model.norm_eps": lambda recipe: "the backbone's own",
    "data.val": lambda recipe: f"{recipe.data.val_fraction} of {recipe.data.train}",
    "data.micro_batch": lambda recipe: recipe.data.batch_size,
    "data.format": lambda recipe: "recognised",
    "data.balance": lambda recipe: "each image once an epoch",
    "optim.lora": lambda recipe: "no adapters",
    "optim.ema": lambda recipe: "the weights themselves",
    "augment.fit": lambda recipe: FIT.get(recipe.task, "as the task in prediction"),
}
"""What a setting comes to that is None."""
FIT: dict[TaskName | None, str] = {"semantic": "cover", "instance": "contain", "panoptic": "contain"}
"""As `tasks.TASKS` has it, which cannot be read without torch."""


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
    each with value and origin, and with settled where a value of null comes to another)."""
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
    recipe = with_followed_rate(arguments, base, options.settings)
    if options.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, root=options.data))

    after, origins = flat(to_json(recipe)), origins_of(arguments, base, origins, recipe)
    settings: dict[str, dict[str, Any]] = {
        setting: {"value": value, "origin": origins[setting]} for setting, value in after.items()
    }
    for setting, rule in SETTLED.items():
        if after[setting] is None:
            settings[setting]["settled"] = rule(recipe)
    if options.json:
        print_json({"recipe": options.recipe, "settings": settings})
        return 0
    rows = [(setting, _shown(**facts), facts["origin"]) for setting, facts in settings.items()]
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for setting, value, origin in rows:
        print(f"{setting:<{name_width}}  {value:<{value_width}}  {printable(origin)}")
    return 0


def _shown(value: object, origin: str, settled: object = None) -> str:
    """Write a value, and in brackets what it comes to."""
    return written(value) if settled is None else f"{written(value)} ({printable(settled)})"
