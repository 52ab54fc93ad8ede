"""What tells where a model fails, beyond the official figures: sizes, confusions, calibration, edges.

A detail is fed like a metric and goes along with one (`Detailed`); its answer is what JSON can write. The official
figures are left to `metrics`.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d

from eomt.categories import Category
from eomt.config import TaskName
from eomt.evaluation.metrics import Metric, Metrics
from eomt.evaluation.outcomes import shown
from eomt.evaluation.overlaps import Overlaps, class_pixels, painted
from eomt.timing import stage
from eomt.types import ANY_CLASS, Prediction, Segments

__all__ = [
    "SCORES",
    "BoundaryIoU",
    "Calibration",
    "Confusion",
    "Detail",
    "Detailed",
    "Likely",
    "PixelConfusion",
    "ScoreCurve",
    "SegmentCounts",
    "SizeQuality",
    "detailed",
]

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
"""COCO's, in pixels of a segment."""
SCORES = tuple(step / 20 for step in range(2, 20))
"""Thresholds of the score that are compared: 0.1 to 0.95."""


Counted = Callable[[Prediction, Segments], Overlaps]
"""Which pixels of an image are judged."""


@runtime_checkable
class Detail(Protocol):
    """One view of what was found. It pickles, and merging is exact, in any order."""

    name: str

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count one image, which a metric has checked."""

    def merge(self, other: Any) -> None:
        """Take over what another one has counted."""

    def compute(self) -> Any:
        """Give what `json` can write."""


class Detailed:
    """A metric with details beside it; a metric itself."""

    def __init__(self, metric: Metric, details: Iterable[Detail]) -> None:
        self.metric, self.details = metric, tuple(details)

    def update(self, prediction: Prediction, segments: Segments, image_id: str) -> None:
        """Count one image."""
        self.metric.update(prediction, segments, image_id)
        with stage("details"):
            for detail in self.details:
                detail.update(prediction, segments)

    def merge(self, other: "Detailed") -> None:
        """Take over the images that another one has counted."""
        self.metric.merge(other.metric)
        for mine, theirs in zip(self.details, other.details, strict=True):
            mine.merge(theirs)

    def compute(self) -> Metrics:
        """Give the metric's figures, and what the details say."""
        metrics = self.metric.compute()
        return Metrics(metrics.figures, metrics.per_class, {each.name: each.compute() for each in self.details})


def detailed(task: TaskName, metric: Metric, categories: tuple[Category, ...]) -> Detailed:
    """Put the details of a task beside its metric."""
    names = [category.name for category in categories]
    if task == "semantic":
        return Detailed(metric, [BoundaryIoU(names), PixelConfusion(names)])
    counts = SegmentCounts()
    if task == "instance":  # its masks overlap: a pixel belongs to the one with the highest score
        of = Overlaps.of_instances
        likely = [Likely(Confusion(names, of)), Likely(SizeQuality(names, of)), Likely(counts)]
        return Detailed(metric, [*likely, Calibration(of=of), ScoreCurve()])
    return Detailed(metric, [Confusion(names), SizeQuality(names), Calibration(), counts])


class Likely:
    """A detail of the instances that are meant to be seen: each query is one, however unlikely."""

    def __init__(self, detail: Detail) -> None:
        self.detail, self.name = detail, detail.name

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the likely segments of one image."""
        self.detail.update(shown(prediction, "instance"), segments)

    def merge(self, other: "Likely") -> None:
        """Take over the counts of another one."""
        self.detail.merge(other.detail)

    def compute(self) -> Any:
        """Give what the detail says."""
        return self.detail.compute()


class Confusion:
    """What annotated segments are taken for: those that match by their pixels (IoU above 0.5), whatever the class.

    The last row is what is found where nothing is annotated, the last column what is missed. Rows are annotated.
    """

    name = "confusion"

    def __init__(self, names: list[str], of: Counted = Overlaps.of) -> None:
        self.names, self.of = names, of
        self.matrix = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the segments of one image."""
        overlaps, background = self.of(prediction, segments), len(self.names)
        matches = overlaps.matches(of_any_class=True)
        true, found = np.nonzero(matches)
        np.add.at(self.matrix, (overlaps.true_labels[true], overlaps.found_labels[found]), 1)
        missed, extra = (
            overlaps.true_labels[overlaps.missed(matches)],
            overlaps.found_labels[overlaps.extra(matches)],
        )
        self.matrix[:, background] += np.bincount(missed, minlength=background + 1)
        self.matrix[background] += np.bincount(extra, minlength=background + 1)

    def merge(self, other: "Confusion") -> None:
        """Add the counts of another one."""
        self.matrix += other.matrix

    def compute(self) -> dict[str, Any]:
        """Give the matrix and the names of its rows and columns."""
        return {"classes": [*self.names, "(background)"], "matrix": self.matrix.tolist()}


