"""`eomt benchmark peers`: our path beside others' on the same weights. Measuring is left to `eomt.benchmark`."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eomt.benchmark.rounds import WHOLE
from eomt.cli.benchmark_tables import machine_line, milliseconds, span
from eomt.cli.console import counted, log_lines, print_json, print_table, printable, progress
from eomt.cli.options import Device, Switch, check_least, check_needless, parse
from eomt.cli.picture import check_photo, check_picture, write_picture
from eomt.cli.recipes import find
from eomt.config import ModelConfig, Precision, TaskName
from eomt.errors import ConfigError
from eomt.weights import zoo

if TYPE_CHECKING:
    from eomt.benchmark.peers import Other, Ours, Peer, PeersReport

__all__ = ["PURPOSE", "run"]

PURPOSE = "Our path beside Hugging Face's EoMT, and the authors' code, on the same weights and image."

DESCRIPTION = """\
Time a photo's way to its panoptic result in eomt and in transformers, on the
same weights and image, in turns in one process; memory of each in one of its
own. First the results are compared: logits in fp32 from the same view (they
may differ by 1e-4 of the largest), ids of the same logits, ids of whole runs;
the command ends with 7 where they differ. Peers get all weights converted to
the precision, which is the fastest that they can do.

With --task instance, instances are compared: labels and masks must be equal in
every pixel, scores to 1e-5. Only the authors' code gives the same ones.
transformers does not, by design: it gives a query one label instead of ranking
all pairs of query and label, and one map in which each mask hides those before
it. It is left out.

With random weights, so many queries are made sure of themselves as --confident
says, on all sides alike.

The authors' code runs in a process of its own: give its folder (a clone of
github.com/tue-mps/eomt) and an interpreter that has its requirements, which
are old versions.

Examples:
  eomt benchmark peers --size base
  eomt benchmark peers --authors eomt-clone --authors-python their-venv/bin/python
  eomt benchmark peers --task instance --authors eomt-clone --authors-python their-venv/bin/python"""

ROUNDS = {"small": 15, "base": 11, "large": 7}


@dataclass(frozen=True)
class PeersArguments:
    """What `eomt benchmark peers` accepts."""

    size: Literal["small", "base", "large"] = "small"
    """The model, with random weights: 640 x 640 pixels, 200 queries."""
    task: Literal["panoptic", "instance"] = "panoptic"
    """What is found: panoptic segments (of 133 classes where weights are random), or instances (of 80)."""
    model: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: random weights)")
    ] = None
    """A trained model instead: a folder, a file, a published name or OWNER/NAME of a repository."""
    backbone: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: DINOv2's of the size)")
    ] = None
    """Without --model: another backbone that transformers' EoMT has, by its name in timm."""
    image_size: Annotated[
        tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH", help_behavior_hint="(default: 640 640)")
    ] = (640, 640)
    """Without --model: size of the view in pixels; a square."""
    photo: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: one is drawn)")] = (
        None
    )
    """The image."""
    photo_size: Annotated[tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH")] = (960, 1280)
    """Without --photo: the size of the picture that is drawn."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: torch's)")] = None
    """Threads that compute on the processor."""
    confident: Annotated[int, tyro.conf.arg(metavar="INT")] = 20
    """Without --model: queries that are sure of a segment."""
    authors: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The authors' code, to be measured too."""
    authors_python: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The interpreter that runs it."""
    transformers: bool = True
    """Measure Hugging Face's (panoptic only)."""
    rounds: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 15 small, 11 base, 7 large)")
    ] = None
    """Runs of each side that are timed, in turns."""
    warm_up: Annotated[int, tyro.conf.arg(metavar="INT")] = 1
    """Runs before these that are not counted."""
    clock: Literal["wall", "processor"] = "wall"
    """wall: what a user waits. processor: the time that all threads were given, for busy machines."""
    memory: bool = True
    """Measure peak memory, of each side in a process of its own."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Also draw the times into this picture, a new PNG file."""
    json: Switch = False
    """Print one JSON object as the last line of standard output: machine, clock, model, weights, photo, task,
    precision, ours, others (each with version, milliseconds, memory_mib, equality), ratios (ours over each)."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Compare as the arguments say and give the exit code."""
    options = parse(PeersArguments, arguments, "eomt benchmark peers", DESCRIPTION)
    _check(options)
    with log_lines():
        report = _measure(options)
    if options.picture:
        _draw(report, options.picture)
    _print(report)
    if options.json:
        print_json(report.to_json())
    return 0


