"""From the numbers of a mask to segments: pixels whose numbers mean the same part of the picture are one segment.

What a number means is the reader's to say; decoding the file is left to `images`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray

from eomt.data.problems import each, tell
from eomt.masks import IdMap
from eomt.types import Segments

__all__ = ["Part", "distinct", "require_size", "segments_of"]

_MOST = 10
"""Numbers of one map that are told where faults are collected: one that was smoothed has a hundred thousand."""


class Part(NamedTuple):
    """What a pixel belongs to. Equal parts are one segment, wherever they lie."""

    label: int
    number: int = 0
    """Tells the objects of one label apart; 0 for stuff, crowds and whole classes."""
    is_crowd: bool = False


def segments_of(values: Integer[np.ndarray, "h w"], part_of: Callable[[int], Part | None]) -> Segments:
    """Make segments of a map of numbers, in rising order of the first number of each; None stands for void.

    `part_of` is asked once for each number that occurs. Where it raises ValueError, the place of the first such
    pixel is put in front of its message; where faults are collected, the first few are told, the others counted.
    """
    numbers, positions = distinct(values)
    segments: dict[Part, int] = {}
    ids = np.zeros(len(numbers), dtype=np.int32)
    wrong = 0
    for index, number in enumerate(numbers.tolist()):
        try:
            part = part_of(number)
        except ValueError as error:
            wrong += 1
            if wrong <= _MOST:
                _tell_place(positions == index, error)
            continue
        if part is not None:
            ids[index] = segments.setdefault(part, len(segments) + 1)
    if wrong > _MOST:
        tell(ValueError(f"{wrong - _MOST} more of its numbers mean nothing: was it smoothed, or saved with loss?"))
    return Segments(
        IdMap(ids[positions], len(segments)),
        torch.tensor([part.label for part in segments], dtype=torch.int64),
        torch.tensor([part.is_crowd for part in segments], dtype=torch.bool),
    )


def _tell_place(pixels: NDArray[np.bool_], error: ValueError) -> None:
    """Raise what is wrong with a number, with its first pixel, or tell it."""
    with each():
        y, x = divmod(int(pixels.argmax()), pixels.shape[1])
        raise ValueError(f"at x {x}, y {y}: {error}") from error


def distinct(values: Integer[np.ndarray, "h w"]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the numbers that occur in a map, rising, and for each pixel the place of its number among them."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # masks are runs: few to sort
    numbers, places = np.unique(flat[starts], return_inverse=True)
    positions = np.repeat(places, np.diff(starts, append=len(flat)))
    return numbers.astype(np.int64), positions.reshape(values.shape)


def require_size(mask: Integer[np.ndarray, "h w"], size: tuple[int, int], what: str = "the mask") -> None:
    """Raise ValueError where a mask has not its image's upright height and width."""
    if mask.shape != size:
        (mask_height, mask_width), (height, width) = mask.shape, size
        raise ValueError(
            f"{what} is {mask_width} x {mask_height}, its image upright {width} x {height}; export the mask at "
            "the image's size (and turn it as the image's EXIF orientation says)"
        )
