"""Overlays of small scenes: which pixel has which colour, and what stays as it was."""

import numpy as np
import pytest

from eomt.categories import Category
from eomt.drawing import overlay, segment_colors
from eomt.errors import DataError
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.types import Prediction

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
CELL, DOG, GRASS = 0, 1, 2
CATEGORIES = (Category("cell", True, 1, RED), Category("dog", True, 2, BLUE), Category("grass", False, 3, GREEN))


def prediction(masks: EncodedMasks, labels: list[int], scores: list[float], categories=CATEGORIES) -> Prediction:
    return Prediction(masks, np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float64), categories)


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def test_things_have_an_outline_and_void_stays() -> None:
    image = np.full((9, 9, 3), 100, dtype=np.uint8)
    before = image.copy()
    found = prediction(IdMap(square(9, 2, 2, 5).astype(np.int32), 1), [CELL], [0.9])
    drawn = overlay(image, found, opacity=0.4)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[~square(9, 2, 2, 5)], 100)
    np.testing.assert_array_equal(drawn[2, 2:7], [RED] * 5)  # outline at full strength
    np.testing.assert_array_equal(
        drawn[3:6, 3:6], np.broadcast_to([162, 60, 60], (3, 3, 3))
    )  # 0.6 x 100 + 0.4 x red


@pytest.mark.parametrize(("categories", "strength"), [(CATEGORIES, 0.35 * 0.5), (CATEGORIES[2:], 0.5)])
def test_stuff_recedes_where_there_are_things(categories, strength) -> None:
    image = np.full((4, 4, 3), 200, dtype=np.uint8)
    found = prediction(IdMap(np.ones((4, 4), np.int32), 1), [len(categories) - 1], [1.0], categories)
    red, green, blue = overlay(image, found)[1, 1].tolist()
    assert red == blue == round(200 * (1 - strength))
    assert green == round(200 * (1 - strength) + 255 * strength)


def test_the_higher_score_lies_on_top() -> None:
    masks = RleMasks.encode([square(12, 0, 0, 8), square(12, 4, 4, 8)], (12, 12))
    image = np.zeros((12, 12, 3), dtype=np.uint8)
    for scores, top in (([0.9, 0.3], RED), ([0.3, 0.9], BLUE)):
        drawn = overlay(image, prediction(masks, [CELL, DOG], scores), opacity=1.0)
        assert tuple(drawn[6, 6].tolist()) == top


def test_colors() -> None:
    ids = IdMap(np.arange(1, 42, dtype=np.int32)[None], 41)
    alone = segment_colors(prediction(IdMap(ids.ids[:, :2], 2), [DOG, GRASS], [1.0, 1.0]))
    assert alone.tolist() == [list(BLUE), list(GREEN)]  # the categories' own
    many = segment_colors(prediction(ids, [CELL] * 40 + [GRASS], [1.0] * 41))
    assert len(np.unique(many, axis=0)) == 41
    brightness = many[:40] @ np.array([0.299, 0.587, 0.114])
    assert brightness.min() > 0.85 * 165
    assert brightness.max() < 1.15 * 165
    for a, b in zip(many[:39].astype(int), many[1:40].astype(int), strict=True):
        assert np.abs(a - b).max() > 60  # neighbours in number are easy to tell apart


def test_large_segments_are_labelled_small_ones_are_not() -> None:
    image = np.zeros((200, 200, 3), dtype=np.uint8)
    for side, labelled in ((150, True), (30, False)):
        found = prediction(IdMap(square(200, 20, 20, side).astype(np.int32), 1), [CELL], [0.75])
        with_labels, without = overlay(image, found), overlay(image, found, labels=False)
        assert (with_labels == 255).all(-1).any() == labelled  # white letters
        assert np.array_equal(with_labels, without) != labelled
        outside = ~square(200, 20, 20, side)
        np.testing.assert_array_equal(with_labels[outside], 0)


def test_strips_leave_no_trace(monkeypatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    found = prediction(IdMap(square(50, 5, 3, 36)[:, :40].astype(np.int32), 1), [CELL], [0.75])
    whole = overlay(image, found)
    monkeypatch.setattr("eomt.drawing.STRIP", 7)
    np.testing.assert_array_equal(overlay(image, found), whole)


def test_nothing_found_and_hidden_segments() -> None:
    image = np.full((5, 5, 3), 9, dtype=np.uint8)
    np.testing.assert_array_equal(overlay(image, prediction(RleMasks((5, 5), ()), [], [])), image)
    everywhere = RleMasks.encode([square(5, 0, 0, 5)] * 2, (5, 5))
    assert overlay(image, prediction(everywhere, [CELL, DOG], [0.9, 0.8])).shape == image.shape


def test_image_of_another_size() -> None:
    found = prediction(RleMasks((4, 6), ()), [], [])
    with pytest.raises(DataError, match="the image is 5 x 5 pixels, its prediction 4 x 6"):
        overlay(np.zeros((5, 5, 3), dtype=np.uint8), found)
