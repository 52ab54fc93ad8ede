"""The types that flow through the house, on a scene of eight pixels."""

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.masks import IdMap, RleMasks, decode_rle
from eomt.types import Prediction, QueryLogits, Segments

CATEGORIES = (Category("cell", True, 7, (255, 0, 0)), Category("glass", False, 90, (0, 0, 255)))
CELL, GLASS = 0, 1
LEFT = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], dtype=np.bool_)
MIDDLE = np.array([[0, 0, 1, 0], [0, 1, 1, 0]], dtype=np.bool_)
HIDDEN = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], dtype=np.bool_)


def disjoint() -> Prediction:
    ids = np.array([[1, 1, 0, 2], [1, 0, 0, 2]], dtype=np.int32)
    return Prediction(IdMap(ids, 2), np.array([CELL, GLASS]), np.array([0.9, 0.6]), CATEGORIES)


def overlapping() -> Prediction:
    """A cell, glass that is half behind it, and a cell that is wholly behind the first."""
    masks = RleMasks.encode([MIDDLE, LEFT, HIDDEN & LEFT], (2, 4))
    return Prediction(masks, np.array([CELL, GLASS, CELL]), np.array([0.9, 0.6, 0.5]), CATEGORIES)


def nothing() -> Prediction:
    return Prediction(RleMasks((2, 4), ()), np.zeros(0, dtype=np.int64), np.zeros(0), CATEGORIES)


def test_a_prediction_is_a_row_of_segments() -> None:
    prediction = disjoint()
    assert prediction.size == (2, 4)
    assert [(s.label, s.score, s.area) for s in prediction] == [(CELL, 0.9, 3), (GLASS, 0.6, 2)]
    assert prediction[-1].label == GLASS
    np.testing.assert_array_equal(prediction[-1].mask, [[0, 0, 0, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(decode_rle(prediction[0].rle), prediction[0].mask)
    assert [ring.tolist() for ring in prediction[1].polygons] == [[[3, 0], [4, 0], [4, 2], [3, 2]]]
    with pytest.raises(IndexError):
        prediction[2]


def test_where_masks_overlap_the_first_owns_the_pixel() -> None:
    np.testing.assert_array_equal(overlapping().id_map().ids, [[2, 2, 1, 0], [2, 1, 1, 0]])
    np.testing.assert_array_equal(overlapping().label_map(), [[1, 1, 0, 255], [1, 0, 0, 255]])
    assert overlapping().areas.tolist() == [3, 6, 1]  # of the whole masks


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (disjoint(), [[0, 0, -1, 1], [0, -1, -1, 1]]),
        (nothing(), [[-1, -1, -1, -1], [-1, -1, -1, -1]]),
    ],
)
def test_label_map(prediction, expected) -> None:
    np.testing.assert_array_equal(prediction.label_map(void=-1), expected)


def test_panoptic_form_has_the_ids_of_the_files_and_no_hidden_segments() -> None:
    ids, info = overlapping().panoptic()
    np.testing.assert_array_equal(ids, [[2, 2, 1, 0], [2, 1, 1, 0]])
    assert info == [
        {"id": 1, "category_id": 7, "isthing": 1, "score": 0.9, "area": 3},
        {"id": 2, "category_id": 90, "isthing": 0, "score": 0.6, "area": 3},
    ]
    ids, info = nothing().panoptic()
    assert not ids.any()
    assert info == []


def test_coco_results() -> None:
    first, *_ = results = overlapping().coco("a.png")
    assert [(r["image_id"], r["category_id"], r["score"], r["area"]) for r in results] == [
        ("a.png", 7, 0.9, 3),
        ("a.png", 90, 0.6, 6),
        ("a.png", 7, 0.5, 1),
    ]
    counts = first["segmentation"]["counts"].encode("ascii")
    np.testing.assert_array_equal(decode_rle({"size": first["segmentation"]["size"], "counts": counts}), MIDDLE)


@pytest.mark.parametrize("prediction", [disjoint(), overlapping()])
def test_selecting_keeps_masks_labels_and_scores_together(prediction) -> None:
    for chosen in ([1, 0], [1], [-1], []):
        picked = prediction.select(chosen)
        assert len(picked) == len(chosen)
        for segment, index in zip(picked, chosen, strict=True):
            source = prediction[index]
            assert (segment.label, segment.score, segment.area) == (source.label, source.score, source.area)
            np.testing.assert_array_equal(segment.mask, source.mask)


@pytest.mark.filterwarnings("ignore:OpenCV")  # not needed; supervision says what it does without
@pytest.mark.parametrize("prediction", [disjoint(), overlapping(), nothing()])
def test_to_supervision(prediction) -> None:
    detections = prediction.to_supervision()
    assert len(detections) == len(prediction)
    assert detections.class_id.tolist() == prediction.labels.tolist()
    assert detections.confidence.tolist() == prediction.scores.tolist()
    assert detections.data["class_name"].tolist() == [CATEGORIES[i].name for i in prediction.labels]
    np.testing.assert_array_equal(detections.mask, prediction.masks.crop((0, 0, 2, 4)))


@pytest.mark.filterwarnings("ignore:OpenCV")  # not needed; supervision says what it does without
def test_boxes_of_supervision() -> None:
    assert overlapping().to_supervision().xyxy.tolist() == [[1, 0, 2, 1], [0, 0, 2, 1], [0, 0, 0, 0]]


def test_segments_become_dense_inside_a_window_only() -> None:
    segments = Segments(
        RleMasks.encode([LEFT, MIDDLE], (2, 4)), torch.tensor([CELL, GLASS]), torch.tensor([False, True])
    )
    target = segments.target((1, 2, 2, 3))  # leaves the image below and on the right
    assert target.masks.tolist() == [
        [[True, False, False], [False, False, False]],
        [[True, False, False], [False, False, False]],
    ]
    assert target.labels.tolist() == [CELL, GLASS]
    assert target.is_crowd.tolist() == [False, True]
    assert len(segments) == 2


def test_segments_have_one_of_each() -> None:
    with pytest.raises(ValueError, match="2 masks, 1 labels and 1 crowd flags"):
        Segments(RleMasks.encode([LEFT, MIDDLE], (2, 4)), torch.tensor([CELL]), torch.tensor([False]))


def test_masks_of_chosen_queries_are_rows_of_all_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    b, q, d, h, w = 2, 5, 4, 3, 6
    logits = QueryLogits(
        torch.randn(b, q, 3, generator=generator),
        torch.randn(b, q, d, generator=generator),
        torch.randn(b, d, h, w, generator=generator),
    )
    assert logits.mask_logits.shape == (b, q, h, w)
    by_hand = sum(logits.mask_embeddings[1, 4, i] * logits.features[1, i] for i in range(d))
    torch.testing.assert_close(logits.mask_logits[1, 4], by_hand)
    chosen = torch.tensor([4, 0])
    torch.testing.assert_close(logits.masks(1, chosen), logits.mask_logits[1, chosen])
    assert logits.masks(0, torch.tensor([], dtype=torch.int64)).shape == (0, h, w)
