"""Show how far a run is: live on a terminal, else a line now and then, or JSON lines. Recording is for `track`."""

import json
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

__all__ = ["Display", "Pace", "clock", "open_display", "written"]

log = logging.getLogger("eomt")

PLAIN_INTERVAL = 10.0
"""Seconds between lines where there is no terminal."""
RECENT = 50
"""Steps whose mean duration tells the time left."""

EVERY = 20
"""Lines after which their header is shown again."""
COLUMNS = {
    "loss": 6,
    "mask": 7,
    "dice": 7,
    "class": 7,
    "gradient": 10,
    "rate": 9,
    "backbone": 10,
    "masked": 8,
    "images/s": 10,
    "waiting": 9,
    "GiB": 6,
    "left": 10,
}
"""What is shown of a step, and how wide."""
HEADER = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())

Row = Mapping[str, Any]


class Pace:
    """Estimates the seconds that are left, from the last steps and the last evaluation."""

    def __init__(self, steps: int, every: int) -> None:
        self._steps, self._every = steps, every
        self._durations: deque[float] = deque(maxlen=RECENT)
        self._evaluation = 0.0
        self._last = time.monotonic()

    def left_after(self, step: int) -> float:
        """Note that a step is over."""
        now = time.monotonic()
        self._durations.append(now - self._last)
        self._last = now
        evaluations = math.ceil(self._steps / self._every) - (step - 1) // self._every
        steps = (self._steps - step) * sum(self._durations) / len(self._durations)
        return steps + evaluations * self._evaluation

    def evaluated(self) -> None:
        """Note that an evaluation is over, which began after the last step."""
        now = time.monotonic()
        self._evaluation = now - self._last
        self._last = now


class LiveView:
    """A bar, and below it the figures of the step at hand."""

    def __init__(self, console: Console, steps: int, start: int) -> None:
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=60),
            TextColumn("epoch {task.fields[epoch]}"),
        )
        self._task = self._bar.add_task("train", total=steps, completed=start, epoch="")
        self._figures = Text("")
        self._live = Live(console=console, get_renderable=self._show, refresh_per_second=4)
        self._live.start()

    def _show(self) -> Group:
        return Group(self._bar, self._figures)

    def step(self, row: Row) -> None:
        """Show a step."""
        self._bar.update(self._task, completed=row["step"], epoch=f"{row['epoch']:.2f}")
        self._figures = Text(f"{HEADER}\n{written(row)}")

    def evaluation(self, row: Row) -> None:
        """Show the figures of an evaluation, above the bar."""
        log.info("%s", _judged(row))

    def close(self) -> None:
        """Leave the last state on the terminal."""
        self._live.stop()


class Lines:
    """A line every ten seconds, and one for each evaluation, through the log."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._spoken = -math.inf
        self._lines = 0

    def step(self, row: Row) -> None:
        """Show a step, unless one was shown just now."""
        if time.monotonic() - self._spoken >= PLAIN_INTERVAL or row["step"] == self._steps:
            self._spoken = time.monotonic()
            width = 2 * len(str(self._steps)) + 1
            if self._lines % EVERY == 0:
                log.info("%*s %s", width, "step", HEADER)
            self._lines += 1
            log.info("%*s %s", width, f"{row['step']}/{self._steps}", written(row))

    def evaluation(self, row: Row) -> None:
        """Show the figures of an evaluation."""
        log.info("%s", _judged(row))

    def close(self) -> None:
        """There is nothing to clear away."""


class JsonLines:
    """Every row on standard output, as it stands in metrics.jsonl; what is for people stays on standard error."""

    def step(self, row: Row) -> None:
        """Print a row."""
        print(json.dumps(dict(row)), file=sys.stdout, flush=True)

    def evaluation(self, row: Row) -> None:
        """Print a row."""
        self.step(row)

    def close(self) -> None:
        """There is nothing to clear away."""


Display = LiveView | Lines | JsonLines


def open_display(kind: Literal["auto", "lines", "json"], steps: int, start: int = 0) -> Display:
    """Choose how a run is shown: `auto` is live where standard error is a terminal."""
    console = Console(stderr=True, highlight=False)
    if kind == "json":
        return JsonLines()
    return LiveView(console, steps, start) if kind == "auto" and console.is_terminal else Lines(steps)


def written(row: Row) -> str:
    """Write a step's figures below those of `HEADER`."""
    figures = [_number(row[name]) for name in ("loss", "mask", "dice", "class", "grad_norm")]
    rates = [f"{row[name]:.1e}" for name in ("lr", "lr_backbone")]
    share = "–" if row["data_share"] is None else f"{row['data_share']:.0%}"
    memory = "–" if row["memory_gib"] is None else f"{row['memory_gib']:.1f}"
    others = [f"{row['masked_attention']:.2f}", _number(row["images_per_second"]), share, memory]
    cells = [*figures, *rates, *others, clock(row["seconds_left"])]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True))


def clock(seconds: float | None) -> str:
    """Write a duration as h:mm:ss."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def _judged(row: Row) -> str:
    figures = "  ".join(
        f"{name} {math.nan if value is None else value:.4f}"
        for name, value in row.items()
        if name not in ("step", "epoch")
    )
    return f"step {row['step']}  epoch {row['epoch']:.2f}  {figures}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
