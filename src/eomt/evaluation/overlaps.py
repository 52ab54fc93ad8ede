"""How many pixels predicted and annotated segments share, where a pixel has one owner on each side.

Where annotated masks overlap, they are painted in their order: later ones lie on top. What is a match, and what of
it, is left to the metrics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.masks import EncodedMasks, IdMap
from eomt.types import ANY_CLASS, Prediction, Segments

__all__ = ["Overlaps", "class_pixels", "painted", "shared_pixels", "things_of"]

_AT_ONCE = 2**18  # pixels


@dataclass(frozen=True)
class Overlaps:
    """The n annotated and m predicted segments of one image against each other (arXiv 1801.00868)."""

    true_labels: NDArray[np.int64]
    found_labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    true_areas: NDArray[np.int64]
    found_areas: NDArray[np.int64]
    both: NDArray[np.int64]
    """Shared pixels, [n m]."""
    union: NDArray[np.int64]
    """Pixels of either, without what of the prediction lies on void, [n m]."""
    neutral: NDArray[np.int64]
    """Pixels of each predicted segment on void or on crowds of its class, [m]."""

    @classmethod
    def of(cls, prediction: Prediction, segments: Segments, void_is_neutral: bool = True) -> "Overlaps":
        """Count the pixels of one image. Where void is not neutral, what is found there is wrong."""
        true, found = segments.labels.numpy(), prediction.labels
        crowd, ignored = segments.is_crowd.numpy(), segments.labels.numpy() == ANY_CLASS
        shared = shared_pixels(painted(segments.masks), prediction.id_map().ids, len(true), len(found))
        void = shared[1:][ignored].sum(0) + shared[0] * void_is_neutral  # what stands for any class is void
        shared[0] += shared[1:][ignored].sum(0)
        shared[1:][ignored] = 0
        both, void = shared[1:, 1:], void[1:]
        true_areas, found_areas = shared[1:].sum(1), shared[:, 1:].sum(0)
        union = true_areas[:, None] + found_areas[None] - both - void[None]
        own_crowds = crowd[:, None] & (true[:, None] == found[None])
        neutral = void + (both * own_crowds).sum(0)
        return cls(true, found, crowd, true_areas, found_areas, both, union, neutral)

    @classmethod
    def of_instances(cls, prediction: Prediction, segments: Segments) -> "Overlaps":
        """Count the pixels of things alone: what is found outside of them is wrong, as in mask AP.

        Of masks that overlap, a pixel belongs to the one with the highest score.
        """
        things = things_of(segments, prediction.categories)
        return cls.of(prediction, things, void_is_neutral=False)

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """Which pairs are of one class, [n m]."""
        same: NDArray[np.bool_] = self.true_labels[:, None] == self.found_labels[None]
        return same

    def matches(self, of_any_class: bool = False) -> NDArray[np.bool_]:
        """Which pairs match: an IoU above 0.5, so that no segment has two; crowds have none. [n m]."""
        match: NDArray[np.bool_] = ~self.crowd[:, None] & (2 * self.both > self.union)
        return match if of_any_class else match & self.same_class

    def extra(self, matches: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which predicted segments are wrong: without a match, not mostly neutral. Hidden ones do not exist."""
        wrong: NDArray[np.bool_] = (
            ~matches.any(0) & (self.found_areas > 0) & (2 * self.neutral <= self.found_areas)
        )
        return wrong

    def missed(self, matches: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which annotated segments were not found."""
        missed: NDArray[np.bool_] = ~matches.any(1) & (self.true_areas > 0) & ~self.crowd
        return missed


def things_of(segments: Segments, categories: tuple[Category, ...]) -> Segments:
    """Keep the things, and what stands for any class."""
    labels = segments.labels.tolist()
    return segments.select([i for i, k in enumerate(labels) if k == ANY_CLASS or categories[k].is_thing])


def painted(masks: EncodedMasks) -> NDArray[np.int32]:
    """Give every pixel the number, from 1, of the last mask that covers it, [h w]; 0 where none does."""
    if isinstance(masks, IdMap):
        return masks.ids
    ids = np.zeros(masks.size, dtype=np.int32)
    for index in range(len(masks)):
        ids[masks.mask(index)] = index + 1
    return ids


def class_pixels(prediction: Prediction, segments: Segments) -> NDArray[np.int64]:
    """Count the pixels of each annotated and each found class, [classes + 1, classes + 1]; the last is void."""
    classes, labels = len(prediction.categories), segments.labels.numpy()
    true = np.where(labels == ANY_CLASS, classes, labels)
    shared = shared_pixels(painted(segments.masks), prediction.id_map().ids, len(true), len(prediction))
    pixels = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    pairs = np.append(classes, true), np.append(classes, prediction.labels)  # id 0 is void
    np.add.at(pixels, np.ix_(*pairs), shared)
    return pixels


def shared_pixels(true: NDArray[np.int32], found: NDArray[np.int32], n: int, m: int) -> NDArray[np.int64]:
    """Count the pixels that each pair of ids shares, [n + 1, m + 1]; row 0 and column 0 belong to no segment."""
    shared = np.zeros((n + 1) * (m + 1), dtype=np.int64)
    step = max(1, _AT_ONCE // max(true.shape[1], 1))
    for top in range(0, len(true), step):  # the pairs of all pixels would take more memory than the masks
        pairs = true[top : top + step].astype(np.int64) * (m + 1) + found[top : top + step]
        shared += np.bincount(pairs.ravel(), minlength=len(shared))
    return shared.reshape(n + 1, m + 1)
