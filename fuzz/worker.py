"""Read mutated files within limits of time and memory, in a process that may die of it."""

import faulthandler
import importlib
import logging
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.kind import Changes, Files, Kind

__all__ = ["SECONDS", "Done", "cases", "work"]

SECONDS = 2.0
"""Of processor time that one case may take, and ..."""
WAITING = 20
"""... of any time: other programs may be busy."""
GROWTH = 1 << 30
"""Bytes that the process may grow by in one case, and ..."""
ADDRESSES = 4 << 30
"""... what it may ask the system for, beyond what it has when all is loaded."""


class Case(NamedTuple):
    """One set of files to be read."""

    index: int
    seed: str
    changes: Changes


class Done(NamedTuple):
    """What became of a case."""

    index: int
    used: bool
    seconds: float
    growth: int
    fault: str = ""
    """What is wrong: the place and kind of an exception, or which limit was passed; and ..."""
    details: str = ""
    case: Case | None = None


def cases(kind: Kind, seeds: dict[str, Files], name: str, seed: int, indices: Iterable[int]) -> Iterator[Case]:
    """Make the cases of these indices, each by a generator of its own, all seeds in turn."""
    names = sorted(seeds)
    for index in indices:
        own = names[index % len(names)]
        yield Case(index, own, kind.change(Random(f"{name} {seed} {index}"), seeds[own]))


def work(name: str, seed: int, indices: range, replayed: Case | None, root: Path, results: Connection) -> None:
    """Send each case, do it below `root`, and send what became of it.

    The file `root/log` gets what ends the process.
    """
    kind: Kind = importlib.import_module(f"fuzz.{name}").KIND
    logging.disable()
    with (root / "log").open("w") as file:
        seeds = kind.seeds(root / "seeds")
        for own, files in seeds.items():
            for path, content in files.items():
                _write(root / own / path, content)
            kind.read(root / own, own)  # loads what is loaded late
        faulthandler.enable(file)
        for number in (signal.SIGPROF, signal.SIGALRM):
            faulthandler.register(number, file, chain=True)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, size + ADDRESSES))
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        made = cases(kind, seeds, name, seed, indices) if replayed is None else [replayed]
        for case in made:
            file.seek(0)
            file.truncate()
            results.send(case)
            results.send(_attempt(kind, root / case.seed, case, seeds[case.seed]))


def _attempt(kind: Kind, folder: Path, case: Case, files: Files) -> Done:
    fault, details, used = "", "", False
    try:
        for name, content in case.changes.items():
            _write(folder / name, content)
        with _limited() as spent:
            used = kind.read(folder, case.seed)
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/eomt/" in frame.filename]
        at = f"{frames[-1].filename.rpartition('/eomt/')[2]}:{frames[-1].lineno}" if frames else "fuzz"
        fault, details = f"{type(error).__name__} at {at}", "".join(traceback.format_exception(error))
    finally:
        for name in case.changes:
            _write(folder / name, files[name])
    if not fault and spent.growth > GROWTH:
        fault, details = "memory", f"{spent.growth >> 20} MiB"
    return Done(case.index, used, spent.seconds, spent.growth, fault, details, case if fault else None)


class _limited:
    """Let the system end the process after `SECONDS`, and measure what is spent within."""

    seconds, growth = 0.0, 0

    def __enter__(self) -> "_limited":
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident
        self.before, self.start = _status("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        self.seconds, self.growth = time.process_time() - self.start, _status("VmHWM") - self.before


def _status(what: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def _write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
