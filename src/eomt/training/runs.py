"""Read what runs leave in their folders: settings, figures, how far they came. Free of torch.

A run that is under way, was killed, or is of an earlier version is read as far as it goes. Writing is left to
`track` and `provenance`, printing to `cli.runs`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eomt.config import Recipe, TaskName, flat, from_json, to_json
from eomt.errors import ConfigError

__all__ = ["CLOCKS", "FIGURES", "RunRecord", "find_runs", "is_run", "read_rows", "read_run"]

CLOCKS = ("images_per_second", "data_share", "memory_gib", "seconds_left", "val_seconds")
"""Columns of metrics.jsonl that tell how the machine fared: they differ where a run is repeated, others do not."""
FIGURES: dict[TaskName | None, str] = {"semantic": "mIoU", "instance": "AP", "panoptic": "PQ"}
"""What the best model is chosen by, as `tasks.TASKS` has it, which cannot be read without torch."""
DEPTH = 4
"""Levels of folders in which runs are sought."""

Row = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run."""

    folder: Path
    settings: Mapping[str, Any]
    """By dotted name."""
    origins: Mapping[str, str]
    """Where the settings come from, as far as it was recorded."""
    environments: tuple[Mapping[str, Any], ...]
    """One for each time that the run was started or gone on with."""
    data: Mapping[str, Any]
    steps: tuple[Row, ...]
    """A row for each step."""
    evaluations: tuple[Row, ...]
    result: Mapping[str, Any] | None
    """What a run writes at its end."""
    changed: float | None
    """When its figures were last written (seconds since 1970)."""
    problems: tuple[str, ...]
    """What could not be read, and why."""

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        return max((row["step"] for row in (*self.steps[-1:], *self.evaluations[-1:])), default=0)

    @property
    def planned(self) -> int | None:
        """Steps that the run was to take, where that is known."""
        known = [each["steps"] for each in self.environments if isinstance(each.get("steps"), int)]
        return known[-1] if known else self.settings.get("steps")

    @property
    def state(self) -> str:
        """Say how far the run came: `done`, or `unfinished` while it is under way or was stopped."""
        judged_last = bool(self.evaluations) and self.evaluations[-1]["step"] == self.planned
        return "done" if self.result is not None or judged_last else "unfinished"

    @property
    def figure(self) -> str | None:
        """Name the figure that the best model is chosen by."""
        named = FIGURES.get(self.settings.get("task"))
        return named or next(
            (name for name in FIGURES.values() if any(name in row for row in self.evaluations)), None
        )

    @property
    def best(self) -> Row:
        """Give the row of the best evaluation, of equals the last one; empty where there is none."""
        judged = [row for row in self.evaluations if isinstance(row.get(self.figure or ""), int | float)]
        return max(reversed(judged), key=lambda row: row[self.figure or ""], default={})


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run, whole or not."""
    return (folder / "metrics.jsonl").is_file() or ((folder / "recipe.json").is_file() and not _is_model(folder))


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def find_runs(root: Path) -> list[Path]:
    """List the folders of runs below a folder, or the folder itself where it is one; those inside runs are theirs.

    Raises ConfigError where there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; name one that holds runs, as given with --out of eomt train")
    return sorted(_below(root, DEPTH))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
    elif depth:
        try:
            with os.scandir(folder) as entries:
                inner = [folder / entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
        except OSError:
            return  # what may not be looked into holds no runs of this user
        for each in inner:
            yield from _below(each, depth - 1)


def read_run(folder: Path) -> RunRecord:
    """Read a run, and list what of it cannot be read. Raises ConfigError where the folder is none of a run."""
    if not is_run(folder):
        raise ConfigError(f"{folder}: no run in this folder (no metrics.jsonl); eomt runs ls lists runs")
    problems: list[str] = []

    def read(name: str, default: Any, optional: bool = True) -> Any:
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            if not isinstance(found, type(default)):
                raise ValueError("not of the form that runs write")
            return found
        except FileNotFoundError:
            if not optional:
                problems.append(f"{name} is missing")
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{name} cannot be read ({_in_short(error)})")
        return default

    values = read("recipe.json", {}, optional=False)
    try:
        settings = flat(to_json(from_json(Recipe, values, "recipe.json"))) if values else {}
    except ConfigError as error:  # of another version: its settings are shown as they stand
        problems.append(f"{_in_short(error).partition(';')[0]} (of another version?)")
        settings = flat(values)
    recorded = read("settings.json", {})
    origins = {
        name: str(each["origin"]) for name, each in recorded.items() if isinstance(each, dict) and "origin" in each
    }
    environments, _ = _read_lines(folder / "environment.jsonl")
    try:
        rows, cut = _read_lines(folder / "metrics.jsonl")
        changed = (folder / "metrics.jsonl").stat().st_mtime if (folder / "metrics.jsonl").exists() else None
    except OSError as error:
        rows, cut, changed = [], 0, None
        problems.append(f"metrics.jsonl cannot be read ({_in_short(error)})")
    whole = [row for row in rows if isinstance(row.get("step"), int)]
    if cut + len(rows) - len(whole) > 1:  # a last one that is cut off is what a kill leaves
        problems.append(f"{cut + len(rows) - len(whole)} lines of metrics.jsonl cannot be read")
    return RunRecord(
        folder,
        settings,
        origins,
        tuple(environments),
        read("data.json", {}),
        tuple(row for row in whole if "loss" in row),
        tuple(row for row in whole if "loss" not in row),
        read("result.json", {}) or None,
        changed,
        tuple(problems),
    )


def read_rows(folder: Path) -> list[Row]:
    """Read the rows of a run's metrics.jsonl in order; one that was cut off is left out."""
    return [row for row in _read_lines(folder / "metrics.jsonl")[0] if "step" in row]


def _read_lines(path: Path) -> tuple[list[Row], int]:
    """Read a file of one JSON object a line, and count the lines that are none; nothing where there is no file."""
    rows: list[Row] = []
    cut = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    rows.append(row)
                else:
                    cut += 1
    except FileNotFoundError:
        pass
    return rows, cut


def _in_short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0][:200]
