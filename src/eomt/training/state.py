"""The state of a run on disk, from which it goes on as if it had never stopped.

A state is a folder, whole or absent: tensors (weights, their average, AdamW's moments) and a JSON file with the
numbers and the sha256 of both. There is no state of random numbers in it: all chance is a function of the seed,
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

from eomt.errors import ModelError, ResourceError
from eomt.training.shard import alike

__all__ = ["STATES", "is_in", "newest", "pack", "save", "unpack"]

log = logging.getLogger("eomt")

STATES = "states"
"""Folder of a run that holds its states."""
FORMAT = 2
KEPT = 2
"""The newest so many states are kept: one that the disk has damaged does not end a run."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(run: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the state after a step; a crash at any moment leaves the earlier ones as they were.

    Raises ResourceError where the disk does not take it.
    """
    folder, size = run / STATES, sum(value.nbytes for value in tensors.values())
    target, temporary, replaced = (folder / name for name in (_name(step), f".{_name(step)}", ".replaced"))
    try:
        folder.mkdir(exist_ok=True)
        for stale in folder.glob(".*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary.mkdir()
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, temporary / "tensors")
        content = {"format": FORMAT, "sha256": _digest(temporary / "tensors", values), "values": dict(values)}
        (temporary / "state.json").write_text(json.dumps(content), encoding="utf-8")
        for path in (temporary / "tensors", temporary / "state.json", temporary):
            _to_disk(path)
        if target.exists():  # saved before it was judged, or damaged
            os.rename(target, replaced)
        os.rename(temporary, target)
        _to_disk(folder)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"run {run}: the state of step {step} ({size / 1e6:.1f} MB) could not be written ({error}). "
            "Those before it are as they were: make room for three of them, then go on with "
            f"eomt train --resume {run}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    found = sorted(folder.glob("step-*"))
    here = found.index(target) + 1
    later = found[here:]  # they are damaged, or the run would have gone on from them
    for old in found[: max(0, here - KEPT)] + later:
        shutil.rmtree(old, ignore_errors=True)


def is_in(run: Path) -> bool:
    """Tell whether a run has a state, whole or not."""
    return any((run / STATES).glob("step-*"))


def newest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest state of a run that is whole: tensors and values. None where there is no state at all.

    Damaged ones are passed over, and said. Raises ModelError where all are damaged.
    """
    found = sorted((run / STATES).glob("step-*"), reverse=True)
    for folder in found:
        try:
            content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            if content["format"] not in (1, FORMAT):
                raise ValueError(f"format {content['format']!r}; this version reads 1 and {FORMAT}")
            covered = content["values"] if content["format"] == FORMAT else None  # 1: the tensors only
            if _digest(folder / "tensors", covered) != content["sha256"]:
                raise ValueError("its content is not what was written")
            return load_file(folder / "tensors"), dict(content["values"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
            log.warning("state %s: cannot be used (%s)", folder, error)
    if found:
        raise ModelError(
            f"run {run}: none of its {len(found)} states can be used; start anew with --init-from {run}"
        )
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
        _load(model, _under("model.", tensors))
        if average is not None:
            _load(average, _under("average.", tensors))
    except RuntimeError as error:
        raise ModelError(
            "the run's state is of another model than its settings say: leave those of the model as they were, or "
            "start a new run"
        ) from error
    for name, parameter in model.named_parameters():
        moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            placed = {key: alike(value, parameter) for key, value in moments.items() if key != "step"}
            optimizer.state[parameter] = {**placed, "step": moments["step"].to(parameter.device)}


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: alike(value, own.get(name)) for name, value in tensors.items()})


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    state = optimizer.state.get(parameter, {})
    return ((moment, state[moment]) for moment in MOMENTS if moment in state)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _digest(tensors: Path, values: Mapping[str, Any] | None) -> str:
    with tensors.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if values is not None:
        digest.update(json.dumps(values).encode())
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
