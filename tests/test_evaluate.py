"""Judging a toy model: the figures are those of its own predictions, and what cannot be judged is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TOY, draw_shapes
from eomt.categories import Category
from eomt.config import Thresholds
from eomt.errors import DataError
from eomt.evaluation.evaluate import evaluate, suitable_tasks
from eomt.evaluation.metrics import MaskAP, MeanIoU, PanopticQuality
from eomt.evaluation.thresholds import ThresholdCurve, threshold_curve
from eomt.inference.segmenter import Segmenter
from eomt.masks import IdMap
from eomt.models.eomt import EoMT
from eomt.tasks import TASKS
from eomt.types import Sample, Segments
from eomt.weights.checkpoint import ModelInfo

SQUARE, GROUND = Category("square", True, 0, (255, 0, 0)), Category("ground", False, 1, (0, 0, 255))
EAGER = Thresholds(score=0.0, overlap=0.0, max_detections=7)  # an untrained model is sure of nothing


class Shapes:
    """Four pictures with three squares each, on ground. Categories come in another order than the model's."""

    categories = (GROUND, SQUARE)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        image, ids = draw_shapes(np.random.default_rng(index), (48, 64))
        masks = IdMap(np.where(ids == 0, 4, ids).astype(np.int32), 4)
        segments = Segments(masks, torch.tensor([1, 1, 1, 0]), torch.zeros(4, dtype=torch.bool))
        return Sample(torch.from_numpy(image).permute(2, 0, 1), segments, f"picture {index}")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(EoMT(TOY, 2), ModelInfo("panoptic", (SQUARE, GROUND), TOY, EAGER), "cpu")


def test_figures_are_those_of_the_predictions(segmenter: Segmenter) -> None:
    data, categories = Shapes(), (SQUARE, GROUND)
    metrics = {
        "semantic": MeanIoU(categories),
        "instance": MaskAP(categories, 7),
        "panoptic": PanopticQuality(categories),
    }
    for index in range(len(data)):
        sample = data[index]
        truth = Segments(sample.segments.masks, 1 - sample.segments.labels, sample.segments.is_crowd)
        for task, metric in metrics.items():
            found = segmenter.predict(sample.image.permute(1, 2, 0).numpy(), task=task)
            metric.update(found, truth, sample.image_id)
    expected = {name: value for metric in metrics.values() for name, value in metric.compute().figures.items()}

    seen: list[tuple[int, int]] = []
    result = evaluate(segmenter, data, progress=lambda done, total: seen.append((done, total)))
    assert result.tasks == ("semantic", "instance", "panoptic")
    assert result.figures == pytest.approx(expected, nan_ok=True)
    assert 0 < result.figures["pixel_accuracy"] < 1
    assert set(result.per_class) == {"square", "ground"}
    assert set(result.per_class["square"]) >= {"IoU", "AP", "PQ"}
    assert (result.images, result.groups) == (4, {})
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_groups_are_judged_apart(segmenter: Segmenter) -> None:
    groups = {"picture 0": "dark", "picture 1": "dark"}
    result = evaluate(segmenter, Shapes(), ["semantic"], groups=groups)
    assert list(result.groups) == ["(none)", "dark"]
    shares = [result.groups[name]["pixel_accuracy"] for name in result.groups]
    assert np.mean(shares) == pytest.approx(result.figures["pixel_accuracy"])  # pictures of one size, two and two


def test_max_detections_bounds_what_is_found_and_judged(segmenter: Segmenter, monkeypatch) -> None:
    asked: list[int] = []
    task = TASKS["instance"]

    def decode(logits, tiling, categories, thresholds):
        asked.append(thresholds.max_detections)
        return task.decode(logits, tiling, categories, thresholds)

    monkeypatch.setitem(TASKS, "instance", replace(task, decode=decode))
    for given, expected in (({}, 7), ({"max_detections": 3}, 3), ({"thresholds": Thresholds()}, 100)):
        asked.clear()
        evaluate(segmenter, Shapes(), ["instance"], **given)
        assert set(asked) == {expected}


