"""The three tasks, in one table: how an image is fitted to the view, how query logits are read, what judges it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eomt.categories import Category
from eomt.config import TaskName, Thresholds
from eomt.evaluation.metrics import MaskAP, MeanIoU, Metric, PanopticQuality
from eomt.inference import decode
from eomt.inference.geometry import Tiling
from eomt.types import Prediction, QueryLogits

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """What one task does differently from the others."""

    fit: Literal["contain", "cover"]
    """contain: the whole image in one padded view; cover: the view slides over the image."""
    decode: Callable[[QueryLogits, Tiling, tuple[Category, ...], Thresholds], Prediction]
    metric: Callable[[tuple[Category, ...], Thresholds], Metric]
    figure: str
    """The figure of the metric that the best checkpoint is chosen by."""


TASKS: dict[TaskName, Task] = {
    "semantic": Task("cover", decode.semantic, lambda categories, _: MeanIoU(categories), "mIoU"),
    "instance": Task(
        "contain",
        decode.instance,
        lambda categories, thresholds: MaskAP(categories, thresholds.max_detections),
        "AP",
    ),
    "panoptic": Task("contain", decode.panoptic, lambda categories, _: PanopticQuality(categories), "PQ"),
}
