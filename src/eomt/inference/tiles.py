"""See a large image in overlapping tiles at one magnification, and join what was found in them.

A tile is a part of the image that is treated as an image of its own: how it fits the view is left to `geometry`,
what is in it to `decode`. Two segments of two tiles are one where the tiles overlap and both show the same there.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.config import Thresholds
from eomt.errors import ConfigError
from eomt.masks import IdMap, Rle, RleMasks, Window, placed_rle
from eomt.timing import stage
from eomt.types import Prediction

__all__ = ["join", "lay"]

OVERLAP = 0.25
"""Least share of a tile's side that it has in common with the next; what is smaller is whole in one of them."""

AGREEMENT = 0.5
"""Least intersection over union, where two tiles overlap, of segments that are taken for one."""

LOOKUPS = 128
"""Rows and columns at most at which segments are compared where two tiles overlap."""


def lay(image_size: tuple[int, int], view_size: tuple[int, int], zoom: float) -> list[Window]:
    """Cover an image (height, width) with tiles that fill a view at `zoom` view pixels for each image pixel.

    They come row by row. An image that is no larger than a tile is one by itself. Raises ConfigError for a zoom at
    which a view shows less than 8 pixels of the image.
    """
    sides = [int(view / zoom) if zoom > 0 else 0 for view in view_size]
    if min(sides) < 8:
        raise ConfigError(
            f"zoom {zoom:g}: a view of {view_size[0]} x {view_size[1]} pixels would show less than 8 pixels "
            "of the image's sides; choose a smaller number above 0"
        )
    rows, columns = (_spans(length, side) for length, side in zip(image_size, sides, strict=True))
    return [(top, left, height, width) for top, height in rows for left, width in columns]


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """Place tiles along one side of the image: start and length of each, evenly spaced."""
    if length <= side:
        return [(0, length)]
    gaps = -(-(length - side) // max(1, int(side * (1 - OVERLAP))))
    return [(round(number * (length - side) / gaps), side) for number in range(gaps + 1)]


@stage("decode")
def join(
    tiles: Sequence[Prediction],
    windows: Sequence[Window],
    size: tuple[int, int],
    thresholds: Thresholds,
    objects: bool = True,
) -> Prediction:
    """Make one prediction for an image (height, width) of those for its tiles, which lie at `windows` in it.

    Things of one class are joined where two tiles agree; all stuff of a class becomes one segment, and without
    `objects` all things of one too. Each pixel of a segment is decided by that tile, of those which know the
    segment, in which it lies deepest; in a map, by the deepest that says anything of the pixel. A segment of one
    tile only that lies mostly where another sees better is dropped: most are cut off by the tile's border. Scores
    are means, weighted by pixels. Where masks may overlap, the `thresholds.max_detections` best segments come in
    order of falling score.
    """
    if len(tiles) == 1:
        return tiles[0]
    cores = _cores(windows, size)
    inner = [_inside(core, window) for core, window in zip(cores, windows, strict=True)]
    pieces = [
        _Piece(number, index, int(label), float(score))
        for number, tile in enumerate(tiles)
        for index, (label, score) in enumerate(zip(tile.labels, tile.scores, strict=True))
    ]
    categories = tiles[0].categories
    apart = {label for label, category in enumerate(categories) if objects and category.is_thing}
    groups = [group for group in _grouped(tiles, windows, pieces, apart) if not _is_stray(group, tiles, inner)]
    if all(isinstance(tile.masks, IdMap) for tile in tiles):
        return _joined_maps(tiles, windows, inner, groups, size)
    return _joined_masks(tiles, windows, cores, groups, size, thresholds.max_detections)


class _Piece(NamedTuple):
    """A segment of one tile."""

    tile: int
    place: int
    label: int
    score: float


Group = list[_Piece]
"""The pieces that are one segment of the image."""

Part = tuple[slice, slice]
"""Rows and columns."""


def _cores(windows: Sequence[Window], size: tuple[int, int]) -> list[Window]:
    """Share the image among the tiles: each has the pixels that lie deeper in it than in its neighbours."""

    def cut(spans: list[tuple[int, int]], length: int) -> dict[int, tuple[int, int]]:
        starts = [start for start, _ in spans]
        borders = [(start + side + after) // 2 for (start, side), after in zip(spans, starts[1:], strict=False)]
        return dict(zip(starts, zip([0, *borders], [*borders, length], strict=True), strict=True))

    rows = cut(sorted({(top, height) for top, _, height, _ in windows}), size[0])
    columns = cut(sorted({(left, width) for _, left, _, width in windows}), size[1])
    ends = [(rows[top], columns[left]) for top, left, _, _ in windows]
    return [(top, left, bottom - top, right - left) for (top, bottom), (left, right) in ends]


def _grouped(
    tiles: Sequence[Prediction], windows: Sequence[Window], pieces: Sequence[_Piece], apart: set[int]
) -> list[Group]:
    """Say which pieces are one segment: the pairs that agree best first, and never two pieces of one tile."""
    groups: dict[_Piece, Group] = {piece: [piece] for piece in pieces}
    by_place = {(piece.tile, piece.place): piece for piece in pieces}
    for _, *pair in sorted(_agreements(tiles, windows, apart), key=lambda found: -found[0]):
        one, other = (groups[by_place[place]] for place in pair)
        if not {piece.tile for piece in one} & {piece.tile for piece in other}:
            one += other
            groups |= dict.fromkeys(other, one)
    whole: dict[int, Group] = {}
    for piece in pieces:
        if piece.label not in apart:
            groups[piece] = whole.setdefault(piece.label, [])
            groups[piece].append(piece)
    return list({id(group): group for group in groups.values()}.values())


def _agreements(
    tiles: Sequence[Prediction], windows: Sequence[Window], apart: set[int]
) -> Iterator[tuple[float, tuple[int, int], tuple[int, int]]]:
    """Give the pairs of pieces, (tile, index), that agree where their tiles overlap, and how well they do."""
    for one, other in combinations(range(len(tiles)), 2):
        shared = _intersection(windows[one], windows[other])
        if shared is None:
            continue
        seen = [_shown(tiles[number], windows[number], shared, apart) for number in (one, other)]
        (masks, indices), (others, other_indices) = seen
        common = masks @ others.T
        union = masks.sum(1)[:, None] + others.sum(1) - common
        same = tiles[one].labels[indices][:, None] == tiles[other].labels[other_indices]
        agreement = np.where(same, common / np.maximum(union, 1), 0.0)
        for row, column in np.argwhere(agreement >= AGREEMENT).tolist():
            yield float(agreement[row, column]), (one, indices[row]), (other, other_indices[column])


def _shown(
    tile: Prediction, window: Window, shared: Window, apart: set[int]
) -> tuple[NDArray[np.float32], list[int]]:
    """Look up what a tile shows in a part of the image: masks [k points] of segments, and which these are."""
    (top, left, _, _), (y, x, height, width) = window, shared
    rows, columns = (np.unique(np.linspace(0, side - 1, LOOKUPS).astype(np.intp)) for side in (height, width))
    masks, seen = tile.masks.sample(rows + y - top, columns + x - left)
    kept = [place for place, index in enumerate(seen) if int(tile.labels[index]) in apart]
    return masks[kept].reshape(len(kept), len(rows) * len(columns)).astype(np.float32), [
        seen[place] for place in kept
    ]


def _intersection(one: Window, other: Window) -> Window | None:
    """Give the part that two windows have in common, if any."""
    top, left = max(one[0], other[0]), max(one[1], other[1])
    bottom, right = min(one[0] + one[2], other[0] + other[2]), min(one[1] + one[3], other[1] + other[3])
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def _inside(window: Window, frame: Window) -> Part:
    """Give rows and columns of a window, both of one image, within another one."""
    top, left = window[0] - frame[0], window[1] - frame[1]
    return slice(top, top + window[2]), slice(left, left + window[3])


def _is_stray(group: Group, tiles: Sequence[Prediction], cores: Sequence[Part]) -> bool:
    """Tell whether a segment is known to one tile only, and lies mostly outside of its core."""
    if len({piece.tile for piece in group}) > 1:
        return False
    own = whole = 0
    for piece in group:
        mask = tiles[piece.tile].masks.mask(piece.place)
        own += int(np.count_nonzero(mask[cores[piece.tile]]))
        whole += int(np.count_nonzero(mask))
    return 2 * own < whole


def _joined_masks(
    tiles: Sequence[Prediction],
    windows: Sequence[Window],
    cores: Sequence[Window],
    groups: Sequence[Group],
    size: tuple[int, int],
    most: int,
) -> Prediction:
    """Join masks that may overlap, and keep the best."""
    found: list[tuple[float, int, Rle]] = []
    for group in groups:
        tops, lefts, heights, widths = np.array([windows[piece.tile] for piece in group]).T
        top, left = int(tops.min()), int(lefts.min())
        frame = (top, left, int((tops + heights).max()) - top, int((lefts + widths).max()) - left)
        whole, areas = np.zeros(frame[2:], dtype=np.bool_), []
        for piece in group:
            window = windows[piece.tile]
            mask = tiles[piece.tile].masks.mask(piece.place).copy()
            for better in group:
                shared = _intersection(cores[better.tile], window)
                if better is not piece and shared is not None:
                    mask[_inside(shared, window)] = False
            areas.append(np.count_nonzero(mask))
            whole[_inside(window, frame)] |= mask
        if any(areas):
            score = float(np.average([piece.score for piece in group], weights=areas))
            found.append((score, group[0].label, placed_rle(whole, (top, left), size)))
    found = sorted(found, key=lambda each: -each[0])[:most]
    return Prediction(
        RleMasks(size, tuple(rle for _, _, rle in found)),
        np.array([label for _, label, _ in found], dtype=np.int64),
        np.array([score for score, _, _ in found], dtype=np.float64),
        tiles[0].categories,
    )


def _joined_maps(
    tiles: Sequence[Prediction],
    windows: Sequence[Window],
    cores: Sequence[Part],
    groups: Sequence[Group],
    size: tuple[int, int],
) -> Prediction:
    """Join disjoint masks: a pixel is what that tile says in whose core it lies, or else what any other says."""
    ids = np.zeros(size, dtype=np.int32)
    tables = [np.zeros(len(tile) + 1, dtype=np.int32) for tile in tiles]
    for number, group in enumerate(groups, 1):
        for piece in group:
            tables[piece.tile][piece.place + 1] = number
    areas = []
    for tile, (top, left, _, _), (rows, columns), table in zip(tiles, windows, cores, tables, strict=True):
        assert isinstance(tile.masks, IdMap)
        inside = tile.masks.ids[rows, columns]
        areas.append(np.bincount(inside.ravel(), minlength=len(table)))
        place = slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)
        ids[place] = table[inside]
    for tile, (top, left, height, width), table in zip(tiles, windows, tables, strict=True):
        assert isinstance(tile.masks, IdMap)
        shown = ids[top : top + height, left : left + width]
        np.copyto(shown, table[tile.masks.ids], where=shown == 0)

    weights = [[int(areas[piece.tile][piece.place + 1]) for piece in group] for group in groups]
    present = [number for number, pixels in enumerate(weights) if any(pixels)]
    return Prediction(
        IdMap(ids, len(groups)).select(present),
        np.array([groups[number][0].label for number in present], dtype=np.int64),
        np.array([np.average([piece.score for piece in groups[n]], weights=weights[n]) for n in present]),
        tiles[0].categories,
    )
