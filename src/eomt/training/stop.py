"""Stop a run between two steps, when the user or the machine asks for it, so that its state can be saved."""

import contextlib
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

__all__ = ["Stop", "Stopped"]


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and did so between two steps."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Within this context, SIGINT (Ctrl-C) and SIGTERM are noted, and heeded where `check` is called.

    Of several processes, only some may get a signal, but all must stop at the same step: each tells its `wishes`,
    and all heed what they `agree` on. A second Ctrl-C interrupts at once. Signals reach Python's main thread only:
    elsewhere nothing changes.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.number: int | None = None
        self.agreed: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # a handler that was not Python's cannot be put back
                signal.signal(number, handler)

    def wishes(self) -> list[float]:
        """Tell for each of the two signals whether it came to this process: 1 or 0."""
        return [float(self.number == number) for number in SIGNALS]

    def agree(self, wishes: Sequence[float]) -> None:
        """Take the sums of the wishes of all processes; SIGTERM goes before SIGINT."""
        for number, wish in zip(SIGNALS, wishes, strict=True):
            if wish:
                self.agreed = number

    def check(self) -> None:
        """Raise Stopped if a signal came; of several processes, if they agreed that one did."""
        number = self.number if self.alone else self.agreed
        if number is not None:
            raise Stopped(number)

    def check_here(self) -> None:
        """Raise Stopped if a signal came to this process."""
        if self.number is not None:
            raise Stopped(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number
