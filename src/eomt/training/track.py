"""What a run says while it trains: a live line on the terminal, and rows in the run folder.

`metrics.jsonl` is the source of truth, one object a row; `metrics.csv` is made of it.
"""

import contextlib
import csv
import io
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eomt.files import write_aside

__all__ = ["Track"]

log = logging.getLogger("eomt")
PLAIN_INTERVAL = 10.0
"""Seconds between lines where there is no terminal."""


class Track:
    """The records of one run. Close it, or use it in a `with` statement.

    Of several processes one is the `speaker`; the others record nothing.
    """

    def __init__(self, folder: Path, steps: int, speaker: bool = True) -> None:
        self.folder = folder
        self.steps = steps
        self.speaker = speaker
        self._rows: list[dict[str, Any]] = []
        if not speaker:
            return
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._handler: logging.Handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(self._handler)
        self._level = log.level
        if not log.isEnabledFor(logging.INFO):  # nobody asked for logs: the run folder has them all the same
            log.setLevel(logging.INFO)
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, line="")
        self._bar.start()
        self._spoken = -math.inf

    def __enter__(self) -> "Track":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.speaker:
            return
        self._bar.stop()
        self._file.close()
        log.removeHandler(self._handler)
        log.setLevel(self._level)
        self._handler.close()
        self._write_csv()

    def go_on_from(self, step: int, judged: int) -> None:
        """Take over the rows of a run up to a step, and of evaluations up to another; drop what came after."""
        if not self.speaker:
            return
        text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # a row that was cut off is one that came after
                row = json.loads(line)
                if row["step"] <= (step if "loss" in row else judged):
                    self._rows.append(row)
        self._file.close()
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        write_aside(self.folder / "metrics.jsonl", lines.encode())
        self._file = (self.folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._bar.update(self._task, completed=step)

    def step(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Record one optimiser step."""
        if not self.speaker:
            return
        self._record({"step": step, "epoch": epoch, **values})
        line = "  ".join(f"{name} {values[name]:.4g}" for name in ("loss", "grad_norm", "images_per_second"))
        self._bar.update(self._task, completed=step, line=line)
        if self._bar.disable and (time.monotonic() - self._spoken >= PLAIN_INTERVAL or step == self.steps):
            self._spoken = time.monotonic()
            log.info("step %d/%d  epoch %.2f  %s", step, self.steps, epoch, line)

    def evaluation(self, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Record the figures of one evaluation."""
        if not self.speaker:
            return
        self._record({"step": step, "epoch": epoch, **figures})
        self._write_csv()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        log.info("step %d  epoch %.2f  %s", step, epoch, shown)

    def _record(self, row: Mapping[str, Any]) -> None:
        finite = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        self._rows.append(finite)
        self._file.write(json.dumps(finite) + "\n")

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self._rows)
        write_aside(self.folder / "metrics.csv", text.getvalue().encode())
