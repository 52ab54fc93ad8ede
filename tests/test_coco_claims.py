"""What COCO's files say of masks may be rounded, measured or multiplied; what is of another mask is found."""

import math

import numpy as np
import pytest

from eomt.data.readers.coco_claims import boxes_of, differences, polygon_area

SQUARE = [[10.0, 20.0, 30.0, 20.0, 30.0, 60.0, 10.0, 60.0]]
TRIANGLE = [[10.0, 20.0, 30.0, 20.0, 10.0, 60.0]]


@pytest.mark.parametrize(
    ("claim", "polygons", "wrong"),
    [
        ({}, SQUARE, []),  # nothing is claimed
        ({"area": None, "bbox": []}, SQUARE, []),
        ({"area": 800.0, "bbox": [10.0, 20.0, 20.0, 40.0]}, SQUARE, []),
        ({"area": 861, "bbox": [10, 20, 21, 41]}, SQUARE, []),  # both edges counted
        ({"area": 800.0, "bbox": [9.5, 19.7, 20.8, 40.9]}, SQUARE, []),  # rounded
        ({"area": 941, "bbox": [10, 20, 20, 40]}, SQUARE, ["area"]),  # a tenth of 800, and 60
        ({"area": 659, "bbox": [10, 20, 20, 40]}, SQUARE, ["area"]),
        ({"area": 0, "bbox": [10, 20, 20, 40]}, SQUARE, ["area"]),
        ({"area": 200, "bbox": [5, 10, 10, 20]}, SQUARE, ["area", "bbox"]),  # of an image of half the size
        ({"area": 800, "bbox": [10, 20, 30, 60]}, SQUARE, ["bbox"]),  # the other corner
        ({"area": "800", "bbox": [10, 20, 20]}, SQUARE, ["area", "bbox"]),
        ({"area": math.nan, "bbox": [math.inf, 0, 1, 1]}, SQUARE, []),  # told where the file was parsed
    ],
)
def test_a_square(claim, polygons, wrong):
    found = list(differences(claim, 800, (10, 20, 20, 40), polygons))
    assert [words.split()[0] for words in found] == wrong


@pytest.mark.parametrize("area", [430, 400.0, 800.0])  # the pixels, the polygon, the box
def test_areas_are_measured_in_three_ways(area):
    assert not list(differences({"area": area}, 430, (10, 20, 20, 40), TRIANGLE))


def test_boxes_of_polygons_that_leave_the_image():
    beyond = [[-15.0, 20.0, 30.0, 20.0, 30.0, 60.0, -15.0, 60.0]]
    claim = {"area": 1800.0, "bbox": [-15.0, 20.0, 45.0, 40.0]}
    assert not list(differences(claim, 1200, (0, 20, 30, 40), beyond))


def test_the_other_corner_is_told():
    (words,) = differences({"bbox": [10, 20, 30, 60]}, 800, (10, 20, 20, 40))
    assert words == (
        "bbox is [10, 20, 30, 60], but its mask lies in [10, 20, 20, 40] (width and height come last, not the "
        "other corner)"
    )


@pytest.mark.parametrize(
    ("ring", "area"),
    [
        (SQUARE[0], 800),
        (TRIANGLE[0], 400),
        ([1, 2, 3, 4], 0),
        ([], 0),
        ([0, 0, 5, 5, 10, 10], 0),
        ([1, 2, 3], math.nan),
        (["x"] * 6, math.nan),
        ([math.nan] * 6, math.nan),
        ({"counts": []}, math.nan),
    ],
)
def test_areas_of_polygons(ring, area):
    assert polygon_area(ring) == pytest.approx(area, nan_ok=True)


def test_boxes_of_a_map():
    ids = np.array([[0, 7, 7], [0, 0, 7], [300, 0, 0]], dtype=np.int32)
    assert boxes_of(ids) == {0: (5, (0, 0, 3, 3)), 7: (3, (1, 0, 2, 2)), 300: (1, (0, 2, 1, 1))}
