"""`eomt train`: train a recipe, changed field by field by the options. Training itself is left to `training`."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from eomt.cli.console import log_lines, note, print_json, print_table, printable
from eomt.cli.options import Switch, check_names, known_options, named_first, parse
from eomt.cli.recipes import find, follows_batch, origins_of, summary, with_followed_rate, written
from eomt.cli.usage import nearest
from eomt.config import Recipe, flat, from_json, to_json
from eomt.errors import ConfigError
from eomt.recipes import OWN_DATA
from eomt.weights import zoo

__all__ = ["run"]

DEFAULT_RECIPE = "small"

AUTO = Path("auto")

HARMLESS = ("data.root", "data.workers", "device", "shard")
"""What may change in a resumed run without changing its steps, as may all of `track`."""

DESCRIPTION = """\
Train a model on your data set. A recipe gives every setting a value; each of
the options below changes one. The defaults that you see are those of {recipe};
`eomt train RECIPE --help` shows those of another. Recipes for your own data:
{recipes}
`eomt recipes ls` also lists the published configurations. A run's recipe.json
is a recipe too.

Example: eomt train small --data my-data --out runs/first --optim.lr 2e-4"""


@dataclass(frozen=True)
class TrainArguments:
    """What `eomt train` accepts."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(required)")] = None
    """Folder of the run: settings, figures and the trained model."""
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = DEFAULT_RECIPE
    """Name of the recipe, or a JSON file such as a run's recipe.json; may be left out."""
    data: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(required)")] = None
    """The data set: a folder or a zip (read as it is, not unpacked). The same as --data.root."""
    init_from: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None
    """Start from a trained model instead of the backbone's weights: the folder of a run or of a model, a file of
    weights, a published name (eomt models ls), OWNER/NAME of a repository, or `bundled`. Its architecture replaces
    the recipe's; view, patches and how it is trained stay the recipe's."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with the run in this folder as if it had never stopped, with its own recipe. `auto`: with the one in
    --out, where it has begun, else begin it; for a command that a launcher or a queue starts again."""
    change: Switch = False
    """With --resume: go on even where options or other data change what the steps compute."""
    dry_run: Switch = False
    """Take two steps and judge one image, then say what the run will take: memory, time, disk. Writes nothing."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the keys out, metrics; of a dry run, with
    its figures."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    """The recipe, field by field."""


def run(arguments: Sequence[str]) -> int:
    """Train as the arguments say and print the final figures; give the exit code."""
    options = _read(arguments)
    automatic = options.resume == AUTO
    if automatic:
        options = _found(options)
    recipe, out = _complete(options)
    if options.init_from is not None:
        zoo.check(options.init_from)
    from eomt.training.loop import train

    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    base, origins = find(options.recipe)
    if speaks and follows_batch(arguments, base, recipe):
        note(
            f"learning rate {recipe.optim.lr:g}: the recipe's {base.optim.lr:g} at a batch of "
            f"{base.data.batch_size} goes with the square root of the batch; --optim.lr sets another"
        )
    if options.dry_run:
        return _forecast(options, recipe, out, speaks)
    with log_lines() if speaks else nullcontext():
        result = train(
            recipe,
            out,
            init_from=options.init_from,
            resume="auto" if automatic else options.resume is not None,
            change=options.change,
            origins=origins_of(arguments, base, origins, recipe),
        )
    if not speaks:
        return 0
    if options.json or recipe.track.log == "json":
        print_json({"out": str(result.folder), "metrics": dict(result.metrics)})
    else:
        figures: list[list[str | float]] = [[name, value] for name, value in result.metrics.items()]
        print_table("Final figures", ["figure", ""], figures)
        print(f"results in {printable(result.folder)}")
    note(f"next: eomt predict --model {result.folder} IMAGES")
    return 0


def _forecast(options: TrainArguments, recipe: Recipe, out: Path, speaks: bool) -> int:
    """Print what a dry run finds; give the exit code."""
    from eomt.training.dry_run import dry_run

    if options.resume is not None:
        raise ConfigError("--dry-run is for a run that is not there yet: leave out --resume")
    with log_lines() if speaks else nullcontext():
        forecast = dry_run(recipe, out, init_from=options.init_from)
    if speaks and options.json:
        print_json(forecast.to_json())
    elif speaks:
        for line in forecast.lines():
            print(printable(line))
    if speaks:
        note("nothing was written; the same command without --dry-run starts the run")
    return 0


def _read(arguments: Sequence[str]) -> TrainArguments:
    """Read the arguments with the values of the recipe that they name as defaults."""
    check_names(TrainArguments, arguments, "eomt train")  # before a recipe is sought
    listed = "\n".join(f"  {name:<8} {summary(name)}" for name in OWN_DATA)

    def read(name: str) -> TrainArguments:
        if "=" in name and not Path(name).is_file():
            option, _, value = name.partition("=")
            near = nearest(option, known_options(TrainArguments), 1) or [f"--{option}"]
            raise ConfigError(f"{name} is no recipe; an option is written {near[0]} {value}")
        recipe, _ = find(name)
        description = DESCRIPTION.format(recipe=name, recipes=listed)
        options = parse(
            TrainArguments, arguments, "eomt train", description, TrainArguments(recipe=name, settings=recipe)
        )
        return replace(options, settings=with_followed_rate(arguments, recipe, options.settings))

    first = named_first(arguments) or _resumed(arguments) or DEFAULT_RECIPE
    options = read(first)
    return options if options.recipe == first else read(options.recipe)


def _resumed(arguments: Sequence[str]) -> str | None:
    """Give the recipe of the run that --resume names, if it does."""
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option == "--resume":
            run = Path(value or next(iter(arguments[place + 1 :]), ""))
            if run == AUTO:
                return None
            if not (run / "recipe.json").is_file():
                raise ConfigError(f"--resume {run}: no run in this folder (no recipe.json)")
            return str(run / "recipe.json")
    return None


def _found(options: TrainArguments) -> TrainArguments:
    """Turn `--resume auto` into what it means: the run in --out, where it has a state, or none."""
    out = options.out
    if out is None or not any(out.glob("states/step-*")):
        return replace(options, resume=None, change=False)
    ran, asked = to_json(find(str(out / "recipe.json"))[0]), to_json(options.settings)
    if options.init_from is not None:
        asked["model"] = ran["model"]  # that of the model which was started from
    settings = from_json(Recipe, _filled(asked, ran))
    return replace(options, resume=out, out=None, init_from=None, settings=settings)


def _filled(asked: Any, ran: Any) -> Any:
    """Put what the run has settled where nothing was asked for."""
    if isinstance(asked, dict):
        return {name: _filled(value, ran[name]) for name, value in asked.items()}
    return ran if asked in (None, "auto") else asked


def _check_changes(options: TrainArguments) -> None:
    """Refuse options that would make a resumed run another one. Raises ConfigError, naming them."""
    assert options.resume is not None
    ran, asked = (flat(to_json(each)) for each in (find(str(options.resume / "recipe.json"))[0], options.settings))
    harmless = {*HARMLESS, *(name for name in asked if name.startswith("track."))}
    changed = [name for name in asked if asked[name] != ran[name] and name not in harmless]
    if changed and not options.change:
        told = "; ".join(f"{name} was {written(ran[name])}, is {written(asked[name])}" for name in changed)
        raise ConfigError(
            f"--resume {options.resume}: the run would not be the one that was begun ({told}). Leave these out, "
            f"add --change to go on all the same, or start a new run with --init-from {options.resume}"
        )
    if options.out is not None or options.init_from is not None:
        raise ConfigError("--resume goes on in the run's folder, from its state: leave out --out and --init-from")


def _complete(options: TrainArguments) -> tuple[Recipe, Path]:
    """Give the recipe with its data set, and the folder of the run. Raises ConfigError where one is not named."""
    if options.resume is not None:
        _check_changes(options)
    elif options.change:
        raise ConfigError("--change goes with --resume")
    recipe, root, out = options.settings, options.data, options.resume or options.out
    missing = [] if root or recipe.data.root else ["--data PATH, the data set (a folder or a zip)"]
    missing += [] if out else ["--out DIR, the folder of the run"]
    if missing or out is None:
        raise ConfigError(f"eomt train needs {' and '.join(missing)}")
    if root and recipe.data.root not in (None, root) and options.resume is None:
        raise ConfigError(f"--data {root} and --data.root {recipe.data.root} name two data sets; give one")
    return (replace(recipe, data=replace(recipe.data, root=root)) if root else recipe), out
