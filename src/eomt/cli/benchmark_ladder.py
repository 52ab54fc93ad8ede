"""`eomt benchmark ladder` and `sizes`: the paper's comparisons. Measuring is left to `eomt.benchmark.ladder`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from eomt.cli.benchmark_tables import machine_line, span
from eomt.cli.console import counted, log_lines, print_json, print_table, printable, progress
from eomt.cli.options import Device, Switch, check_least, parse
from eomt.cli.picture import check_picture, write_picture
from eomt.config import Precision
from eomt.errors import ConfigError

if TYPE_CHECKING:
    from eomt.benchmark.ladder import Climb, Row

__all__ = ["LADDER", "SIZES", "run_ladder", "run_sizes"]

LADDER = "The paper's steps from ViT-Adapter + Mask2Former to EoMT: what each costs here."
SIZES = "The first and the last of these steps in sizes S, B, L, g, beside the published PQ."

LADDER_DESCRIPTION = """\
Measure the steps of the paper's table 1, from ViT-Adapter + Mask2Former to
EoMT: parameters, multiply-adds, time of the forward pass with the masks of all
queries, peak memory; beside them what the paper says (GFLOPs are multiply-adds,
images a second are an H100's). Weights are random. All steps run in turns.

Example: eomt benchmark ladder --size base --picture ladder.png"""

SIZES_DESCRIPTION = """\
Measure ViT-Adapter + Mask2Former and EoMT in several sizes, one size after
another, the two of a size in turns, beside the published PQ, and draw accuracy
over time as the paper's first figure does. Weights are random: PQ is the
paper's, time is measured here.

Example: eomt benchmark sizes --sizes small base --picture sizes.png"""

ROUNDS = {"small": 7, "base": 5, "large": 3, "giant": 3}
LETTERS = {"small": "S", "base": "B", "large": "L", "giant": "g"}
Side = Literal["small", "base", "large", "giant"]


@dataclass(frozen=True)
class Common:
    """What both accept."""

    image_size: Annotated[tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH")] = (640, 640)
    """Size of the view in pixels; the paper's figures are shown at 640 640 only."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """Mode of torch.compile; the paper's images a second are of compiled models."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: torch's)")] = None
    """Threads that compute on the processor."""
    rounds: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 7 small, 5 base, 3 large, 3 giant)")
    ] = None
    """Passes of each model that are timed, in turns."""
    warm_up: Annotated[int, tyro.conf.arg(metavar="INT")] = 1
    """Passes before these that are not counted."""
    clock: Literal["wall", "processor"] = "wall"
    """wall: what a user waits. processor: the time that all threads were given, for busy machines."""
    memory: bool = True
    """Measure peak memory, of each model in a process of its own."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Also draw it into this picture, a new PNG file."""
    json: Switch = False
    """Print one JSON object as the last line of standard output."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class LadderArguments(Common):
    """What `eomt benchmark ladder` accepts."""

    size: Literal["small", "base", "large"] = "large"
    """The ViT."""


@dataclass(frozen=True)
class SizesArguments(Common):
    """What `eomt benchmark sizes` accepts."""

    sizes: Annotated[tuple[Side, ...], tyro.conf.arg(metavar="SIZE...")] = ("small", "base", "large")
    """Of small, base, large, giant; the two giants take 10 GB of memory."""


def run_ladder(arguments: Sequence[str]) -> int:
    """Measure all steps of one size."""
    options = parse(LadderArguments, arguments, "eomt benchmark ladder", LADDER_DESCRIPTION)
    _check(options)
    climbed = _climb(options, options.size, ends_only=False)
    if options.picture:
        _draw_ladder(climbed, options.size, options.picture)
    _print(f"ladder, ViT {options.size}", climbed)
    if options.json:
        print_json({"size": options.size, **climbed.to_json()})
    return 0


def run_sizes(arguments: Sequence[str]) -> int:
    """Measure both ends in several sizes."""
    options = parse(SizesArguments, arguments, "eomt benchmark sizes", SIZES_DESCRIPTION)
    if not options.sizes:
        raise ConfigError("--sizes: name at least one of small, base, large, giant")
    _check(options)
    if options.picture and options.image_size != (640, 640):
        raise ConfigError("--picture shows the paper's PQ, that of views of 640 640: leave out --image-size")
    climbed = {str(size): _climb(options, size, ends_only=True) for size in dict.fromkeys(options.sizes)}
    if options.picture:
        _draw_sizes(climbed, options.picture)
    for size, each in climbed.items():
        _print(f"ViT {size}", each)
    if options.json:
        print_json({"sizes": {size: each.to_json() for size, each in climbed.items()}})
    return 0


def _check(options: Common) -> None:
    """Raise ConfigError for what cannot be measured, before torch is imported."""
    check_picture(options.picture)
    check_least(options, rounds=1, warm_up=0, threads=1)
    if min(options.image_size) < 1:
        raise ConfigError(
            f"--image-size {options.image_size[0]} {options.image_size[1]}: expected sides from 1 on"
        )


def _climb(options: Common, size: str, ends_only: bool) -> "Climb":
    import torch

    from eomt.benchmark.ladder import climb, ladder_rungs, size_rungs

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rungs = (size_rungs if ends_only else ladder_rungs)(size, options.image_size)
    with log_lines(), progress(f"benchmark {size}") as show:
        return climb(
            rungs,
            ROUNDS[size] if options.rounds is None else options.rounds,
            precision=options.precision,
            device=options.device,
            compile=options.compile,
            warm_up=options.warm_up,
            clock=options.clock,
            with_memory=options.memory,
            show=show,
        )


COLUMNS = [
    "",
    "M params",
    "paper",
    "G mult-adds",
    "paper",
    "ms",
    "middle half",
    "/ EoMT",
    "MiB",
    "paper's fps",
    "its PQ",
]


def _print(title: str, climbed: "Climb") -> None:
    rounds = counted(len(climbed.rows[0].times.values), "round")
    how = climbed.dtype if climbed.compile == "off" else f"{climbed.dtype}, compiled"
    where = f"{how}, {machine_line(climbed.machine, climbed.clock)}, medians of {rounds}"
    height, width = climbed.rows[0].rung.config.image_size
    print(printable(f"{title}: {where}; random weights, views of {width} x {height}"))
    print_table(
        "milliseconds of a forward pass, MiB that it takes above the model",
        COLUMNS,
        [_row(climbed, row) for row in climbed.rows],
    )


def _row(climbed: "Climb", row: "Row") -> list[str]:
    paper: dict[str, Any] = {} if row.rung.published is None else row.rung.published._asdict()

    def told(name: str) -> str:
        return "–" if paper.get(name) is None else f"{paper[name]:g}"

    return [
        row.rung.name,
        f"{row.size.parameters / 1e6:.1f}",
        told("parameters"),
        f"{row.size.multiply_adds / 1e9:.3g}",
        told("multiply_adds"),
        f"{row.times.median * 1e3:.0f}",
        span(row.times, 1e3),
        f"{climbed.over_last(row):.2f}",
        "–" if row.memory is None else f"{row.memory.above / 2**20:.0f}",
        told("fps"),
        told("pq"),
    ]


def _draw_ladder(climbed: "Climb", size: str, picture: Path) -> None:
    """Draw a bar a step."""
    from eomt.benchmark.pictures import Bar, bars

    rows = []
    for row in climbed.rows:
        milliseconds = row.times.median * 1e3
        note = f"{milliseconds:.0f} ms, {climbed.over_last(row):.2f} x"
        rows.append(Bar(row.rung.name, {"forward": milliseconds}, note))
    title = f"Forward pass, ViT {size}, {climbed.dtype}; {machine_line(climbed.machine, climbed.clock)}"
    write_picture(bars(title, rows), picture, "times")


def _draw_sizes(climbed: "dict[str, Climb]", picture: Path) -> None:
    """Draw the published PQ over the time measured here."""
    from eomt.training.curves import Line, Panel, draw

    lines = []
    for place, name in ((0, "ViT-Adapter + Mask2Former"), (-1, "EoMT")):
        rows = [each.rows[place] for each in climbed.values()]
        points = [(row.times.median * 1e3, row.rung.published.pq) for row in rows if row.rung.published]
        names = [LETTERS[size] for size, each in climbed.items() if each.rows[place].rung.published]
        lines.append(Line(name, [x for x, _ in points], [y for _, y in points], names))
    panel = Panel("the paper's PQ over milliseconds of a forward pass here", lines, has_dots=True, from_zero=False)
    write_picture(draw([panel]), picture, "accuracy over time")
