"""Shapes become segments: those of one group are one, and what is ignored hides what was drawn before it."""

import numpy as np
import pytest

from eomt.data.readers.shapes import VOID, Drawn, is_speck, joined
from eomt.masks import decode_rle, encode_rle, without

SIZE = 40, 60


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def test_voids_hide_what_was_drawn_before_them():
    """Against the same, pixel by pixel, on random boxes."""
    random = np.random.default_rng(0)
    for _ in range(30):
        drawn = []
        for _ in range(12):
            top, left, height, width = random.integers(0, (30, 50, 20, 30))
            group = [None, 1, 2][random.integers(3)]
            label = [VOID, 0, 1, 1][random.integers(4)]
            drawn.append((label, group, box(top, left, top + height + 1, left + width + 1)))
        wanted: dict[object, np.ndarray] = {}
        for index, (label, group, mask) in enumerate(drawn):
            if label == VOID:
                wanted = {key: some & ~mask for key, some in wanted.items()}
            else:
                key = (label, index if group is None else f"group {group}")
                wanted[key] = wanted.get(key, False) | mask
        wanted = {key: some for key, some in wanted.items() if some.any()}
        found = joined((Drawn(label, group, encode_rle(mask)) for label, group, mask in drawn), SIZE)
        assert found.labels.tolist() == [label for label, _ in wanted]
        for index, mask in enumerate(wanted.values()):
            np.testing.assert_array_equal(found.masks.mask(index), mask)


@pytest.mark.parametrize("hidden", [box(0, 0, 40, 60), box(0, 0, 0, 0), box(0, 0, 3, 9), box(30, 50, 40, 60)])
def test_a_mask_without_another(hidden):
    mask = box(2, 5, 35, 55)
    np.testing.assert_array_equal(decode_rle(without(encode_rle(mask), encode_rle(hidden))), mask & ~hidden)


@pytest.mark.parametrize(
    ("ring", "speck"),
    [
        ([5.1, 5.1, 5.2, 5.1, 5.2, 5.2], True),
        ([5, 5, 5, 9, 5, 7], True),  # a line
        ([300.2, 5, 300.4, 5, 300.4, 50, 300.2, 50], True),  # thin
        ([5, 5, 8, 5, 8, 8, 5, 8], False),
        ([5, 5, 5, 5], False),  # no polygon, for others to tell
        ([5, 5, "6", 5, 6, 6], False),
        ([5, 5, float("nan"), 5, 6, 6], False),
        ([5, 5, 10**400, 5, 6, 6], False),  # no float is so large
        ([5, 5, True, 5, 6, 6], False),
    ],
)
def test_specks(ring, speck):
    assert is_speck(ring) == speck