class PixelConfusion(Confusion):
    """What pixels of each class are taken for. The last column is what has no class; void is left out."""

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the pixels of one image."""
        self.matrix[:-1] += class_pixels(prediction, segments)[:-1]


class SizeQuality:
    """PQ, SQ and RQ by size: of matched and missed segments that of the annotation, of wrong ones their own."""

    name = "by_size"

    def __init__(self, names: list[str], of: Counted = Overlaps.of) -> None:
        self.names, self.of = names, of
        self.ious: dict[tuple[str, int], list[float]] = {}
        self.unmatched: dict[tuple[str, int], int] = {}

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the segments of one image."""
        overlaps = self.of(prediction, segments)
        matches = overlaps.matches()
        for t, f in np.argwhere(matches):
            key = _size(int(overlaps.true_areas[t])), int(overlaps.true_labels[t])
            self.ious.setdefault(key, []).append(float(overlaps.both[t, f] / overlaps.union[t, f]))
        missed, extra = overlaps.missed(matches), overlaps.extra(matches)
        labels = [*overlaps.true_labels[missed], *overlaps.found_labels[extra]]
        for label, area in zip(labels, [*overlaps.true_areas[missed], *overlaps.found_areas[extra]], strict=True):
            key = _size(int(area)), int(label)
            self.unmatched[key] = self.unmatched.get(key, 0) + 1

    def merge(self, other: "SizeQuality") -> None:
        """Take over the counts of another one."""
        for key, ious in other.ious.items():
            self.ious.setdefault(key, []).extend(ious)
        for key, count in other.unmatched.items():
            self.unmatched[key] = self.unmatched.get(key, 0) + count

    def compute(self) -> dict[str, Any]:
        """Give the figures of each size, over the classes that have segments of it, and of each class."""
        return {size: self._of(size) for size in SIZES}

    def _of(self, size: str) -> dict[str, Any]:
        rows = {}
        for label, name in enumerate(self.names):
            ious, unmatched = self.ious.get((size, label), []), self.unmatched.get((size, label), 0)
            if weight := len(ious) + unmatched / 2:
                total = math.fsum(ious)
                quality = {"PQ": total / weight, "SQ": total / max(len(ious), 1), "RQ": len(ious) / weight}
                rows[name] = quality
        means = {
            key: math.fsum(row[key] for row in rows.values()) / len(rows) if rows else None
            for key in ("PQ", "SQ", "RQ")
        }
        return {**means, "per_class": rows}


def _size(area: int) -> str:
    return next(name for name, (least, below) in SIZES.items() if least <= area < below)


