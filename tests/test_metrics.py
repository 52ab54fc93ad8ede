"""Scenes of a few pixels whose figures can be counted by hand."""

import json
import math
import pickle

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.errors import DataError
from eomt.evaluation.metrics import MaskAP, MeanIoU, Metrics, PanopticQuality
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.types import ANY_CLASS, Prediction, Segments
from memory import peak_memory

CELL, DEBRIS, GLASS = 0, 1, 2
CATEGORIES = (
    Category("cell", True, 7, (255, 0, 0)),
    Category("debris", True, 90, (0, 255, 0)),
    Category("glass", False, 11, (0, 0, 255)),
)


def id_map(*rows: str) -> IdMap:
    """Read a drawing: a digit is the number of a segment, a dot belongs to none."""
    ids = np.array([[0 if c == "." else int(c) for c in row] for row in rows], dtype=np.int32)
    return IdMap(ids, int(ids.max(initial=0)))


def predicted(masks: EncodedMasks, *labels: int, scores: tuple[float, ...] | None = None) -> Prediction:
    values = np.array(scores if scores is not None else [0.9] * len(labels), dtype=np.float64)
    return Prediction(masks, np.array(labels, dtype=np.int64), values, CATEGORIES)


def annotated(masks: EncodedMasks, *labels: int, crowd: tuple[int, ...] = ()) -> Segments:
    is_crowd = torch.tensor([i in crowd for i in range(len(labels))], dtype=torch.bool)
    return Segments(masks, torch.tensor(labels, dtype=torch.int64), is_crowd)


@pytest.mark.parametrize(
    ("found", "found_labels", "true", "true_labels", "crowd", "expected"),
    [
        # IoU 3/4: one true positive
        ("1111", [CELL], "111.", [CELL], (), (1, 0, 0, 1.0)),  # the fourth pixel is void, so out of the union
        ("1112", [CELL, GLASS], "1111", [CELL], (), (1, 0, 0, 0.75)),
        # IoU of exactly 0.5 is no match: one false positive, one missed
        ("11..", [CELL], "1111", [CELL], (), (0, 1, 1, 0.0)),
        # right place, wrong class: found as debris (counted there), the cell is missed
        ("1111", [DEBRIS], "1111", [CELL], (), (0, 0, 1, 0.0)),
        # found on void by 3/4: no error; by exactly half: an error
        ("1111", [CELL], "...1", [GLASS], (), (0, 0, 0, math.nan)),
        ("1111", [CELL], "..11", [GLASS], (), (0, 1, 0, 0.0)),
        # found on two crowds of its class by 2/4 + 1/4: no error, and the crowds are not missed
        ("1111", [CELL], "1123", [CELL, CELL, GLASS], (0, 1), (0, 0, 0, math.nan)),
        # a crowd of another class forgives nothing
        ("1111", [CELL], "1111", [DEBRIS], (0,), (0, 1, 0, 0.0)),
        # one of any class forgives all
        ("1111", [CELL], "1111", [ANY_CLASS], (0,), (0, 0, 0, math.nan)),
        # a crowd forgives as void does, but it stays in the union: 4/6
        ("111111", [CELL], "111122", [CELL, CELL], (1,), (1, 0, 0, 4 / 6)),
        # nothing found
        ("....", [], "1122", [CELL, CELL], (), (0, 0, 2, 0.0)),
    ],
)
def test_panoptic_quality_of_cells(found, found_labels, true, true_labels, crowd, expected) -> None:
    metric = PanopticQuality(CATEGORIES)
    metric.update(predicted(id_map(found), *found_labels), annotated(id_map(true), *true_labels, crowd=crowd), "a")
    row = metric.compute().per_class["cell"]
    matched, extra, missed, iou = expected
    assert (row["TP"], row["FP"], row["FN"]) == (matched, extra, missed)
    assert row["SQ"] == pytest.approx(iou, nan_ok=True)


