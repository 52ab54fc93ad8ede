"""Random scenes, and what references say of them: pycocotools itself, plain definitions for PQ and mIoU.

    python tests/parity/equality.py [--scenes 2000] [--seed 0]

compares each metric with its reference on so many scenes, in groups of ten, and the figures of one process with
those of 2 and 4 that share the scenes in another order. It prints the largest differences and ends with 1 where
one is above its tolerance. The tests take a small dose.
"""

import argparse
import contextlib
import io
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt.categories import Category, distinct_color
from eomt.evaluation.metrics import MaskAP, MeanIoU, Metrics, PanopticQuality
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.types import Prediction, Segments

torch.set_num_threads(1)
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


def with_told_areas(scenes: list[Scene], seed: int) -> list[Scene]:
    """Add areas as annotation files tell them, which are not those of the masks, and sometimes absent."""
    rng = np.random.default_rng(seed)
    told = []
    for image_id, prediction, segments in scenes:
        areas = segments.masks.areas() * np.exp(rng.normal(0, 0.5, len(segments)))
        areas[rng.random(len(segments)) < 0.1] = math.nan
        told.append((image_id, prediction, replace(segments, told_areas=torch.from_numpy(areas))))
    return told


# Mask AP


def coco_stats(scenes: list[Scene], max_detections: int) -> NDArray[np.float64]:
    """Ask pycocotools for AP, AP50, AP75 and AP of small, medium and large objects; -1 where there are none."""
    images, annotations, results = [], [], []
    for number, (_, prediction, segments) in enumerate(scenes, start=1):
        height, width = prediction.size
        images.append({"id": number, "height": height, "width": width})
        areas = segments.masks.areas().astype(float)
        if segments.told_areas is not None:
            told = segments.told_areas.numpy()
            areas = np.where(np.isnan(told), areas, told)
        for i, label in enumerate(segments.labels.tolist()):
            if CATEGORIES[label].is_thing:
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": CATEGORIES[label].id}
                annotation |= {"segmentation": dict(segments.masks.rle(i)), "area": float(areas[i])}
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


# Panoptic quality


def brute_force_panoptic_quality(scenes: list[Scene]) -> dict[int, tuple[float, float, float]]:
    """Give PQ, SQ and RQ of each class by the definition: masks of pixels, one pair of segments after another."""
    ious, extra, missed = defaultdict(list), defaultdict(int), defaultdict(int)
    for _, prediction, segments in scenes:
        found_map, labels = prediction.id_map().ids.ravel(), segments.labels.tolist()
        drawn = [segments.masks.mask(i) for i in range(len(segments))]
        true_map = encode(drawn, prediction.size, True).ids.ravel()
        found = {i: found_map == i + 1 for i in range(len(prediction))}
        true = {i: true_map == i + 1 for i in range(len(segments))}
        void = true_map == 0
        matched_true, matched_found = set(), set()
        for t, true_pixels in true.items():
            for f, pixels in found.items():
                if labels[t] == prediction.labels[f] and not segments.is_crowd[t] and (true_pixels & pixels).any():
                    iou = int((true_pixels & pixels).sum()) / int(
                        ((true_pixels | pixels) & ~(void & pixels)).sum()
                    )
                    if iou > 0.5:
                        ious[labels[t]].append(iou)
                        matched_true.add(t)
                        matched_found.add(f)
        for t, pixels in true.items():
            missed[labels[t]] += bool(pixels.any()) and t not in matched_true and not segments.is_crowd[t]
        for f, pixels in found.items():
            label = int(prediction.labels[f])
            neutral = void.copy()
            for t in true:
                if segments.is_crowd[t] and labels[t] == label:
                    neutral |= true[t]
            if pixels.any() and f not in matched_found:
                extra[label] += int((pixels & neutral).sum()) / int(pixels.sum()) <= 0.5
    out = {}
    for label in range(len(CATEGORIES)):
        n, e, m = len(ious[label]), int(extra[label]), int(missed[label])
        if n + e + m:
            total = math.fsum(ious[label])
            out[label] = total / (n + (e + m) / 2), total / n if n else 0.0, n / (n + (e + m) / 2)
    return out


# Mean IoU


def brute_force_iou(scenes: list[Scene]) -> tuple[list[float], float]:
    """Give the IoU of each class and the share of right pixels by the definition; NaN where there is none."""
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
    return iou, right / total if total else math.nan


# Differences from the references


