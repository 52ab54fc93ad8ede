"""Compare what COCO's files say twice: the area and the box of an annotation, with its mask.

Exports differ in what they write, and mean well. As `area` they give the pixels, the area of the polygons, or that
of the box: each will do, within a tenth and as many pixels as the box is wide and high. A side of `bbox` may be
off from that of the mask, or of its polygons, by two pixels and a twentieth of the box's longer side.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

__all__ = ["Box", "boxes_of", "differences", "polygon_area"]

Length = int | float
Box = tuple[Length, Length, Length, Length]
"""Left, top, width and height, in pixels."""

_FAR = 1e9  # pixels
_AREA = 0.1
_SIDE, _PIXELS = 0.05, 2.0


def differences(
    claim: Mapping[str, Any], pixels: int, box: Box, polygons: Sequence[Sequence[Length]] = ()
) -> Iterator[str]:
    """Say what an annotation claims of its mask, by `area` and `bbox`, that is not so. It need not claim any."""
    area, given = claim.get("area"), claim.get("bbox")
    if area is not None and not _fits_area(area, pixels, box, polygons):
        yield f"area is {area!r:.60}, but its mask has {pixels} pixels"
    if given and not any(_fits_box(given, other) for other in (box, _extent(polygons)) if other):
        shown = ", ".join(f"{length:g}" for length in box)
        turned = _is_box(given) and _fits_box((*given[:2], given[2] - given[0], given[3] - given[1]), box)
        hint = " (width and height come last, not the other corner)" if turned else ""
        yield f"bbox is {given!r:.60}, but its mask lies in [{shown}]{hint}"


def polygon_area(ring: object) -> float:
    """Measure a polygon, [x0, y0, x1, y1, ...]: 0 for fewer than three points, NaN for what is none."""
    if not isinstance(ring, list) or len(ring) % 2 or not all(_is_number(n) and abs(n) < _FAR for n in ring):
        return math.nan
    x, y = (axis - axis[:1] for axis in np.array(ring, dtype=np.float64).reshape(-1, 2).T)
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2) if len(x) > 2 else 0.0


def boxes_of(ids: Integer[np.ndarray, "h w"]) -> dict[int, tuple[int, Box]]:
    """Give the pixels and the box of each number in a map."""
    order = np.argsort(ids, axis=None, kind="stable")  # row by row for each number
    sorted_ids = ids.ravel()[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[0] - 1))
    ends = np.append(starts[1:], len(order))
    rows, columns = np.divmod(order, ids.shape[1])
    lefts, rights = np.minimum.reduceat(columns, starts), np.maximum.reduceat(columns, starts)
    tops, bottoms = rows[starts], rows[ends - 1]
    table = np.stack([sorted_ids[starts], ends - starts, lefts, tops, rights - lefts + 1, bottoms - tops + 1], 1)
    return {id: (pixels, (left, top, width, height)) for id, pixels, left, top, width, height in table.tolist()}


def _fits_area(area: Any, pixels: int, box: Box, polygons: Sequence[Sequence[Length]]) -> bool:
    if not _is_number(area):
        return False
    slack = box[2] + box[3]
    measured = (pixels, sum(map(polygon_area, polygons)), box[2] * box[3])
    return not math.isfinite(area) or any(
        abs(area - other) <= _AREA * other + slack for other in measured if other
    )


def _fits_box(given: Any, box: Box) -> bool:
    if not _is_box(given):
        return False
    slack = _PIXELS + _SIDE * max(box[2], box[3])
    edges = zip(_edges(given), _edges(box), strict=True)
    return not all(map(math.isfinite, given)) or all(abs(one - other) <= slack for one, other in edges)


def _edges(box: Sequence[Length]) -> Box:
    left, top, width, height = box
    return left, top, left + width, top + height


def _extent(polygons: Sequence[Sequence[Length]]) -> Box | None:
    """Give the box of polygons, which may leave the image."""
    if not polygons:
        return None
    points = np.concatenate([np.asarray(ring, dtype=np.float64) for ring in polygons]).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right - left, bottom - top


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