@pytest.mark.parametrize(
    ("task", "model", "data", "tasks"),
    [
        ("panoptic", (SQUARE, GROUND), (SQUARE, GROUND), ("semantic", "instance", "panoptic")),
        ("instance", (SQUARE, GROUND), (SQUARE,), ("semantic", "instance", "panoptic")),  # it knows both kinds
        ("instance", (SQUARE,), (SQUARE,), ("instance",)),
        ("semantic", (GROUND,), (GROUND,), ("semantic",)),
        ("panoptic", (SQUARE, GROUND), (SQUARE._replace(is_thing=False),), ("semantic",)),  # as from classes.txt
    ],
)
def test_what_is_judged_where_nobody_says_it(segmenter: Segmenter, task, model, data, tasks) -> None:
    asked = Segmenter(segmenter.model, ModelInfo(task, model, TOY), "cpu")
    assert suitable_tasks(asked, data) == tasks


@pytest.mark.parametrize(
    ("categories", "tasks", "words"),
    [
        ((GROUND, Category("dog", True, 5, (0, 0, 0))), None, "does not know: dog; it knows square, ground"),
        ((GROUND, SQUARE._replace(is_thing=False)), ["instance"], "square is stuff in the data, but not to the"),
    ],
)
def test_data_that_do_not_fit_the_model(segmenter: Segmenter, monkeypatch, categories, tasks, words) -> None:
    monkeypatch.setattr(Shapes, "categories", categories)
    with pytest.raises(DataError, match=words):
        evaluate(segmenter, Shapes(), tasks)


def test_data_without_images(segmenter: Segmenter, monkeypatch) -> None:
    monkeypatch.setattr(Shapes, "__len__", lambda _: 0)
    result = evaluate(segmenter, Shapes())
    assert result.images == 0
    assert all(math.isnan(value) for value in result.figures.values())


def test_bad_images_are_left_out_on_request(segmenter: Segmenter, caplog) -> None:
    class Torn(Shapes):
        def __getitem__(self, index: int) -> Sample:
            if index == 1:
                raise DataError("picture 1: cut short")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="cut short"):
        evaluate(segmenter, Torn(), ["semantic"])
    assert evaluate(segmenter, Torn(), ["semantic"], skip_bad=True).images == 3
    assert "not judged: picture 1: cut short" in caplog.text


@pytest.mark.parametrize("count", [2, 4, 5])  # of four images; the last one has none
def test_processes_that_share_the_images_give_the_figures_of_one(segmenter: Segmenter, count: int) -> None:
    groups = {"picture 0": "dark", "picture 1": "dark"}
    shares: list[object] = []
    for number in range(count):
        with pytest.raises(StopIteration):  # each waits for the others
            evaluate(
                segmenter,
                Shapes(),
                groups=groups,
                share=(number, count),
                gather=lambda own: shares.extend(own) or next(iter(())),
            )
    together = evaluate(
        segmenter, Shapes(), groups=groups, share=(0, count), gather=lambda own: [*own, *shares[1:]]
    )
    alone = evaluate(segmenter, Shapes(), groups=groups)
    assert together.figures == pytest.approx(alone.figures, rel=0, abs=0, nan_ok=True)
    assert together.groups.keys() == alone.groups.keys()
    for name, figures in alone.groups.items():
        assert together.groups[name] == pytest.approx(figures, rel=0, abs=0, nan_ok=True)


def test_what_time_is_spent_on_is_told_by_stages(segmenter: Segmenter) -> None:
    result = evaluate(segmenter, Shapes())
    assert set(result.stages) == {"read", "preprocess", "forward", "decode", "metric"}
    assert all(seconds > 0 for seconds in result.stages.values())
    assert sum(result.stages.values()) <= result.seconds


def test_figures_at_each_threshold_are_those_of_an_evaluation_there(segmenter: Segmenter) -> None:
    curve = threshold_curve(segmenter, Shapes(), (0.0, 0.5, 0.99))
    for score, quality in zip(curve.scores, curve.quality, strict=True):
        expected = evaluate(segmenter, Shapes(), ["panoptic"], thresholds=replace(EAGER, score=score))
        assert quality == expected.figures["PQ"]
    assert curve.best in curve.scores
    assert curve.f1[-1] == 0  # an untrained model is sure of nothing


@pytest.mark.parametrize(
    ("quality", "best"),
    [((0.1, 0.3, 0.2), 0.5), ((0.3, 0.3, 0.3), 0.5), ((math.nan,) * 3, 0.5), ((0.2, 0.1, 0.0), 0.2)],
)
def test_the_best_threshold(quality, best) -> None:
    assert ThresholdCurve((0.2, 0.5, 0.8), quality, (0.0, 0.0, 0.0)).best == best
