"""Judge predictions: panoptic quality, mask AP and mean IoU, each equal to its reference's own figures.

A metric is fed one image after another and holds counts, matched IoUs or run-length codes, never dense masks. What
it says depends neither on the order of the images nor on how they were shared among processes. Running the model,
grouping images and writing reports are left to `evaluate` and `report`.

All figures are fractions in [0, 1]; a figure without any class present is NaN. Void (a pixel outside of all
annotated segments) is neutral, and crowds are in their class, or in any (`ANY_CLASS`). Where annotated masks
overlap and a pixel must have one owner (PQ, mIoU), the masks are painted in their order: later ones lie on top.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np
from hotcoco import Params, StreamingEval
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.errors import DataError
from eomt.evaluation.overlaps import Overlaps, class_pixels
from eomt.masks import EncodedMasks, Rle, RleMasks
from eomt.timing import stage
from eomt.types import ANY_CLASS, Prediction, Segments

__all__ = ["MaskAP", "MeanIoU", "Metric", "Metrics", "PanopticQuality"]


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation, over all classes and by class name. The first figure is the headline."""

    figures: dict[str, float]
    per_class: dict[str, dict[str, float]]
    details: dict[str, Any] = field(default_factory=dict)
    """What else was looked at, as JSON has it; see `details`."""

    def json(self) -> dict[str, Any]:
        """Give what `json` can write: NaN, which JSON lacks, becomes None."""
        per_class = {name: _nullable(row) for name, row in self.per_class.items()}
        return {"figures": _nullable(self.figures), "per_class": per_class}


@runtime_checkable
class Metric(Protocol):
    """What evaluation asks of a metric. It pickles, so that processes can send theirs to the one that merges."""

    def update(self, prediction: Prediction, segments: Segments, image_id: str) -> None:
        """Count one image. Raises DataError where prediction and annotation do not fit, or for a second time."""

    def merge(self, other: Any) -> None:
        """Take over the images that another metric of the same kind has counted; exact, in any order."""

    def compute(self) -> Metrics:
        """Judge all images so far."""


class PanopticQuality:
    """PQ, SQ and RQ over all classes, things and stuff (arXiv 1801.00868), as panopticapi counts them.

    A predicted and an annotated segment of one class match at IoU > 0.5, void left out of the union. A predicted
    segment that lies by more than half on void or on crowds of its class is no error, nor is a missed crowd. Means
    are over the classes that were annotated or wrongly predicted. One difference: panopticapi forgives only the
    last crowd of a class in an image, so that its figure depends on the order in the file; here all of them count.
    """

    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self._images: set[str] = set()
        self._ious: list[list[float]] = [[] for _ in categories]  # of the matches: the true positives
        self._unmatched = np.zeros((2, len(categories)), dtype=np.int64)  # false positives, false negatives

    @stage("metric")
    def update(self, prediction: Prediction, segments: Segments, image_id: str) -> None:
        """Count one image."""
        _check(prediction, segments, image_id, self._images, self.categories)
        overlaps = Overlaps.of(prediction, segments)
        match = overlaps.matches()
        for row, column in np.argwhere(match):
            iou = overlaps.both[row, column] / overlaps.union[row, column]
            self._ious[overlaps.true_labels[row]].append(float(iou))
        extra, missed = overlaps.found_labels[overlaps.extra(match)], overlaps.true_labels[overlaps.missed(match)]
        self._unmatched += [np.bincount(labels, minlength=len(self.categories)) for labels in (extra, missed)]
        self._images.add(image_id)

    def merge(self, other: "PanopticQuality") -> None:
        """Take over the images that another metric has counted."""
        _check_merge(self.categories, other.categories, self._images, other._images)
        for mine, theirs in zip(self._ious, other._ious, strict=True):
            mine.extend(theirs)
        self._unmatched += other._unmatched
        self._images |= other._images

    def compute(self) -> Metrics:
        """Give PQ, SQ and RQ, the same of things and of stuff, and per class also TP, FP and FN."""
        rows = []
        for ious, extra, missed in zip(self._ious, *self._unmatched.tolist(), strict=True):
            matched, iou = len(ious), math.fsum(ious)  # fsum: exact, whatever the order of the images
            weight = matched + extra / 2 + missed / 2
            quality = {"PQ": iou / weight, "SQ": iou / max(matched, 1), "RQ": matched / weight} if weight else {}
            rows.append(
                {key: quality.get(key, math.nan) for key in ("PQ", "SQ", "RQ")}
                | {"TP": float(matched), "FP": float(extra), "FN": float(missed)}
            )
        is_thing = [category.is_thing for category in self.categories]
        figures: dict[str, float] = {}
        for suffix, kinds in {"": (True, False), "_things": (True,), "_stuff": (False,)}.items():
            chosen = [row for row, thing in zip(rows, is_thing, strict=True) if thing in kinds]
            figures |= {key + suffix: _mean(row[key] for row in chosen) for key in ("PQ", "SQ", "RQ")}
        return Metrics(figures, dict(zip(_names(self.categories), rows, strict=True)))


