"""Read a command's arguments into a frozen dataclass (by tyro), and answer typing errors with what was meant."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from eomt.cli.usage import in_words, nearest
from eomt.config import Thresholds, checked_thresholds
from eomt.errors import ConfigError

__all__ = [
    "OWN",
    "TASKS",
    "Action",
    "ClassSource",
    "Device",
    "ImageSize",
    "Merge",
    "ModelSource",
    "OwnCount",
    "OwnShare",
    "Switch",
    "Zoom",
    "check_least",
    "check_names",
    "check_needless",
    "check_view",
    "known_options",
    "make_folder",
    "named_first",
    "override_thresholds",
    "parse",
    "run_action",
]

T = TypeVar("T")
OWN = "(default: the model's own)"
TASKS = "{semantic,instance,panoptic}"

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""A flag without a `--no-` twin."""
ModelSource = Annotated[str, tyro.conf.arg(metavar="MODEL")]
ClassSource = Annotated[str | None, tyro.conf.arg(metavar="CLASSES", help_behavior_hint=OWN)]
"""Name of a class table, or the path of a file."""
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE")]
OwnShare = Annotated[float | None, tyro.conf.DisallowNone, tyro.conf.arg(metavar="0..1", help_behavior_hint=OWN)]
"""A share or a probability; None is the model's own."""
OwnCount = Annotated[int | None, tyro.conf.DisallowNone, tyro.conf.arg(metavar="INT", help_behavior_hint=OWN)]
Zoom = Annotated[float | None, tyro.conf.DisallowNone, tyro.conf.arg(metavar="FACTOR", help_behavior_hint=OWN)]
"""Pixels of the view for each of the image; None is the model's own."""
Merge = Annotated[
    float | None,
    tyro.conf.DisallowNone,
    tyro.conf.arg(metavar="SIMILARITY", help_behavior_hint="(default: none are merged)"),
]
"""Cosine similarity from which on tokens are merged."""
ImageSize = Annotated[
    tuple[int, int] | None,
    # A type of its own: of an optional pair, tyro would take all words that follow, images too.
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=2,
        metavar="HEIGHT WIDTH",
        instance_from_str=lambda words: (int(words[0]), int(words[1])),
        is_instance=lambda size: size is None or (isinstance(size, tuple) and len(size) == 2),
        str_from_instance=lambda size: [] if size is None else [str(side) for side in size],
    ),
    tyro.conf.arg(help_behavior_hint=OWN),
]


Action = tuple[Callable[[Sequence[str]], int], str]
"""What runs a sub-command and gives the exit code, and the words that the help has for it."""


def run_action(command: str, purpose: str, actions: Mapping[str, Action], arguments: Sequence[str]) -> int:
    """Run the sub-command of `eomt COMMAND` that the first argument names; list them where none is.

    Raises ConfigError for one that is not there.
    """
    first = arguments[0] if arguments else ""
    if first in actions:
        return actions[first][0](arguments[1:])
    width = max(map(len, actions))
    listed = "\n".join(f"  {name:<{width}}  {does}" for name, (_, does) in actions.items())
    text = (
        f"usage: eomt {command} <action> [options]\n\n{purpose}\n\nactions:\n{listed}\n\n"
        f"`eomt {command} <action> --help` shows an action's options.\n"
    )
    if first in ("-h", "--help", "help"):
        print(text, end="")
        return 0
    if not first:
        print(text, end="", file=sys.stderr)
        return ConfigError.exit_code
    near = nearest(first, actions, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"eomt {command} has no action {first}{hint}\nActions: {', '.join(actions)}")


def parse(cls: type[T], arguments: Sequence[str], prog: str, description: str, default: T | None = None) -> T:
    """Read arguments into `cls`, whose fields are the options and whose field docstrings are their help.

    Prints help and exits with 0. Raises ConfigError for what is wrong, in the words of `usage`; unknown options
    are reported first and all at once.
    """
    _plain_output()
    description = indent(description, "  ")  # or tyro would join its lines
    check_names(cls, arguments, prog)
    with in_words(arguments, prog):
        if default is None:
            return tyro.cli(cls, args=arguments, prog=prog, description=description)
        return tyro.cli(cls, args=arguments, prog=prog, description=description, default=default)


