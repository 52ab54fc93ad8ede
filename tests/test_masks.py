"""The codec of masks against dense masks."""

import re

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as reference

from eomt.masks import (
    IdMap,
    Outlines,
    RleMasks,
    decode_rle,
    encode_rle,
    rle_of_counts,
    rle_of_polygons,
    trace_polygons,
)

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


@settings(max_examples=100, deadline=None)
@given(masks=dense, data=st.data())
def test_samples_are_the_pixels_of_the_dense_masks(masks, data) -> None:
    """Rows and columns may repeat, be left out and lie outside; columns may come in any order."""
    height, width = masks.shape[1:]
    rows = sorted(data.draw(st.lists(st.integers(-2, height + 1), min_size=1, max_size=20)))
    columns = data.draw(st.lists(st.integers(-2, width + 1), min_size=1, max_size=20))
    id_map, apart = disjoint(masks)
    for code, all_masks in ((RleMasks.encode(masks, (height, width)), masks), (id_map, apart)):
        around = np.pad(all_masks, ((0, 0), (2, 2), (2, 2)))
        expected = around[:, np.array(rows)[:, None] + 2, np.array(columns) + 2]
        sampled, seen = code.sample(np.array(rows), np.array(columns))
        assert seen == [index for index, mask in enumerate(expected) if mask.any()]
        np.testing.assert_array_equal(sampled, expected[seen])


def test_empty_runs_are_passed_over() -> None:
    counts = [0, 2, 0, 1, 3, 0, 2, 4]  # down the columns: 3 inside (in two runs), 5 outside, 4 inside
    rle = coco_mask.frPyObjects({"size": [4, 3], "counts": counts}, 4, 3)
    masks, seen = RleMasks((4, 3), (rle,)).sample(np.arange(4), np.arange(3))
    assert seen == [0]
    assert masks[0].T.astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


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


@settings(max_examples=80, deadline=None)
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


rings = st.lists(st.tuples(*[st.floats(-20, 40) | st.integers(-5, 30)] * 2), min_size=3, max_size=8).map(
    lambda points: [number for point in points for number in point]
)


@settings(max_examples=120, deadline=None)
@given(polygons=st.lists(rings, min_size=1, max_size=3), height=st.integers(1, 24), width=st.integers(1, 24))
def test_polygons_cover_the_pixels_that_coco_s_tools_say(polygons, height, width) -> None:
    rle = rle_of_polygons(polygons, (height, width))
    assert rle == reference.merge(reference.frPyObjects(polygons, height, width))


