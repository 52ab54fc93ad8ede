"""`eomt benchmark`: what a model costs and how that compares. Measuring is left to `eomt.benchmark`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eomt.benchmark.rounds import WHOLE
from eomt.cli import benchmark_ladder, benchmark_peers
from eomt.cli.benchmark_tables import machine_line, milliseconds, span
from eomt.cli.console import counted, log_lines, print_json, print_table, printable, progress
from eomt.cli.options import (
    TASKS,
    Action,
    Device,
    ImageSize,
    Merge,
    Switch,
    check_least,
    check_needless,
    check_view,
    parse,
)
from eomt.cli.picture import check_photo, check_picture, write_picture
from eomt.cli.recipes import find
from eomt.cli.usage import nearest
from eomt.config import ModelConfig, Precision, TaskName
from eomt.errors import ConfigError
from eomt.weights import zoo

if TYPE_CHECKING:
    from eomt.benchmark.model import Contestant, Report
    from eomt.benchmark.operations import Profile

__all__ = ["run"]

DESCRIPTION = """\
Measure what a model costs: the time to prepare an image, of the forward pass,
to decode it, and of the whole call, with peak memory, parameters and
multiply-adds. It runs in turns with a baseline, in one process: medians, the
quartiles between which the middle half of the rounds lies, and their ratio.

Time does not depend on what weights say but for decoding: without --model they
are random, and so many queries are made sure of themselves as --confident
says. Reading image files is not in the times.

Baselines: vit (the model's backbone alone, timm's forward_features on the same
weights), fp32, bf16, unmerged, eager, compile (the same model run so), none, or
another model as --model names one.

