"""The state of a run on disk, from which it goes on as if it had never stopped.

A state is a folder, whole or absent: tensors (weights, their average, AdamW's moments) and a JSON file with the
numbers and the tensors' sha256. There is no state of random numbers in it: all chance is a function of the seed,
the step and the place in it. What a run does with its state is left to `loop`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eomt.errors import ModelError

__all__ = ["STATES", "newest", "pack", "save", "unpack"]

log = logging.getLogger("eomt")

STATES = "states"
"""Folder of a run that holds its states."""
FORMAT = 1
KEPT = 2
"""The newest so many states are kept: one that the disk has damaged does not end a run."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(run: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the state after a step; a crash at any moment leaves the earlier ones as they were."""
    folder = run / STATES
    folder.mkdir(exist_ok=True)
    for stale in folder.glob(".*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder / f".{_name(step)}"
    temporary.mkdir()
    try:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, temporary / "tensors")
        content = {"format": FORMAT, "sha256": _digest(temporary / "tensors"), "values": dict(values)}
        (temporary / "state.json").write_text(json.dumps(content), encoding="utf-8")
        for path in (temporary / "tensors", temporary / "state.json", temporary):
            _to_disk(path)
        shutil.rmtree(folder / _name(step), ignore_errors=True)  # of an earlier try: it could not be used
        os.rename(temporary, folder / _name(step))
        _to_disk(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def newest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest state of a run that is whole: tensors and values. None where there is no state at all.

    Damaged ones are passed over, and said. Raises ModelError where all are damaged.
    """
    found = sorted((run / STATES).glob("step-*"), reverse=True)
    for folder in found:
        try:
            content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}; this version reads {FORMAT}")
            if _digest(folder / "tensors") != content["sha256"]:
                raise ValueError("its tensors are not what was written")
            return load_file(folder / "tensors"), dict(content["values"])
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            log.warning("state %s: cannot be used (%s); the one before it is taken", folder, error)
    if found:
        raise ModelError(f"run {run}: none of its {len(found)} states can be used; start anew with --init-from")
    return None


def pack(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> dict[str, Tensor]:
    """Give weights, the optimiser's moments by the parameters' names, and averaged weights, under prefixes."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{moment}.{name}": value for moment, value in _moments(optimizer, parameter)}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> None:
    """Put back what `pack` took. Raises ModelError where it is of another model."""
    try:
        model.load_state_dict(_under("model.", tensors))
        if average is not None:
            average.load_state_dict(_under("average.", tensors))
    except RuntimeError as error:
        raise ModelError(f"the run's state is of another model ({str(error).splitlines()[0]})") from error
    for name, parameter in model.named_parameters():
        moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            on_device = {key: value.to(parameter.device) for key, value in moments.items() if key != "step"}
            optimizer.state[parameter] = {**on_device, "step": moments["step"]}


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    state = optimizer.state.get(parameter, {})
    return ((moment, state[moment]) for moment in MOMENTS if moment in state)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
