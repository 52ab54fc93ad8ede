"""The codec of masks against dense masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eomt.masks import IdMap, RleMasks, decode_rle, encode_rle, trace_polygons

sides = st.integers(1, 12)
dense = st.tuples(st.integers(0, 4), sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))


def disjoint(masks: np.ndarray) -> tuple[IdMap, np.ndarray]:
    """Give every pixel to the last mask that covers it."""
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for index, mask in enumerate(masks):
        ids[mask] = index + 1
    return IdMap(ids, len(masks)), np.stack([ids == i + 1 for i in range(len(masks))]) if len(masks) else masks


@settings(max_examples=60, deadline=None)
@given(masks=dense, data=st.data())
def test_both_codes_say_what_the_dense_masks_say(masks, data) -> None:
    size = masks.shape[1:]
    id_map, apart = disjoint(masks)
    window = tuple(data.draw(st.integers(low, 14)) for low in (-14, -14, 1, 1))
    chosen = data.draw(st.permutations(range(len(masks)))) if len(masks) else []
    chosen = chosen[: data.draw(st.integers(0, len(masks)))]
    for code, expected in ((RleMasks.encode(masks, size), masks), (id_map, apart)):
        assert code.size == size
        assert len(code) == len(expected)
        assert code.areas().tolist() == expected.sum((1, 2)).tolist()
        for index, mask in enumerate(expected):
            np.testing.assert_array_equal(code.mask(index), mask)
            np.testing.assert_array_equal(decode_rle(code.rle(index)), mask)
        picked = code.select(chosen)
        assert len(picked) == len(chosen)
        for index, source in enumerate(chosen):
            np.testing.assert_array_equal(picked.mask(index), expected[source])
        np.testing.assert_array_equal(code.crop(window), crop(expected, window))


def crop(masks: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """Look up every pixel of a window; outside the image there is nothing."""
    top, left, height, width = window
    out = np.zeros((len(masks), height, width), dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            if 0 <= top + y < masks.shape[1] and 0 <= left + x < masks.shape[2]:
                out[:, y, x] = masks[:, top + y, left + x]
    return out


@pytest.mark.parametrize("window", [(5, 0, 2, 2), (-3, 0, 2, 2), (0, 9, 2, 2), (0, -2, 2, 2)])
def test_windows_outside_the_image_are_empty(window) -> None:
    full = np.ones((3, 4), dtype=np.bool_)
    for code in (IdMap(full.astype(np.int32), 1), RleMasks.encode([full], (3, 4))):
        np.testing.assert_array_equal(code.crop(window), np.zeros((1, 2, 2), dtype=np.bool_))


def test_negative_indices_count_from_the_end() -> None:
    ids = IdMap(np.array([[0, 1, 2, 3]], dtype=np.int32), 3)
    rles = RleMasks.encode([ids.mask(i) for i in range(3)], (1, 4))
    for code in (ids, rles):
        np.testing.assert_array_equal(code.mask(-1), [[False, False, False, True]])
        last, first = code.select([-1, 0]).crop((0, 0, 1, 4))
        assert last.tolist() == [[False, False, False, True]]
        assert first.tolist() == [[False, True, False, False]]
        with pytest.raises(IndexError):
            code.select([3])


def test_run_length_codes_are_those_of_coco() -> None:
    from pycocotools import mask as reference

    rng = np.random.default_rng(0)
    mask = rng.random((37, 53)) < 0.3
    for view in (mask, mask.T, mask[::2, ::-1], np.asfortranarray(mask)):
        assert encode_rle(view) == reference.encode(np.asfortranarray(view.astype(np.uint8)))


@pytest.mark.parametrize(
    ("rows", "rings"),
    [
        (["...", "..."], []),
        ([".#.", "..."], [[[1, 0], [2, 0], [2, 1], [1, 1]]]),  # one pixel: its four corners, clockwise
        (["##", "#."], [[[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]]),
        (["#.", ".#"], [[[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]]),  # touch at a corner
        ([".#", "#."], [[[1, 0], [2, 0], [2, 1], [1, 1]], [[0, 1], [1, 1], [1, 2], [0, 2]]]),
        (
            ["###", "#.#", "###"],
            [[[0, 0], [3, 0], [3, 3], [0, 3]], [[1, 2], [2, 2], [2, 1], [1, 1]]],  # the hole runs the other way
        ),
    ],
)
def test_polygons(rows, rings) -> None:
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    assert [ring.tolist() for ring in trace_polygons(mask)] == rings


@settings(max_examples=200, deadline=None)
@given(mask=st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape)))
def test_polygons_enclose_the_mask(mask) -> None:
    """Filled by the even-odd rule they are the mask again, and their signed areas are its number of pixels."""
    filled, area = np.zeros_like(mask), 0.0
    for ring in trace_polygons(mask):
        (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
        assert ((x == next_x) != (y == next_y)).all()  # along the grid, and no corner twice in a row
        area += (x * next_y - next_x * y).sum() / 2
        for column, start, stop in zip(x, y, next_y, strict=True):
            filled[min(start, stop) : max(start, stop), column:] ^= True
    np.testing.assert_array_equal(filled, mask)
    assert area == mask.sum()
