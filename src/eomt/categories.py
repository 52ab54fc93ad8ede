"""What a segment can be: named categories, things and stuff, with a colour each. Free of torch."""

import colorsys
from typing import NamedTuple

__all__ = ["Category", "distinct_color"]


def distinct_color(index: int) -> tuple[int, int, int]:
    """Give the colour (RGB, 0-255) of the `index`-th category: neighbours in number are far apart in hue."""
    hue = (index * 0.618034) % 1.0  # golden ratio: any prefix of the sequence is spread evenly
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.2 * (index // 2 % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


class Category(NamedTuple):
    """A class of segments. Its index in the tuple of categories is its label.

    `id` is the number that the data set's own files use (COCO skips some); `color` is RGB, 0-255.
    """

    name: str
    is_thing: bool
    id: int
    color: tuple[int, int, int]
