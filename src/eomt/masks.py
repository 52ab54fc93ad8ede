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

__all__ = ["EncodedMasks", "IdMap", "Rle", "RleMasks", "Window", "decode_rle", "encode_rle", "trace_polygons"]

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


def trace_polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Follow the edges of the pixels round a dense mask [h w]: one polygon of corners (x, y), [k 2], a ring.

    Outer rings run clockwise on the screen, holes counter-clockwise, so that the signed areas add up to the number
    of pixels. Pixels that touch at a corner only are in rings of their own. Rings come from the top left on.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return []
    top, left = rows[0], columns[0]
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.int8), 1)
    turn = np.diff(np.diff(inside, axis=0), axis=1)  # +-1 where the outline turns, +-2 where two rings touch
    y, x = np.nonzero(turn)
    turn = turn[y, x]
    copies = np.abs(turn)
    y, x, turn = (np.repeat(part, copies) for part in (y, x, turn))
    second = np.concatenate([[False], (y[1:] == y[:-1]) & (x[1:] == x[:-1])])
    # Along a line of the grid, the outline runs from its first corner to its second, from its third to its fourth.
    along_row, along_column = np.arange(len(y)) ^ 1, np.empty(len(y), dtype=np.int64)
    order = np.lexsort((second ^ (turn == -2), y, x))
    along_column[order] = order[np.arange(len(y)) ^ 1]

    corners = np.stack([x + left, y + top], axis=1).astype(np.int32)
    row_end, column_end, seen = along_row.tolist(), along_column.tolist(), [False] * len(y)
    rings = []
    for start in range(len(y)):
        ring: list[int] = []
        here = start
        while not seen[here]:
            across = row_end[here]
            seen[here] = seen[across] = True
            ring += [here, across]
            here = column_end[across]
        if ring:
            rings.append(corners[ring if turn[start] > 0 else ring[::-1]])
    return rings


def _crop(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Cut a window out of an array [h w]; what lies outside of it is zero."""
    top, left, height, width = window
    out = np.zeros((height, width), dtype=array.dtype)
    inside = array[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out