class Calibration:
    """Do scores say how often a segment is right? Bins of equal width, and the expected calibration error.

    A segment is right where one of its class is annotated with an IoU above 0.5. What is neutral is left out. The
    error is the mean over segments of how far the mean score of their bin is from the share that is right.
    """

    name = "calibration"

    def __init__(self, bins: int = 10, of: Counted = Overlaps.of) -> None:
        self.of = of
        self.counts = np.zeros((bins, 2), dtype=np.int64)  # all, right
        self.scores: list[list[float]] = [[] for _ in range(bins)]

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the segments of one image."""
        overlaps = self.of(prediction, segments)
        matches = overlaps.matches()
        right: NDArray[np.bool_] = np.any(matches, axis=0)
        wrong = overlaps.extra(matches)
        for index in np.flatnonzero(right | wrong).tolist():
            score = float(prediction.scores[index])
            place = min(max(int(score * len(self.scores)), 0), len(self.scores) - 1)
            self.counts[place] += 1, bool(right[index])
            self.scores[place].append(score)

    def merge(self, other: "Calibration") -> None:
        """Take over the counts of another one."""
        self.counts += other.counts
        for mine, theirs in zip(self.scores, other.scores, strict=True):
            mine.extend(theirs)

    def compute(self) -> dict[str, Any]:
        """Give the error and the bins: where they begin, how many segments, their mean score, the share right."""
        bins, gap = [], 0.0
        for place, ((count, right), scores) in enumerate(zip(self.counts.tolist(), self.scores, strict=True)):
            total = math.fsum(scores)
            gap += abs(total - right)
            row = {"from": place / len(self.scores), "segments": count}
            bins.append(row | {"score": total / count, "right": right / count} if count else row)
        every = int(self.counts[:, 0].sum())
        return {"ECE": gap / every if every else None, "bins": bins}


class ScoreCurve:
    """PQ and F1 of instances, all classes as one, of those above each score; of `SCORES`, which is the best.

    What has a lower score lies below, so that leaving it out changes nothing of the others.
    """

    name = "thresholds"

    def __init__(self) -> None:
        self.right: list[tuple[float, float]] = []  # score and IoU
        self.wrong: list[float] = []
        self.annotated = 0

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the segments of one image."""
        overlaps = Overlaps.of_instances(prediction, segments)
        matches = overlaps.matches()
        for t, f in np.argwhere(matches):
            iou = float(overlaps.both[t, f] / overlaps.union[t, f])
            self.right.append((float(prediction.scores[f]), iou))
        self.wrong += prediction.scores[overlaps.extra(matches)].tolist()
        self.annotated += int(matches.sum() + overlaps.missed(matches).sum())

    def merge(self, other: "ScoreCurve") -> None:
        """Take over the counts of another one."""
        self.right += other.right
        self.wrong += other.wrong
        self.annotated += other.annotated

    def compute(self) -> dict[str, Any]:
        """Give the scores, PQ and F1 above each, and the score of the greatest F1."""
        quality, f1 = [], []
        for score in SCORES:
            ious = [iou for each, iou in self.right if each >= score]
            wrong = sum(each >= score for each in self.wrong)
            weight = (len(ious) + wrong + self.annotated) / 2  # TP + FP / 2 + FN / 2
            quality.append(math.fsum(ious) / weight if weight else None)
            f1.append(len(ious) / weight if weight else None)
        known = [(each, score) for each, score in zip(f1, SCORES, strict=True) if each is not None]
        best = max(known, key=lambda each: each[0])[1] if known else None
        return {"scores": list(SCORES), "PQ": quality, "F1": f1, "best": best}


class SegmentCounts:
    """How many segments are shown in an image: whether the queries suffice."""

    name = "segments"

    def __init__(self) -> None:
        self.counts: list[int] = []

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the segments of one image."""
        self.counts.append(len(prediction))

    def merge(self, other: "SegmentCounts") -> None:
        """Take over the counts of another one."""
        self.counts.extend(other.counts)

    def compute(self) -> dict[str, float | None]:
        """Give the mean, the median and the most of an image."""
        if not self.counts:
            return dict.fromkeys(("mean", "median", "most"))
        counts = np.array(self.counts)
        return {"mean": float(counts.mean()), "median": float(np.median(counts)), "most": float(counts.max())}


class BoundaryIoU:
    """IoU of the bands along the edges of each class (arXiv 2103.16562), over all images at once.

    A band is what of a region lies within 2 % of the image's diagonal of its edge; the image's border is an edge.
    Void is left out.
    """

    name = "boundary"

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.both, self.union = (np.zeros(len(names), dtype=np.int64) for _ in range(2))

    def update(self, prediction: Prediction, segments: Segments) -> None:
        """Count the bands of one image."""
        count = len(self.names)
        labels = segments.labels.numpy()
        table = np.append(count, np.where(labels == ANY_CLASS, count, labels))
        true, found = table[painted(segments.masks)], prediction.label_map(void=count)
        width = max(1, round(0.02 * math.hypot(*prediction.size)))
        judged = true != count
        for label in np.union1d(np.unique(true), np.unique(found)).tolist():
            if label == count:
                continue
            ours, theirs = (_band(labels == label, width) & judged for labels in (found, true))
            self.both[label] += np.count_nonzero(ours & theirs)
            self.union[label] += np.count_nonzero(ours | theirs)

    def merge(self, other: "BoundaryIoU") -> None:
        """Add the counts of another one."""
        self.both += other.both
        self.union += other.union

    def compute(self) -> dict[str, Any]:
        """Give the IoU of each class that is there, and their mean."""
        pairs = zip(self.names, self.both.tolist(), self.union.tolist(), strict=True)
        per_class = {name: both / union for name, both, union in pairs if union}
        mean = math.fsum(per_class.values()) / len(per_class) if per_class else None
        return {"IoU": mean, "per_class": per_class}


def _band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Give what of a region goes when it is eroded so many times by a square of 3 pixels, [h w]."""
    inner = mask.view(np.uint8)
    for axis in (0, 1):
        inner = minimum_filter1d(inner, 2 * width + 1, axis=axis, mode="constant", cval=0)
    return mask & ~inner.view(np.bool_)
