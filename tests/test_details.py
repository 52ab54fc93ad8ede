"""Details beside the figures: scenes that can be counted by hand, and plain definitions."""

import json
import math
import pickle

import numpy as np
import pytest
from equality import CATEGORIES as MANY
from equality import random_scenes

from eomt.evaluation.details import BoundaryIoU, Calibration, Confusion, SegmentCounts, SizeQuality, detailed
from eomt.evaluation.metrics import MaskAP, MeanIoU, PanopticQuality
from eomt.masks import IdMap
from eomt.types import ANY_CLASS
from test_metrics import CATEGORIES, CELL, DEBRIS, GLASS, annotated, id_map, predicted

NAMES = [category.name for category in CATEGORIES]


def fed(detail, *pairs):
    for prediction, segments in pairs:
        detail.update(prediction, segments)
    return detail.compute()


@pytest.mark.parametrize(
    ("found", "found_labels", "true", "true_labels", "crowd", "expected"),
    [
        ("1122", [CELL, GLASS], "1122", [CELL, GLASS], (), {(0, 0): 1, (2, 2): 1}),
        ("1122", [DEBRIS, GLASS], "1122", [CELL, GLASS], (), {(0, 1): 1, (2, 2): 1}),  # taken for another
        ("11..", [CELL], "1122", [CELL, GLASS], (), {(0, 0): 1, (2, 3): 1}),  # missed
        ("1122", [CELL, CELL], "1111", [GLASS], (), {(2, 3): 1, (3, 0): 2}),  # halves match nothing
        ("1122", [CELL, CELL], "11..", [CELL], (), {(0, 0): 1}),  # on void: no error
        ("1111", [CELL], "1111", [CELL], (0,), {}),  # on a crowd of its class
        ("1111", [DEBRIS], "1111", [CELL], (0,), {(3, 1): 1}),
        ("1111", [DEBRIS], "1111", [ANY_CLASS], (0,), {}),
    ],
)
def test_confusion(found, found_labels, true, true_labels, crowd, expected) -> None:
    pair = predicted(id_map(found), *found_labels), annotated(id_map(true), *true_labels, crowd=crowd)
    result = fed(Confusion(NAMES), pair)
    assert result["classes"] == ["cell", "debris", "glass", "(background)"]
    assert {(r, c): n for r, row in enumerate(result["matrix"]) for c, n in enumerate(row) if n} == expected


def test_confusion_holds_every_segment_once() -> None:
    scenes = random_scenes(3, 6, disjoint=True)
    matrix = np.array(fed(Confusion([c.name for c in MANY]), *(scene[1:] for scene in scenes))["matrix"])
    visible = [(s.masks.areas() > 0) & ~s.is_crowd.numpy() for _, _, s in scenes]
    assert matrix[:-1].sum() == sum(map(np.sum, visible))
    metric = PanopticQuality(MANY)
    for image_id, prediction, segments in scenes:
        metric.update(prediction, segments, image_id)
    rows = metric.compute().per_class.values()
    assert np.diagonal(matrix).tolist() == [*(row["TP"] for row in rows), 0]
    assert matrix[:-1].sum(1).tolist() == [row["TP"] + row["FN"] for row in rows]


def test_quality_by_size() -> None:
    """A small cell at 3/4, a medium one missed; a false one of large size."""
    true, found = np.zeros((200, 200), np.int32), np.zeros((200, 200), np.int32)
    true[:2, :2] = 1
    found[:2, :2], found[0, 0] = 1, 0
    true[10:60, 10:60] = 2
    true[80:, 80:] = 3
    found[80:, 80:] = 2
    segments = annotated(IdMap(true, 3), CELL, CELL, GLASS)
    result = fed(SizeQuality(NAMES), (predicted(IdMap(found, 2), CELL, CELL), segments))
    assert result["small"] == {
        "PQ": 0.75, "SQ": 0.75, "RQ": 1.0, "per_class": {"cell": {"PQ": 0.75, "SQ": 0.75, "RQ": 1.0}}
    }  # fmt: skip
    assert result["medium"]["per_class"] == {"cell": {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0}}
    assert set(result["large"]["per_class"]) == {"cell", "glass"}  # wrong, and missed
    assert fed(SizeQuality(NAMES))["small"] == {"PQ": None, "SQ": None, "RQ": None, "per_class": {}}


