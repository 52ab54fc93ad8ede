"""Keep what a step was made of whose numbers went wrong, so that it can be taken again: tensors and JSON, no code.

Of a run there is one capture, the last: each process keeps its own views, the first one the weights too. Taking
the step again is left to `replay`.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eomt.config import Recipe, from_json, to_json
from eomt.errors import ConfigError, DataError
from eomt.files import write_aside
from eomt.types import Batch, Target

__all__ = ["FOLDER", "Capture", "Pass", "describe_machine", "read", "save"]

log = logging.getLogger("eomt")

FOLDER = "debug/capture"
"""Where it is in a run folder."""
FORMAT = 2
MOST_BYTES = 8 << 30
"""A process keeps no more than so much; masks take a bit a pixel."""
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Pass:
    """One micro-batch on its way through the model."""

    chance: tuple[int, ...]
    """What all random numbers of it follow from."""
    batch: Batch
    loss: Tensor


@dataclass(frozen=True)
class Capture:
    """One step of one process, up to the optimiser, which it never reached."""

    recipe: Recipe
    step: int
    """From 1 on."""
    num_classes: int
    rank: int
    world_size: int
    mask_probabilities: tuple[float, ...] | None
    divisors: Tensor
    passes: tuple[Pass, ...]
    grad_norm: float
    """Of all processes together."""
    weights: Mapping[str, Tensor]
    """Before the step."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """What the last bits of the numbers depend on."""


def describe_machine(device: torch.device) -> dict[str, str]:
    """Say what the last bits of a step depend on beside its inputs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "eomt": version("eomt"),
        "torch": torch.__version__,
        "device": device.type,
        "processor": name,
        "threads": str(torch.get_num_threads()),
    }


def save(run: Path, capture: Capture) -> Path | None:
    """Write a capture into the run folder, in place of an earlier one.

    Gives its folder; None, and says why, where it would be too large or cannot be written: what is wrong with the
    step is to be told all the same.
    """
    folder, name = run / FOLDER, f"rank-{capture.rank}"
    tensors = _to_tensors(capture)
    weights = {key: value.detach().cpu().contiguous() for key, value in capture.weights.items()}
    kept = [tensors, weights] if capture.rank == 0 else [tensors]
    size = sum(value.nbytes for each in kept for value in each.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = min(MOST_BYTES, shutil.disk_usage(folder).free)
        if size > room:
            log.warning("no capture of the step is kept: it takes %d MB, of at most %d", size >> 20, room >> 20)
            return None
        for path in folder.glob("rank-*"):  # of an earlier capture on more processes
            if capture.rank == 0 and int(path.stem.removeprefix("rank-")) >= capture.world_size:
                path.unlink()
        if capture.rank == 0:
            _write(folder / WEIGHTS, weights, capture.step)
        _write(folder / f"{name}.safetensors", tensors, capture.step)
        write_aside(folder / f"{name}.json", json.dumps(_to_json(capture), indent=1).encode())
    except (OSError, ValueError) as error:
        log.warning("no capture of the step is kept: %s", error)
        return None
    return folder


def read(path: Path, rank: int = 0) -> Capture:
    """Read the capture of one process from a run folder, or from the capture's own. Raises DataError."""
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    file = folder / f"rank-{rank}.json"
    if not file.is_file():
        raise DataError(
            f"capture {path}: no {file.name} in it or in its {FOLDER}; a run keeps one where it ends with 6"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}; this version reads {FORMAT}")
        tensors, weights = (_read(folder / name, values["step"]) for name in (f"rank-{rank}.safetensors", WEIGHTS))
        probabilities = values["mask_probabilities"]
        return Capture(
            from_json(Recipe, values["recipe"], "recipe"),
            int(values["step"]),
            int(values["num_classes"]),
            rank,
            int(values["world_size"]),
            None if probabilities is None else tuple(map(float, probabilities)),
            tensors["divisors"],
            tuple(_pass(number, told, tensors) for number, told in enumerate(values["passes"])),
            float(values["grad_norm"]),
            weights,
            {str(key): str(value) for key, value in values["machine"].items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError, ConfigError) as error:
        raise DataError(f"capture {folder}: cannot be used ({type(error).__name__}: {error})") from error


def _to_json(capture: Capture) -> dict[str, Any]:
    """Write floats as their shortest words that give the same bits, and what is not finite as such."""
    return {
        "format": FORMAT,
        "step": capture.step,
        "num_classes": capture.num_classes,
        "world_size": capture.world_size,
        "mask_probabilities": capture.mask_probabilities,
        "grad_norm": repr(capture.grad_norm),
        "passes": [
            {
                "chance": each.chance,
                "loss": repr(each.loss.item()),
                "image_ids": each.batch.image_ids,
                "width": each.batch.images.shape[-1],
            }
            for each in capture.passes
        ],
        "machine": dict(capture.machine),
        "recipe": to_json(capture.recipe),
    }


def _to_tensors(capture: Capture) -> dict[str, Tensor]:
    tensors = {"divisors": capture.divisors.cpu()}
    for number, each in enumerate(capture.passes):
        tensors[f"{number}.images"] = each.batch.images.cpu().contiguous()
        for place, target in enumerate(each.batch.targets):
            packed = np.packbits(target.masks.cpu().numpy(), axis=-1)
            tensors[f"{number}.{place}.masks"] = torch.from_numpy(packed)
            tensors[f"{number}.{place}.labels"] = target.labels.cpu().contiguous()
            tensors[f"{number}.{place}.is_crowd"] = target.is_crowd.cpu().contiguous()
    return tensors


def _pass(number: int, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pass:
    targets = []
    for place in range(len(told["image_ids"])):
        packed, labels, is_crowd = (
            tensors[f"{number}.{place}.{part}"] for part in ("masks", "labels", "is_crowd")
        )
        masks = np.unpackbits(packed.numpy(), axis=-1, count=int(told["width"])).astype(np.bool_)
        targets.append(Target(torch.from_numpy(masks), labels, is_crowd))
    batch = Batch(tensors[f"{number}.images"], targets, list(told["image_ids"]))
    return Pass(tuple(map(int, told["chance"])), batch, torch.tensor(float(told["loss"])))


def _write(path: Path, tensors: Mapping[str, Tensor], step: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(dict(tensors), temporary, metadata={"step": str(step)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, step: int) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get("step")
    if found != str(step):
        raise ValueError(f"{path.name} is of step {found}, the rest of step {step}")
    tensors: dict[str, Tensor] = load_file(path)
    return tensors