@dataclass(frozen=True)
class _Instances:
    """The things of one image, annotated and found: label, run-length counts, area, and crowd flag or score."""

    size: tuple[int, int]
    true: list[tuple[int, bytes, float, bool]]
    found: list[tuple[int, bytes, float, float]]


class MaskAP:
    """COCO's average precision of masks, of thing classes, equal to pycocotools.

    At most `max_detections` of the best scores count per image and class: 100 in COCO; crowded images (cells) want
    more. An image without annotated things counts: what is found there is false. Small (below 32² pixels), medium
    and large (from 96²) objects are told apart by the area that the annotation file gives (COCO's give that of the
    polygons), else by that of the mask; predicted ones by their masks.
    """

    def __init__(self, categories: tuple[Category, ...], max_detections: int = 100) -> None:
        self.categories = categories
        self.max_detections = max_detections
        self._images: dict[str, _Instances] = {}

    @stage("metric")
    def update(self, prediction: Prediction, segments: Segments, image_id: str) -> None:
        """Keep the run-length codes of one image."""
        _check(prediction, segments, image_id, self._images.keys(), self.categories)
        if not np.isfinite(prediction.scores).all():
            raise DataError(f"{image_id}: a predicted score is not finite, so that segments cannot be ranked")
        crowd = segments.is_crowd.tolist()
        things = [*self._things(segments.masks, segments.labels.tolist(), image_id)]
        size = list(prediction.size)
        drawn = RleMasks(prediction.size, tuple(Rle(size=size, counts=code) for _, _, code in things)).areas()
        told = [math.nan] * len(segments) if segments.told_areas is None else segments.told_areas.tolist()
        true = [
            (label, code, float(area) if math.isnan(told[i]) else told[i], crowd[i])
            for (i, label, code), area in zip(things, drawn.tolist(), strict=True)
        ]
        scores, found_areas = prediction.scores.tolist(), prediction.areas.astype(np.float64).tolist()
        found = [
            (label, code, found_areas[i], scores[i])
            for i, label, code in self._things(prediction.masks, prediction.labels.tolist(), image_id)
        ]
        self._images[image_id] = _Instances(prediction.size, true, found)

    def merge(self, other: "MaskAP") -> None:
        """Take over the images that another metric has counted."""
        _check_merge(self.categories, other.categories, self._images.keys(), other._images.keys())
        self._images |= other._images

    @stage("metric")
    def compute(self) -> Metrics:
        """Give AP (mean over IoU 0.5 to 0.95), AP at IoU 0.5 and 0.75 and AP by size of the object."""
        things = [label for label, category in enumerate(self.categories) if category.is_thing]
        precision = self._precision(things)
        names = _names(self.categories)
        per_class = {names[label]: _average_precisions(precision[:, :, [k]]) for k, label in enumerate(things)}
        return Metrics(_average_precisions(precision), per_class)

    def _things(self, masks: EncodedMasks, labels: list[int], image_id: str) -> Iterable[tuple[int, int, bytes]]:
        """Give index, label and run-length counts of each thing; of what stands for any, once for each."""
        things = {label for label, category in enumerate(self.categories) if category.is_thing}
        for index, label in enumerate(labels):
            judged = things if label == ANY_CLASS else {label} & things
            if not judged:
                continue
            rle = masks.rle(index)
            if tuple(rle["size"]) != masks.size:  # codes of unequal size crash the evaluator
                raise DataError(f"{image_id}: mask {index} is of size {rle['size']}, the image of {masks.size}")
            for each in sorted(judged):
                yield index, each, rle["counts"]

    def _precision(self, things: list[int]) -> NDArray[np.float64]:
        """Give COCO's precisions [IoU thresholds, recalls, things, areas]; -1 where there is nothing to find."""
        parameters = Params("segm")
        parameters.max_dets = [self.max_detections]
        evaluator = StreamingEval([{"id": k + 1, "name": str(k)} for k in things], "segm", params=parameters)
        numbers = count(1)
        for image, image_id in enumerate(sorted(self._images), start=1):  # equal scores rank by image
            instances = self._images[image_id]
            size = list(instances.size)
            true, found = [], []
            for label, code, area, crowd in instances.true:
                true.append(
                    _annotation(image, label, size, code, area) | {"id": next(numbers), "iscrowd": int(crowd)}
                )
            for label, code, area, score in instances.found:
                found.append(_annotation(image, label, size, code, area) | {"score": score})
            evaluator.update([{"id": image, "height": size[0], "width": size[1]}], true, found)
        evaluation = evaluator.finalize()
        evaluation.accumulate()
        table = evaluation.eval
        assert table is not None  # after accumulate
        precision: NDArray[np.float64] = table["precision"][..., 0]
        return precision


