"""How much memory a few lines take, torch's and all other libraries' too: what the system counts, on Linux."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from eomt.errors import ConfigError

PROCESS = Path("/proc/self")


def _resident(what: str) -> int:
    (line,) = (line for line in (PROCESS / "status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Give a function that tells by how many bytes the process has grown at most since then."""
    if not (PROCESS / "clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process anew")
    (PROCESS / "clear_refs").write_text("5")  # sets the peak to what is resident
    before = _resident("VmRSS")
    yield lambda: _resident("VmHWM") - before


def take_64_mib() -> Callable[[], None]:
    """Give, in whatever process, what takes 64 MiB for a moment; 32 more are kept."""
    kept = torch.ones(32 * 2**20, dtype=torch.uint8)

    def run() -> None:
        assert len(torch.ones(64 * 2**20, dtype=torch.uint8)) > len(kept)

    return run


def refuse() -> Callable[[], None]:
    """Raise what a user can act on, in whatever process."""
    raise ConfigError("not like this")
