"""The three tasks, in one table: how an image fits the view, how query logits are read, what judges the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from eomt.categories import Category
from eomt.config import TaskName, Thresholds
from eomt.evaluation.metrics import MaskAP, MeanIoU, Metric, PanopticQuality
from eomt.inference import decode
from eomt.inference.geometry import Tiling
from eomt.inference.tiles import join
from eomt.masks import Window
from eomt.types import Prediction, QueryLogits

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """What one task does differently from the others."""

    fit: Literal["contain", "cover"]
    """contain: the whole image in one padded view; cover: the view slides over the image."""
    decode: Callable[[QueryLogits, Tiling, tuple[Category, ...], Thresholds], Prediction]
    join: Callable[[Sequence[Prediction], Sequence[Window], tuple[int, int], Thresholds], Prediction]
    """Makes one prediction of those for the tiles of an image."""
    metric: Callable[[tuple[Category, ...], Thresholds], Metric]
    figure: str
    """The figure of the metric that the best checkpoint is chosen by."""


TASKS: dict[TaskName, Task] = {
    "semantic": Task(
        "cover", decode.semantic, partial(join, objects=False), lambda categories, _: MeanIoU(categories), "mIoU"
    ),
    "instance": Task(
        "contain",
        decode.instance,
        join,
        lambda categories, thresholds: MaskAP(categories, thresholds.max_detections),
        "AP",
    ),
    "panoptic": Task("contain", decode.panoptic, join, lambda categories, _: PanopticQuality(categories), "PQ"),
}