class MeanIoU:
    """Mean intersection over union of the classes, over all pixels of all images at once.

    Pixels that are void in the annotation are left out; where the prediction says nothing, it is wrong. A crowd is
    of its class, as in Cityscapes' own figures; one that stands for any class is void.
    The mean is over the classes that occur in the annotation or the prediction: others are not counted as zero.
    Instances of one class are one region.
    """

    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self._images: set[str] = set()
        classes = len(categories)
        self._confusion = np.zeros((classes, classes + 1), dtype=np.int64)  # true x predicted; the last is void

    @stage("metric")
    def update(self, prediction: Prediction, segments: Segments, image_id: str) -> None:
        """Count the pixels of one image."""
        _check(prediction, segments, image_id, self._images, self.categories)
        self._confusion += class_pixels(prediction, segments)[:-1]
        self._images.add(image_id)

    def merge(self, other: "MeanIoU") -> None:
        """Take over the images that another metric has counted."""
        _check_merge(self.categories, other.categories, self._images, other._images)
        self._confusion += other._confusion
        self._images |= other._images

    def compute(self) -> Metrics:
        """Give mIoU and the share of pixels that are right; per class its IoU."""
        right = self._confusion.diagonal()
        union = self._confusion.sum(1) + self._confusion[:, :-1].sum(0) - right
        iou = [_ratio(r, u) for r, u in zip(right.tolist(), union.tolist(), strict=True)]
        figures = {"mIoU": _mean(iou), "pixel_accuracy": _ratio(int(right.sum()), int(self._confusion.sum()))}
        per_class = {name: {"IoU": value} for name, value in zip(_names(self.categories), iou, strict=True)}
        return Metrics(figures, per_class)


def _annotation(image: int, label: int, size: list[int], code: bytes, area: float) -> dict[str, Any]:
    rle = {"size": size, "counts": code}
    return {"image_id": image, "category_id": label + 1, "segmentation": rle, "area": area}


def _average_precisions(precision: NDArray[np.float64]) -> dict[str, float]:
    """Average COCO's precisions [IoU thresholds, recalls, classes, areas] where there is something to find."""
    every, small, medium, large = range(4)
    parts = {
        "AP": precision[..., every],
        "AP50": precision[0, ..., every],
        "AP75": precision[5, ..., every],
        "AP_small": precision[..., small],
        "AP_medium": precision[..., medium],
        "AP_large": precision[..., large],
    }
    known = {name: part[part > -1] for name, part in parts.items()}
    return {name: float(part.mean()) if part.size else math.nan for name, part in known.items()}


def _check(
    prediction: Prediction,
    segments: Segments,
    image_id: str,
    seen: Iterable[str],
    categories: tuple[Category, ...],
) -> None:
    """Stop what would give a wrong figure, before it is counted."""
    if image_id in seen:
        raise DataError(f"{image_id}: counted already; every image of an evaluation needs an id of its own")
    if prediction.size != segments.masks.size:
        (h, w), (true_h, true_w) = prediction.size, segments.masks.size
        raise DataError(
            f"{image_id}: the prediction is {h} x {w} pixels, the annotation {true_h} x {true_w} "
            "(height x width); both must have the size of the image"
        )
    of_a_class = segments.labels[~(segments.is_crowd & (segments.labels == ANY_CLASS))]
    for whose, labels in (("predicted", prediction.labels), ("annotated", of_a_class.numpy())):
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(categories):
            raise DataError(
                f"{image_id}: {whose} labels run from {labels.min()} to {labels.max()}, but there are "
                f"{len(categories)} categories (0 to {len(categories) - 1}); model and data set must agree on them"
            )


def _check_merge(
    mine: tuple[Category, ...], theirs: tuple[Category, ...], seen: Iterable[str], added: Iterable[str]
) -> None:
    if mine != theirs:
        raise ValueError("metrics of different categories cannot be merged")
    if twice := sorted(set(seen) & set(added)):
        raise DataError(f"{twice[0]}: counted by two metrics that are merged ({len(twice)} such images)")


def _names(categories: tuple[Category, ...]) -> list[str]:
    """Name the rows of a table by class; where two classes share a name, their ids tell them apart."""
    uses = Counter(category.name for category in categories)
    return [c.name if uses[c.name] == 1 else f"{c.name} ({c.id})" for c in categories]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _nullable(row: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in row.items()}
