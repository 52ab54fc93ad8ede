"""Record a run in its folder: rows, curves and pictures; and show it, and pass it on, as the user wants it.

`metrics.jsonl` is the source of truth, one object a row; `metrics.csv` and `curves.png` are made of it. Nothing
here draws random numbers. How a run is shown is left to `display`, services to `trackers`.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from eomt.config import Recipe, flat, to_json
from eomt.files import write_aside
from eomt.training import curves
from eomt.training.display import Display, Pace, open_display
from eomt.training.runs import read_rows
from eomt.training.trackers import Tracker, open_tracker

__all__ = ["Track"]

log = logging.getLogger("eomt")

SAMPLES = "samples"
"""Folder of a run that holds pictures."""
QUALITY = 90
"""Of JPEG files."""


class Track:
    """The records of one run. Close it, or use it in a `with` statement.

    `steps` is the run's length, `every` the steps between evaluations. A run that goes on has taken `start` steps
    and was judged after step `judged`: the rows up to there are kept, those that came after are dropped. Of
    several processes one is the `speaker`; the others record nothing.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        steps: int,
        every: int,
        speaker: bool = True,
        start: int = 0,
        judged: int | None = None,
    ) -> None:
        self.folder = folder
        self.speaker = speaker
        if not speaker:
            return
        self._handler: logging.Handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(self._handler)
        self._level = log.level
        if not log.isEnabledFor(logging.INFO):  # nobody asked for logs: the run folder has them all the same
            log.setLevel(logging.INFO)
        try:
            self._tracker: Tracker | None = open_tracker(recipe.track, folder, flat(to_json(recipe)), start)
        except BaseException:
            self._close_log()
            raise
        if judged is not None:
            self._drop_after(start, judged)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._pace = Pace(steps, every)
        self._display: Display = open_display(recipe.track.log, steps, start)

    def __enter__(self) -> "Track":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.speaker:
            return
        try:
            self._display.close()
            if self._tracker is not None:
                self._tracker.close()
            self._file.close()
            self._summarise()
        finally:
            self._close_log()

    def step(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Record one optimiser step."""
        if not self.speaker:
            return
        row = self._record({"step": step, "epoch": epoch, **values, "seconds_left": self._pace.left_after(step)})
        self._display.step(row)
        if self._tracker is not None:
            self._tracker.figures(row, step, "train")

    def evaluation(self, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Record the figures of one evaluation."""
        if not self.speaker:
            return
        row = self._record({"step": step, "epoch": epoch, **figures})
        self._display.evaluation(row)
        self._summarise()
        self._pace.evaluated()
        if self._tracker is not None:
            self._tracker.figures(row, step, "val")

    def picture(self, name: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """Record a picture as samples/NAME-STEP.jpg."""
        if not self.speaker:
            return
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        content = io.BytesIO()
        Image.fromarray(image).save(content, "JPEG", quality=QUALITY)
        write_aside(self.folder / SAMPLES / f"{name}-{step:09d}.jpg", content.getvalue())
        if self._tracker is not None:
            self._tracker.picture(name, image, step)

    def _drop_after(self, step: int, judged: int) -> None:
        """Keep the rows of steps up to one, and of evaluations up to another."""
        kept = [row for row in read_rows(self.folder) if row["step"] <= (step if "loss" in row else judged)]
        write_aside(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept).encode())

    def _record(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write a row, and give it as it was written: what is not finite is null in JSON."""
        finite = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        self._file.write(json.dumps(finite) + "\n")
        return finite

    def _summarise(self) -> None:
        """Make the table and the curves anew of all rows."""
        rows = read_rows(self.folder)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_aside(self.folder / "metrics.csv", text.getvalue().encode())
        content = io.BytesIO()
        curves.draw(curves.of_run(rows)).save(content, "PNG")
        write_aside(self.folder / "curves.png", content.getvalue())

    def _close_log(self) -> None:
        log.removeHandler(self._handler)
        log.setLevel(self._level)
        self._handler.close()