def _worst(got: Sequence[float], expected: Sequence[float]) -> float:
    """Give the largest difference; infinite where one side knows a figure and the other does not."""
    pairs = list(zip(got, expected, strict=True))
    if any(math.isnan(a) != math.isnan(b) for a, b in pairs):
        return math.inf
    return max((abs(a - b) for a, b in pairs if not math.isnan(a)), default=0.0)


def mask_ap_difference(scenes: list[Scene], max_detections: int = 100) -> float:
    """Compare all six figures with those of pycocotools."""
    figures = judge(MaskAP(CATEGORIES, max_detections), scenes).figures
    expected = coco_stats(scenes, max_detections)
    return _worst(list(figures.values()), np.where(expected < 0, math.nan, expected).tolist())


def panoptic_difference(scenes: list[Scene]) -> float:
    """Compare PQ, SQ and RQ of each class, and their means, with the definition."""
    metrics, expected = judge(PanopticQuality(CATEGORIES), scenes), brute_force_panoptic_quality(scenes)
    names, absent = ("PQ", "SQ", "RQ"), (math.nan,) * 3
    got = [metrics.per_class[c.name][name] for c in CATEGORIES for name in names]
    wanted = [value for label in range(len(CATEGORIES)) for value in expected.get(label, absent)]
    for suffix, kinds in {"": (True, False), "_things": (True,), "_stuff": (False,)}.items():
        chosen = [figures for label, figures in expected.items() if CATEGORIES[label].is_thing in kinds]
        got += [metrics.figures[name + suffix] for name in names]
        wanted += np.mean(chosen, axis=0).tolist() if chosen else absent
    return _worst(got, wanted)


def mean_iou_difference(scenes: list[Scene]) -> float:
    """Compare the IoU of each class, mIoU and the share of right pixels with the definition."""
    metrics, (iou, accuracy) = judge(MeanIoU(CATEGORIES), scenes), brute_force_iou(scenes)
    known = [value for value in iou if not math.isnan(value)]
    got = [*(metrics.per_class[c.name]["IoU"] for c in CATEGORIES), *metrics.figures.values()]
    return _worst(got, [*iou, math.fsum(known) / len(known) if known else math.nan, accuracy])


# The command

GROUP = 10
AT_MOST = {"mask AP": 1e-9, "panoptic quality": 1e-12, "mean IoU": 0.0}


def _difference(name: str, seed: int) -> float:
    """Compare a metric on one group of scenes: overlapping and disjoint masks, few and many objects in turn."""
    disjoint, many = bool(seed % 2), seed % 10 == 0
    scenes = random_scenes(seed, GROUP, disjoint, 60 if many and name == "mask AP" else 9)
    if name == "mask AP":
        return mask_ap_difference(with_told_areas(scenes, seed), (100, 5, 1, 30)[seed // 2 % 4])
    return panoptic_difference(scenes) if name == "panoptic quality" else mean_iou_difference(scenes)


def _share(kind: Callable[..., Any], seed: int, groups: int, number: int, count: int) -> Any:
    """Count the share of one process, in an order of its own."""
    metric = kind(CATEGORIES)
    scenes = [scene for group in range(groups) for scene in random_scenes(seed + group, GROUP)]
    for index in np.random.default_rng(count).permutation(len(scenes))[number::count]:
        image_id, prediction, segments = scenes[index]
        metric.update(prediction, segments, image_id)
    return metric


def _shared(kind: Callable[..., Any], seed: int, groups: int, count: int) -> Metrics:
    """Judge the scenes by so many processes."""
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        shares = list(pool.map(_share, *zip(*((kind, seed, groups, n, count) for n in range(count)), strict=True)))
    first, *others = reversed(shares)
    for other in others:
        first.merge(other)
    result: Metrics = first.compute()
    return result


def main() -> int:
    """Compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="of each metric (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: %(default)s)")
    options = parser.parse_args()
    groups, failed = -(-options.scenes // GROUP), False
    for name, tolerance in AT_MOST.items():
        worst = max(_difference(name, options.seed + group) for group in range(groups))
        failed |= not worst <= tolerance
        print(
            f"{name:16} {groups * GROUP} scenes: largest difference {worst:.1e}, at most {tolerance:.0e}",
            flush=True,
        )
    for kind in (MaskAP, PanopticQuality, MeanIoU):
        figures = {count: repr(_shared(kind, options.seed, 4, count)) for count in (1, 2, 4)}
        failed |= len(set(figures.values())) > 1
        print(
            f"{kind.__name__:16} the same to the bit over 1, 2 and 4 processes: {len(set(figures.values())) == 1}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
