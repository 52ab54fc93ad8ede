"""Categories and their colours."""

import colorsys
from itertools import pairwise

import pytest

from eomt.categories import Category, distinct_color


def test_a_category_is_read_by_name() -> None:
    category = Category("cell", is_thing=True, id=7, color=(1, 2, 3))
    assert (category.name, category.is_thing, category.id, category.color) == ("cell", True, 7, (1, 2, 3))


@pytest.mark.parametrize("count", [2, 20, 150])
def test_colors_are_distinct_and_in_range(count) -> None:
    colors = [distinct_color(index) for index in range(count)]
    assert len(set(colors)) == count
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_neighbours_are_far_apart_in_hue() -> None:
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in distinct_color(index)))[0] for index in range(50)]
    turns = [abs(a - b) for a, b in pairwise(hues)]
    assert min(min(turn, 1 - turn) for turn in turns) > 0.3