def test_calibration() -> None:
    """Of two segments at 0.95 one is right; one at 0.3 is wrong; one on void does not count."""
    found = predicted(id_map("11223344"), CELL, CELL, CELL, CELL, scores=(0.95, 0.95, 0.3, 0.5))
    result = fed(Calibration(), (found, annotated(id_map("112222.."), CELL, GLASS)))
    assert result["ECE"] == pytest.approx((abs(1.9 - 1) + 0.3) / 3)
    assert result["bins"][9] == {"from": 0.9, "segments": 2, "score": 0.95, "right": 0.5}
    assert result["bins"][5] == {"from": 0.5, "segments": 0}
    assert sum(row["segments"] for row in result["bins"]) == 3
    assert fed(Calibration())["ECE"] is None


def band(mask: np.ndarray, width: int) -> np.ndarray:
    """Tell which pixels of a region have one outside of it (or of the image) within a square."""
    out = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        inside = y >= width and x >= width and y + width < mask.shape[0] and x + width < mask.shape[1]
        around = mask[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
        out[y, x] = not (inside and around.all())
    return out


def test_boundary_iou_is_the_definition() -> None:
    both, union = np.zeros(len(MANY)), np.zeros(len(MANY))
    pairs = [(prediction, segments) for _, prediction, segments in random_scenes(2, 3, disjoint=True)]
    for prediction, segments in pairs:
        width = round(0.02 * math.hypot(*prediction.size))
        assert width > 1
        true = np.append(-1, segments.labels.numpy())[segments.masks.ids]
        found = prediction.label_map(void=-1)
        for label in range(len(MANY)):
            ours, theirs = (band(labels == label, width) & (true >= 0) for labels in (found, true))
            both[label] += (ours & theirs).sum()
            union[label] += (ours | theirs).sum()
    result = fed(BoundaryIoU([c.name for c in MANY]), *pairs)
    assert result["per_class"] == {c.name: b / u for c, b, u in zip(MANY, both, union, strict=True) if u}
    assert result["IoU"] == pytest.approx(np.mean(list(result["per_class"].values())))


def test_segments_of_an_image() -> None:
    pairs = [
        (predicted(id_map(drawn), *[CELL] * n), annotated(id_map("....")))
        for drawn, n in (("1234", 4), ("1..2", 2))
    ]
    assert fed(SegmentCounts(), *pairs) == {"mean": 3.0, "median": 3.0, "most": 4.0}


@pytest.mark.parametrize(
    ("task", "metric", "names"),
    [
        ("panoptic", PanopticQuality, ["confusion", "by_size", "calibration", "segments"]),
        ("instance", MaskAP, ["confusion", "by_size", "segments", "calibration", "thresholds"]),
        ("semantic", MeanIoU, ["boundary", "confusion"]),
    ],
)
def test_details_go_along_with_a_metric_and_merge_exactly(task, metric, names) -> None:
    scenes = random_scenes(4, 6, disjoint=True)

    def judged(chosen):
        beside = detailed(task, metric(MANY), MANY)
        for image_id, prediction, segments in chosen:
            beside.update(prediction, segments, image_id)
        return beside

    whole, first, second = judged(scenes), judged(scenes[3:]), judged(scenes[:3])
    first.merge(pickle.loads(pickle.dumps(second)))
    alone = metric(MANY)
    for image_id, prediction, segments in scenes:
        alone.update(prediction, segments, image_id)
    assert list(whole.compute().details) == names
    assert json.dumps(first.compute().details, allow_nan=False) == json.dumps(whole.compute().details)
    assert repr(whole.compute().figures) == repr(alone.compute().figures)