def _check(options: PeersArguments) -> None:
    """Raise ConfigError for what cannot be measured, before torch is imported."""
    check_picture(options.picture)
    check_least(options, rounds=1, warm_up=0, confident=0, threads=1)
    check_needless(options, "model", "size", "backbone", "image_size", "confident")
    check_needless(options, "photo", "photo_size")
    check_photo(options.photo)
    if (options.authors is None) != (options.authors_python is None):
        raise ConfigError("--authors FOLDER and --authors-python FILE go together")
    if options.authors is None and not options.transformers:
        raise ConfigError("--no-transformers leaves nobody to compare with: give --authors, or leave it out")
    without = _left_out(options)
    if options.authors is None and without:
        raise ConfigError(
            f"--task {options.task} leaves nobody to compare with but the authors' code: give --authors and "
            f"--authors-python; transformers is left out: {without}"
        )
    if options.model is not None:
        zoo.check(options.model)


def _left_out(options: PeersArguments) -> str | None:
    """Say why transformers is no peer in this task, where it isn't."""
    from eomt.benchmark.findings import FINDINGS

    return FINDINGS[options.task].left_out.get("transformers")


def _measure(options: PeersArguments) -> "PeersReport":
    import torch

    from eomt.benchmark.authors import Authors, Place
    from eomt.benchmark.peers import HuggingFace, compare
    from eomt.benchmark.subject import Setting

    place = None
    if options.authors is not None and options.authors_python is not None:
        place = Place(options.authors, options.authors_python)
        place.check()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setting = Setting(
        model=options.model or _architecture(options),
        task=options.task,
        photo=str(options.photo) if options.photo else options.photo_size,
        precision=options.precision,
        device=options.device,
        confident=options.confident,
    )
    with_transformers = options.transformers and _left_out(options) is None
    rounds = ROUNDS[options.size] if options.rounds is None else options.rounds
    with progress("benchmark") as show, ExitStack() as stack:

        def others(ours: "Ours") -> "list[Other]":
            found: list[Other] = [HuggingFace(ours)] if with_transformers else []
            return found + ([] if place is None else [stack.enter_context(Authors(place, ours, options.clock))])

        return compare(
            setting,
            rounds,
            warm_up=options.warm_up,
            clock=options.clock,
            with_memory=options.memory,
            others=others,
            show=show,
        )


def _architecture(options: PeersArguments) -> ModelConfig:
    model = replace(find(options.size)[0].model, image_size=options.image_size)
    return model if options.backbone is None else replace(model, backbone=options.backbone)


def _print(report: "PeersReport") -> None:
    """Print a table of times with ratios, and what was found equal."""
    from eomt.benchmark.findings import FINDINGS

    model = report.to_json()["model"]
    print(
        printable(
            f"{model}, {report.dtype}, photo to {report.task} result; {machine_line(report.machine, report.clock)}"
        )
    )
    for other in report.others:
        print(printable(_agreement(other, report.task)))
    for name, reason in FINDINGS[report.task].left_out.items():
        print(printable(f"{name} is left out: {reason}"))
    sides = (report.ours, *report.others)
    columns = ["", *(side.name for side in sides)]
    columns += [f"ours / {other.name}" for other in report.others]
    rows = []
    for stage in report.ours.times:
        row = [stage, *(milliseconds(side.times, stage)[0] for side in sides)]
        rows.append(row + [_ratio(report, other, stage) for other in report.others])
    if report.ours.memory is not None:
        above = [f"{side.memory.above / 2**20:.0f}" for side in sides if side.memory is not None]
        rows.append(["peak above the model, MiB", *above, *("" for _ in report.others)])
    rounds = counted(len(report.ours.times[WHOLE].values), "round")
    print_table(f"milliseconds, medians of {rounds} in turns; of ratios, the middle half too", columns, rows)


def _agreement(other: "Peer", task: TaskName) -> str:
    """Say how far a peer's results are ours: it was not timed where they aren't."""
    from eomt.benchmark.findings import FINDINGS

    assert other.equality is not None
    return (
        f"{other.name} ({other.version}): logits in fp32 differ by {other.equality.logits:.1e} of the largest; "
        f"the same logits give the same {FINDINGS[task].things}; whole runs agree in {other.equality.whole:.4%} "
        f"of the {other.equality.unit}"
    )


def _ratio(report: "PeersReport", other: "Peer", stage: str) -> str:
    found = report.ratios(other).get(stage)
    return "" if found is None else f"{found.median:.3f} ({span(found)})"


def _draw(report: "PeersReport", picture: Path) -> None:
    from eomt.benchmark.pictures import bars, stages_bar

    rows = [stages_bar(side.name, side.times) for side in (report.ours, *report.others)]
    title = f"{report.to_json()['model']}, {report.dtype}, photo to {report.task} result: milliseconds"
    write_picture(bars(title, rows), picture, "times")
