"""Numbers that mean the same part of a picture become one segment; what means nothing is told with its place."""

import numpy as np
import pytest

from eomt.data.parts import Part, distinct, require_size, segments_of
from eomt.data.problems import collecting

MEANING = {0: None, 3: Part(1), 4: Part(1), 70000: Part(0, number=7), 70001: Part(0, number=8, is_crowd=True)}


def test_equal_parts_are_one_segment():
    values = np.array([[3, 3, 0], [70001, 4, 70000]], dtype=np.int32)
    segments = segments_of(values, MEANING.__getitem__)
    assert segments.masks.ids.tolist() == [[1, 1, 0], [3, 1, 2]]
    assert segments.labels.tolist() == [1, 0, 0]
    assert segments.is_crowd.tolist() == [False, False, True]


def test_nothing_but_void():
    segments = segments_of(np.zeros((2, 2), np.uint8), MEANING.__getitem__)
    assert len(segments) == 0
    assert segments.masks.size == (2, 2)


def test_the_first_pixel_that_means_nothing_is_named():
    def part_of(value: int) -> Part:
        if value == 9:
            raise ValueError("value 9 is no class")
        return Part(0)

    with pytest.raises(ValueError, match=r"^at x 2, y 1: value 9 is no class"):
        segments_of(np.array([[1, 1, 1], [2, 1, 9], [9, 9, 9]], np.uint8), part_of)


def test_of_many_numbers_that_mean_nothing_few_are_told_and_the_others_counted():
    def part_of(value: int) -> Part:
        if value % 2:
            raise ValueError(f"value {value} is no class")
        return Part(0)

    values = np.arange(2**18).reshape(512, 512)  # each of them compared with all pixels: minutes
    with collecting() as problems:
        segments = segments_of(values, part_of)
    assert segments.masks.areas().tolist() == [2**17]
    assert str(problems[9]) == "at x 19, y 0: value 19 is no class"
    assert str(problems[10]).startswith(f"{2**17 - 10} more of its numbers mean nothing")
    assert len(problems) == 11


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_distinct(dtype):
    values = np.random.default_rng(0).integers(0, 9, (5, 7)).astype(dtype)
    numbers, positions = distinct(values)
    assert numbers.tolist() == np.unique(values).tolist()
    np.testing.assert_array_equal(numbers[positions], values)


def test_sizes_must_agree():
    require_size(np.zeros((2, 3), np.uint8), (2, 3))
    with pytest.raises(ValueError, match="the mask is 3 x 2, its image upright 2 x 3"):
        require_size(np.zeros((2, 3), np.uint8), (3, 2))