Examples:
  eomt benchmark                             EoMT-S at 640 beside its bare ViT
  eomt benchmark --recipe large --baseline fp32
  eomt benchmark --model runs/first --photo photo.jpg --baseline bundled"""

ACTIONS: dict[str, Action] = {
    "peers": (benchmark_peers.run, benchmark_peers.PURPOSE),
    "ladder": (benchmark_ladder.run_ladder, benchmark_ladder.LADDER),
    "sizes": (benchmark_ladder.run_sizes, benchmark_ladder.SIZES),
}

WORDS = ("none", "vit", "fp32", "bf16", "unmerged", "eager", "compile")
"""Baselines that are no models."""


@dataclass(frozen=True)
class BenchmarkArguments:
    """What `eomt benchmark` accepts."""

    model: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: random weights)")
    ] = None
    """A trained model: the folder of a run or of a model, a file of weights, a published name (eomt models ls) or
    OWNER/NAME of a repository."""
    recipe: Annotated[str, tyro.conf.arg(metavar="RECIPE")] = "small"
    """Without --model: the architecture, by the name of a recipe (eomt recipes ls)."""
    backbone: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the recipe's)")
    ] = None
    """Without --model: another backbone, by its name in timm."""
    task: Annotated[TaskName | None, tyro.conf.arg(metavar=TASKS, help_behavior_hint="(default: the model's)")] = (
        None
    )
    """What to decode."""
    photo: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: one is drawn)")] = (
        None
    )
    """The image that is predicted."""
    photo_size: Annotated[tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH")] = (960, 1280)
    """Without --photo: the size of the picture that is drawn."""
    image_size: ImageSize = None
    """Size in pixels of the view that the model sees."""
    batch: Annotated[int, tyro.conf.arg(metavar="INT")] = 1
    """Images in a call, all through the model at once."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """Mode of torch.compile; what compiling takes is in the first call."""
    merge: Merge = None
    """Merge patches whose tokens are at least so alike (cosine, such as 0.98); what it saves depends on the
    weights and the image, so give --model and --photo."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: torch's)")] = None
    """Threads that compute on the processor."""
    confident: Annotated[int, tyro.conf.arg(metavar="INT")] = 20
    """Without --model: queries that are sure of a segment, the others being sure of none."""
    baseline: Annotated[str, tyro.conf.arg(metavar="BASELINE")] = "vit"
    """vit, fp32, bf16, unmerged, eager, compile, none, or a model."""
    rounds: Annotated[int, tyro.conf.arg(metavar="INT")] = 15
    """Runs that are timed, in turns with as many of the baseline."""
    warm_up: Annotated[int, tyro.conf.arg(metavar="INT")] = 2
    """Runs before these that are not counted, the first call aside."""
    clock: Literal["wall", "processor"] = "wall"
    """wall: what a user waits. processor: the time that all threads were given, for busy machines."""
    memory: bool = True
    """Measure peak memory, of each side in a process of its own, which loads the model again."""
    profile: Switch = False
    """Also tell what the forward pass spends its time on, by kinds of operations, and how fast it computes beside
    the machine's products of large matrices."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Also draw the times into this picture, a new PNG file."""
    json: Switch = False
    """Print one JSON object as the last line of standard output: machine, clock, model, weights, part, view,
    views, batch, precision, compile, merge, parameters, multiply_adds (without merging), first_seconds,
    milliseconds, images_per_second, memory_mib, profile, baseline (the same keys), ratios."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Measure what the arguments name, or run the action that comes first, and give the exit code."""
    if arguments and arguments[0] in ACTIONS:
        return ACTIONS[arguments[0]][0](arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        near = nearest(arguments[0], ACTIONS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"eomt benchmark has no action {arguments[0]}{hint}\nActions: {', '.join(ACTIONS)}")
    listed = "\n".join(f"  {name:<7}{purpose}" for name, (_, purpose) in ACTIONS.items())
    description = f"{DESCRIPTION}\n\nActions, each with its own --help:\n{listed}"
    options = parse(BenchmarkArguments, arguments, "eomt benchmark", description)
    _check(options)
    architecture = None if options.model else _architecture(options)
    with log_lines():
        report = _measure(options, architecture)
    if options.picture:
        _draw(report, options.picture)
    _print(report)
    if options.json:
        print_json(report.to_json())
    return 0


def _check(options: BenchmarkArguments) -> None:
    """Raise ConfigError for what cannot be measured, before torch is imported."""
    check_view(options.image_size)
    check_picture(options.picture)
    check_least(options, batch=1, rounds=1, warm_up=0, confident=0, threads=1)
    check_needless(options, "model", "recipe", "backbone", "confident")
    check_needless(options, "photo", "photo_size")
    check_photo(options.photo)
    if min(options.photo_size) < 1:
        raise ConfigError(
            f"--photo-size {options.photo_size[0]} {options.photo_size[1]}: expected sides from 1 on"
        )
    if options.model is not None:
        zoo.check(options.model)
    if options.baseline not in WORDS:
        zoo.check(options.baseline)
    if options.profile and options.compile != "off":
        raise ConfigError("--profile goes without --compile: a compiled model has no operations to look at")


def _architecture(options: BenchmarkArguments) -> tuple[ModelConfig, TaskName]:
    """Give what has random weights, and the task that its recipe is for."""
    recipe = find(options.recipe)[0]
    model = recipe.model if options.backbone is None else replace(recipe.model, backbone=options.backbone)
    if options.image_size is not None:  # positions of this size, as a model that was trained at it has
        model = replace(model, image_size=options.image_size)
    return model, options.task or recipe.task or "panoptic"


def _measure(options: BenchmarkArguments, architecture: tuple[ModelConfig, TaskName] | None) -> "Report":
    import torch

    from eomt.benchmark.model import baseline_of, benchmark
    from eomt.benchmark.subject import Setting

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setting = Setting(
        model=options.model or (architecture[0] if architecture else ""),
        task=architecture[1] if architecture else options.task,
        photo=str(options.photo) if options.photo else options.photo_size,
        image_size=options.image_size,
        batch=options.batch,
        precision=options.precision,
        compile=options.compile,
        merge=options.merge,
        device=options.device,
        confident=options.confident,
    )
    with progress("benchmark") as show:
        return benchmark(
            setting,
            baseline_of(options.baseline, setting),
            options.rounds,
            warm_up=options.warm_up,
            clock=options.clock,
            with_memory=options.memory,
            with_profile=options.profile,
            show=show,
        )


def _print(report: "Report") -> None:
    """Print a table of times, and one of the other costs."""
    sides = {"measured": report.measured} | ({} if report.baseline is None else {"baseline": report.baseline})
    print(printable(machine_line(report.machine, report.clock)))
    for word, side in sides.items():
        print(printable(f"{word}: {name_of(side)}"))
    columns = ["", *(each for word in sides for each in (word, "middle half"))]
    columns += ["ratio", "middle half"] if report.baseline else []
    rows: list[list[str]] = []
    for stage in report.measured.times:
        row = [stage, *(word for side in sides.values() for word in milliseconds(side.times, stage))]
        if report.baseline:
            found = report.ratios.get(stage)
            row += ["", ""] if found is None else [f"{found.median:.3f}", span(found)]
        rows.append(row)
    rounds = counted(len(report.measured.times[WHOLE].values), "round")
    batch = counted(report.measured.setting.batch, "image")
    print_table(f"milliseconds for {batch}, medians of {rounds}", columns, rows)
    print_table(
        "other costs", ["", *sides], [[words, *map(cost, sides.values())] for words, cost in _COSTS.items()]
    )
    if report.measured.profile is not None:
        _print_profile(report.measured.profile)


def _print_profile(profile: "Profile") -> None:
    """Print a row for each kind of operation, the longest first."""
    whole = sum(kind.seconds for kind in profile.kinds.values())
    rows = []
    for name, kind in profile.kinds.items():
        row = [name, str(kind.calls), f"{kind.seconds * 1e3:.4g}", f"{kind.seconds / whole:.0%}"]
        if kind.multiply_adds:
            rate = 2 * kind.multiply_adds / kind.seconds
            row += [f"{kind.multiply_adds / 1e9:.1f}", f"{rate / 1e9:.0f}", f"{rate / profile.rate:.0%}"]
        rows.append([*row, "", "", ""][:7])
    columns = ["", "calls", "milliseconds", "share", "multiply-adds, G", "G operations/s", "of the machine's"]
    print_table("what the forward pass is made of", columns, rows)
    print(f"the machine's products of large matrices: {profile.rate / 1e9:.0f} G operations a second")


def name_of(side: "Contestant") -> str:
    """Name one side in few words: what it is, and how it is run."""
    model = side.setting.model
    name = model.backbone if isinstance(model, ModelConfig) else model
    words = [name, "x".join(map(str, side.view)), {"bfloat16": "bf16", "float32": "fp32"}[side.dtype]]
    words += ["bare ViT"] if side.setting.bare else []
    words += [] if side.setting.compile == "off" else ["compiled"]
    words += [] if side.setting.merge is None else [f"merged at {side.setting.merge:g}"]
    return " ".join(words)


def _mib(side: "Contestant", name: str) -> str:
    return "–" if side.memory is None else f"{side.memory.to_json()[name]:.0f}"


_COSTS = {
    "parameters, M": lambda side: f"{side.size.parameters / 1e6:.1f}",
    "views": lambda side: str(side.views),
    "multiply-adds of a view, unmerged, G": lambda side: f"{side.size.multiply_adds / 1e9:.1f}",
    "memory between calls, MiB": lambda side: _mib(side, "before"),
    "peak above that, MiB": lambda side: _mib(side, "above"),
    "first call, s": lambda side: f"{side.first_seconds:.2f}",
    "images a second": lambda side: "–" if side.images_per_second is None else f"{side.images_per_second:.3g}",
}


def _draw(report: "Report", picture: Path) -> None:
    """Draw a bar a side, made of its stages."""
    from eomt.benchmark.pictures import bars, stages_bar

    sides = [report.measured] + ([] if report.baseline is None else [report.baseline])
    rows = [stages_bar(name_of(side), side.times) for side in sides]
    title = (
        f"{report.machine['device_name']}, {counted(report.machine['threads'], 'thread')}: milliseconds a batch"
    )
    write_picture(bars(title, rows), picture, "times")
