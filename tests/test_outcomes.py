"""Why an image is not right: scenes that can be judged by hand."""

import pytest
from equality import CATEGORIES as MANY
from equality import random_scenes

from eomt.evaluation.metrics import PanopticQuality
from eomt.evaluation.outcomes import PIXELS, judge_image, pixel_errors
from eomt.types import ANY_CLASS
from test_metrics import CATEGORIES, CELL, DEBRIS, GLASS, annotated, id_map, predicted

NAMES = [category.name for category in CATEGORIES]


@pytest.mark.parametrize(
    ("found", "found_labels", "true", "true_labels", "expected"),
    [
        ("1122", [CELL, GLASS], "1122", [CELL, GLASS], {}),
        ("1122", [DEBRIS, GLASS], "1122", [CELL, GLASS], {"wrong class": 1}),
        ("..22", [CELL, GLASS], "1122", [CELL, GLASS], {"missed": 1}),
        (
            "1122",
            [CELL, GLASS],
            "2222",
            [CELL, GLASS],
            {"false": 1, "poor outline": 1},
        ),  # half of the glass is no match
        ("11112222", [CELL, GLASS], "11332222", [CELL, GLASS, CELL], {"merged": 2}),
        ("11112222", [CELL, GLASS], "11132222", [CELL, GLASS, CELL], {"merged": 1}),  # the other one is right
        ("11332222", [CELL, GLASS, CELL], "11112222", [CELL, GLASS], {"split": 2}),
        ("11132222", [CELL, GLASS, CELL], "11112222", [CELL, GLASS], {"split": 1}),
        (
            "11333222",
            [CELL, GLASS, DEBRIS],
            "11111222",
            [CELL, GLASS],
            {"wrong class": 1, "false": 1},
        ),  # the larger part matches
        ("12222222", [CELL, GLASS], "11112222", [CELL, GLASS], {"poor outline": 1}),
        ("1111", [CELL], "1111", [ANY_CLASS], {}),
    ],
)
def test_reasons(found, found_labels, true, true_labels, expected) -> None:
    crowd = (0,) if ANY_CLASS in true_labels else ()
    prediction = predicted(id_map(found), *found_labels)
    segments = annotated(id_map(true), *true_labels, crowd=crowd)
    outcome = judge_image(prediction, segments, "panoptic")
    told = {reason: count for reason, count in outcome.reasons.items() if count}
    assert told == expected
    assert (outcome.quality == 1.0) == (not told)


def test_what_is_said() -> None:
    segments = annotated(id_map("1122"), CELL, GLASS)
    outcome = judge_image(predicted(id_map("1122"), DEBRIS, GLASS), segments, "panoptic")
    assert outcome.why(NAMES, "panoptic") == "1 of a wrong class (cell taken for debris); 1 of 2 right"
    outcome = judge_image(predicted(id_map("1122"), CELL, GLASS), segments, "panoptic")
    assert outcome.why(NAMES, "panoptic") == "nothing is wrong"
    outcome = judge_image(predicted(id_map("1122"), CELL, CELL), segments, "semantic")
    assert outcome.why(NAMES, "semantic") == "2 pixels of a wrong class (glass taken for cell)"
    assert outcome.quality == 0.5


def test_outcomes_agree_with_the_figures() -> None:
    """Each segment is right, or wrong for one reason; the right ones are PQ's."""
    for image_id, prediction, segments in random_scenes(5, 20, disjoint=True):
        metric = PanopticQuality(MANY)
        metric.update(prediction, segments, image_id)
        rows = metric.compute().per_class.values()
        outcome = judge_image(prediction, segments, "panoptic", image_id)
        assert outcome.right == sum(row["TP"] for row in rows)
        reasons = outcome.reasons
        of_true = reasons["missed"] + reasons["merged"] + reasons["poor outline"] + reasons["wrong class"]
        assert of_true <= sum(row["FN"] for row in rows)  # an annotated one may be found in pieces
        assert reasons["false"] + reasons["split"] <= sum(row["FP"] for row in rows)


def test_objects_outside_of_what_is_annotated_are_false_instances() -> None:
    prediction, segments = predicted(id_map("11.33"), CELL, GLASS, CELL), annotated(id_map("11..."), CELL)
    assert judge_image(prediction, segments, "panoptic").reasons["false"] == 0  # void is neutral
    outcome = judge_image(prediction, segments, "instance")
    assert (outcome.right, outcome.reasons["false"]) == (1, 1)
    errors = pixel_errors(prediction, segments, "instance")
    assert [PIXELS[code] for code in errors.ravel()] == ["right"] * 3 + ["false"] * 2


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "panoptic",
            ["right", "missed", "wrong object", "missed", "false", "missed", "wrong class", "not judged"],
        ),
        ("semantic", ["right", "missed", "right", "missed", *["wrong class"] * 3, "not judged"]),
    ],
)
def test_errors_by_pixel(task, expected) -> None:
    """Right, nothing found, half of a cell, a cell on glass, glass on a cell, debris on a cell, void."""
    prediction = predicted(id_map("1.2.3456"), CELL, CELL, CELL, GLASS, DEBRIS, CELL)
    segments = annotated(id_map("1233456."), CELL, CELL, CELL, GLASS, CELL, CELL)
    codes = pixel_errors(prediction, segments, task).ravel()
    assert [PIXELS[code] for code in codes] == expected
