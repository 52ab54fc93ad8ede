"""What the sides of a comparison find in a photo, for each task: its form, and how far two of them agree.

Free of torch: arrays may come from another process.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from eomt.config import TaskName
from eomt.masks import Rle, encode_rle, mask_iou

if TYPE_CHECKING:
    from eomt.types import Prediction

__all__ = ["FINDINGS", "Findings", "Ids", "Instances"]

SCORES = 1e-5
"""Largest difference of two scores that are equal: sums over a mask's pixels in fp32, in another order."""


class Findings(ABC):
    """What one side found. Two are compared of one task."""

    things: ClassVar[str]
    """What is compared, in words."""
    unit: ClassVar[str]
    """What whole runs share."""
    left_out: ClassVar[Mapping[str, str]] = {}
    """Peers that find something else by design, and what."""

    @classmethod
    @abstractmethod
    def of(cls, prediction: "Prediction") -> "Findings":
        """Take ours."""

    @classmethod
    @abstractmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> "Findings":
        """Take what another process wrote."""

    @abstractmethod
    def same(self, other: Any) -> bool:
        """Whether they are equal."""

    @abstractmethod
    def share(self, other: Any) -> float:
        """How far they agree: 1 where they are equal."""


@dataclass(frozen=True, eq=False)
class Ids(Findings):
    """Panoptic: the id of each pixel's segment, from 1 on in the order of queries; equal in every pixel."""

    things = "ids"
    unit = "pixels"

    ids: Int[NDArray[Any], "h w"]

    @classmethod
    def of(cls, prediction: "Prediction") -> "Ids":
        """Take ours."""
        return cls(prediction.id_map().ids)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> "Ids":
        """Take `ids`."""
        return cls(arrays["ids"])

    def same(self, other: "Ids") -> bool:
        """Whether every pixel has the same id."""
        return np.array_equal(self.ids, other.ids)

    def share(self, other: "Ids") -> float:
        """Share of the pixels that have the same id."""
        return float((self.ids == other.ids).mean())


@dataclass(frozen=True, eq=False)
class Instances(Findings):
    """Instances in any order; equal where labels and every pixel of the masks are, and scores nearly so."""

    things = "instances"
    unit = "instances"
    left_out: ClassVar[Mapping[str, str]] = {
        "transformers": "it gives a query one label instead of ranking all pairs of query and label, and one map, "
        "in which each mask hides those before it"
    }

    labels: Int[NDArray[Any], " n"]
    scores: NDArray[np.floating[Any]]
    rles: tuple[Rle, ...]

    @classmethod
    def of(cls, prediction: "Prediction") -> "Instances":
        """Take ours."""
        rles = tuple(prediction.masks.rle(index) for index in range(len(prediction)))
        return cls(prediction.labels, prediction.scores, rles)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> "Instances":
        """Take `masks`, [n h w], `labels` and `scores`. Those without a pixel, of score 0, are none."""
        masks = arrays["masks"]
        shown = np.flatnonzero(masks.any((1, 2)))
        rles = tuple(encode_rle(masks[index]) for index in shown)
        return cls(arrays["labels"][shown], arrays["scores"][shown], rles)

    def same(self, other: "Instances") -> bool:
        """Whether each has the other's instances."""
        mine, theirs = self._sorted(), other._sorted()
        return [pair[:2] for pair in mine] == [pair[:2] for pair in theirs] and np.allclose(
            [score for *_, score in mine], [score for *_, score in theirs], rtol=0, atol=SCORES
        )

    def _sorted(self) -> list[tuple[int, bytes, float]]:
        codes = (rle["counts"] for rle in self.rles)
        return sorted(zip(self.labels.tolist(), codes, self.scores.tolist(), strict=True))

    def share(self, other: "Instances") -> float:
        """Mean intersection over union of each instance with the nearest of its label among the other's."""
        most = max(len(self.rles), len(other.rles))
        if not most:
            return 1.0
        agree = mask_iou(self.rles, other.rles) * (self.labels[:, None] == other.labels)
        return float(agree.max(1, initial=0).sum()) / most


FINDINGS: dict[TaskName, type[Findings]] = {"panoptic": Ids, "instance": Instances}
"""The tasks in which sides are compared."""
