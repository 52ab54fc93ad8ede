"""One codec for masks: id maps where they are disjoint, run-length codes where they may overlap.

Encoded masks cost what they show: O(pixels) for an id map, O(outline) for a run-length code. Dense masks
appear one at a time, or inside one window. What a mask means (its label, its score) is left to `types`.

Run-length codes are COCO's (column-major, compressed), by hotcoco, which is called with checked input only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

__all__ = ["EncodedMasks", "IdMap", "Rle", "RleMasks", "Window", "decode_rle", "encode_rle"]

Window = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""


class Rle(TypedDict):
    """COCO's compressed run-length code of one mask."""

    size: list[int]
    counts: bytes


@runtime_checkable
class EncodedMasks(Protocol):
    """n masks of one image, encoded. All masks have the image's size (height, width)."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""

    def __len__(self) -> int:
        """Count the masks."""

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Decode one mask, [h w]."""

    def crop(self, window: Window) -> NDArray[np.bool_]:
        """Decode all masks inside one window, [n h w]; outside the image they are empty."""

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code."""

    def select(self, indices: Sequence[int]) -> "EncodedMasks":
        """Keep these masks, in this order."""


@dataclass(frozen=True, eq=False)
class IdMap:
    """Disjoint masks: pixel value k > 0 belongs to mask k - 1; 0 belongs to none."""

    ids: NDArray[np.int32]
    count: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.ids.shape
        return height, width

    def __len__(self) -> int:
        return self.count

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Decode one mask, [h w]."""
        mask: NDArray[np.bool_] = self.ids == range(self.count)[index] + 1
        return mask

    def crop(self, window: Window) -> NDArray[np.bool_]:
        """Decode all masks inside one window, [n h w]; outside the image they are empty."""
        inside = _crop(self.ids, window)
        masks: NDArray[np.bool_] = inside[None] == np.arange(1, self.count + 1, dtype=np.int32)[:, None, None]
        return masks

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""
        return np.bincount(self.ids.ravel(), minlength=self.count + 1)[1:]

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code."""
        return encode_rle(self.mask(index))

    def select(self, indices: Sequence[int]) -> "IdMap":
        """Keep these masks, in this order."""
        table = np.zeros(self.count + 1, dtype=np.int32)
        kept = np.arange(1, self.count + 1)[np.asarray(indices, dtype=np.int64)]
        table[kept] = np.arange(1, len(indices) + 1, dtype=np.int32)
        return IdMap(table[self.ids], len(indices))


@dataclass(frozen=True, eq=False)
class RleMasks:
    """Masks that may overlap, one run-length code each."""

    size: tuple[int, int]
    rles: tuple[Rle, ...]

    @classmethod
    def encode(cls, masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> "RleMasks":
        """Encode dense masks [h w] of one image, one after another."""
        return cls(size, tuple(encode_rle(mask) for mask in masks))

    def __len__(self) -> int:
        return len(self.rles)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Decode one mask, [h w]."""
        return decode_rle(self.rles[index])

    def crop(self, window: Window) -> NDArray[np.bool_]:
        """Decode all masks inside one window, [n h w]; outside the image they are empty."""
        _, _, height, width = window
        out = np.zeros((len(self), height, width), dtype=np.bool_)
        for index in range(len(self)):
            out[index] = _crop(self.mask(index), window)
        return out

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""
        return np.array([coco_mask.area(dict(rle)) for rle in self.rles], dtype=np.int64)

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code."""
        return self.rles[index]

    def select(self, indices: Sequence[int]) -> "RleMasks":
        """Keep these masks, in this order."""
        return RleMasks(self.size, tuple(self.rles[index] for index in indices))


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Encode a dense mask [h w] in COCO's run-length code."""
    rle = coco_mask.encode(mask)
    return Rle(size=rle["size"], counts=rle["counts"])


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """Decode COCO's run-length code to a dense mask [h w]."""
    mask: NDArray[np.uint8] = coco_mask.decode(dict(rle))
    return mask.view(np.bool_)


def _crop(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Cut a window out of an array [h w]; what lies outside of it is zero."""
    top, left, height, width = window
    out = np.zeros((height, width), dtype=array.dtype)
    inside = array[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out
