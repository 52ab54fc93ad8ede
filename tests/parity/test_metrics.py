"""Metrics on seeded random scenes against their references: pycocotools itself, plain loops for PQ and mIoU."""

import contextlib
import io
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt.categories import Category, distinct_color
from eomt.evaluation.metrics import MaskAP, MeanIoU, PanopticQuality
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.types import Prediction, Segments

CATEGORIES = tuple(Category(f"class {i}", i < 3, 90 - 7 * i, distinct_color(i)) for i in range(6))
SIZE = (150, 140)
Scene = tuple[str, Prediction, Segments]


def random_masks(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Draw ellipses between a few pixels and most of the image."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = []
    for _ in range(count):
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        ry, rx = np.exp(rng.uniform(np.log(2), np.log(80), size=2))
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    return [mask if mask.any() else np.eye(*size, dtype=np.bool_) for mask in masks]


def encode(masks: list[NDArray[np.bool_]], size: tuple[int, int], disjoint: bool) -> EncodedMasks:
    if not disjoint:
        return RleMasks.encode(masks, size)
    ids = np.zeros(size, dtype=np.int32)
    for index, mask in enumerate(masks):
        ids[mask] = index + 1
    return IdMap(ids, len(masks))


def random_scenes(seed: int, images: int = 12, disjoint: bool = False, objects: int = 9) -> list[Scene]:
    """Draw annotations, and predictions that are near to them; some images lack the one, the other or both."""
    rng = np.random.default_rng(seed)
    scenes = []
    for image in range(images):
        size = (SIZE[0] + int(rng.integers(9)), SIZE[1])
        true = random_masks(rng, 0 if image % 5 == 1 else int(rng.integers(1, objects + 1)), size)
        true_labels = rng.integers(len(CATEGORIES) - 1, size=len(true))  # the last class is never annotated
        crowd = rng.random(len(true)) < 0.25

        shifts = rng.integers(-4, 5, size=(len(true), 2))
        near = [(np.roll(m, d, (0, 1)), k) for m, d, k in zip(true, shifts, true_labels, strict=True)]
        near = [pair for pair in near if rng.random() < 0.8]
        noise = [(mask, int(rng.integers(len(CATEGORIES)))) for mask in random_masks(rng, objects // 2, size)]
        found = [] if image % 7 == 2 else near + noise
        scores = rng.random(len(found)).round(1)  # rounded: there are ties
        order = np.argsort(-scores, kind="stable") if not disjoint else np.arange(len(found))
        labels = np.array([label for _, label in found], dtype=np.int64)[order]
        masks = encode([found[i][0] for i in order], size, disjoint)
        prediction = Prediction(masks, labels, scores[order], CATEGORIES)
        segments = Segments(encode(true, size, disjoint), torch.from_numpy(true_labels), torch.from_numpy(crowd))
        scenes.append((f"{seed}/{image:03}", prediction, segments))
    return scenes


def judge(metric, scenes: list[Scene]):
    for image_id, prediction, segments in scenes:
        metric.update(prediction, segments, image_id)
    return metric.compute()


# Mask AP


def coco_stats(scenes: list[Scene], max_detections: int) -> NDArray[np.float64]:
    """Ask pycocotools for AP, AP50, AP75 and AP of small, medium and large objects; -1 where there are none."""
    images, annotations, results = [], [], []
    for number, (_, prediction, segments) in enumerate(scenes, start=1):
        height, width = prediction.size
        images.append({"id": number, "height": height, "width": width})
        areas = segments.masks.areas().tolist()
        for i, label in enumerate(segments.labels.tolist()):
            if CATEGORIES[label].is_thing:
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": CATEGORIES[label].id}
                annotation |= {"segmentation": dict(segments.masks.rle(i)), "area": areas[i]}
                annotations.append(annotation | {"iscrowd": int(segments.is_crowd[i])})
        for segment in prediction:
            if CATEGORIES[segment.label].is_thing:
                result = {"image_id": number, "category_id": CATEGORIES[segment.label].id, "score": segment.score}
                results.append(result | {"segmentation": dict(segment.rle)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        things = [{"id": c.id, "name": c.name} for c in CATEGORIES if c.is_thing]
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": things}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.maxDets = [1, min(10, max_detections), max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:  # its summary knows no other number
            evaluation.summarize()
            return evaluation.stats[:6]
    precision = evaluation.eval["precision"][..., -1]
    parts = [
        precision[..., 0],
        precision[0, ..., 0],
        precision[5, ..., 0],
        *np.moveaxis(precision[..., 1:], -1, 0),
    ]
    return np.array([part[part > -1].mean() if (part > -1).any() else -1 for part in parts])


@pytest.mark.parametrize(
    ("seed", "max_detections", "disjoint", "objects"),
    [
        *[(seed, 100, False, 9) for seed in range(4)],
        (4, 100, True, 9),
        (5, 5, False, 40),
        (6, 100, False, 300),  # more than 100 of a class in an image
        (6, 500, False, 300),
    ],
)
def test_mask_ap_is_that_of_pycocotools(seed, max_detections, disjoint, objects) -> None:
    scenes = random_scenes(seed, 12 if objects < 100 else 3, disjoint, objects)
    figures = judge(MaskAP(CATEGORIES, max_detections), scenes).figures
    expected = coco_stats(scenes, max_detections)
    assert list(figures) == ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    np.testing.assert_allclose(np.nan_to_num(list(figures.values()), nan=-1), expected, rtol=0, atol=1e-9)
    assert 0 < figures["AP"] < 1


# Panoptic quality


def brute_force_panoptic_quality(scenes: list[Scene]) -> dict[int, tuple[float, float, float]]:
    """Give PQ, SQ and RQ of each class by the definition: sets of pixels, one pair of segments after another."""
    ious, extra, missed = defaultdict(list), defaultdict(int), defaultdict(int)
    for _, prediction, segments in scenes:
        found_map, labels = prediction.id_map().ids.ravel(), segments.labels.tolist()
        true_map = encode(
            [segments.masks.mask(i) for i in range(len(segments))], prediction.size, True
        ).ids.ravel()
        found = {i: set(np.flatnonzero(found_map == i + 1).tolist()) for i in range(len(prediction))}
        true = {i: set(np.flatnonzero(true_map == i + 1).tolist()) for i in range(len(segments))}
        void = set(np.flatnonzero(true_map == 0).tolist())
        matched_true, matched_found = set(), set()
        for t, true_pixels in true.items():
            for f, pixels in found.items():
                if labels[t] == prediction.labels[f] and not segments.is_crowd[t] and true_pixels & pixels:
                    iou = len(true_pixels & pixels) / len((true_pixels | pixels) - (void & pixels))
                    if iou > 0.5:
                        ious[labels[t]].append(iou)
                        matched_true.add(t)
                        matched_found.add(f)
        for t, pixels in true.items():
            missed[labels[t]] += bool(pixels) and t not in matched_true and not segments.is_crowd[t]
        for f, pixels in found.items():
            label = int(prediction.labels[f])
            neutral = void.union(*(true[t] for t in true if segments.is_crowd[t] and labels[t] == label))
            extra[label] += bool(pixels) and f not in matched_found and len(pixels & neutral) / len(pixels) <= 0.5
    out = {}
    for label in range(len(CATEGORIES)):
        n, e, m = len(ious[label]), int(extra[label]), int(missed[label])
        if n + e + m:
            total = math.fsum(ious[label])
            out[label] = total / (n + (e + m) / 2), total / n if n else 0.0, n / (n + (e + m) / 2)
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("disjoint", [True, False])
def test_panoptic_quality_is_the_definition(seed, disjoint) -> None:
    scenes = random_scenes(seed, 6, disjoint)
    metrics = judge(PanopticQuality(CATEGORIES), scenes)
    expected = brute_force_panoptic_quality(scenes)
    for label, category in enumerate(CATEGORIES):
        row = metrics.per_class[category.name]
        if label in expected:
            assert (row["PQ"], row["SQ"], row["RQ"]) == pytest.approx(expected[label], rel=0, abs=1e-12)
        else:
            assert math.isnan(row["PQ"])
    for suffix, kinds in {"": (True, False), "_things": (True,), "_stuff": (False,)}.items():
        chosen = [figures for label, figures in expected.items() if CATEGORIES[label].is_thing in kinds]
        mean = np.mean(chosen, axis=0)
        got = [metrics.figures[name + suffix] for name in ("PQ", "SQ", "RQ")]
        np.testing.assert_allclose(got, mean, rtol=0, atol=1e-12)
    assert metrics.figures["RQ"] > 0


@pytest.mark.parametrize(
    ("seed", "suffix", "expected"),
    [
        (0, "", (0.43241982296524756, 0.7601299908002105, 0.5714285714285714)),
        (0, "_things", (0.4377784242117862, 0.7422698601773258, 0.5952380952380952)),
        (0, "_stuff", (0.42438192109543965, 0.7869201867345377, 0.5357142857142857)),
        (5, "", (0.19920177659115712, 0.5123888795570212, 0.2333333333333333)),
        (5, "_things", (0.22658985557215647, 0.5377421496890523, 0.27777777777777773)),
        (5, "_stuff", (0.1581196581196581, 0.47435897435897434, 0.16666666666666666)),
    ],
)
def test_panoptic_quality_is_what_panopticapi_printed(seed, suffix, expected) -> None:
    """Written down from panopticapi 7bb4655, which read these scenes from PNG and JSON files."""
    figures = judge(PanopticQuality(CATEGORIES), random_scenes(seed, 6, disjoint=True)).figures
    assert tuple(figures[name + suffix] for name in ("PQ", "SQ", "RQ")) == pytest.approx(
        expected, rel=0, abs=1e-12
    )


# Mean IoU


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disjoint", [True, False])
def test_mean_iou_is_the_definition(seed, disjoint) -> None:
    scenes = random_scenes(seed, 6, disjoint)
    metrics = judge(MeanIoU(CATEGORIES), scenes)
    both, union, right, total = np.zeros(len(CATEGORIES)), np.zeros(len(CATEGORIES)), 0, 0
    for _, prediction, segments in scenes:
        found = prediction.label_map(void=-1)
        true = np.full(prediction.size, -1)
        for i in range(len(segments)):
            true[segments.masks.mask(i)] = segments.labels[i]  # crowds too
        for label in range(len(CATEGORIES)):
            both[label] += np.sum((true == label) & (found == label) & (true >= 0))
            union[label] += np.sum(((true == label) | (found == label)) & (true >= 0))
        right += np.sum((true == found) & (true >= 0))
        total += np.sum(true >= 0)
    iou = [both[i] / union[i] if union[i] else math.nan for i in range(len(CATEGORIES))]
    got = [metrics.per_class[category.name]["IoU"] for category in CATEGORIES]
    np.testing.assert_array_equal(got, iou)
    known = [value for value in iou if not math.isnan(value)]
    assert metrics.figures == {"mIoU": math.fsum(known) / len(known), "pixel_accuracy": right / total}


@pytest.mark.parametrize("kind", [MaskAP, PanopticQuality, MeanIoU])
@pytest.mark.parametrize("shards", [2, 4])
def test_figures_do_not_depend_on_shards_and_order(kind, shards) -> None:
    scenes = random_scenes(7, 16)
    expected = repr(judge(kind(CATEGORIES), scenes))
    rng = np.random.default_rng(shards)
    for _ in range(3):
        shuffled = [scenes[i] for i in rng.permutation(len(scenes))]
        metrics = []
        for shard in range(shards):
            metric = kind(CATEGORIES)
            judge(metric, shuffled[shard::shards])
            metrics.append(metric)
        first, *others = [metrics[i] for i in rng.permutation(shards)]
        for other in others:
            first.merge(other)
        assert repr(first.compute()) == expected
