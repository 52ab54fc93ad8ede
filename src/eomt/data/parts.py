"""From the numbers of a mask to segments: pixels whose numbers mean the same part of the picture are one segment.

What a number means is the reader's to say; decoding the file is left to `images`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray

from eomt.data.problems import each
from eomt.masks import IdMap
from eomt.types import Segments

__all__ = ["Part", "distinct", "require_size", "segments_of"]


class Part(NamedTuple):
    """What a pixel belongs to. Equal parts are one segment, wherever they lie."""

    label: int
    number: int = 0
    """Tells the objects of one label apart; 0 for stuff, crowds and whole classes."""
    is_crowd: bool = False


def segments_of(values: Integer[np.ndarray, "h w"], part_of: Callable[[int], Part | None]) -> Segments:
    """Make segments of a map of numbers, in rising order of the first number of each; None stands for void.

    `part_of` is asked once for each number that occurs. Where it raises ValueError, the place of the first such
    pixel is put in front of its message.
    """
    numbers, positions = distinct(values)
    segments: dict[Part, int] = {}
    ids = np.zeros(len(numbers), dtype=np.int32)
    for index, number in enumerate(numbers.tolist()):
        with each():
            try:
                part = part_of(number)
            except ValueError as error:
                y, x = np.argwhere(positions == index)[0]
                raise ValueError(f"at x {x}, y {y}: {error}") from error
            if part is not None:
                ids[index] = segments.setdefault(part, len(segments) + 1)
    return Segments(
        IdMap(ids[positions], len(segments)),
        torch.tensor([part.label for part in segments], dtype=torch.int64),
        torch.tensor([part.is_crowd for part in segments], dtype=torch.bool),
    )


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
