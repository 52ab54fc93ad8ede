import csv
import json
import logging
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import DropPath

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, Recipe, TrackConfig, from_json
from eomt.data.readers.folder import open_folder
from eomt.errors import ConfigError, DataError, NonFiniteError
from eomt.evaluation.evaluate import evaluate
from eomt.inference.segmenter import Segmenter
from eomt.models.eomt import EoMT
from eomt.training import loop
from eomt.training.loop import train
from eomt.training.setup import build, check_shares
from eomt.training.stop import Stopped
from eomt.types import Category, Sample, Segments
from layouts import coco_panoptic


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
        track=TrackConfig(to="none", report=False),
    )
    return replace(toy, **changes)


def test_a_run_leaves_its_folder(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(recipe(shapes, evaluate_every=0.4), out)  # 6 steps an epoch: every 2 steps
    assert sorted(path.name for path in out.iterdir()) == [
        "best",
        "curves.png",
        "data.json",
        "environment.jsonl",
        "last",
        "log.txt",
        "metrics.csv",
        "metrics.jsonl",
        "recipe.json",
        "result.json",
        "samples",
        "settings.json",
        "states",
    ]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        "train-000000000.jpg",
        "val-000000002.jpg",
        "val-000000004.jpg",
    ]
    settled = recipe(shapes, evaluate_every=0.4, augment=AugmentConfig(scale=(0.8, 1.2), fit="contain"))
    assert from_json(Recipe, json.loads((out / "recipe.json").read_text())) == settled
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


class Uneven:
    """Four images, every other one without objects and without ground."""

    def __init__(self, root: Path) -> None:
        self.data = open_folder(root, "train")
        self.categories: tuple[Category, ...] = self.data.categories

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        if index % 2 == 0:
            return sample
        nothing = torch.zeros(0, dtype=torch.int64)
        return replace(sample, segments=Segments(sample.segments.masks.select([]), nothing, nothing.bool()))


def test_accumulation_equals_one_batch(shapes: Path, tmp_path: Path) -> None:
    """Masks count alike in micro-batches with objects and without, of one size or of several.

    The first step only, before weights have moved; points are drawn by chance, which 2 % are left for.
    """
    rows = []
    for micro in (4, 1, 3):
        data = DataConfig(batch_size=4, micro_batch=micro, workers=0)
        optim = OptimConfig(lr=1e-3, masked_attention="never")
        changes = {"data": data, "optim": optim, "loss": LossConfig(num_points=4096), "steps": 1}
        train(recipe(shapes, **changes), tmp_path / str(micro), Uneven(shapes), OneImage(shapes))
        rows.append(json.loads((tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()[0]))
    for row in rows[1:]:
        assert row["mask"] == pytest.approx(rows[0]["mask"], rel=0.02)
        assert row["dice"] == pytest.approx(rows[0]["dice"], rel=0.02)


@pytest.mark.parametrize(
    ("masked_attention", "masked_inference", "given", "share", "warning"),
    [
        ("annealed", False, [(1.0, 1.0), (0.0, 1.0)], [1.0, 0.5], None),  # the first window ends at 1/3
        ("always", True, [(1.0, 1.0)] * 2, [1.0, 1.0], None),
        ("always", False, [(1.0, 1.0)] * 2, [1.0, 1.0], "add --model.masked-inference"),
        ("annealed", True, [(1.0, 1.0), (0.0, 1.0)], [1.0, 0.5], "or drop --model.masked-inference"),
        ("never", False, [None] * 2, [0.0, 0.0], None),
    ],
)
def test_masked_attention_in_training_and_prediction(
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    masked_attention: str,
    masked_inference: bool,
    given: list[object],
    share: list[float],
    warning: str | None,
) -> None:
    """What the model is asked for in two steps, how many layers are supervised, and what prediction does."""
    asked: list[object] = []
    layers: list[int] = []
    masked: list[float] = []
    forward, loss, mask = EoMT.forward, loop.segmentation_loss, EoMT.attention_mask

    def recording_forward(self, images, mask_probabilities=None):  # type: ignore[no-untyped-def]
        if self.training:
            asked.append(mask_probabilities)
        return forward(self, images, mask_probabilities)

    def recording_loss(outputs, *rest):  # type: ignore[no-untyped-def]
        layers.append(len(outputs))
        return loss(outputs, *rest)

    def recording_mask(self, logits, probability, grid):  # type: ignore[no-untyped-def]
        if not self.training:
            masked.append(probability)
        return mask(self, logits, probability, grid)

    monkeypatch.setattr(EoMT, "forward", recording_forward)
    monkeypatch.setattr(EoMT, "attention_mask", recording_mask)
    monkeypatch.setattr(loop, "segmentation_loss", recording_loss)
    optim = OptimConfig(lr=1e-3, masked_attention=masked_attention)
    model = replace(TOY, masked_inference=masked_inference)
    train(recipe(shapes, steps=2, model=model, optim=optim), tmp_path / "run", val_data=OneImage(shapes))

    assert asked == given
    assert layers == [1 if masked_attention == "never" else 3] * 2  # two joint blocks and the end
    assert set(masked) == ({1.0} if masked_inference else set())
    text = (tmp_path / "run" / "log.txt").read_text()
    assert ("masked-inference" in text) == (warning is not None)
    assert warning is None or warning in text
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["masked_attention"] for row in rows if "loss" in row] == share
    saved = json.loads((tmp_path / "run/last/config.json").read_text())["model"]
    assert saved["masked_inference"] == masked_inference


