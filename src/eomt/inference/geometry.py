"""Lay views on an image and bring what was seen in them back to its pixels: plan, split, stitch, enlarge.

One `Tiling` covers letterboxing ("contain", one padded view) and sliding windows ("cover"). What the maps mean
is left to `decode`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from eomt.errors import ConfigError, DataError
from eomt.timing import stage

__all__ = ["Enlargement", "Fit", "Tiling", "assemble", "plan", "split", "stitch"]

Fit = Literal["contain", "cover"]
Size = tuple[int, int]

MAX_VIEW_PIXELS = 2**25
"""Views of one image take at most so many pixels together: 81 of 640 x 640, an image 81 times as long as wide.
What a model of width 384 says about them takes 3 GB, and so do the semantic values of 24 classes."""

BLOCK = (96, 160)
"""Height and width of the blocks in which maps are enlarged: they fit the cache, and torch has enough to do."""


@dataclass(frozen=True)
class Tiling:
    """How views lie on an image after scaling. Sizes are (height, width), in pixels."""

    image: Size
    """The original image."""
    scaled: Size
    """The image after scaling, on which the views lie."""
    view: Size
    """What the model sees; a view that is larger than the scaled image is padded right and below."""
    corners: tuple[tuple[int, int], ...]
    """Top and left of each view on the scaled image."""

    def __len__(self) -> int:
        return len(self.corners)

    def windows(self) -> Iterator[tuple[slice, slice]]:
        """Give the rows and columns of the scaled image that each view shows."""
        (height, width), (view_height, view_width) = self.scaled, self.view
        for top, left in self.corners:
            yield slice(top, min(top + view_height, height)), slice(left, min(left + view_width, width))


def plan(image_size: Size, view_size: Size, fit: Fit, zoom: float | None = None) -> Tiling:
    """Choose how an image (height, width) is shown to a model that sees views of one size.

    `contain` scales until the image just fits: one view, padded right and below. `cover` scales until the image
    just fills the view in both directions; where it is longer, windows slide, with overlaps of one size. `zoom`,
    where it is given and not 0, is the scale instead.
    The arithmetic is that of the published scores (EoMT reference, sections 3.1 and 3.2), rounding included,
    with two exceptions: no side is scaled to less than one pixel, and the last window always ends with the image.
    Raises DataError for an image without pixels, and for one so narrow that its windows would fill the memory,
    and ConfigError where a single view would.
    """
    (height, width), (view_height, view_width) = image_size, view_size
    if min(height, width, view_height, view_width) < 1:
        raise DataError(
            f"an image of {height} x {width} pixels cannot be shown in views of {view_height} x {view_width}"
        )
    choose = {"contain": min, "cover": max}[fit]
    factor = zoom or choose(view_height / height, view_width / width)
    scaled = max(1, round(height * factor)), max(1, round(width * factor))
    counts = math.ceil(scaled[0] / view_height), math.ceil(scaled[1] / view_width)
    if counts[0] * counts[1] * view_height * view_width > MAX_VIEW_PIXELS:
        if counts == (1, 1):
            raise ConfigError(f"a view of {view_height} x {view_width} pixels: give a smaller --image-size")
        raise DataError(
            f"an image of {height} x {width} pixels would take {counts[0] * counts[1]} windows of "
            f"{view_height} x {view_width}; cut it into less narrow pieces"
        )
    corners = tuple(
        (top, left)
        for top in _starts(scaled[0], view_height, counts[0])
        for left in _starts(scaled[1], view_width, counts[1])
    )
    return Tiling(image_size, scaled, view_size, corners)


def _starts(side: int, view: int, count: int) -> list[int]:
    """Place `count` windows along one side of the scaled image."""
    if count == 1:
        return [0]
    overlap = (count * view - side) / (count - 1)
    starts = [int(index * (view - overlap)) for index in range(count)]  # truncates, as the scores were measured
    starts[-1] = (
        side - view
    )  # rounding errors put it one pixel short in 0.4 % of sizes, and nobody saw the last pixel
    return starts


@stage("preprocess")
def split(image: UInt8[Tensor, "3 h w"], tiling: Tiling) -> UInt8[Tensor, "v 3 H W"]:
    """Scale an image and cut the views out of it; padding is black. Runs on the CPU.

    Pillow's bilinear filter scales, as in the reference, to the bit; torchvision's antialiased one is a grey
    level off in places.
    """
    if tuple(image.shape[1:]) != tiling.image:
        raise ValueError(f"the tiling was planned for {tiling.image}, the image is {tuple(image.shape[1:])}")
    scaled = _scale(image, tiling.scaled)
    views = torch.zeros((len(tiling), 3, *tiling.view), dtype=torch.uint8)
    for view, (rows, columns) in zip(views, tiling.windows(), strict=True):
        shown = scaled[:, rows, columns]
        view[:, : shown.shape[1], : shown.shape[2]] = shown
    return views


def _scale(image: UInt8[Tensor, "3 h w"], size: Size) -> UInt8[Tensor, "3 sh sw"]:
    if tuple(image.shape[1:]) == size:
        return image.cpu()
    planes = [Image.fromarray(plane) for plane in image.cpu().numpy()]
    resized = [np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for plane in planes]
    return torch.from_numpy(np.stack(resized))


def assemble(view_maps: Float[Tensor, "v c H W"], tiling: Tiling) -> Float[Tensor, "c sh sw"]:
    """Lay maps of the views on the scaled image: padding is cut off, overlapping windows are averaged."""
    if len(tiling) == 1:
        rows, columns = next(tiling.windows())
        return view_maps[0, :, rows, columns]
    total = view_maps.new_zeros((view_maps.shape[1], *tiling.scaled))
    hits = view_maps.new_zeros(tiling.scaled)
    for maps, (rows, columns) in zip(view_maps, tiling.windows(), strict=True):
        total[:, rows, columns] += maps
        hits[rows, columns] += 1
    return total.div_(hits)


def stitch(view_maps: Float[Tensor, "v c H W"], tiling: Tiling) -> Float[Tensor, "c h w"]:
    """Bring maps of the views to the original pixels: `assemble`, then enlarge bilinearly.

    Holds all of the result; `Enlargement` gives the same block by block.
    """
    maps = assemble(view_maps, tiling)
    return torch.nn.functional.interpolate(maps[None], size=tiling.image, mode="bilinear")[0]


class Block(NamedTuple):
    """A part of the enlarged image: its rows and columns, and its number in the grid of blocks."""

    rows: slice
    columns: slice
    row: int
    column: int


class _Taps(NamedTuple):
    """One bilinear step along one axis: each output is a mean of two of the `source` cells."""

    source: slice
    low: Tensor
    high: Tensor
    low_weight: Tensor
    high_weight: Tensor


class Enlargement:
    """Bilinear enlargement through one or more sizes (half-pixel centres), any block of it at a time.

    A block comes out bit for bit as it would as part of the whole, on every device, because each value is
    computed from whole-image coordinates by the same separate multiplications and additions. Torch's own
    `interpolate` fuses them on some processors: it differs in the last bit, and cannot start in the middle.
    """

    def __init__(self, sizes: list[tuple[Size, Size]], device: torch.device) -> None:
        """Take the steps as pairs (from, to). A step may use less than the one before it gave: padding is cut."""
        self.size = sizes[-1][1]
        self._bands = [
            [_chain([(a[axis], b[axis]) for a, b in sizes], start, stop, device) for start, stop in cuts]
            for axis, cuts in enumerate(_cuts(side, block) for side, block in zip(self.size, BLOCK, strict=True))
        ]

    def blocks(self) -> Iterator[Block]:
        """Give all blocks, row by row."""
        rows, columns = (_cuts(side, block) for side, block in zip(self.size, BLOCK, strict=True))
        for row, (top, bottom) in enumerate(rows):
            for column, (left, right) in enumerate(columns):
                yield Block(slice(top, bottom), slice(left, right), row, column)

    def bounds(self, maps: Float[Tensor, "k lh lw"]) -> tuple[Float[Tensor, "k r c"], Float[Tensor, "k r c"]]:
        """Give numbers between which each enlarged map stays in each block of the grid (r rows, c columns).

        An enlarged value is a mean of its neighbours, so it lies between the least and the greatest of them; the
        bounds are that, a little wider because means are rounded.
        """
        rows, columns = ([band[0].source for band in axis] for axis in self._bands)
        low = torch.stack([maps[:, source].amin(1) for source in rows], 1)
        low = torch.stack([low[..., source].amin(-1) for source in columns], -1)
        high = torch.stack([maps[:, source].amax(1) for source in rows], 1)
        high = torch.stack([high[..., source].amax(-1) for source in columns], -1)
        slack = 1e-5 * torch.maximum(low.abs(), high.abs())
        return low - slack, high + slack

    def __call__(self, maps: Float[Tensor, "k lh lw"], block: Block) -> Float[Tensor, "k bh bw"]:
        """Enlarge maps inside one block."""
        rows, columns = self._bands[0][block.row], self._bands[1][block.column]
        maps = maps[:, rows[0].source, columns[0].source]
        for down, across in zip(rows, columns, strict=True):
            maps = _mix(_mix(maps, across, -1), down, -2)
        return maps


def _cuts(side: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, side)) for start in range(0, side, step)]


def _chain(sizes: list[tuple[int, int]], start: int, stop: int, device: torch.device) -> list[_Taps]:
    """Follow outputs `start` to `stop` back through all steps; the first step comes first."""
    chain: list[_Taps] = []
    for size, enlarged in reversed(sizes):
        chain.insert(0, _taps(size, enlarged, start, stop, device))
        start, stop = chain[0].source.start, chain[0].source.stop
    return chain


def _taps(size: int, enlarged: int, start: int, stop: int, device: torch.device) -> _Taps:
    """Compute the two neighbours and weights of outputs `start` to `stop` when `size` cells become `enlarged`."""
    ratio = np.float64(np.float32(size) / np.float32(enlarged))
    # Rounded once, to float32, as torch's CPU kernel does: far right, one rounding more shifts by 1e-4 cells.
    centers = (ratio * (np.arange(start, stop) + 0.5) - 0.5).astype(np.float32).clip(0)
    low = np.minimum(centers.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = (centers - low.astype(np.float32)).clip(0, 1)
    first, last = int(low[0]), int(high[-1])
    tensors = (torch.from_numpy(part).to(device) for part in (low - first, high - first, 1 - weight, weight))
    return _Taps(slice(first, last + 1), *tensors)


def _mix(maps: Tensor, taps: _Taps, axis: int) -> Tensor:
    """Apply one step along one axis."""
    if axis == -1:
        rows = _blend(
            maps.flatten(0, -2), taps, 1, (-1,)
        )  # torch picks columns faster from two axes than from more
        return rows.view(*maps.shape[:-1], len(taps.low))
    return _blend(maps, taps, -2, (-1, 1))


def _blend(maps: Tensor, taps: _Taps, axis: int, shape: tuple[int, ...]) -> Tensor:
    low = maps.index_select(axis, taps.low).mul_(taps.low_weight.view(shape))
    return maps.index_select(axis, taps.high).mul_(taps.high_weight.view(shape)).add_(low)