def test_panoptic_quality_is_a_mean_over_the_classes_that_are_there() -> None:
    metric = PanopticQuality(CATEGORIES)
    found, true = id_map("1122", "1122"), id_map("1222", "1122")
    metric.update(predicted(found, CELL, GLASS), annotated(true, CELL, GLASS), "a")
    figures = metric.compute().figures
    assert figures["PQ_things"] == pytest.approx(3 / 4)  # cells only: no debris
    assert figures["PQ_stuff"] == pytest.approx(4 / 5)
    assert figures["PQ"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert figures["RQ"] == 1.0
    assert next(iter(figures)) == "PQ"


def test_hidden_segments_do_not_exist() -> None:
    cover = np.ones((2, 2), dtype=np.bool_)
    metric = PanopticQuality(CATEGORIES)
    twice = RleMasks.encode([cover, cover], (2, 2))
    metric.update(predicted(twice, CELL, CELL), annotated(twice, DEBRIS, CELL), "a")
    per_class = metric.compute().per_class
    assert per_class["cell"] == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "TP": 1.0, "FP": 0.0, "FN": 0.0}
    assert math.isnan(per_class["debris"]["PQ"])


@pytest.mark.parametrize(
    ("found", "labels", "scores", "expected"),
    [
        ("11..22", [CELL, CELL], (0.9, 0.8), 1.0),  # both found
        ("111.22", [CELL, CELL], (0.9, 0.8), None),  # IoU 2/3 counts at 0.5 .. 0.65 only
        ("11....", [CELL], (0.9,), 51 / 101),  # one of two: recalls 0 .. 0.5 of the 101
        ("......", [], (), 0.0),
        ("113322", [CELL, CELL, CELL], (0.9, 0.8, 0.1), 1.0),  # a false one of the lowest score costs nothing
    ],
)
def test_mask_ap(found, labels, scores, expected) -> None:
    metric = MaskAP(CATEGORIES)
    metric.update(
        predicted(id_map(found), *labels, scores=scores), annotated(id_map("11..22"), CELL, CELL), "image"
    )
    figures = metric.compute().figures
    if expected is None:
        assert figures["AP50"] == 1.0
        assert figures["AP75"] < figures["AP"] < 1.0
    else:
        assert figures["AP"] == pytest.approx(expected)
    assert figures["AP_small"] == figures["AP"]
    assert math.isnan(figures["AP_large"])


def test_mask_ap_counts_images_without_annotations_and_at_most_max_detections() -> None:
    truth, empty = annotated(id_map("11..22"), CELL, CELL), annotated(id_map("......"))
    metric = MaskAP(CATEGORIES)
    metric.update(predicted(id_map("11..22"), CELL, CELL, scores=(0.9, 0.8)), truth, "a")
    metric.update(predicted(id_map("1111.."), CELL, scores=(0.95,)), empty, "b")
    assert metric.compute().figures["AP50"] == pytest.approx(2 / 3)  # precision 1/2, then 2/3
    one = MaskAP(CATEGORIES, max_detections=1)
    one.update(predicted(id_map("11..22"), CELL, CELL, scores=(0.9, 0.8)), truth, "a")
    assert one.compute().figures["AP"] == pytest.approx(51 / 101)


def test_mask_ap_without_things() -> None:
    metric = MaskAP(CATEGORIES[2:])
    prediction = Prediction(id_map("11"), np.array([0]), np.array([0.5]), CATEGORIES[2:])
    metric.update(prediction, annotated(id_map("11"), 0), "a")
    metrics = metric.compute()
    assert all(math.isnan(value) for value in metrics.figures.values())
    assert metrics.per_class == {}


