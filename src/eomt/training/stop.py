"""Stop a run between two steps, when the user or the machine asks for it, so that its state can be saved."""

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Stop", "Stopped"]


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and did so between two steps."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """Within this context, SIGINT (Ctrl-C) and SIGTERM are noted, and heeded where `check` is called.

    A second Ctrl-C interrupts at once. Signals reach Python's main thread only: elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # a handler that was not Python's cannot be put back
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.number is not None:
            raise Stopped(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number
