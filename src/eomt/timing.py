"""Tell apart what time is spent on: stages are named where they happen, and measured only where somebody asks.

Stages do not lie inside each other. Reading a clock around an image's stages costs nothing beside them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["measuring", "stage"]

_Seconds = dict[str, float]
_measured: ContextVar[tuple[_Seconds, Callable[[], None], Callable[[], float]] | None] = ContextVar(
    "_measured", default=None
)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time within to a stage, where it is measured. Serves as a decorator, too."""
    measured = _measured.get()
    if measured is None:
        yield
        return
    seconds, wait, clock = measured
    wait()
    started = clock()
    try:
        yield
        wait()
    finally:
        seconds[name] = seconds.get(name, 0.0) + clock() - started


@contextmanager
def measuring(
    wait: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.perf_counter
) -> Iterator[_Seconds]:
    """Measure the seconds of each stage. `wait` waits for what was begun: devices compute behind one's back."""
    seconds: _Seconds = {}
    token = _measured.set((seconds, wait, clock))
    try:
        yield seconds
    finally:
        _measured.reset(token)