@settings(max_examples=80, deadline=None)
@given(mask=dense.filter(len).map(lambda masks: masks[0]), gap=st.integers(0, 12))
def test_run_lengths_are_read_plain_and_compressed(mask, gap) -> None:
    flat, size = mask.ravel(order="F").astype(int), list(mask.shape)
    borders = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(borders, prepend=0, append=len(flat)).tolist()
    code = encode_rle(mask)
    with_empty_run = [*runs[:gap], 0, 0, *runs[gap:]]
    for counts in (runs, with_empty_run, code["counts"], code["counts"].decode()):
        assert rle_of_counts(counts, size, mask.shape) == code


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rings", "message"),
    [
        ([], "no polygons but []"),
        (None, "no polygons but None"),
        ({"size": [4, 6]}, "no polygons but {'size': [4, 6]}"),
        ("0 0 4 0 4 4", "no polygons but '0 0 4 0 4 4'"),
        ([0, 0, 4, 0, 4, 4], "polygon 1 of 6 is 0; expected a list [x0, y0, x1, y1, ...]"),
        ([[[0, 0], [4, 0], [4, 4]]], "polygon 1 of 1 is [[0, 0], [4, 0], [4, 4]]; expected a flat list"),
        ([[[0, 0], [4, 0, 1]]], "polygon 1 of 1 is [[0, 0], [4, 0, 1]]; expected a flat list"),
        ([[0, 0, 4, 0, 4, "4"]], "polygon 1 of 1 is [0, 0, 4, 0, 4, '4']; expected a flat list of numbers"),
        ([[0, 0, 4, 0, 4, None]], "expected a flat list of numbers"),
        ([[0, 0, 4, 0, 4, 10**30]], "expected a flat list of numbers"),
        ([[0, 0, 4, 0, 4, 4], [0, 0, 4, 0, 4]], "polygon 2 of 2 has 5 numbers; expected x and y of three points"),
        ([[0, 0, 4, 4]], "polygon 1 of 1 has 4 numbers"),  # pycocotools takes it for a box
        ([[]], "polygon 1 of 1 has 0 numbers"),
        ([[0, 0, 4, 0, 4, NAN]], "the coordinate nan in an image of 6 x 4"),
        ([[0, 0, 4, 0, 4, -INFINITE]], "the coordinate -inf"),
        ([[0, 0, 4, 0, 4, 1e300]], "the coordinate 1e+300"),
        ([[0, 0, 4, 0, 4, -1e8]], "the coordinate -1e+08"),
        ([[0, 0, 0, 999] * 9999], "an outline of 19978002 pixels"),
    ],
)
def test_malformed_polygons_are_refused(rings, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rle_of_polygons(rings, (4, 6))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([23], "with 23 pixels, but its image has 6 x 4 = 24"),  # the short code that read as uninitialised memory
        ([20, 5], "with 25 pixels"),
        ([], "with 0 pixels"),
        ([30, -6], "more runs or longer ones than its 24 pixels"),
        ([20, -4, 8], "negative run lengths"),
        ([-(2**63), 24], "negative run lengths"),
        ([0] * 50 + [24], "more runs or longer ones than its 24 pixels"),
        ([2**64], "expected a list of whole numbers, or compressed text"),
        ([24.0], "expected a list of whole numbers"),
        (["24"], "expected a list of whole numbers"),
        ([[24]], "expected a list of whole numbers"),
        ([[24], [1, 2]], "expected a list of whole numbers"),
        (24, "expected a list of whole numbers"),
        (None, "expected a list of whole numbers"),
        (b"", "not COCO's compressed text"),
        ("24 0", "not COCO's compressed text"),
        ("\N{SNOWMAN}", "not COCO's compressed text"),
        (b"X", "not COCO's compressed text"),  # says that more follows
        (b"oooooooo0", "not COCO's compressed text"),
        (b"ooooo0", "more runs or longer ones"),
        (b"5", "with 5 pixels"),
        (b"8O", "negative run lengths"),
    ],
)
def test_malformed_run_lengths_are_refused(counts, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rle_of_counts(counts, [4, 6], (4, 6))


@pytest.mark.parametrize("size", [[6, 4], [4], None, "46", [4, 6, 1], [4.5, 6], [200_000, 200_000], [NAN, 6]])
def test_run_lengths_of_another_size_are_refused(size) -> None:
    with pytest.raises(ValueError, match="but its image has"):
        rle_of_counts([24], size, (4, 6))


@pytest.mark.parametrize("size", [(0, 5), (-1, -1), (200_000, 200_000)])
def test_absurd_sizes_are_refused(size) -> None:
    for read in (
        lambda: rle_of_counts([1], list(size), size),
        lambda: rle_of_polygons([[0, 0, 1, 0, 1, 1]], size),
    ):
        with pytest.raises(ValueError, match="at least one and at most"):
            read()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools
@settings(max_examples=120, deadline=None)
@given(counts=st.lists(st.integers(-3, 30), max_size=9) | st.binary(max_size=9) | st.text("0123456789@NOPQXYZo"))
def test_whatever_is_accepted_decodes_to_zeros_and_ones(counts) -> None:
    try:
        rle = rle_of_counts(counts, [3, 4], (3, 4))
    except ValueError:
        return
    mask = decode_rle(rle)
    assert mask.shape == (3, 4)
    assert mask.tobytes() == reference.decode(dict(rle)).tobytes()
    assert mask.sum() == RleMasks((3, 4), (rle,)).areas()[0]


def test_the_code_of_a_mask_in_an_id_map_is_that_of_the_mask() -> None:
    """At edges and corners, with holes, in several parts, empty ones, and in views of other arrays."""
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (7, 5), (40, 30)):
        ids = rng.integers(0, 6, size).astype(np.int32)
        for each in (
            IdMap(ids, 7),
            IdMap(ids[::-1, ::-1], 7),
            IdMap(ids.T, 7),
            IdMap(np.zeros(size, np.int32), 0),
        ):
            codes = [each.rle(index) for index in range(len(each))]
            assert codes == [encode_rle(each.mask(index)) for index in range(len(each))]


@settings(max_examples=60, deadline=None)
@given(masks=dense, height=st.integers(1, 5), width=st.integers(1, 5))
def test_masks_shown_in_blocks_are_encoded_as_whole_ones_are(masks, height, width) -> None:
    """Where a mask is empty in a block, it is not shown there."""
    outlines = Outlines(len(masks), masks.shape[1:])
    for top in range(0, masks.shape[1], height):
        for left in range(0, masks.shape[2], width):
            block = masks[:, top : top + height, left : left + width]
            shown = np.flatnonzero(block.any((1, 2)))
            outlines.add(shown, block[shown], (top, left))
    assert outlines.encode() == [encode_rle(mask) for mask in masks]
