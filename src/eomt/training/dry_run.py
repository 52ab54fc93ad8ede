"""What a run will take: two of its steps and one evaluated image, timed and measured, and the rest reckoned.

Everything that can fail early does so here too: settings, data, model, memory, room on the disk.
"""

import dataclasses
import math
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eomt.config import Recipe
from eomt.data.loader import Subset
from eomt.errors import ResourceError
from eomt.evaluation.evaluate import evaluate
from eomt.training import memory, state
from eomt.training.loop import Run, optimizer_step, prepare, read_views, usable
from eomt.training.setup import check
from eomt.types import Dataset

__all__ = ["Forecast", "dry_run"]

GIB = 2**30
BYTES_A_SECOND = 1.6e8
"""To save a state: its sha256 (0.5 GB/s), and writing it until it is on the disk (0.23 GB/s), as measured."""
ROW_BYTES = 800
"""Of metrics.jsonl and metrics.csv, a step."""
REPORT_BYTES = 15_000_000
"""Of the report: mostly its pictures, of which there are at most 24."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    device: str
    processes: int
    micro_batch: int
    """Images at once, on each process, with which the two steps had memory enough."""
    peak_memory: int
    """Bytes on the device at most, of this process; those that read data are not in it."""
    memory: int
    """Bytes that it may have."""
    steps: int
    seconds_a_step: float
    evaluations: int
    seconds_an_evaluation: float
    saving_seconds: float
    """To write states and models, in all."""
    disk: int
    """Bytes that the run folder will take."""
    disk_free: int

    @property
    def seconds(self) -> float:
        """The whole run."""
        evaluating = self.evaluations * self.seconds_an_evaluation
        return self.steps * self.seconds_a_step + evaluating + self.saving_seconds

    def to_json(self) -> dict[str, Any]:
        """Give all figures by their names."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}

    def lines(self) -> list[str]:
        """Say it in words."""
        training, evaluating = self.steps * self.seconds_a_step, self.evaluations * self.seconds_an_evaluation
        return [
            f"memory     {self.peak_memory / GIB:.2f} GiB of {self.memory / GIB:.2f} on {self.device}, "
            f"{self.micro_batch} images at once" + (f", {self.processes} processes" * (self.processes > 1)),
            f"training   {clock(training)}: {self.steps} steps of {self.seconds_a_step:.3g} s",
            f"evaluation {clock(evaluating)}: {self.evaluations} of {self.seconds_an_evaluation:.3g} s",
            f"saving     {clock(self.saving_seconds)}",
            f"in all     {clock(self.seconds)}",
            f"disk       {self.disk / GIB:.2f} GiB of {self.disk_free / GIB:.1f} free",
        ]


def dry_run(
    recipe: Recipe,
    out: str | Path,
    train_data: Dataset | None = None,
    val_data: Dataset | None = None,
    init_from: str | Path | None = None,
) -> Forecast:
    """Take two steps and judge one image as `train` would with the same arguments, and forecast the run.

    Nothing is written, but for weights that are fetched into their cache. Raises whatever `train` would by then,
    and ResourceError where the disk has no room for the run.
    """
    check(recipe, Path(out))
    run = prepare(recipe, Path(out), train_data, val_data, init_from, resume=False)
    processes = run.accelerator.num_processes
    run.model.train()
    with closing(read_views(run)) as batches:
        for _ in range(2):  # the first one warms up
            started = time.monotonic()
            optimizer_step(run, batches)
            seconds_a_step = time.monotonic() - started
            run.progress.step += 1
    seconds_an_image = judge_one(run)
    evaluations = math.ceil(run.progress.steps / run.progress.steps_between)
    model = run.accelerator.unwrap_model(run.model)
    state_bytes = sum(tensor.nbytes for tensor in state.pack(model, run.optimizer, run.average).values())
    model_bytes = sum(tensor.nbytes for tensor in run.segmenter.model.state_dict().values())
    device = run.accelerator.device
    forecast = Forecast(
        device=str(device),
        processes=processes,
        micro_batch=run.micro_batch,
        peak_memory=memory.peak(device),
        memory=memory.limit(device),
        steps=run.progress.steps,
        seconds_a_step=seconds_a_step,
        evaluations=evaluations,
        seconds_an_evaluation=seconds_an_image * math.ceil(len(run.val_data) / processes),
        saving_seconds=((evaluations + 1) * state_bytes + 2 * evaluations * model_bytes) / BYTES_A_SECOND,
        disk=state.KEPT * state_bytes
        + 2 * model_bytes
        + ROW_BYTES * run.progress.steps
        + REPORT_BYTES * run.recipe.track.report,
        disk_free=shutil.disk_usage(existing(run.folder)).free,
    )
    if forecast.disk + state_bytes > forecast.disk_free:  # a state is written before an old one is removed
        raise ResourceError(
            f"run {run.folder}: it will take {(forecast.disk + state_bytes) / GIB:.2f} GiB of disk, and "
            f"{forecast.disk_free / GIB:.2f} are free; make room, or give an --out on another disk"
        )
    return forecast


def judge_one(run: Run) -> float:
    """Judge the first validation image, twice, and give the seconds of the second time: the first one warms up."""
    run.model.eval()
    for _ in range(2):
        result = evaluate(
            usable(run), Subset(run.val_data, (0,)), [run.segmenter.task], precision=run.recipe.precision
        )
    return result.seconds


def existing(folder: Path) -> Path:
    """Give the folder, or the nearest one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def clock(seconds: float) -> str:
    """Write a duration as hours, minutes and seconds, of which the last two that count."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
