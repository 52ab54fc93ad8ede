"""Read named tensors from a file and nothing else: no code runs, and tensors are no larger than the file.

Reads safetensors and PyTorch's zip files (`.bin`, `.pt`, `.pth`, `.ckpt`). What the names mean is left to others.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from eomt.errors import ModelError

__all__ = ["WEIGHTS_SUFFIXES", "first_line", "read_tensors"]

WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
PICKLE_BYTES = 64 * 2**20
"""More than the names of tensors ever take: a larger pickle is not read."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file, on the processor; they are mapped from disk, not copied, where possible.

    Of a Lightning checkpoint the `state_dict` is taken. Raises ModelError for a file that is absent, truncated,
    of another kind, or that holds more than tensors.
    """
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except FileNotFoundError:
        raise ModelError(f"weights {path}: no such file") from None
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # a damaged index makes torch raise KeyError, IndexError, AttributeError, MemoryError
        raise ModelError(
            f"weights {path}: the file is damaged or of another kind ({first_line(error)}); copy it anew"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"weights {path}: not a zip file as PyTorch writes since version 1.6, or cut short; copy it anew, "
            "or load and save it with a current PyTorch"
        )
    _check(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights {path}: the file holds more than tensors, which may be a program; nothing of it was run "
            f"({first_line(error)}). Ask for safetensors, or save the state_dict alone where you trust it"
        ) from error
    return _tensors_of(content, path)


def _check(path: Path) -> None:
    """Refuse an archive that would unpack to more than it is, or whose checksums are not right."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ModelError(f"weights {path}: a compressed archive; PyTorch writes none")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ModelError(f"weights {path}: its parts claim to be larger than the file")
        if any(entry.file_size > PICKLE_BYTES for entry in entries if entry.filename.endswith(".pkl")):
            raise ModelError(f"weights {path}: its index is larger than any model's")
        if damaged := archive.testzip():
            raise ModelError(f"weights {path}: {damaged} in it is not what was written (checksum); copy it anew")


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ModelError(f"weights {path}: no named tensors in it")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelError(f"weights {path}: {str(name)[:80]!r} is no plain tensor but {type(value).__name__}")
        if value.device.type != "cpu":
            raise ModelError(f"weights {path}: {name[:80]!r} has no data in the file")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(f"weights {path}: {name[:80]!r} claims to be larger than its data")
    return dict(state)


def first_line(error: Exception) -> str:
    """Say what went wrong in one line: torch explains at length."""
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
