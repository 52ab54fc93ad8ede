"""A step whose numbers go wrong is kept, and taken again to the bit; the replay says where they first do."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt import cli
from eomt.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, Recipe, TrackConfig
from eomt.errors import DataError, NonFiniteError
from eomt.models.eomt import ScaleBlock
from eomt.training import capture, loop
from eomt.training.loop import train
from eomt.training.replay import Replay, replay

QKV = "backbone.vit.blocks.2.attn.qkv.weight"


def recipe(root: Path, **optim: object) -> Recipe:
    return Recipe(
        task="instance",
        steps=3,
        evaluate_every=9.0,
        model=replace(TOY, drop_path=0.2),
        data=DataConfig(root=str(root), batch_size=4, micro_batch=2, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(**{"lr": 1e-3, **optim}),
        track=TrackConfig(report=False),
        device="cpu",
    )


def fails(asked: Recipe, run: Path) -> str:
    with pytest.raises(NonFiniteError, match="eomt debug replay") as error:
        train(asked, run)
    return str(error.value)


def with_weights(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights of the model that a run begins with."""
    build = loop.build

    def changed(*arguments):  # type: ignore[no-untyped-def]
        model, info = build(*arguments)
        with torch.no_grad():
            change(model.state_dict())
        return model, info

    monkeypatch.setattr(loop, "build", changed)


def stages(found: Replay) -> list[str]:
    return [finding.stage for finding in found.findings]


