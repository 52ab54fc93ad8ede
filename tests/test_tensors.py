"""Which weights files are read: whatever torch saves as tensors, and no index that makes more than it is."""

import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from eomt.errors import ModelError
from eomt.weights.tensors import read_tensors
from memory import peak_memory

CALLS = 40_000


def lightning(model: nn.Module) -> dict[str, object]:
    """What Lightning keeps of a training run: an optimizer with a group a parameter, schedules, settings."""
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 1e-4} for parameter in model.parameters()])
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    schedules = [
        torch.optim.lr_scheduler.PolynomialLR(optimizer).state_dict(),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]).state_dict(),  # holds a Counter
    ]
    best = {"best_model_score": torch.tensor(1.0), "best_k_models": {}, "monitor": None, "dirpath": "runs"}
    return {
        "epoch": 1,
        "global_step": 2**40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": best},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": schedules,
        "MixedPrecision": {"scale": 65536.0, "_growth_tracker": 0},
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-4, "betas": (0.9, 0.999), "compile": True},
    }


def test_a_checkpoint_of_lightning_is_its_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    torch.save(lightning(model), tmp_path / "last.ckpt")
    tensors = read_tensors(tmp_path / "last.ckpt")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(()),
        torch.ones(0),
        torch.arange(6.0).view(2, 3).t(),
        nn.Parameter(torch.ones(2)),
        *(torch.ones(2).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool)),
        *(torch.ones(2).to(dtype) for dtype in (torch.uint16, torch.float8_e4m3fn)),  # saved by their own maker
    ],
    ids=lambda value: f"{value.dtype} {tuple(value.shape)}",
)
def test_tensors_of_all_kinds_are_read(value: torch.Tensor, tmp_path: Path) -> None:
    torch.save(OrderedDict(value=value, again=torch.zeros(3)), tmp_path / "model.pt")
    read = read_tensors(tmp_path / "model.pt")["value"]
    assert read.dtype == value.dtype
    assert torch.equal(read.float(), value.float())


def repeat(call: bytes, *shared: bytes) -> bytes:
    """A pickle of one tuple: values kept under the numbers 0, 1, ..., and a short call of them many times."""
    kept = b"".join(value + b"q" + bytes([number]) for number, value in enumerate(shared))
    return b"\x80\x02(" + kept + call * CALLS + b"t."


NUMBERS = b"(" + b"K\x01" * CALLS + b"t"
NAMES = b"}(" + b"".join(b"J" + number.to_bytes(4, "little") + b"N" for number in range(CALLS)) + b"u"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"\x80\x02c__builtin__\nbytearray\nJ\x00\x2f\x68\x59\x85R.", r"more than tensors.*bytearray"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "more than tensors.*SHORT_BINUNICODE"),
        (b"\x80\x02cos\nsystem\n)R.", r"more than tensors.*os\.system"),
        (b"\x80\x02ctorch\nSize\nK\x01\x85\x85\x81.", "more than tensors.*NEWOBJ"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "more than tensors.*number 4294967295"),  # 64 GB of room
        (repeat(b"h\x00h\x01\x85R", b"ctorch\nSize\n", NUMBERS), "is given more than"),  # 12 GB, of 280 kB
        (repeat(b"h\x00h\x01\x85R", b"ccollections\nOrderedDict\n", NAMES), "is given more than"),
        (repeat(b"h\x00)Rh\x01b", b"ccollections\nOrderedDict\n", NAMES), "is given more than"),
        (b"\x80\x02(" + b"]" * 2**21 + b"t.", "index is larger than any model's"),
    ],
)
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL"])  # which torch takes for the same
def test_an_index_makes_no_more_than_it_is(index: bytes, message: str, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.writestr(name, index)
        archive.writestr("archive/version", b"3\n")
    with peak_memory() as peak, pytest.raises(ModelError, match=message):
        read_tensors(tmp_path / "model.bin")
    assert peak() < 50e6


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_what_is_no_file_is_not_called_damaged(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_tensors(tmp_path / f"absent{suffix}")
    os.mkfifo(tmp_path / f"pipe{suffix}")  # nobody will ever write to it
    with pytest.raises(ModelError, match="no such file"):
        read_tensors(tmp_path / f"pipe{suffix}")
