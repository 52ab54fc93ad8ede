"""Have a worker read case by case, start another where one died of a case, and keep what was found."""

import json
import multiprocessing
import re
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.worker import Case, Done, work

__all__ = ["KINDS", "Summary", "fuzz", "replay"]

KINDS = ("images", "annotations", "archives", "configurations")
"""Modules with a `KIND`: what is fuzzed."""
KEPT = 3
"""Cases that are saved of each fault."""


@dataclass
class Summary:
    """What came of all cases."""

    cases: int = 0
    used: int = 0
    """Cases in which something could be read all the same."""
    faults: Counter[str] = field(default_factory=Counter)
    saved: dict[str, list[Path]] = field(default_factory=dict)
    slowest: Done | None = None
    largest: Done | None = None

    def add(self, done: Done) -> None:
        """Count a case."""
        self.cases += 1
        self.used += done.used
        if done.fault:
            self.faults[done.fault] += 1
        self.slowest = max(self.slowest or done, done, key=lambda each: each.seconds)
        self.largest = max(self.largest or done, done, key=lambda each: each.growth)


def fuzz(name: str, count: int, seed: int, seconds: float | None, findings: Path) -> Summary:
    """Do `count` cases of a kind, or as many as the time allows, and save those in which something is wrong.

    The time is counted from the first case on: loading takes longer than many of them.
    """
    summary, end = Summary(), None
    for done in _results(name, seed, range(count), None):
        if seconds is not None and end is None:
            end = time.monotonic() + seconds
        summary.add(done)
        if done.fault:
            saved = summary.saved.setdefault(done.fault, [])
            if len(saved) < KEPT and done.case is not None:
                saved.append(_save(findings, name, seed, done.case, done))
        if end is not None and time.monotonic() > end:
            break
    return summary


def replay(file: Path) -> Done:
    """Do a case again that was saved."""
    with zipfile.ZipFile(file) as packed:
        about = json.loads(packed.comment)
        changes = {path: packed.read(path) for path in packed.namelist()} | dict.fromkeys(about["gone"])
    (done,) = _results(about["kind"], 0, range(0), Case(about["index"], about["seed"], changes))
    return done


def _results(name: str, seed: int, indices: range, replayed: Case | None) -> Iterator[Done]:
    """Do cases in a worker, and go on with another one after the case that ends it."""
    context = multiprocessing.get_context("forkserver")  # which has loaded what all workers need
    context.set_forkserver_preload([f"fuzz.{kind}" for kind in KINDS])
    while True:
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            worker = context.Process(
                target=work, args=(name, seed, indices, replayed, Path(place), theirs), daemon=True
            )
            worker.start()
            theirs.close()
            case: Case | None = None
            try:
                for each in _received(ours):
                    if isinstance(each, Case):
                        case = each
                    else:
                        yield each
                worker.join()
            finally:
                worker.kill()  # where no more is asked for
                worker.join()
            code = worker.exitcode or 0
            if code == 0:
                return
            if case is None or code > 0:
                raise RuntimeError("the fuzzer itself failed; what it says stands above")
            yield _ended(case, signal.Signals(-code).name, (Path(place) / "log").read_text(errors="replace"))
        if replayed is not None:
            return
        indices = range(case.index + 1, indices.stop)


def _received(ours: Connection) -> Iterator[Case | Done]:
    try:
        while True:
            yield ours.recv()
    except EOFError:
        return


def _ended(case: Case, by: str, log: str) -> Done:
    """Tell by which signal, and where, a worker ended."""
    place = next(iter(re.findall(r'File ".*?/eomt/(\S+)", line (\d+)', log)), ())
    what = "hang" if by in ("SIGPROF", "SIGALRM") else "crash"
    return Done(case.index, False, 0.0, 0, f"{what} ({by}) at {':'.join(place)}", log, case)


def _save(findings: Path, name: str, seed: int, case: Case, done: Done) -> Path:
    """Keep the files of a case in a zip, with a text beside that tells what was wrong."""
    findings.mkdir(parents=True, exist_ok=True)
    file = findings / f"{name}-{seed}-{case.index}.zip"
    gone = [path for path, content in case.changes.items() if content is None]
    with zipfile.ZipFile(file, "w") as packed:
        for path, content in case.changes.items():
            if content is not None:
                packed.writestr(path, content)
        packed.comment = json.dumps({"kind": name, "seed": case.seed, "index": case.index, "gone": gone}).encode()
    file.with_suffix(".txt").write_text(f"{done.fault}\nseed {case.seed}\n\n{done.details}", errors="replace")
    return file
