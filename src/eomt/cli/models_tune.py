"""`eomt models tune`: choose the score above which panoptic segments are kept, and store it in the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from eomt.cli.console import log_lines, print_json, print_table, printable, progress
from eomt.cli.options import Device, Switch, parse
from eomt.errors import ConfigError, DataError

__all__ = ["run"]

DESCRIPTION = """\
Judge a model at several thresholds of the score, on annotated images that it
was not trained on, and store the one of the greatest PQ in its folder. Its
weights stay as they are.

Example: eomt models tune --model runs/first --data my-data"""


@dataclass(frozen=True)
class TuneArguments:
    """What `eomt models tune` accepts."""

    model: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of a run, whose best model is meant, or of a model that eomt has saved."""
    data: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """The data set: a folder or a zip."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "val"
    """Part of the data set to judge on."""
    dry_run: Switch = False
    """Only tell; store nothing."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    json: Switch = False
    """Print one JSON object: best, before, stored, scores, PQ, F1."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Tune as the arguments say; give the exit code."""
    options = parse(TuneArguments, arguments, "eomt models tune", DESCRIPTION)
    from eomt.data.detect import open_data
    from eomt.evaluation.thresholds import threshold_curve
    from eomt.inference.segmenter import Segmenter
    from eomt.weights import checkpoint

    folder = checkpoint.find(options.model)
    with log_lines():
        dataset = open_data(options.data, options.split)
        segmenter = Segmenter.from_pretrained(folder, options.device)
    if segmenter.task != "panoptic":
        raise ConfigError(
            f"model {folder}: its task is {segmenter.task}; only panoptic segments are kept by their score"
        )
    with log_lines(), progress("tune") as show:
        curve = threshold_curve(segmenter, dataset, progress=show)
    if all(math.isnan(quality) for quality in curve.quality):
        raise DataError(f"{options.data}, {options.split}: no class is there to judge by; nothing was stored")
    before = segmenter.thresholds.score
    if not options.dry_run:
        checkpoint.store_thresholds(folder, replace(segmenter.thresholds, score=curve.best))
    if options.json:
        told = {"best": curve.best, "before": before, "stored": not options.dry_run, "scores": curve.scores}
        print_json({**told, "PQ": curve.quality, "F1": curve.f1})
        return 0
    columns = zip(curve.scores, curve.quality, curve.f1, strict=True)
    rows: list[list[str | float]] = [[f"{score:g}", quality, f1] for score, quality, f1 in columns]
    print_table("Segments kept above", ["score", "PQ", "F1"], rows)
    stored = "not stored" if options.dry_run else f"stored in {printable(folder)}"
    print(f"best {curve.best:g}, before {before:g}: {stored}")
    return 0
