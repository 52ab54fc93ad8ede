"""Keep small pictures of judged images: annotated, predicted, what is wrong; some of all, and the worst.

Memory holds as many pictures as are shown, whatever the number of images.
"""

import heapq
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from eomt.categories import Category
from eomt.config import TaskName
from eomt.drawing import error_picture, thumbnail
from eomt.evaluation.outcomes import Outcome, pixel_errors, shown
from eomt.evaluation.overlaps import things_of
from eomt.types import Prediction, Sample, Segments

__all__ = ["Gallery", "Picture", "as_sample"]

SIDE, GAP = 320, 6
"""Pixels of a picture's longer side, and between pictures."""


class Picture(NamedTuple):
    """An image as annotated, as predicted, and what is wrong, side by side; and how it was judged."""

    outcome: Outcome
    image: Image.Image


class Gallery:
    """The pictures of an evaluation."""

    def __init__(
        self, task: TaskName, categories: tuple[Category, ...], examples: Iterable[int], worst: int
    ) -> None:
        self.task, self.categories = task, categories
        self.examples: list[Picture] = []
        self._shown, self._most = frozenset(examples), worst
        self._worst: list[tuple[float, int, int, Picture]] = []  # the best of them first

    def add(self, sample: Sample, prediction: Prediction, outcome: Outcome) -> None:
        """Take an image's picture, if it is one that is shown."""
        rank = (-outcome.quality, outcome.errors, -outcome.index)
        is_worst = outcome.errors > 0 and (
            len(self._worst) < self._most or (bool(self._worst) and rank > self._worst[0][:3])
        )
        if not is_worst and outcome.index not in self._shown:
            return
        picture = Picture(outcome, _side_by_side(sample, prediction, self.task, self.categories))
        if outcome.index in self._shown:
            self.examples.append(picture)
        if is_worst and self._most:
            heapq.heappush(self._worst, (*rank, picture))
            if len(self._worst) > self._most:
                heapq.heappop(self._worst)

    @property
    def worst(self) -> list[Picture]:
        """The worst images, the very worst first."""
        return [picture for *_, picture in sorted(self._worst, key=lambda each: each[:3], reverse=True)]


def as_sample(image: UInt8[Tensor, "3 h w"], found: Prediction) -> Sample:
    """Put what was found in the place of what is annotated, to be drawn alike."""
    labels = torch.from_numpy(np.asarray(found.labels, dtype=np.int64))
    return Sample(image, Segments(found.masks, labels, torch.zeros(len(found), dtype=torch.bool)), "")


def _side_by_side(
    sample: Sample, prediction: Prediction, task: TaskName, categories: tuple[Category, ...]
) -> Image.Image:
    if task == "instance":
        sample = replace(sample, segments=things_of(sample.segments, categories))
    image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    parts = [
        thumbnail(sample, categories, SIDE),
        thumbnail(as_sample(sample.image, shown(prediction, task)), categories, SIDE),
        error_picture(image, pixel_errors(prediction, sample.segments, task), SIDE),
    ]
    width, height = parts[0].size
    whole = Image.new("RGB", (3 * width + 2 * GAP, height), (128, 128, 128))
    for place, part in enumerate(parts):
        whole.paste(part, (place * (width + GAP), 0))
    return whole