@pytest.mark.parametrize(
    ("found", "found_labels", "true", "true_labels", "crowd", "iou", "accuracy"),
    [
        ("1122", [CELL, GLASS], "1122", [CELL, GLASS], (), {"cell": 1.0, "glass": 1.0}, 1.0),
        ("1112", [CELL, GLASS], "1122", [CELL, GLASS], (), {"cell": 2 / 3, "glass": 1 / 2}, 3 / 4),
        ("1122", [CELL, GLASS], "11..", [CELL], (), {"cell": 1.0}, 1.0),  # void in the annotation: left out
        ("11..", [CELL], "1111", [CELL], (), {"cell": 1 / 2}, 1 / 2),  # nothing predicted: wrong
        (
            "1111",
            [GLASS],
            "1122",
            [CELL, GLASS],
            (0,),
            {"cell": 0.0, "glass": 1 / 2},
            1 / 2,
        ),  # a crowd is its class
        ("1111", [GLASS], "1122", [ANY_CLASS, GLASS], (0,), {"glass": 1.0}, 1.0),  # of no known class: void
        ("1111", [CELL], "1122", [CELL, CELL], (), {"cell": 1.0}, 1.0),  # instances are one region
        ("1111", [DEBRIS], "1111", [CELL], (), {"cell": 0.0, "debris": 0.0}, 0.0),
        ("1111", [CELL], "....", [], (), {}, math.nan),
    ],
)
def test_mean_iou(found, found_labels, true, true_labels, crowd, iou, accuracy) -> None:
    metric = MeanIoU(CATEGORIES)
    metric.update(predicted(id_map(found), *found_labels), annotated(id_map(true), *true_labels, crowd=crowd), "a")
    metrics = metric.compute()
    assert {name: row["IoU"] for name, row in metrics.per_class.items() if not math.isnan(row["IoU"])} == iou
    mean = sum(iou.values()) / len(iou) if iou else math.nan
    assert metrics.figures == pytest.approx({"mIoU": mean, "pixel_accuracy": accuracy}, nan_ok=True)


@pytest.mark.parametrize("kind", [PanopticQuality, MaskAP, MeanIoU])
def test_a_metric_without_images_knows_nothing(kind) -> None:
    metrics = kind(CATEGORIES).compute()
    assert all(math.isnan(value) for value in metrics.figures.values())
    assert set(metrics.json()["figures"].values()) == {None}


@pytest.mark.parametrize("kind", [PanopticQuality, MaskAP, MeanIoU])
def test_wrong_input_is_named_and_not_counted(kind) -> None:
    metric = kind(CATEGORIES)
    truth = annotated(id_map("11"), CELL)
    with pytest.raises(DataError, match=r"cells/3: the prediction is 1 x 3 pixels, the annotation 1 x 2"):
        metric.update(predicted(id_map("111"), CELL), truth, "cells/3")
    with pytest.raises(DataError, match=r"cells/3: predicted labels run from 3 to 3, but there are 3 categories"):
        metric.update(predicted(id_map("11"), 3), truth, "cells/3")
    metric.update(predicted(id_map("11"), CELL), truth, "cells/3")  # none of the failed ones was counted
    with pytest.raises(DataError, match="cells/3: counted already"):
        metric.update(predicted(id_map("11"), CELL), truth, "cells/3")
    assert next(iter(metric.compute().figures.values())) == pytest.approx(1.0)


def test_mask_ap_refuses_what_cannot_be_ranked_or_would_crash_the_evaluator() -> None:
    metric = MaskAP(CATEGORIES)
    truth = annotated(id_map("11"), CELL)
    with pytest.raises(DataError, match="a: a predicted score is not finite"):
        metric.update(predicted(id_map("11"), CELL, scores=(math.nan,)), truth, "a")
    small = RleMasks.encode([np.ones((1, 1), np.bool_)], (1, 1)).rles
    with pytest.raises(DataError, match=r"a: mask 0 is of size \[1, 1\], the image of \(1, 2\)"):
        metric.update(predicted(RleMasks((1, 2), small), CELL), truth, "a")


