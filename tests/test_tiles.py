"""Tiles: they cover the image, and what is joined equals what one look at the whole would give."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.errors import ConfigError
from eomt.inference.tiles import join, lay
from eomt.masks import IdMap, RleMasks, Window, encode_rle, placed_rle
from eomt.types import Prediction

CATEGORIES = tuple(
    Category(name, is_thing, number, (0, 0, number))
    for number, (name, is_thing) in enumerate([("cell", True), ("yeast", True), ("ground", False)])
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 120), st.floats(0.3, 2.0))
def test_tiles_cover_the_image_and_overlap(height: int, width: int, view: int, zoom: float) -> None:
    side = int(view / zoom)
    if side < 8:
        return
    hits = np.zeros((height, width), dtype=int)
    windows = lay((height, width), (view, view), zoom)
    for top, left, rows, columns in windows:
        assert (rows, columns) == (min(side, height), min(side, width))
        assert 0 <= top <= height - rows
        assert 0 <= left <= width - columns
        hits[top : top + rows, left : left + columns] += 1
    assert hits.min() >= 1
    tops = sorted({top for top, *_ in windows})
    assert all(after - top <= max(1, 0.75 * side) + 1 for top, after in pairwise(tops))


@pytest.mark.parametrize("zoom", [0.0, -1.0, 9.0, float("inf")])
def test_a_zoom_that_shows_nothing_is_refused(zoom: float) -> None:
    with pytest.raises(ConfigError, match=r"zoom .* choose a smaller number above 0"):
        lay((100, 100), (64, 64), zoom)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_a_placed_code_is_that_of_the_whole_mask(seed: int, height: int, width: int) -> None:
    chance = np.random.default_rng(seed)
    mask = chance.random((height, width)) < chance.choice([0.0, 0.3, 0.8, 1.0])
    size = height + int(chance.integers(4)), width + int(chance.integers(4))
    top, left = (int(chance.integers(whole - part + 1)) for whole, part in zip(size, mask.shape, strict=True))
    whole = np.zeros(size, dtype=bool)
    whole[top : top + height, left : left + width] = mask
    assert placed_rle(mask, (top, left), size) == encode_rle(whole)


def scene(seed: int, size: tuple[int, int], largest: int) -> tuple[np.ndarray, list[int]]:
    """Draw disks that do not touch, as an id map, and their labels; the last id is the ground."""
    chance = np.random.default_rng(seed)
    ids, labels = np.zeros(size, dtype=np.int32), []
    y, x = np.indices(size)
    for _ in range(60):
        radius, middle = chance.uniform(2, largest / 2), chance.uniform((0, 0), size)
        distance = np.hypot(y - middle[0], x - middle[1])
        if not ids[distance < radius + 3].any() and (distance < radius).sum() > 4:
            labels.append(int(chance.integers(2)))
            ids[distance < radius] = len(labels)
    ids[ids == 0] = len(labels) + 1
    return ids, [*labels, 2]


def cut(ids: np.ndarray, labels: list[int], windows: list[Window], things_only: bool) -> list[Prediction]:
    """Give what a faultless model says of each tile."""
    tiles = []
    for top, left, height, width in windows:
        part = ids[top : top + height, left : left + width]
        present = [i for i in np.unique(part).tolist() if not things_only or labels[i - 1] < 2]
        if things_only:
            masks = RleMasks.encode([part == i for i in present], part.shape)
        else:
            masks = IdMap(np.searchsorted(present, part).astype(np.int32) + 1, len(present))
        found = np.array([labels[i - 1] for i in present], dtype=np.int64)
        tiles.append(Prediction(masks, found, np.full(len(present), 0.9), CATEGORIES))
    return tiles


def outlines(prediction: Prediction) -> set[tuple[int, bytes]]:
    return {(segment.label, segment.rle["counts"]) for segment in prediction}


@pytest.mark.parametrize("largest", [12, 60])  # smaller than the overlap, and larger than a tile
@pytest.mark.parametrize("seed", range(8))
def test_cut_and_joined_is_as_it_was(seed: int, largest: int) -> None:
    size = (150, 190)
    ids, labels = scene(seed, size, largest)
    windows = lay(size, (64, 64), 1.0)
    assert len(windows) > 6
    wanted = {(label, encode_rle(ids == number)["counts"]) for number, label in enumerate(labels, 1)}
    whole = join(cut(ids, labels, windows, things_only=False), windows, size, Thresholds())
    assert outlines(whole) == wanted
    objects = join(cut(ids, labels, windows, things_only=True), windows, size, Thresholds())
    assert outlines(objects) == {each for each in wanted if each[0] < 2}
    assert np.allclose(objects.scores, 0.9)
    assert np.allclose(whole.scores, 0.9)


def test_without_objects_a_class_is_one_segment() -> None:
    ids, labels = scene(1, (150, 190), 20)
    windows = lay((150, 190), (64, 64), 1.0)
    joined = join(cut(ids, labels, windows, things_only=False), windows, (150, 190), Thresholds(), objects=False)
    assert sorted(joined.labels.tolist()) == [0, 1, 2]
    classes = np.array(labels)[ids - 1]
    for segment in joined:
        assert (segment.mask == (classes == segment.label)).all()


def tile(size: tuple[int, int], *boxes: tuple[int, int, int, int, float]) -> Prediction:
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (top, left, bottom, right, _) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    scores = np.array([box[4] for box in boxes])
    return Prediction(RleMasks.encode(masks, size), np.zeros(len(boxes), dtype=np.int64), scores, CATEGORIES)


# Two tiles of 20 x 20 that share columns 15 to 19 of an image of 20 x 35; the border between their cores is 17.
LEFT, RIGHT = (0, 0, 20, 20), (0, 15, 20, 20)


def boxes(prediction: Prediction) -> list[tuple[int, int, int, int, float]]:
    found = []
    for segment in prediction:
        y, x = np.nonzero(segment.mask)
        found.append((y.min(), x.min(), y.max() + 1, x.max() + 1, round(segment.score, 3)))
    return found


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ([(2, 5, 8, 10, 0.5)], [(2, 9, 8, 12, 0.7)], [(2, 24, 8, 27, 0.7), (2, 5, 8, 10, 0.5)]),  # far apart
        ([(2, 10, 8, 20, 0.5)], [(2, 0, 8, 9, 0.8)], [(2, 10, 8, 24, 0.65)]),  # 7 columns each
        (
            [(2, 16, 8, 20, 0.5)],
            [(2, 1, 8, 5, 0.8)],
            [(2, 16, 8, 20, 0.725)],
        ),  # seen whole twice: once, 1 and 3 columns
        ([(2, 10, 8, 20, 0.5)], [(6, 0, 12, 9, 0.8)], [(6, 15, 12, 24, 0.8), (2, 10, 8, 20, 0.5)]),  # no agreement
        ([(2, 18, 8, 20, 0.5)], [], []),  # cut off, and the other tile, which sees it whole, knows nothing of it
        ([(2, 10, 8, 20, 0.5)], [], [(2, 10, 8, 20, 0.5)]),  # mostly where this tile sees best
        (
            [(2, 10, 8, 20, 0.5), (2, 10, 8, 20, 0.4)],
            [(2, 0, 8, 9, 0.8)],
            [(2, 10, 8, 24, 0.65), (2, 10, 8, 20, 0.4)],
        ),
    ],
)
def test_two_tiles(left: list, right: list, joined: list) -> None:  # type: ignore[type-arg]
    predictions = [tile((20, 20), *left), tile((20, 20), *right)]
    assert boxes(join(predictions, [LEFT, RIGHT], (20, 35), Thresholds())) == joined


def test_tiles_without_segments() -> None:
    empty = join([tile((20, 20)), tile((20, 20))], [LEFT, RIGHT], (20, 35), Thresholds())
    assert len(empty.labels) == 0
    assert empty.size == (20, 35)


def test_in_a_map_what_one_tile_leaves_void_another_may_fill() -> None:
    """The border between the cores is column 17: the right tile alone sees the object, from column 16 on."""
    left, right = np.zeros((20, 20), dtype=np.int32), np.zeros((20, 20), dtype=np.int32)
    right[5:10, 1:9] = 1
    left[5:6, 17:19] = 1  # a piece that agrees on too little: dropped, and then void
    tiles = [Prediction(IdMap(ids, 1), np.array([0]), np.array([0.5]), CATEGORIES) for ids in (left, right)]
    joined = join(tiles, [LEFT, RIGHT], (20, 35), Thresholds())
    wanted = np.zeros((20, 35), dtype=bool)
    wanted[5:10, 16:24] = True
    assert (joined[[s.area for s in joined].index(40)].mask == wanted).all()
