"""What labelling tools write, made into segments: numbers checked, shapes joined.

Shared by the readers of labelling tools' exports. What a shape means, and where it stands, is left to them;
rasterising to `masks`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eomt.data.archive import Archive
from eomt.data.finite_json import require_finite
from eomt.data.problems import strict
from eomt.masks import (
    Rle,
    RleMasks,
    bounding_box,
    encode_rle,
    joined_rle,
    rle_of_counts,
    rle_of_polygons,
    without,
)
from eomt.types import Segments

__all__ = [
    "COCO_FILES",
    "VOID",
    "Drawn",
    "check_size",
    "ellipse",
    "group_key",
    "has_pixels",
    "is_speck",
    "joined",
    "looked_at",
    "number",
    "numbers",
    "pasted",
    "require_pixels",
    "run_lengths",
    "union",
]

VOID = -1
"""The label of a shape that takes its pixels away from the segments drawn before it."""
COCO_FILES = ("instances_", "panoptic_", "stuff_", "captions_", "person_keypoints_")
"""How COCO's JSON files begin: very large ones, not worth a look for the files of another tool."""
_MARGIN = 0.1
"""How far a coordinate may lie outside of an image, as a share of its side, where faults are collected."""
_LOOKED_AT = 100  # files, to tell what kind they are, and ...
_MAX_LOOKED_AT = 64 << 20  # ... the bytes after which no further one is read
_FAR = 1e9  # pixels: no image reaches so far, and whole numbers of JSON may be too large for a float
_SPECK = 40  # numbers: a polygon of more corners has pixels
_CORNERS = 180  # of the polygon that stands for an ellipse: off by less than a pixel up to a radius of 6000


class Drawn(NamedTuple):
    """One shape: its label (an index or VOID), what joins it with others to one segment, and its pixels."""

    label: int
    group: int | str | None
    mask: Rle


def joined(shapes: Iterable[Drawn], size: tuple[int, int]) -> Segments:
    """Make segments of shapes: those of one label and group are one. They lie on each other in the order drawn.

    A segment of several shapes has the place of its first one. What has no pixels, or no more, is left out.
    """
    visible: list[tuple[tuple[int, bool, int | str], Rle]] = []
    voids: list[Rle] = []
    for index, (label, group, mask) in reversed(list(enumerate(shapes))):
        if label == VOID:
            voids.append(mask)
            continue
        for void in voids:  # that were drawn later
            if _meet(bounding_box(mask), bounding_box(void)):
                mask = without(mask, void)
        visible.append(((label, group is None, index if group is None else group), mask))
    parts: dict[tuple[int, bool, int | str], list[Rle]] = {}
    for key, mask in reversed(visible):
        parts.setdefault(key, []).append(mask)
    rles = {key: some[0] if len(some) == 1 else joined_rle(some) for key, some in parts.items()}
    found = {key: rle for key, rle in rles.items() if has_pixels(rle)}
    labels = torch.tensor([label for label, _, _ in found], dtype=torch.int64)
    return Segments(RleMasks(size, tuple(found.values())), labels, torch.zeros(len(found), dtype=torch.bool))


