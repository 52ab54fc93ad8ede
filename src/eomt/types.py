"""What flows through the house: samples in, query logits between, predictions out.

Axes: b images of a batch, q queries, n segments of one image, k chosen queries, h w pixels (or cells of the
feature map), d embedding width, `classes` counts the categories and, last, *no object*.
"""

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from eomt.categories import Category
from eomt.errors import DataError
from eomt.masks import EncodedMasks, IdMap, Rle, Window, trace_polygons

if TYPE_CHECKING:
    import supervision

__all__ = [
    "ANY_CLASS",
    "Batch",
    "Category",
    "Dataset",
    "Prediction",
    "QueryLogits",
    "Sample",
    "Segment",
    "Segments",
    "Target",
]

ANY_CLASS = -1
"""Label of a crowd segment that stands for any class: a region in which nothing is judged."""


@dataclass
class Target:
    """Dense masks of one window of one image: what a view is trained on."""

    masks: Bool[Tensor, "n h w"]
    labels: Int[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments that annotators drew on one image, encoded. Pixels outside all of them are void.

    A crowd stands for many objects that nobody told apart: objects are not learnt from it, and those found in it
    are no error, in its class; where its label is `ANY_CLASS`, in any. Semantic segmentation, which tells no
    objects apart, takes it for its class.
    """

    masks: EncodedMasks
    labels: Int[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]
    told_areas: Float[Tensor, " n"] | None = None
    """What the annotation file says of each segment's area, which tells small objects from large ones in COCO's
    figures; NaN where it says nothing. None: it says nothing at all."""

    def __post_init__(self) -> None:
        told = self.labels if self.told_areas is None else self.told_areas
        if not len(self.masks) == len(self.labels) == len(self.is_crowd) == len(told):
            raise ValueError(
                f"{len(self.masks)} masks, {len(self.labels)} labels and {len(self.is_crowd)} crowd flags: "
                "a segment has one of each"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def check_labels(self, count: int, where: str = "segments") -> None:
        """Raise DataError where a label is no place in `count` categories, nor `ANY_CLASS` of a crowd."""
        labels = self.labels[~(self.is_crowd & (self.labels == ANY_CLASS))]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
            raise DataError(
                f"{where}: labels from {int(labels.min())} to {int(labels.max())}, but there are {count} "
                "categories; a label is a place in them, from 0"
            )

    def target(self, window: Window) -> Target:
        """Decode the masks inside a window (top, left, height, width), the only place where they are dense."""
        return Target(torch.from_numpy(self.masks.crop(window)), self.labels, self.is_crowd)

    def select(self, indices: Sequence[int]) -> "Segments":
        """Keep these segments, in this order."""
        chosen = list(indices)
        if chosen == list(range(len(self))):
            return self
        told = None if self.told_areas is None else self.told_areas[chosen]
        return Segments(self.masks.select(chosen), self.labels[chosen], self.is_crowd[chosen], told)

    def merged(self, labels: Container[int] | None = None) -> "Segments":
        """Make one segment of all those of one class, crowds among them, as semantic segmentation has it.

        With `labels`, only of these classes, and their crowds stay apart.
        """
        groups: dict[object, list[int]] = {}
        for index, (label, crowd) in enumerate(zip(self.labels.tolist(), self.is_crowd.tolist(), strict=True)):
            together = label != ANY_CLASS if labels is None else label in labels and not crowd
            groups.setdefault(("class", label) if together else ("segment", index), []).append(index)
        firsts = [members[0] for members in groups.values()]
        is_crowd = self.labels[firsts] == ANY_CLASS if labels is None else self.is_crowd[firsts]
        if len(groups) == len(self):
            return replace(self, is_crowd=is_crowd)
        masks = self.masks.merge(list(groups.values()))
        told = None
        if self.told_areas is not None:  # of what is joined, nobody said it
            alone = torch.tensor([len(members) == 1 for members in groups.values()])
            told = torch.where(alone, self.told_areas[firsts], math.nan)
        return Segments(masks, self.labels[firsts], is_crowd, told)


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated image."""

    image: UInt8[Tensor, "3 h w"]
    segments: Segments
    image_id: str


@runtime_checkable
class Dataset(Protocol):
    """All that a reader returns, and all that training and evaluation ask for."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes; a segment's label is an index into them."""

    def __len__(self) -> int:
        """Count the images."""

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its segments."""


@dataclass
class Batch:
    """Views of one size with what is to be seen in them."""

    images: UInt8[Tensor, "b 3 h w"]
    targets: list[Target]
    image_ids: list[str]


class QueryLogits(NamedTuple):
    """What the queries of one supervised layer say. A mask is the product of an embedding and the features."""

    class_logits: Float[Tensor, "b q classes"]
    mask_embeddings: Float[Tensor, "b q d"]
    features: Float[Tensor, "b d h w"]

    def masks(self, image: int, queries: Int[Tensor, " k"]) -> Float[Tensor, "k h w"]:
        """Give the mask logits of chosen queries of one image: only these are computed."""
        embeddings, features = self.mask_embeddings[image, queries], self.features[image]
        return (embeddings @ features.flatten(1)).view(-1, *features.shape[1:])

    @property
    def mask_logits(self) -> Float[Tensor, "b q h w"]:
        """Give the mask logits of all queries. Costs O(queries x pixels): for tests and small inputs."""
        masks = self.mask_embeddings @ self.features.flatten(2)
        return masks.view(*masks.shape[:2], *self.features.shape[2:])


@dataclass(frozen=True, eq=False)
class Segment:
    """One mask with its label and its score, in a prediction."""

    label: int
    score: float
    area: int
    _masks: EncodedMasks
    _index: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels of the segment, [h w] of the image."""
        return self._masks.mask(self._index)

    @property
    def rle(self) -> Rle:
        """The pixels of the segment in COCO's run-length code."""
        return self._masks.rle(self._index)

    @property
    def polygons(self) -> list[NDArray[np.int32]]:
        """The outline of the segment along the edges of its pixels: corners (x, y) of each ring, [k 2].

        Outer rings run clockwise on the screen, holes counter-clockwise.
        """
        return trace_polygons(self.mask)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one image: n segments in original pixels, for all three tasks.

    Masks of a semantic or panoptic prediction are disjoint (an `IdMap`); those of an instance prediction may
    overlap (`RleMasks`). Segments of an instance prediction come in order of falling score.

    >>> for segment in prediction:                                              # doctest: +SKIP
    ...     print(prediction.categories[segment.label].name, f"{segment.score:.2f}", segment.area)
    """

    masks: EncodedMasks
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    categories: tuple[Category, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.size

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each segment."""
        return self.masks.areas()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Segment]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Segment:
        label, score, area = int(self.labels[index]), float(self.scores[index]), int(self.areas[index])
        return Segment(label, score, area, self.masks, range(len(self))[index])

    def select(self, indices: Sequence[int]) -> "Prediction":
        """Keep these segments, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Prediction(self.masks.select(indices), self.labels[chosen], self.scores[chosen], self.categories)

    def id_map(self) -> IdMap:
        """Give every pixel to one segment; where masks overlap, to the one that comes first."""
        if isinstance(self.masks, IdMap):
            return self.masks
        ids = np.zeros(self.size, dtype=np.int32)
        for index in reversed(range(len(self))):
            ids[self.masks.mask(index)] = index + 1
        return IdMap(ids, len(self))

    def label_map(self, void: int = 255) -> NDArray[np.int32]:
        """Give every pixel its label, [h w]; `void` where nothing was found."""
        table = np.concatenate([[void], self.labels]).astype(np.int32)
        return table[self.id_map().ids]

    def panoptic(self) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
        """Give COCO's panoptic form: ids [h w], 0 for void, and `segments_info` with the categories' own ids."""
        id_map = self.id_map()
        areas = id_map.areas()
        info = [
            {
                "id": index + 1,
                "category_id": self.categories[segment.label].id,
                "isthing": int(self.categories[segment.label].is_thing),
                "score": segment.score,
                "area": int(areas[index]),
            }
            for index, segment in enumerate(self)
            if areas[index] > 0
        ]
        return id_map.ids, info

    def coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Give COCO's instance results: one entry a segment, its run-length code as text."""
        return [
            {
                "image_id": image_id,
                "category_id": self.categories[segment.label].id,
                "score": segment.score,
                "segmentation": {"size": list(self.size), "counts": segment.rle["counts"].decode("ascii")},
                "area": segment.area,
            }
            for segment in self
        ]

    def to_supervision(self) -> "supervision.Detections":
        """Give `supervision.Detections` with dense masks (extra `supervision`)."""
        import supervision

        masks = np.stack([segment.mask for segment in self]) if len(self) else np.zeros((0, *self.size), np.bool_)
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks) if len(self) else np.zeros((0, 4)),
            mask=masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array([self.categories[label].name for label in self.labels], dtype=str)},
        )
