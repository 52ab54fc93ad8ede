"""Which score a panoptic segment should have to be kept: PQ and F1 as functions of the threshold.

The model looks at each image once. Each threshold is then decoded and judged by itself, as segments compete for
pixels with those that are kept. Decoding is left to `Segmenter`, formulas to `metrics`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from eomt.config import Precision, TaskName, Thresholds
from eomt.evaluation.details import SCORES
from eomt.evaluation.evaluate import match_categories
from eomt.evaluation.metrics import PanopticQuality
from eomt.inference.segmenter import Segmenter
from eomt.types import Dataset

__all__ = ["ThresholdCurve", "threshold_curve"]


@dataclass(frozen=True)
class ThresholdCurve:
    """Figures at each threshold of the score."""

    scores: tuple[float, ...]
    quality: tuple[float, ...]
    """PQ; NaN where no class is present."""
    f1: tuple[float, ...]
    """Of all segments of all classes at once: 2 TP / (2 TP + FP + FN); 0 without any."""

    @property
    def best(self) -> float:
        """The threshold of the greatest PQ: of several, the one in the middle of them."""
        best = max(self.quality)
        equal = [score for score, quality in zip(self.scores, self.quality, strict=True) if quality == best]
        return equal[len(equal) // 2] if equal else self.scores[len(self.scores) // 2]


def threshold_curve(
    segmenter: Segmenter,
    dataset: Dataset,
    scores: Sequence[float] = SCORES,
    *,
    image_size: tuple[int, int] | None = None,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ThresholdCurve:
    """Judge a model at several thresholds of the score, on images that it was not trained on.

    What is found suits the images of this data set; `replace(segmenter.info, thresholds=...)` and
    `Segmenter.save` keep it with the model. Raises DataError where model and data do not fit together.
    """
    categories = segmenter.categories
    labels = match_categories(dataset.categories, categories, ["panoptic"])
    limits = [replace(segmenter.thresholds, score=score) for score in scores]
    wanted: list[tuple[TaskName, Thresholds]] = [("panoptic", limit) for limit in limits]
    metrics = [PanopticQuality(categories) for _ in scores]
    for index in range(len(dataset)):
        sample = dataset[index]
        sample.segments.check_labels(len(dataset.categories), f"image {sample.image_id}")
        segments = replace(sample.segments, labels=labels[sample.segments.labels])
        [predictions] = segmenter.segment_each([sample.image], wanted, image_size=image_size, precision=precision)
        for prediction, metric in zip(predictions, metrics, strict=True):
            metric.update(prediction, segments, sample.image_id)
        if progress is not None:
            progress(index + 1, len(dataset))
    results = [metric.compute() for metric in metrics]
    return ThresholdCurve(
        tuple(scores),
        tuple(result.figures["PQ"] for result in results),
        tuple(_f1(result.per_class.values()) for result in results),
    )


def _f1(rows: Iterable[dict[str, float]]) -> float:
    right, unmatched = 0.0, 0.0
    for row in rows:
        right += row["TP"]
        unmatched += row["FP"] + row["FN"]
    return 2 * right / (2 * right + unmatched) if right else 0.0