def _meet(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Tell whether two boxes (left, top, width, height) share a pixel."""
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1)
    )


def has_pixels(rle: Rle) -> bool:
    """Tell whether a mask has any pixel."""
    return bounding_box(rle)[2] > 0


def is_speck(ring: Sequence[object]) -> bool:
    """Tell whether a polygon is so small that it has no pixels, wherever it lies. What is no polygon is none."""
    if len(ring) > _SPECK or len(ring) < 6 or len(ring) % 2:
        return False
    if not all(isinstance(n, int | float) and type(n) is not bool and abs(n) <= _FAR for n in ring):
        return False
    x, y = np.array(ring, dtype=np.float64).reshape(-1, 2).T
    if not min(np.ptp(x), np.ptp(y)) < 1 or not max(np.ptp(x), np.ptp(y)) < 10_000:
        return False
    x, y = x - np.floor(x.min()), y - np.floor(y.min())
    size = int(y.max()) + 2, int(x.max()) + 2
    return not has_pixels(rle_of_polygons([np.stack([x, y], axis=1).ravel().tolist()], size))


def union(rings: object, size: tuple[int, int]) -> Rle:
    """Rasterise the union of polygons as `masks.rle_of_polygons` does.

    Where faults are collected, polygons that leave the image, or have no pixels, are faults, too.
    """
    rle = rle_of_polygons(rings, size)
    if strict():
        height, width = size
        points = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings])  # type: ignore
        outside = np.maximum(-points, points - (width, height)) / (width, height)
        if outside.max() > _MARGIN:
            x, y = points[outside.max(1).argmax()]
            raise ValueError(
                f"a polygon goes to x {x:g}, y {y:g}, outside of its image of {width} x {height}; correct it, or "
                "check that it belongs to this image"
            )
        require_pixels(rle)
    return rle


def run_lengths(counts: object, rle_size: object, size: tuple[int, int]) -> Rle:
    """Check a run-length code as `masks.rle_of_counts` does; where faults are collected, it must have pixels."""
    rle = rle_of_counts(counts, rle_size, size)
    require_pixels(rle)
    return rle


def require_pixels(rle: Rle) -> None:
    """Raise ValueError for a mask without pixels, where faults are collected. Reading keeps it."""
    if strict() and not has_pixels(rle):
        raise ValueError("its mask has no pixels; draw it again, or remove it")


def pasted(patch: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> Rle:
    """Encode a mask [h w] that covers a part of an image; what lies outside of the image is cut off."""
    mask = np.zeros(size, dtype=np.bool_)
    inside = patch[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    top, left = max(top, 0), max(left, 0)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return encode_rle(mask)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> list[float]:
    """Give an ellipse, turned clockwise on the screen, as a flat ring [x0, y0, x1, y1, ...]."""
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ring = np.stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos], axis=1)
    flat: list[float] = ring.ravel().tolist()
    return flat


def looked_at(archive: Archive, names: Sequence[str]) -> Iterator[bytes]:
    """Read some files, from the first to the last and not too many bytes, to tell what kind they are."""
    total = 0
    for name in names[:: -(-len(names) // _LOOKED_AT) or 1]:
        content = archive.read(name)
        yield content
        total += len(content)
        if total > _MAX_LOOKED_AT:
            return


def number(value: object, field: str) -> float:
    """Check a number from JSON. Raises ValueError naming the field."""
    require_finite(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FAR:
        raise ValueError(f'"{field}" is {value!r:.60}; expected a finite number, in pixels or percent')
    return float(value)


def numbers(text: str, field: str, separator: str = ",") -> list[float]:
    """Parse numbers from text. Raises ValueError naming the field."""
    try:
        found = [float(part) for part in text.split(separator)]
    except ValueError:
        found = [math.nan]
    if not all(abs(value) <= _FAR for value in found):
        raise ValueError(f'"{field}" is {text!r:.60}; expected finite numbers with {separator!r} between them')
    return found


def group_key(value: object, field: str) -> int | str | None:
    """Check what joins shapes to one segment: a whole number or text, or nothing. Raises ValueError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise ValueError(f'"{field}" is {value!r:.60}; expected a whole number or nothing')
    return value


def check_size(written: tuple[object, object], size: tuple[int, int], fields: str) -> None:
    """Check the width and height that an annotation file gives; nothing is no claim. Raises ValueError."""
    height, width = size
    if any(given is not None and given != real for given, real in zip(written, (width, height), strict=True)):
        raise ValueError(
            f"{fields} are {written[0]!r:.20} and {written[1]!r:.20}, but the image is upright "
            f"{width} x {height}; put the image there that was annotated, or annotate this one"
        )