def _plain_output() -> None:
    """Let tyro heed NO_COLOR, and draw in ASCII where the terminal knows nothing else."""
    if os.environ.get("NO_COLOR"):
        tyro._experimental_options["ansi_codes"] = False
    if "utf" not in (sys.stdout.encoding or "").lower():
        tyro._experimental_options["utf8_boxes"] = False


def check_names(cls: type, arguments: Sequence[str], prog: str) -> None:
    """Raise ConfigError for options that the command does not have, all at once, with what may be meant."""
    if {"-h", "--help"} & set(arguments):
        return
    known = known_options(cls)
    ended = list(arguments).index("--") if "--" in arguments else len(arguments)
    names = [argument.partition("=")[0] for argument in arguments[:ended] if argument.startswith("--")]
    unknown = [name for name in dict.fromkeys(names) if name.replace("_", "-") not in known]
    if not unknown:
        return
    lines = []
    for name in unknown:
        near = nearest(name, known)
        lines.append(f"{prog} has no option {name}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    raise ConfigError("\n".join([*lines, f"All options: {prog} --help"]))


def named_first(arguments: Sequence[str]) -> str | None:
    """Give the first argument, where it is no option."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else None


def known_options(cls: type) -> list[str]:
    """List the options that tyro makes of a dataclass: `--name`, `--section.name`, and `--no-name` of a switch."""
    return ["--help", *_options(cls, ())]


def _options(cls: Any, sections: tuple[str, ...]) -> Iterator[str]:
    for name, hint in get_type_hints(cls, include_extras=True).items():
        plain, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        names = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        path = [part for part in (*sections, names[0] if names else name.replace("_", "-")) if part]
        if is_dataclass(plain):
            yield from _options(plain, tuple(path))
        elif tyro.conf.Positional not in marks:
            yield f"--{'.'.join(path)}"
            if plain is bool and tyro.conf.FlagCreatePairsOff not in marks:
                yield f"--{'.'.join([*path[:-1], 'no-' + path[-1]])}"


def override_thresholds(thresholds: Thresholds, options: object) -> Thresholds:
    """Replace a model's thresholds by those that the options give. Raises ConfigError for one out of range."""
    given = {each.name: getattr(options, each.name) for each in fields(thresholds)}
    return checked_thresholds(
        replace(thresholds, **{name: value for name, value in given.items() if value is not None})
    )


def check_least(options: object, **least: int) -> None:
    """Raise ConfigError where an option, if it was given, is less than it may be."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a whole number from {low} on")


def check_needless(options: object, given: str, *needless: str) -> None:
    """Raise ConfigError where one option is given and, beside it, another that it makes meaningless."""
    if getattr(options, given) is None:
        return
    for each in fields(options):  # type: ignore[arg-type]
        if each.name in needless and getattr(options, each.name) != each.default:
            names = (f"--{name.replace('_', '-')}" for name in (each.name, given))
            raise ConfigError("{} goes without {}, which has its own".format(*names))


def check_view(size: tuple[int, int] | None, zoom: float | None = None) -> None:
    """Raise ConfigError for a view without pixels, or a zoom that is no factor."""
    if size is not None and min(size) < 1:
        raise ConfigError(f"--image-size {size[0]} {size[1]}: expected a height and a width in pixels, from 1 on")
    if zoom is not None and not 0 <= zoom < math.inf:
        raise ConfigError(f"--zoom {zoom:g}: expected a number above 0, or 0 for the whole image in one view")


def make_folder(path: Path) -> None:
    """Make the folder of `--out`. Raises ConfigError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot make this folder ({error.strerror}); choose another") from error
