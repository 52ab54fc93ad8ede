import csv
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, Recipe, from_json
from eomt.data.folder import open_folder
from eomt.errors import ConfigError, DataError, NonFiniteError
from eomt.evaluation.evaluate import evaluate
from eomt.inference.segmenter import Segmenter
from eomt.training import loop
from eomt.training.loop import train
from eomt.types import Category, Sample


def recipe(root: Path, **changes: object) -> Recipe:
    toy = Recipe(
        task="instance",
        steps=4,
        model=TOY,
        data=DataConfig(root=str(root), batch_size=4, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=256),
        optim=OptimConfig(lr=1e-3, layer_decay=1.0),
        device="cpu",
    )
    return replace(toy, **changes)


def test_a_run_leaves_its_folder(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(recipe(shapes, evaluate_every=0.4), out)  # 6 steps an epoch: every 2 steps
    assert sorted(path.name for path in out.iterdir()) == [
        "best",
        "last",
        "log.txt",
        "metrics.csv",
        "metrics.jsonl",
        "recipe.json",
    ]
    assert from_json(Recipe, json.loads((out / "recipe.json").read_text())) == recipe(shapes, evaluate_every=0.4)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "AP" in row] == [2, 4]
    with (out / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert result.folder == out
    assert set(result.metrics) >= {"AP", "AP50"}
    assert Segmenter.from_pretrained(out).categories == open_folder(shapes, "train").categories


def test_it_learns(shapes: Path, tmp_path: Path) -> None:
    """The loss of a real run falls by a third within 40 steps, and everything in the model has moved."""
    start = {}
    original = loop.build

    def build(*arguments):  # type: ignore[no-untyped-def]
        model, info = original(*arguments)
        start.update({name: value.clone() for name, value in model.state_dict().items()})
        return model, info

    loop.build = build
    try:
        result = train(recipe(shapes, steps=40), tmp_path / "run")
    finally:
        loop.build = original
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-5:]) < 2 / 3 * sum(losses[:5])
    after = result.segmenter.model.state_dict()
    still = [name for name, value in after.items() if torch.equal(value, start[name])]
    assert still == []


def test_accumulation_equals_one_batch(shapes: Path, tmp_path: Path) -> None:
    """Gradients of two micro-batches add up to the batch's where every image has as many objects (here: 3)."""
    weights = []
    for micro in (4, 2):
        data = DataConfig(root=str(shapes), batch_size=4, micro_batch=micro, workers=0)
        augment = AugmentConfig(flip=0.0, scale=(1.0, 1.0))
        optim = OptimConfig(lr=1e-3, mask_annealing=False)
        train(recipe(shapes, steps=1, data=data, augment=augment, optim=optim), tmp_path / str(micro))
        weights.append(Segmenter.from_pretrained(tmp_path / str(micro)).model.class_head.weight)
    assert torch.allclose(*weights, atol=2e-4)


def test_cuts_a_validation_split(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eomt"):
        train(recipe(shapes, data=DataConfig(str(shapes), val="none", batch_size=4, workers=0)), tmp_path / "run")
    assert "no validation split: 2 of 24 training images are held out" in caplog.text


class OneImage:
    """A data set from Python: nothing but the protocol."""

    def __init__(self, root: Path) -> None:
        self.data = open_folder(root, "val")
        self.categories: tuple[Category, ...] = self.data.categories

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.data[index]


def test_any_dataset(shapes: Path, tmp_path: Path) -> None:
    data = OneImage(shapes)
    result = train(recipe(shapes, data=DataConfig(batch_size=2, workers=0)), tmp_path / "run", data, data)
    figures = evaluate(result.segmenter, data, ["semantic", "instance", "panoptic"], groups={"00": "first"})
    assert {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "AP75", "mIoU", "pixel_accuracy"} <= set(
        figures.figures
    )
    assert figures.images == 1
    assert figures.groups["first"].keys() == figures.figures.keys()


def test_starts_from_a_trained_model(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(recipe(shapes), tmp_path / "first")
    with caplog.at_level(logging.INFO, "eomt"):
        train(recipe(shapes), tmp_path / "same", init_from=tmp_path / "first")
        assert "initialised anew" not in caplog.text
        renamed = OneImage(shapes)
        renamed.categories = (renamed.categories[0]._replace(name="box"), renamed.categories[1])
        train(recipe(shapes), tmp_path / "other", renamed, renamed, init_from=tmp_path / "first")
    assert "its class head is initialised anew" in caplog.text


def test_ctrl_c_leaves_a_usable_run(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop.optimizer_step

    def interrupted(*arguments):  # type: ignore[no-untyped-def]
        if arguments[-1].step == 2:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(shapes), tmp_path / "run")
    assert Segmenter.from_pretrained(tmp_path / "run").task == "instance"
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 3


def test_non_finite_loss_stops_before_the_weights(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 1: loss is nan"):
        train(recipe(shapes, loss=LossConfig(num_points=64, dice_weight=math.nan)), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": DataConfig(batch_size=4, micro_batch=3)}, ConfigError, "not a multiple of the micro-batch, 3"),
        ({"steps": 0}, ConfigError, "steps 0: at least 1"),
        ({"steps": None, "epochs": 0.0}, ConfigError, "epochs 0.0: more than 0"),
        ({"evaluate_every": 0.0}, ConfigError, "evaluate_every"),
        ({"data": DataConfig()}, ConfigError, "no data: give --data PATH"),
    ],
)
def test_refuses(shapes: Path, tmp_path: Path, change: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        train(recipe(shapes, **change), tmp_path / "run")


def test_refuses_a_used_folder_and_foreign_classes(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="it holds something already"):
        train(recipe(shapes), tmp_path / "run")
    foreign = OneImage(shapes)
    foreign.categories = (foreign.categories[0]._replace(name="circle"), foreign.categories[1])
    with pytest.raises(DataError, match="classes that the model does not know: circle"):
        train(recipe(shapes), tmp_path / "other", open_folder(shapes, "train"), foreign)