@pytest.mark.parametrize("kind", [PanopticQuality, MaskAP, MeanIoU])
def test_merging(kind) -> None:
    truth = annotated(id_map("11.2"), CELL, GLASS)
    first, second = kind(CATEGORIES), kind(CATEGORIES)
    first.update(predicted(id_map("1112"), CELL, GLASS), truth, "a")
    second.update(predicted(id_map("1222"), CELL, GLASS), truth, "b")
    together = kind(CATEGORIES)
    together.update(predicted(id_map("1222"), CELL, GLASS), truth, "b")
    together.update(predicted(id_map("1112"), CELL, GLASS), truth, "a")
    first.merge(pickle.loads(pickle.dumps(second)))
    assert repr(first.compute()) == repr(together.compute())
    with pytest.raises(DataError, match="b: counted by two metrics"):
        first.merge(second)
    with pytest.raises(ValueError, match="different categories"):
        first.merge(kind(CATEGORIES[:2]))


def test_metrics_in_json() -> None:
    metrics = Metrics({"PQ": 0.5, "SQ": math.nan}, {"cell": {"PQ": math.nan}})
    text = json.dumps(metrics.json(), allow_nan=False)
    assert json.loads(text) == {"figures": {"PQ": 0.5, "SQ": None}, "per_class": {"cell": {"PQ": None}}}


def test_classes_that_share_a_name_keep_their_own_rows() -> None:
    twins = (CATEGORIES[0], CATEGORIES[1]._replace(name="cell"), CATEGORIES[2])
    assert list(MeanIoU(twins).compute().per_class) == ["cell (7)", "cell (90)", "glass"]


@pytest.mark.parametrize(
    ("labels", "crowd", "expected"), [((CELL, ANY_CLASS), (1,), 1.0), ((CELL, CELL), (1,), 0.5)]
)
def test_mask_ap_forgives_what_is_found_in_a_crowd_of_any_class(labels, crowd, expected) -> None:
    """The surest debris lies on the crowd, the second one is right."""
    metric = MaskAP(CATEGORIES)
    true = RleMasks.encode([np.array([[row == k] * 4 for row in range(4)]) for k in range(3)], (4, 4))
    segments = annotated(true, *labels, DEBRIS, crowd=crowd)
    metric.update(predicted(true.select([1, 2]), DEBRIS, DEBRIS, scores=(0.9, 0.5)), segments, "a")
    assert metric.compute().per_class["debris"]["AP"] == pytest.approx(expected)


def test_what_is_ignored_costs_no_more_than_what_is_void() -> None:
    """A prediction that spills over a region to ignore: the region is left out of the union too."""
    prediction = predicted(id_map("111111"), CELL)
    for true in (annotated(id_map("1111.."), CELL), annotated(id_map("111122"), CELL, ANY_CLASS, crowd=(1,))):
        metric = PanopticQuality(CATEGORIES)
        metric.update(prediction, true, "a")
        assert metric.compute().per_class["cell"]["PQ"] == 1.0


@pytest.mark.parametrize(("kind", "count"), [(PanopticQuality, 200), (MeanIoU, 200), (MaskAP, 20)])
def test_memory_at_twelve_megapixels(kind, count) -> None:
    """Two maps of 48 MB are given; a table of the pairs of all pixels would be 96 MB."""
    columns = np.arange(4000, dtype=np.int32) * count // 4000 + 1
    maps = [np.ascontiguousarray(np.broadcast_to(np.roll(columns, shift), (3000, 4000))) for shift in (0, 3)]
    true, found = (IdMap(ids, count) for ids in maps)
    labels = [CELL] * (count - 1) + [GLASS]
    prediction, segments = predicted(found, *labels), annotated(true, *labels)
    metric = kind(CATEGORIES)
    with peak_memory() as grown:
        metric.update(prediction, segments, "large")
        assert grown() < 60e6
    assert next(iter(metric.compute().figures.values())) > 0.5
