"""Write down where a run comes from: its settings and their origins, the machine and its software, the data.

Each is a file in the run folder: settings.json, environment.jsonl (a line each time that the run is started or
gone on with), data.json, and at the end result.json. Reading them back is left to `runs`.
"""

import hashlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from eomt.config import Recipe, flat, to_json
from eomt.errors import DataError
from eomt.files import write_aside
from eomt.types import Dataset

__all__ = [
    "compare_data",
    "data_facts",
    "memory_gib",
    "record_changes",
    "record_data",
    "record_environment",
    "record_result",
    "record_settings",
    "versions",
]


def record_settings(folder: Path, given: Recipe, settled: Recipe, origins: Mapping[str, str] | None) -> None:
    """Write each setting's value and its origin: `settled` where the data or the model decided it.

    Without `origins`, by dotted name, what differs from the default came from the call.
    """
    default, before, after = (flat(to_json(recipe)) for recipe in (Recipe(), given, settled))

    def origin(name: str) -> str:
        if before[name] != after[name]:
            return "settled"
        if origins is not None:
            return origins.get(name, "default")
        return "default" if before[name] == default[name] else "call"

    rows = {name: {"value": value, "origin": origin(name)} for name, value in after.items()}
    _write(folder / "settings.json", rows)


def record_changes(folder: Path, recipe: Recipe) -> None:
    """Write the settings that differ from those that a run had so far; the others keep their origins."""
    path = folder / "settings.json"
    try:
        rows = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # an earlier version's run, or damaged
        rows = {}
    for name, value in json.loads(json.dumps(flat(to_json(recipe)))).items():  # tuples are lists there
        row = rows.get(name)
        if not isinstance(row, dict) or "value" not in row or row["value"] != value:
            rows[name] = {"value": value, "origin": "changed later"}
    _write(path, rows)


def record_environment(folder: Path, steps: int, accelerator: Accelerator) -> None:
    """Add a line on what this process runs on: command, versions, machine, device, and the user's git commit."""
    device = accelerator.device
    row = {
        "time": _now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "steps": steps,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "git": _commit(),
    }
    with (folder / "environment.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def record_data(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what `data_facts` found."""
    _write(folder / "data.json", facts)


def record_result(folder: Path, figure: str, best: Mapping[str, float], step: int) -> None:
    """Write that the run is over, with the figures of its best model."""
    finite = {name: value if math.isfinite(value) else None for name, value in best.items()}
    _write(folder / "result.json", {"time": _now(), "steps": step, "figure": figure, "best": finite})


def data_facts(recipe: Recipe, train: Dataset, val: Dataset) -> dict[str, Any]:
    """Tell the data apart from others: number of images, classes, and a digest of the files' names and sizes.

    No file is opened, and times of change are left out: data may be copied. A data set without files (`listing`)
    has no digest.
    """
    return {
        "root": recipe.data.root,
        "class_map": recipe.data.class_map,
        "train": _facts(train),
        "val": _facts(val),
    }


def _facts(dataset: Dataset) -> dict[str, Any]:
    listing = getattr(dataset, "listing", None)
    names = None if listing is None else "\n".join(listing())
    return {
        "images": len(dataset),
        "classes": [category.name for category in dataset.categories],
        "things": sum(category.is_thing for category in dataset.categories),
        "sha256": None if names is None else hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest(),
    }


def compare_data(folder: Path, facts: Mapping[str, Any]) -> str | None:
    """Say how the data differ from those that a run began with; None where they do not, or none are known.

    Raises DataError where the run's data.json cannot be read.
    """
    try:
        known = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        before = {split: known[split] for split in ("train", "val")}
    except FileNotFoundError:  # a run of an earlier version
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder / 'data.json'}: cannot be read ({error}); remove it to go on without it"
        ) from error
    for split, words in (("train", "training"), ("val", "validation")):
        old, new = before[split], facts[split]
        if old == new:
            continue
        counts = f"{old['images']} then, {new['images']} now"
        how = counts if old["images"] != new["images"] else "names or sizes of files, or classes, are others"
        return f"the {words} images are not those that it began with ({how})"
    return None


def memory_gib(device: torch.device) -> float:
    """Give the most memory that tensors took on a CUDA device so far; on others, what this process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def versions() -> dict[str, str]:
    """Give the versions of the package and of what it needs."""
    found = {}
    try:
        required = metadata.requires("eomt") or []
    except metadata.PackageNotFoundError:  # not installed, but run from its source
        required = ["torch", "timm", "numpy"]
    for name in ("eomt", *(re.split(r"[^\w.-]", text)[0] for text in required if "extra ==" not in text)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Name the git commit of the working directory, with a plus where files were changed since."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    return ran.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_aside(path, json.dumps(values, indent=1).encode())
