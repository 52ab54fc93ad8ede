"""Read named tensors from a file and nothing else: no code runs, and tensors are no larger than the file.

Reads safetensors and PyTorch's zip files (`.bin`, `.pt`, `.pth`, `.ckpt`). What the names mean is left to others.
"""

import io
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from eomt.errors import ModelError

__all__ = ["WEIGHTS_SUFFIXES", "first_line", "read_tensors"]

WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
INDEX_BYTES = 2 * 2**20
"""More than the names and shapes of tensors ever take, an optimizer's too: a larger index is not read."""
MAKERS = {
    "collections.OrderedDict",
    "collections.Counter",  # a learning rate schedule's milestones
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_meta_tensor_no_storage",
}
"""Whatever may be called; what follows is only named: numbers' types and torch's storages of them."""
KINDS = {f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)} | {
    f"{kind.__module__}.{kind.__name__}" for kind in torch._storage_classes
}
LONGEST = 8
"""More than a tensor has dimensions; no other list that is given to a maker is longer."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file, on the processor; they are mapped from disk, not copied, where possible.

    Of a Lightning checkpoint the `state_dict` is taken. Raises ModelError for a file that is absent, truncated,
    of another kind, or that holds more than tensors.
    """
    try:
        if not path.is_file():
            raise ModelError(f"weights {path}: no such file")
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # a damaged index makes torch raise KeyError, IndexError, AttributeError, MemoryError
        raise ModelError(
            f"weights {path}: the file is damaged or of another kind ({first_line(error)}); copy it anew"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        _check_index(int.from_bytes(file.read(8), "little"), path)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"weights {path}: not a zip file as PyTorch writes since version 1.6, or cut short; copy it anew, "
            "or load and save it with a current PyTorch"
        )
    try:
        _check(path)
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
        if damaged := archive.testzip():
            raise ModelError(f"weights {path}: {damaged} in it is not what was written (checksum); copy it anew")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):  # torch finds it in any case of letters
                _check_index(entry.file_size, path)
                _check_pickle(archive.read(entry))


def _check_index(size: int, path: Path) -> None:
    if size > INDEX_BYTES:
        raise ModelError(f"weights {path}: damaged or of another kind, as its index is larger than any model's")


def _check_pickle(content: bytes) -> None:
    """Go through an index without making what it asks for, of which each part may be small and the whole not.

    torch.load lets no code run, but makes byte arrays of any length, and copies long lists as often as it is told.
    Raises UnpicklingError for what no state_dict and no plain checkpoint of Lightning needs.
    """
    for operation, value, _ in pickletools.genops(content):
        # torch.save writes pickle's version 2, and neither of these.
        if operation.proto > 2 or operation.name in ("PUT", "NEWOBJ"):
            raise pickle.UnpicklingError(f"{operation.name} in its index")
        if operation.name == "LONG_BINPUT" and int(value or 0) > len(content):  # Python makes room for as many
            raise pickle.UnpicklingError(f"value number {value} in its index")
    _Index(io.BytesIO(content)).load()


class _Index(pickle.Unpickler):
    """Reads a pickle without importing anything: calls are not made but `_Made`, storages are nothing."""

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}"
        if known in MAKERS:
            return _Made
        if known in KINDS:
            return None
        raise pickle.UnpicklingError(f"{known} in its index")

    def persistent_load(self, pid: Any) -> None:
        return None


class _Made(dict[Any, Any]):
    """Stands for what a call makes; such a call takes no long lists, and one that does would copy them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        if any(isinstance(value, list | tuple | dict) and len(value) > LONGEST for value in arguments):
            raise pickle.UnpicklingError("a call in its index is given more than any tensor has")

    def __setstate__(self, state: Any) -> None:
        _Made(state)


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ModelError(f"weights {path}: no named tensors in it")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelError(f"weights {path}: {str(name)[:80]!r} is no plain tensor but {type(value).__name__}")
        if value.device.type != "cpu":
            raise ModelError(f"weights {path}: {name[:80]!r} has no data in the file")
        if value.nbytes > value.untyped_storage().nbytes():
            raise ModelError(f"weights {path}: {name[:80]!r} claims to be larger than its data")
    if sum(value.nbytes for value in state.values()) > path.stat().st_size:
        raise ModelError(f"weights {path}: its tensors claim to be larger than the file, as they share their data")
    return dict(state)


def first_line(error: Exception) -> str:
    """Say what went wrong in one line: torch explains at length."""
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