def test_a_masked_model_is_weaned(shapes: Path, tmp_path: Path) -> None:
    """Fine-tuned with annealing, a model that was trained with masked attention predicts without it."""
    masked = replace(TOY, masked_inference=True)
    always = OptimConfig(lr=1e-3, masked_attention="always")
    train(recipe(shapes, steps=1, model=masked, optim=always), tmp_path / "first", val_data=OneImage(shapes))
    result = train(
        recipe(shapes, steps=1), tmp_path / "second", val_data=OneImage(shapes), init_from=tmp_path / "first"
    )
    assert not result.segmenter.info.model.masked_inference
    assert not result.segmenter.model.config.masked_inference


def test_the_same_seed_gives_the_same_run_whatever_ran_before(shapes: Path, tmp_path: Path) -> None:
    rows = []
    for name, precision in (("first", "fp32"), ("bf16", "bf16"), ("again", "fp32")):
        result = train(recipe(shapes, steps=2, precision=precision), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([[json.loads(line)[key] for key in ("loss", "grad_norm")] for line in lines[:2]])
        assert next(result.segmenter.model.parameters()).dtype == torch.float32
        assert f", {precision} on cpu" in (tmp_path / name / "log.txt").read_text()
    assert rows[2] == rows[0]
    assert rows[1] != rows[0]
    assert rows[1][1] == pytest.approx(rows[0][1], rel=0.1)  # bf16 has three digits


def test_cuts_a_validation_split(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eomt"):
        train(recipe(shapes, data=DataConfig(str(shapes), val=None, batch_size=4, workers=0)), tmp_path / "run")
    assert "no validation split: 2 of 24 training images are held out" in caplog.text
    with pytest.raises(DataError, match="no split 'vall'; did you mean val"):  # asked for by name: no substitute
        train(recipe(shapes, data=DataConfig(str(shapes), val="vall", batch_size=4, workers=0)), tmp_path / "typo")


def test_cuts_where_the_usual_split_is_absent(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(shapes, tmp_path / "data", ignore=shutil.ignore_patterns("val"))
    with caplog.at_level(logging.INFO, "eomt"):
        train(recipe(copy, steps=1), tmp_path / "run")
    assert "no validation split 'val': 2 of 24 training images" in caplog.text


def test_a_validation_set_that_is_given_is_used(shapes: Path, tmp_path: Path) -> None:
    train(recipe(shapes, steps=1), tmp_path / "run", val_data=OneImage(shapes))
    assert "24 training and 1 validation images" in (tmp_path / "run" / "log.txt").read_text()


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
    assert "is initialised anew" in caplog.text


def test_a_trained_model_brings_its_architecture(shapes: Path, tmp_path: Path) -> None:
    """Queries and joint blocks are the trained model's, the view is the recipe's, and the recipe left says so."""
    train(recipe(shapes, steps=1), tmp_path / "first")
    other = replace(TOY, image_size=(96, 96), num_queries=5, num_joint_blocks=1, gradient_checkpointing=True)
    result = train(recipe(shapes, steps=1, model=other), tmp_path / "second", init_from=tmp_path / "first")
    expected = replace(TOY, image_size=(96, 96), gradient_checkpointing=True)
    assert result.segmenter.info.model == expected
    assert from_json(Recipe, json.loads((tmp_path / "second/recipe.json").read_text())).model == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_run(shapes: Path, tmp_path: Path, monkeypatch, number) -> None:
    step = loop.optimizer_step

    def interrupted(run, batches):  # type: ignore[no-untyped-def]
        if run.progress.step == 1:
            os.kill(os.getpid(), number)
        return step(run, batches)

    monkeypatch.setattr(loop, "optimizer_step", interrupted)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped) as stopped:
        train(recipe(shapes), tmp_path / "run")
    assert stopped.value.exit_code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert Segmenter.from_pretrained(tmp_path / "run").task == "instance"
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 3  # the step at hand was finished


def test_non_finite_loss_stops_before_the_weights(shapes: Path, tmp_path: Path) -> None:
    log = logging.getLogger("eomt")
    before = (list(log.handlers), log.level)
    with pytest.raises(NonFiniteError, match="step 1: loss is nan"):
        train(recipe(shapes, loss=LossConfig(num_points=64, dice_weight=math.nan)), tmp_path / "run")
    # 12 queries, 4 masks in each of 4 views, 3 layers
    assert "of 576 costs of the matching are not finite" in (tmp_path / "run" / "log.txt").read_text()
    assert (log.handlers, log.level) == before


@pytest.mark.parametrize(
    ("figure", "best", "expected"),
    [
        (0.5, 0.4, True),
        (0.4, 0.5, False),
        (0.0, 0.0, True),  # of equals the one trained longer
        (math.nan, 0.0, False),
        (0.0, math.nan, True),
        (math.nan, math.nan, True),
    ],
)
def test_better(figure: float, best: float, expected: bool) -> None:
    assert loop.better(figure, best) is expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"data": DataConfig(batch_size=4, micro_batch=0)},
            ConfigError,
            "micro_batch 0: at least 1 image, or auto",
        ),
        ({"steps": 0}, ConfigError, "steps 0: at least 1"),
        ({"steps": None, "epochs": 0.0}, ConfigError, "epochs 0.0: more than 0"),
        ({"evaluate_every": 0.0}, ConfigError, "evaluate_every"),
        ({"data": DataConfig()}, ConfigError, "no data: give --data PATH"),
        ({"augment": AugmentConfig(scale=(2.0, 0.1))}, ConfigError, "the smaller one first"),
        ({"loss": LossConfig(num_points=0)}, ConfigError, "num_points 0: at least 1"),
        ({"optim": OptimConfig(lr=0.0)}, ConfigError, "lr 0.0: more than 0"),
        (
            {"optim": OptimConfig(masked_attention="never"), "model": replace(TOY, masked_inference=True)},
            ConfigError,
            "predicts without it; drop --model.masked-inference",
        ),
        ({"data": DataConfig("absent")}, DataError, "absent"),
        ({"model": replace(TOY, backbone="resnet18")}, ConfigError, "not a plain ViT"),
    ],
)
def test_refuses(shapes: Path, tmp_path: Path, change: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        train(recipe(shapes, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # so that the corrected command may name it again


def test_refuses_a_used_folder_and_foreign_classes(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="it holds something already"):
        train(recipe(shapes), tmp_path / "run")
    foreign = OneImage(shapes)
    foreign.categories = (foreign.categories[0]._replace(name="circle"), foreign.categories[1])
    with pytest.raises(DataError, match="classes that the model does not know: circle"):
        train(recipe(shapes), tmp_path / "other", open_folder(shapes, "train"), foreign)


def test_a_start_from_a_trained_model_keeps_how_the_recipe_trains(shapes: Path, tmp_path: Path) -> None:
    Segmenter.from_pretrained("bundled", device="cpu").save(tmp_path / "old")
    wanted = recipe(shapes)
    wanted = replace(wanted, model=replace(wanted.model, drop_path=0.3))
    model, info = build(wanted, open_folder(shapes, "train"), tmp_path / "old")
    assert info.model.drop_path == 0.3
    rates = [part.drop_prob for part in model.modules() if isinstance(part, DropPath)]
    assert max(rates) == 0.3


def test_a_new_class_head_is_explained(shapes: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "eomt")
    data = open_folder(shapes, "train")
    build(recipe(shapes), data, "bundled")
    assert "initialised anew: it knew nucleus, background, the data have " in caplog.text


def test_a_run_on_another_layout_with_a_class_map(tmp_path: Path) -> None:
    coco_panoptic.write(tmp_path / "data")
    (tmp_path / "map.json").write_text('{"merge": {"object": ["person", "car"]}, "ignore": ["sky"]}')
    data = DataConfig(root=str(tmp_path / "data"), batch_size=2, workers=0, class_map=str(tmp_path / "map.json"))
    result = train(recipe(tmp_path, task=None, steps=2, data=data), tmp_path / "run")
    assert result.segmenter.task == "panoptic"
    assert [category.name for category in result.segmenter.categories] == ["object", "road"]
    assert "PQ" in result.metrics
    written = from_json(Recipe, json.loads((tmp_path / "run" / "recipe.json").read_text()))
    assert (written.task, written.data) == ("panoptic", data)


@pytest.mark.parametrize(
    ("data", "processes", "words"),
    [
        (DataConfig(batch_size=5, micro_batch=3), 2, None),  # 3 and 2
        (DataConfig(batch_size=5), 2, None),
        (DataConfig(batch_size=5, micro_batch=2), 1, None),
        (DataConfig(batch_size=4, micro_batch="auto"), 1, None),
        (DataConfig(batch_size=5, micro_batch=2), 2, "some have one more than others"),  # 2 and 1, 2
        (DataConfig(batch_size=4, micro_batch="auto"), 2, "not with --shard"),
        (DataConfig(batch_size=1), 2, "use 2 or more"),
    ],
)
def test_processes_that_share_out_the_model_pass_alike(
    data: DataConfig, processes: int, words: str | None
) -> None:
    asked = replace(recipe(Path("data")), data=data, shard=True)
    if words is None:
        check_shares(asked, processes)
        return
    with pytest.raises(ConfigError, match=words):
        check_shares(asked, processes)
