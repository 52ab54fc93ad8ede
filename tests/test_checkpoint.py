import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt.categories import Category
from eomt.config import Thresholds
from eomt.errors import ModelError
from eomt.models.eomt import EoMT
from eomt.weights import checkpoint
from eomt.weights.checkpoint import ModelInfo

CATEGORIES = (Category("cell", True, 7, (255, 0, 0)), Category("ground", False, 9, (0, 0, 255)))
INFO = ModelInfo("instance", CATEGORIES, TOY, Thresholds(max_detections=300))


@pytest.fixture
def model() -> EoMT:
    torch.manual_seed(0)
    return EoMT(TOY, num_classes=2).eval()


def test_round_trip_is_exact(model: EoMT, tmp_path: Path) -> None:
    checkpoint.save(model, INFO, tmp_path / "model")
    loaded, info = checkpoint.load(tmp_path / "model")
    assert info == INFO
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(("storage", "tolerance", "share"), [("fp16", 1e-3, 0.55), ("int8", 1e-2, 0.35)])
def test_small_storage(model: EoMT, tmp_path: Path, storage: str, tolerance: float, share: float) -> None:
    """Fewer bits shrink the file to about their share and move each weight by at most half a step."""
    checkpoint.save(model, INFO, tmp_path / "full")
    checkpoint.save(model, INFO, tmp_path / "small", storage)
    sizes = [next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in ("full", "small")]
    assert sizes[1] < share * sizes[0]
    after = checkpoint.load(tmp_path / "small")[0].state_dict()
    for name, before in model.state_dict().items():
        assert after[name].dtype == torch.float32, name
        assert (before - after[name]).abs().max() <= tolerance * before.abs().max(), name


def test_a_checkpoint_names_no_path_of_the_machine_that_made_it(model: EoMT, tmp_path: Path) -> None:
    info = replace(INFO, model=replace(TOY, weights="/home/somebody/vit.safetensors"))
    checkpoint.save(model, info, tmp_path)
    assert "somebody" not in (tmp_path / "config.json").read_text()
    assert checkpoint.load(tmp_path)[1] == INFO


def test_saving_again_replaces(model: EoMT, tmp_path: Path) -> None:
    checkpoint.save(model, INFO, tmp_path)
    torch.nn.init.ones_(model.class_head.bias)
    checkpoint.save(model, replace(INFO, task="panoptic"), tmp_path)
    loaded, info = checkpoint.load(tmp_path)
    assert info.task == "panoptic"
    assert loaded.class_head.bias.eq(1).all()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]  # nothing is left over


def test_finds_the_best_of_a_run(model: EoMT, tmp_path: Path) -> None:
    checkpoint.save(model, INFO, tmp_path / "last")
    assert checkpoint.find(tmp_path) == tmp_path / "last"
    checkpoint.save(model, INFO, tmp_path / "best")
    assert checkpoint.find(tmp_path) == tmp_path / "best"


def flip_a_byte(folder: Path) -> None:
    [weights] = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def truncate(folder: Path) -> None:
    [weights] = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "is not what config.json promises"),
        (truncate, "is not what config.json promises"),
        (lambda f: [p.unlink() for p in f.glob("*.safetensors")], "names this file, but it is not there"),
        (lambda f: (f / "config.json").unlink(), "no config.json in it"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be used"),
        (lambda f: edit(f, format=2), "this version reads format 1"),
        (lambda f: edit(f, task="pose"), "task 'pose'"),
        (lambda f: edit(f, model={"backbone": "test_vit", "wings": 2}), "unknown wings"),
        (lambda f: edit(f, weights={"file": "../../etc/passwd", "sha256": ""}), "is not a plain file name"),
        (lambda f: edit(f, model={"backbone": "vit_unknown"}), "timm has no model 'vit_unknown'"),
        (lambda f: edit(f, categories=[]), "says no task or lists no categories"),
        (lambda f: edit(f, task=None), "says no task or lists no categories"),
    ],
)
def test_damage_is_noticed(model: EoMT, tmp_path: Path, damage: object, message: str) -> None:
    checkpoint.save(model, INFO, tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        checkpoint.load(tmp_path)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        checkpoint.load(tmp_path / "absent")
