"""One codec for masks: id maps where they are disjoint, run-length codes where they may overlap.

Encoded masks cost what they show: O(pixels) for an id map, O(outline) for a run-length code. Dense masks
appear one at a time, or inside one window, scaled or not. What a mask means (its label, its score) is left to
`types`.

Run-length codes are COCO's (column-major, compressed), by hotcoco, which is called with checked input only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

__all__ = [
    "EncodedMasks",
    "IdMap",
    "Outlines",
    "Rle",
    "RleMasks",
    "Window",
    "bounding_box",
    "decode_rle",
    "encode_rle",
    "joined_rle",
    "mask_iou",
    "placed_rle",
    "rle_of_counts",
    "rle_of_polygons",
    "trace_polygons",
    "without",
]

Window = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""

_MAX_PIXELS = 2**31 - 1  # of one mask: run lengths are 32-bit numbers in every library
_MAX_OUTLINE = 10_000_000  # pixels along the rings of one mask: rasterising takes 40 bytes for each


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

    def sample(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[NDArray[np.bool_], list[int]]:
        """Look up the pixels where rows and columns cross; outside the image they are empty. Rows must not fall.

        Gives the masks that have one of these pixels, [k h w], and which of the masks they are.
        """

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code."""

    def select(self, indices: Sequence[int]) -> "EncodedMasks":
        """Keep these masks, in this order."""

    def merge(self, groups: Sequence[Sequence[int]]) -> "EncodedMasks":
        """Give the union of each group of masks; a mask belongs to one group at most."""


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

    def sample(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[NDArray[np.bool_], list[int]]:
        """Look up the pixels where rows and columns cross, and give the masks seen there, [k h w], and which."""
        ids = np.zeros((len(rows), len(columns)), dtype=np.int32)
        height, width = self.size
        y, x = np.flatnonzero((rows >= 0) & (rows < height)), np.flatnonzero((columns >= 0) & (columns < width))
        ids[np.ix_(y, x)] = self.ids[np.ix_(rows[y], columns[x])]
        seen = np.flatnonzero(np.bincount(ids.ravel(), minlength=1)[1:])
        masks = np.empty((len(seen), *ids.shape), dtype=np.bool_)
        for mask, index in zip(masks, seen, strict=True):
            np.equal(ids, index + 1, out=mask)
        return masks, seen.tolist()

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""
        areas = np.zeros(self.count + 1, dtype=np.int64)
        for top in range(0, len(self.ids), 64):  # `bincount` makes wide copies of what it counts
            areas += np.bincount(self.ids[top : top + 64].ravel(), minlength=self.count + 1)
        return areas[1:]

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code. The map is looked through once for all of them."""
        places, starts = self._borders
        number = range(self.count)[index]
        return _encoded(places[starts[number] : starts[number + 1]], self.size)

    @cached_property
    def _borders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pixels, counted down the columns, at which each mask begins or ends; and where each mask's start."""
        ids, (height, width) = self.ids, self.size
        y, x = np.divmod(np.flatnonzero(ids[1:] != ids[:-1]), width)
        seams = np.flatnonzero(ids[0, 1:] != ids[-1, :-1]) + 1  # from the foot of a column to the head of the next
        places = np.concatenate([x * height + y + 1, seams * height])
        before = np.concatenate([ids[y, x], ids[-1, seams - 1]])
        after = np.concatenate([ids[y + 1, x], ids[0, seams]])
        places = np.concatenate([[0], places, places])
        owners = np.concatenate([ids[:1, 0], before, after])
        order = np.lexsort((places, owners))
        starts = np.searchsorted(owners[order], np.arange(1, self.count + 2))
        return places[order], starts

    def select(self, indices: Sequence[int]) -> "IdMap":
        """Keep these masks, in this order."""
        table = np.zeros(self.count + 1, dtype=np.int32)
        kept = np.arange(1, self.count + 1)[np.asarray(indices, dtype=np.int64)]
        table[kept] = np.arange(1, len(indices) + 1, dtype=np.int32)
        return IdMap(table[self.ids], len(indices))

    def merge(self, groups: Sequence[Sequence[int]]) -> "IdMap":
        """Give the union of each group of masks; a mask belongs to one group at most."""
        table = np.zeros(self.count + 1, dtype=np.int32)
        for place, group in enumerate(groups, 1):
            table[np.asarray(group, dtype=np.int64) + 1] = place
        return IdMap(table[self.ids], len(groups))


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
        top, left, height, width = window
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        masks = np.zeros((len(self), height, width), dtype=np.bool_)
        for mask, rle in zip(masks, self.rles, strict=True):
            _fill(mask, _look_up(rle, rows, columns))
        return masks

    def sample(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[NDArray[np.bool_], list[int]]:
        """Look up the pixels where rows and columns cross, and give the masks seen there, [k h w], and which."""
        near = np.flatnonzero(self._meet(rows, columns))
        found = [(index, _look_up(self.rles[index], rows, columns)) for index in near.tolist()]
        runs = {index: each for index, each in found if len(each)}
        seen = list(runs)
        masks = np.zeros((len(seen), len(rows), len(columns)), dtype=np.bool_)
        for mask, index in zip(masks, seen, strict=True):
            _fill(mask, runs[index])
        return masks, seen

    def _meet(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Tell which masks' bounding boxes reach between the first and the last of these rows and columns, [n]."""
        if not (len(self) and len(rows) and len(columns)):
            return np.zeros(len(self), dtype=np.bool_)
        left, top, width, height = coco_mask.toBbox([dict(rle) for rle in self.rles]).T
        across = (left <= columns.max()) & (left + width > columns.min())
        meet: NDArray[np.bool_] = across & (top <= rows.max()) & (top + height > rows.min())
        return meet

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, [n]."""
        return np.array([coco_mask.area(dict(rle)) for rle in self.rles], dtype=np.int64)

    def rle(self, index: int) -> Rle:
        """Encode one mask in COCO's run-length code."""
        return self.rles[index]

    def select(self, indices: Sequence[int]) -> "RleMasks":
        """Keep these masks, in this order."""
        return RleMasks(self.size, tuple(self.rles[index] for index in indices))

    def merge(self, groups: Sequence[Sequence[int]]) -> "RleMasks":
        """Give the union of each group of masks."""
        return RleMasks(self.size, tuple(joined_rle([self.rles[index] for index in group]) for group in groups))


class Outlines:
    """n masks that are shown in blocks, from left to right and from the top down, to be encoded.

    The pixels at which a mask begins or ends, going down the columns, are all that is kept of it.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.size = _checked_size(size)
        self._heads = np.zeros((count, size[1]), dtype=np.bool_)
        self._feet = np.zeros((count, size[1]), dtype=np.bool_)  # the lowest row that was shown
        self._borders = np.zeros(
            2**14, dtype=np.int64
        )  # mask x pixels of the image + pixel; one array, which grows
        self._found = 0

    def add(self, masks: NDArray[np.intp], inside: NDArray[np.bool_], corner: tuple[int, int]) -> None:
        """Take the pixels [k bh bw] of k masks in the block with this top left corner; others have none there."""
        top, left = corner
        columns = slice(left, left + inside.shape[2])
        feet = self._feet[:, columns]
        heads = np.zeros_like(feet)
        heads[masks] = inside[:, 0]
        if top == 0:
            self._heads[:, columns] = heads
        else:
            self._note(np.arange(len(feet)), (heads != feet)[:, None], corner)
        self._note(masks, inside[:, 1:] != inside[:, :-1], (top + 1, left))
        feet[:] = False
        feet[masks] = inside[:, -1]

    def _note(self, masks: NDArray[np.intp], differ: NDArray[np.bool_], corner: tuple[int, int]) -> None:
        """Keep where pixels [k h w] differ from those above them; the top left one is at `corner`."""
        rows, columns = differ.shape[1:]
        found = np.flatnonzero(differ)  # many times faster than `nonzero`, whose numbers follow
        y, x = np.divmod(found, max(columns, 1))
        mask, y = np.divmod(y, max(rows, 1))
        height, width = self.size
        start, self._found = self._found, self._found + len(found)
        if self._found > len(self._borders):
            self._borders.resize(2 * self._found, refcheck=False)
        places = masks[mask] * (height * width) + (corner[1] + x) * height + corner[0] + y
        self._borders[start : self._found] = places

    def encode(self) -> list[Rle]:
        """Give the codes of all masks, when every block was shown."""
        height, width = self.size
        seams = self._heads.copy()
        seams[:, 1:] ^= self._feet[:, :-1]  # from the foot of a column to the head of the next
        borders = np.concatenate([self._borders[: self._found], np.flatnonzero(seams) * height])
        borders.sort()
        starts = np.arange(len(seams)) * (height * width)
        own = np.split(borders, np.searchsorted(borders, starts[1:]))
        return [_encoded(places - start, self.size) for start, places in zip(starts, own, strict=False)]


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Encode a dense mask [h w] in COCO's run-length code."""
    rle = coco_mask.encode(mask)
    return Rle(size=rle["size"], counts=rle["counts"])


def placed_rle(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> Rle:
    """Encode a dense mask [h w] whose top left is at `corner` of an image (height, width), empty elsewhere.

    The image's own pixels are not touched: this costs what the mask does.
    """
    steps = np.diff(mask.T.astype(np.int8), prepend=0, append=0)  # one row for each column
    x, y = np.nonzero(steps)
    return _rle_of_borders((corner[1] + x) * size[0] + corner[0] + y, size)


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """Decode COCO's run-length code to a dense mask [h w]."""
    mask: NDArray[np.uint8] = coco_mask.decode(dict(rle))
    return mask.view(np.bool_)


def bounding_box(rle: Rle) -> tuple[int, int, int, int]:
    """Give left, top, width and height of a mask, in pixels; zeros where it is empty."""
    left, top, width, height = (int(length) for length in coco_mask.toBbox(dict(rle)))
    return left, top, width, height


def joined_rle(rles: Sequence[Rle]) -> Rle:
    """Give the union of masks, without decoding them."""
    rle = coco_mask.merge([dict(rle) for rle in rles])
    return Rle(size=rle["size"], counts=rle["counts"])


def mask_iou(rles: Sequence[Rle], others: Sequence[Rle]) -> NDArray[np.float64]:
    """Give intersection over union of each mask with each of the others, [n m], without decoding them."""
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    one, other = ([dict(rle) for rle in each] for each in (rles, others))
    found: NDArray[np.float64] = np.asarray(coco_mask.iou(one, other, [False] * len(others)), dtype=np.float64)
    return found


def without(rle: Rle, hidden: Rle) -> Rle:
    """Take the pixels of one mask away from another, without decoding them."""
    height, width = rle["size"]
    runs = _run_lengths(hidden["counts"])
    runs = runs[1:] if runs[0] == 0 else np.concatenate([[0], runs])  # what was off is on
    rest = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    left = coco_mask.merge([dict(rle), rest], intersect=True)
    return Rle(size=left["size"], counts=left["counts"])


def rle_of_polygons(rings: object, size: tuple[int, int]) -> Rle:
    """Rasterise the union of polygons from an annotation file: flat lists [x0, y0, x1, y1, ...], in pixels.

    The pixels are those that COCO's tools give (frPyObjects and merge). Rings do not cut holes into each other.
    Parts outside the image are cut off. Raises ValueError for whatever is not a list of polygons of three points
    or more that lie in or near an image of this height and width.
    """
    height, width = _checked_size(size)
    if not isinstance(rings, list | tuple) or not rings:
        raise ValueError(f"no polygons but {_short(rings)}; expected a list of lists [x0, y0, x1, y1, ...]")
    flat = [_checked_ring(ring, f"polygon {number} of {len(rings)}") for number, ring in enumerate(rings, 1)]
    together = np.concatenate(flat)
    reach = min(max(10 * max(height, width), 1000), 10**8)  # objects may go on outside the image, but not for ever
    if not np.abs(together).max() <= reach:  # also where it is NaN
        bad = together[~(np.abs(together) <= reach)][0]
        raise ValueError(
            f"a polygon has the coordinate {bad:g} in an image of {width} x {height}; coordinates are pixels from "
            "the top left corner: correct the polygon, or remove the annotation"
        )
    if len(together) * reach > _MAX_OUTLINE:  # hardly ever: no side is longer than twice the reach
        points = (ring.reshape(-1, 2) for ring in flat)
        length = sum(np.abs(ring - np.roll(ring, 1, axis=0)).max(1).sum() for ring in points)
        if length > _MAX_OUTLINE:
            raise ValueError(
                f"an outline of {length:.0f} pixels; at most {_MAX_OUTLINE} are possible: simplify it"
            )
    rles = coco_mask.frPyObjects([ring.tolist() for ring in flat], height, width)
    rle = rles[0] if len(rles) == 1 else coco_mask.merge(rles)
    return Rle(size=rle["size"], counts=rle["counts"])


def rle_of_counts(counts: object, rle_size: object, size: tuple[int, int]) -> Rle:
    """Check a run-length code from an annotation file: a list of run lengths, or COCO's compressed text.

    `rle_size` is the code's own [height, width], which must be the image's `size`. Raises ValueError for whatever
    does not describe every pixel of such an image exactly once.
    """
    height, width = _checked_size(size)
    if not isinstance(rle_size, list | tuple) or list(rle_size) != [height, width]:
        raise ValueError(
            f"a run-length code with size {_short(rle_size)}, but its image has [height, width] = "
            f"[{height}, {width}]; export the masks at the image's size"
        )
    runs = _decompressed(counts) if isinstance(counts, str | bytes) else _integers(counts)
    pixels = height * width
    if len(runs) > 2 * pixels + 2 or np.abs(runs).max(initial=0) > pixels:
        raise ValueError(
            f"a run-length code with more runs or longer ones than its {pixels} pixels; export it again"
        )
    if isinstance(
        counts, str | bytes
    ):  # all but the first three say how much longer they are than the last but one
        runs[1::2] = runs[1::2].cumsum()
        runs[2::2] = runs[2::2].cumsum()
    total = int(runs.sum())
    if runs.min(initial=0) < 0 or total != pixels:
        wrong = "negative run lengths" if runs.min(initial=0) < 0 else f"{total} pixels"
        raise ValueError(
            f"a run-length code with {wrong}, but its image has {width} x {height} = {pixels}; it is damaged or "
            "cut short: export it again, or remove the annotation"
        )
    if runs[1:].all() and isinstance(counts, str | bytes):
        return Rle(size=[height, width], counts=counts.encode("ascii") if isinstance(counts, str) else counts)
    return _rle_of_borders(runs.cumsum()[:-1], size)


def _rle_of_borders(borders: NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """Encode a mask that changes at these pixels, counted down the columns; two changes at one cancel out."""
    pixels = size[0] * size[1]
    borders, times = np.unique(borders, return_counts=True)
    return _encoded(borders[(times % 2 == 1) & (borders < pixels)], size)


def _encoded(borders: NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """Encode a mask that changes at these pixels, in rising order."""
    runs = np.diff(borders, prepend=0, append=size[0] * size[1])
    rle = coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
    return Rle(size=rle["size"], counts=rle["counts"])


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(
            f"a mask of {width} x {height} pixels; at least one and at most {_MAX_PIXELS} are possible"
        )
    return height, width


def _checked_ring(ring: object, name: str) -> NDArray[np.float64]:
    if not isinstance(ring, list | tuple | np.ndarray):
        raise ValueError(f"{name} is {_short(ring)}; expected a list [x0, y0, x1, y1, ...]")
    try:
        flat = np.asarray(ring)
    except ValueError:  # lists of different lengths
        flat = np.zeros((0, 0))
    if flat.ndim != 1 or (len(flat) and flat.dtype.kind not in "iuf"):
        raise ValueError(f"{name} is {_short(ring)}; expected a flat list of numbers [x0, y0, x1, y1, ...]")
    if len(flat) % 2 or len(flat) < 6:
        raise ValueError(
            f"{name} has {len(flat)} numbers; expected x and y of three points or more: complete or remove it"
        )
    return flat.astype(np.float64)


def _integers(counts: object) -> NDArray[np.int64]:
    """Read a list of run lengths."""
    try:
        runs = np.asarray(counts) if isinstance(counts, list | tuple | np.ndarray) else np.zeros((0, 0))
    except ValueError:
        runs = np.zeros((0, 0))
    if runs.ndim != 1 or (len(runs) and runs.dtype.kind not in "iu") or runs.dtype == np.uint64:
        raise ValueError(
            f"a run-length code with counts {_short(counts)}; expected a list of whole numbers, or compressed text"
        )
    return runs.astype(np.int64)


def _decompressed(counts: str | bytes) -> NDArray[np.int64]:
    """Read the numbers of a compressed code: five bits a character, lowest first; the sixth means more follow."""
    text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    lengths = np.diff(last, prepend=-1)
    if (
        characters.min(initial=0) < 0
        or characters.max(initial=0) > 63
        or len(last) == 0
        or last[-1] != len(characters) - 1
        or lengths.max() > 7  # more than 35 bits
    ):
        raise ValueError(
            f"a run-length code with counts {_short(counts)}: not COCO's compressed text; export it again"
        )
    first = last - lengths + 1
    place = 5 * (np.arange(len(characters)) - np.repeat(first, lengths))
    sign = (characters[last] & 16) >> 4
    numbers: NDArray[np.int64] = np.add.reduceat((characters & 31) << place, first) - (sign << (5 * lengths))
    return numbers


def _run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Read a compressed code that is known to be right."""
    runs = _decompressed(counts)
    runs[1::2] = runs[1::2].cumsum()  # all but the first three are differences to the last but one
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _short(value: object) -> str:
    """Show the beginning of a value."""
    text = repr(value[:60] if isinstance(value, list | tuple | str | bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."


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


def _look_up(rle: Rle, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int64]:
    """Give the runs of a mask's pixels among those where rows and columns cross, without decoding any.

    [runs 2], first and one past the last, counted down the columns: pixel (i, j) has the number j * len(rows) + i.
    Rows must not fall. Two searches find each column's runs, and a third what of them lies in the rows.
    """
    height = rle["size"][0]
    borders = _run_lengths(rle["counts"]).cumsum()
    first, end = borders[: len(borders) // 2 * 2].reshape(-1, 2).T
    top = columns * height
    before = end.searchsorted(top, side="right")  # runs that end above the column
    count = first.searchsorted(top + height) - before
    run = np.arange(count.sum()) + np.repeat(before + count - count.cumsum(), count)
    column = np.repeat(np.arange(len(columns)), count)
    inside = np.stack([first[run], end[run]], axis=1) - top[column, None]
    runs: NDArray[np.int64] = rows.searchsorted(inside.clip(0, height)) + column[:, None] * len(rows)
    return runs[runs[:, 0] < runs[:, 1]]


def _fill(mask: NDArray[np.bool_], runs: NDArray[np.int64]) -> None:
    """Set the pixels of these runs, counted down the columns, in an empty mask [h w]."""
    if len(runs) == 0:
        return
    height = len(mask)
    left, right = runs[0, 0] // height, -(-runs[-1, 1] // height)
    lengths = np.diff(runs.ravel(), prepend=left * height, append=right * height)
    inside = np.arange(len(lengths)) % 2 == 1
    mask[:, left:right] = np.repeat(inside, lengths).reshape(right - left, height).T


def _crop(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Cut a window out of an array [h w]; what lies outside of it is zero."""
    top, left, height, width = window
    out = np.zeros((height, width), dtype=array.dtype)
    inside = array[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out