@pytest.mark.parametrize("lora", [None, 4])
def test_a_weight_that_is_no_number(shapes: Path, tmp_path: Path, monkeypatch, capsys, lora: int | None) -> None:
    """It is named, then the first module that it reaches; the command says the same in words and in JSON."""

    def poison(weights: dict[str, torch.Tensor]) -> None:
        weights[QKV][0, 0] = math.nan

    with_weights(monkeypatch, poison)
    said = fails(recipe(shapes, lora=lora, masked_attention="always"), tmp_path / "run")
    assert said.startswith("step 1: loss is nan; nothing was updated by it")
    found = replay(capture.read(tmp_path / "run"))
    assert found.is_same
    assert found.differences == ()
    first, second, *_ = found.findings
    layer = ".base_layer" if lora else ""
    assert (first.stage, first.where) == ("weights", QKV.replace(".weight", f"{layer}.weight"))
    assert first.what == f"1 NaN of {64 * 192} numbers"
    assert (second.stage, second.where) == ("forward", QKV.removesuffix(".weight") + layer)
    assert second.micro_batch == 0
    assert stages(found) == ["weights", "forward", "loss", "gradients", "norm"]

    assert cli.main(["debug", "replay", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["is_same"] is True
    assert told["step"] == 1
    assert told["recorded"] == told["replayed"] == {"losses": ["nan", "nan"], "grad_norm": "nan"}
    assert told["first"] == told["findings"][0]
    assert told["first"]["where"] == first.where
    assert cli.main(["debug", "replay", str(tmp_path / "run" / capture.FOLDER)]) == 0
    words = capsys.readouterr().out
    assert "the same numbers, to the bit" in words
    assert f"first: weights: {first.where}: 1 NaN of 12288 numbers" in words


def test_a_rate_that_explodes(shapes: Path, tmp_path: Path) -> None:
    """The weights of the second step are so large that products of them are infinite."""
    said = fails(recipe(shapes, lr=1e30, warmup=(0, 0)), tmp_path / "run")
    assert said.startswith("step 2: ")
    found = replay(capture.read(tmp_path / "run"))
    assert found.is_same
    assert stages(found)[0] == "forward"


def test_a_module_that_gives_infinity(shapes: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    forward = ScaleBlock.forward

    def infinite(self, features):  # type: ignore[no-untyped-def]
        found = forward(self, features)
        found[0, 0, 0, 0] = math.inf
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ScaleBlock, "forward", infinite)
        fails(recipe(shapes), tmp_path / "run")
        found = replay(capture.read(tmp_path / "run"))
    assert found.is_same
    first = found.findings[0]
    assert (first.stage, first.where, first.micro_batch) == ("forward", "upscale.0", 0)
    assert first.what.startswith("1 infinite of ")
    # Where the fault is gone, the numbers are finite: not those that were recorded.
    assert cli.main(["debug", "replay", str(tmp_path / "run")]) == 7
    words = capsys.readouterr().out
    assert "not the numbers that were recorded" in words
    assert "all numbers are finite: weights, modules, loss and gradients" in words


def test_a_loss_that_is_infinite_by_its_weight(shapes: Path, tmp_path: Path) -> None:
    asked = replace(recipe(shapes), loss=LossConfig(num_points=64, dice_weight=1e39))
    fails(asked, tmp_path / "run")
    found = replay(capture.read(tmp_path / "run"))
    assert found.is_same
    assert found.findings[0].where == "dice term of the layer 0"
    assert "forward" not in stages(found)


def test_a_healthy_step(shapes: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Finite losses and norm come out to the bit too: with drop path, masked attention, points, accumulation."""

    def refuse(values, step, *_):  # type: ignore[no-untyped-def]
        if step == 2:
            raise NonFiniteError("step 2: asked for")

    monkeypatch.setattr(loop, "check_finite", refuse)
    fails(recipe(shapes), tmp_path / "run")
    kept = capture.read(tmp_path / "run")
    assert all(math.isfinite(each.loss.item()) for each in kept.passes)
    assert cli.main(["debug", "replay", str(tmp_path / "run")]) == 0
    words = capsys.readouterr().out
    assert "the same numbers, to the bit" in words
    assert "all numbers are finite" in words
    assert not any(path.suffix in (".pt", ".pkl", ".bin") for path in (tmp_path / "run" / "debug").rglob("*"))

    other = replay(replace(kept, machine={**kept.machine, "torch": "0.1"}))
    assert other.differences == (f"torch {torch.__version__} instead of 0.1",)
    off = replace(kept, grad_norm=kept.grad_norm * (1 + 1e-7))
    assert not replay(off).is_same

    # It is the only one, however it is replaced; and one that does not fit together is refused.
    assert capture.save(tmp_path / "run", replace(kept, step=7)) is not None
    assert sorted(path.name for path in (tmp_path / "run" / capture.FOLDER).iterdir()) == [
        "rank-0.json",
        "rank-0.safetensors",
        "weights.safetensors",
    ]
    capture.save(tmp_path / "run", replace(kept, step=8, rank=1, world_size=2))
    with pytest.raises(DataError, match=r"weights\.safetensors is of step 7, the rest of step 8"):
        capture.read(tmp_path / "run", 1)
    capture.save(tmp_path / "run", kept)
    with pytest.raises(DataError, match=r"no rank-1\.json"):
        capture.read(tmp_path / "run", 1)


def test_a_capture_is_bounded(shapes: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(capture, "MOST_BYTES", 1 << 20)
    asked = replace(recipe(shapes), loss=LossConfig(num_points=64, dice_weight=1e39))
    with pytest.raises(NonFiniteError, match="It could not be kept"), caplog.at_level(logging.WARNING, "eomt"):
        train(asked, tmp_path / "run")
    assert "no capture of the step is kept: it takes 1 MB, of at most 1" in caplog.text
    assert not list((tmp_path / "run" / capture.FOLDER).iterdir())


@pytest.mark.parametrize("damage", ["no folder", "no json", "junk", "no tensors", "cut"])
def test_damaged_captures(tmp_path: Path, damage: str, capsys) -> None:
    folder = tmp_path / "run" / capture.FOLDER
    if damage != "no folder":
        folder.mkdir(parents=True)
    if damage in ("junk", "no tensors", "cut"):
        (folder / "rank-0.json").write_text("[]" if damage == "junk" else '{"format": 2, "step": 3}')
    if damage == "cut":
        (folder / "rank-0.safetensors").write_bytes(b"\x00\x01")
    assert cli.main(["debug", "replay", str(tmp_path / "run")]) == 3
    assert "capture " in capsys.readouterr().err
