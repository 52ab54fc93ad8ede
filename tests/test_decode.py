"""Small logits that can be decoded by hand, and brute-force definitions on random ones."""

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.errors import ModelError, NonFiniteError
from eomt.inference import decode
from eomt.inference.geometry import plan, stitch
from eomt.types import QueryLogits

CAT, DOG, SKY = (
    Category("cat", True, 1, (255, 0, 0)),
    Category("dog", True, 2, (0, 255, 0)),
    Category("sky", False, 3, (0, 0, 255)),
)
CATEGORIES = (CAT, DOG, SKY)
TILING = plan((2, 4), (2, 4), "contain")  # image, view and masks of one size: nothing is enlarged
STRONG = Thresholds(score=0.5)


def logits_of(classes: list[list[float]], masks: list[list[list[float]]]) -> QueryLogits:
    """Build logits of one view: class probabilities, no-object last, and mask probabilities."""
    probabilities = torch.tensor(masks, dtype=torch.float64)[None]
    features = torch.log(probabilities / (1 - probabilities)).float()
    class_logits = torch.tensor(classes)[None].log()
    return QueryLogits(class_logits, torch.eye(len(masks))[None], features)


LEFT = [[0.9, 0.9, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]]
RIGHT = [[0.1, 0.1, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9]]
CORNER = [[0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]
FAINT = [[0.4, 0.4, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4]]
ALL = [[0.8, 0.8, 0.8, 0.8], [0.8, 0.8, 0.8, 0.8]]
IS_CAT, IS_DOG, IS_SKY, IS_NOTHING = (
    [0.9, 0.02, 0.03, 0.05],
    [0.02, 0.9, 0.03, 0.05],
    [0.02, 0.03, 0.9, 0.05],
    [0.1, 0.1, 0.1, 0.7],
)


@pytest.mark.parametrize(
    ("classes", "masks", "row", "labels"),
    [
        ([IS_CAT, IS_DOG], [LEFT, RIGHT], [1, 1, 2, 2], [0, 1]),  # one segment a query, in their order
        ([IS_CAT, IS_CAT], [LEFT, RIGHT], [1, 1, 2, 2], [0, 0]),  # things of one class stay apart
        ([IS_SKY, IS_SKY], [LEFT, RIGHT], [1, 1, 1, 1], [2]),  # stuff of one class is one segment
        ([IS_SKY, IS_CAT], [LEFT, RIGHT], [1, 1, 2, 2], [2, 0]),
        ([IS_NOTHING, IS_CAT], [LEFT, RIGHT], [0, 0, 1, 1], [0]),  # no-object is not kept
        (
            [[0.4, 0.2, 0.2, 0.2], IS_CAT],
            [LEFT, RIGHT],
            [0, 0, 1, 1],
            [0],
        ),  # nor is a class below the score threshold
        ([IS_CAT], [LEFT], [1, 1, 0, 0], [0]),  # pixels outside of all masks are void
        ([IS_CAT], [FAINT], [0, 0, 0, 0], []),  # no pixel reaches the mask threshold
        ([IS_CAT, IS_DOG], [LEFT, LEFT], [1, 1, 0, 0], [0]),  # a tie goes to the first; the other wins nothing
        ([IS_CAT, IS_DOG], [LEFT, ALL], [1, 1, 0, 0], [0]),  # the dog wins half of its mask only: dropped
        ([IS_NOTHING, IS_NOTHING], [LEFT, RIGHT], [0, 0, 0, 0], []),
    ],
)
def test_panoptic(classes, masks, row, labels):
    prediction = decode.panoptic(logits_of(classes, masks), TILING, CATEGORIES, STRONG)
    assert prediction.id_map().ids.tolist() == [row, row]
    assert prediction.labels.tolist() == labels
    assert prediction.scores == pytest.approx([0.9] * len(labels))
    assert prediction.categories == CATEGORIES


@pytest.mark.parametrize(("overlap", "kept"), [(0.5, 2), (0.51, 1)])
def test_share_at_the_overlap_threshold_is_kept(overlap, kept):
    logits = logits_of([IS_CAT, IS_DOG], [LEFT, ALL])  # the dog keeps 4 of the 8 pixels of its mask
    assert len(decode.panoptic(logits, TILING, CATEGORIES, Thresholds(overlap=overlap))) == kept


def test_query_that_wins_pixels_only_outside_of_its_mask_is_dropped():
    prediction = decode.panoptic(logits_of([IS_CAT, IS_DOG], [CORNER, LEFT]), TILING, CATEGORIES, STRONG)
    assert prediction.labels.tolist() == [1]


def test_instance_lists_every_confident_pair():
    classes = [[0.6, 0.3, 0.05, 0.05], IS_SKY]
    prediction = decode.instance(
        logits_of(classes, [LEFT, RIGHT]), TILING, CATEGORIES, Thresholds(max_detections=3)
    )
    # Two labels of the first query, then the sky's best thing; stuff itself is never an instance.
    assert prediction.labels.tolist() == [0, 1, 1]
    assert prediction.scores == pytest.approx([0.6 * 0.9, 0.3 * 0.9, 0.03 * 0.9])
    assert [prediction[index].mask[0].tolist() for index in (0, 2)] == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    assert prediction.areas.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("threshold", "area"), [(0.0, 8), (0.05, 8), (0.3, 1), (0.5, 1), (0.59, 1), (0.61, 0), (1.0, 0)]
)
def test_instance_mask_threshold(threshold, area):
    logits = logits_of([IS_CAT], [CORNER])
    prediction = decode.instance(logits, TILING, (CAT, DOG, SKY), Thresholds(mask=threshold, max_detections=1))
    assert prediction.areas.tolist() == ([area] if area else [])  # an empty mask is dropped


@pytest.mark.parametrize(
    ("duplicate", "labels"),
    [
        (1.0, [0, 0, 0, 1]),  # as published: the second query shows what the first does
        (0.6, [0, 0, 1]),  # they agree on 4 of 6 pixels, a cat each; the dog is none, and what is not on top stays
        (0.7, [0, 0, 0, 1]),
        (0.0, [0, 0, 1]),  # masks that do not meet are never duplicates
    ],
)
def test_duplicates_of_a_class_are_dropped(duplicate, labels):
    wider = [[0.9, 0.9, 0.8, 0.1], [0.9, 0.9, 0.8, 0.1]]
    last = [[0.1, 0.1, 0.1, 0.8], [0.1, 0.1, 0.1, 0.8]]
    classes = [IS_CAT, [0.7, 0.02, 0.03, 0.25], [0.6, 0.02, 0.03, 0.35], [0.01, 0.5, 0.03, 0.46]]
    thresholds = Thresholds(max_detections=4, duplicate=duplicate)
    prediction = decode.instance(logits_of(classes, [LEFT, wider, last, LEFT]), TILING, CATEGORIES, thresholds)
    assert prediction.labels.tolist() == labels
    assert prediction.scores[0] == pytest.approx(0.9 * 0.9)


def test_instance_without_things_finds_nothing():
    prediction = decode.instance(logits_of([[0.9, 0.1]], [LEFT]), TILING, (SKY,), Thresholds())
    assert len(prediction) == 0
    assert prediction.size == (2, 4)


def test_instance_pixel_at_one_half_is_outside():
    half = [[0.5, 0.5, 0.6, 0.6], [0.5, 0.5, 0.6, 0.6]]
    assert decode.instance(logits_of([IS_CAT], [half]), TILING, CATEGORIES, Thresholds()).areas[0] == 4
    assert decode.panoptic(logits_of([IS_CAT], [half]), TILING, CATEGORIES, Thresholds()).areas[0] == 8


def test_semantic_gives_every_pixel_its_best_class():
    logits = logits_of([IS_CAT, IS_SKY], [LEFT, RIGHT])
    prediction = decode.semantic(logits, TILING, CATEGORIES, Thresholds())
    assert prediction.label_map().tolist() == [[0, 0, 2, 2]] * 2
    assert prediction.labels.tolist() == [0, 2]
    # Left: cat 0.9 x 0.9 + 0.02 x 0.1 of a total of 0.95 x (0.9 + 0.1); right the same with the sky and 0.03.
    assert prediction.scores == pytest.approx([(0.81 + 0.002) / 0.95, (0.81 + 0.003) / 0.95])


def random_logits(seed: int, views: int, queries: int, classes: int, low: tuple[int, int]) -> QueryLogits:
    """Blobs: smooth masks of which some are large, some are small and some overlap."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(views, queries, classes + 1, generator=generator) * 3
    coarse = torch.randn(views, 8, 4, 4, generator=generator) * 4
    features = torch.nn.functional.interpolate(coarse, size=low, mode="bicubic")
    return QueryLogits(class_logits, torch.randn(views, queries, 8, generator=generator), features)


def whole_masks(logits: QueryLogits, tiling) -> torch.Tensor:
    """All mask logits at full size: to the view, then to the original pixels."""
    return stitch(torch.nn.functional.interpolate(logits.mask_logits, size=tiling.view, mode="bilinear"), tiling)


def random_categories(count: int) -> tuple[Category, ...]:
    return tuple(Category(f"class {index}", index % 2 == 0, index, (0, 0, 0)) for index in range(count))


CASES = [
    (0, (40, 60)),
    (1, (210, 333)),
    (2, (333, 210)),
    (3, (1, 1)),
    (4, (1, 300)),
    (5, (97, 161)),
    (6, (64, 64)),
]


@pytest.mark.parametrize(("seed", "size"), CASES)
def test_panoptic_equals_its_definition(seed, size):
    tiling, categories = plan(size, (64, 64), "contain"), random_categories(5)
    thresholds = Thresholds(score=0.5, overlap=0.4)
    logits = random_logits(seed, 1, 20, 5, (16, 16))

    probabilities, labels = logits.class_logits[0].softmax(-1).max(-1)
    masks = whole_masks(logits, tiling).sigmoid()
    kept = [q for q in range(20) if labels[q] < 5 and probabilities[q] > 0.5]
    winner = torch.stack([probabilities[q] * masks[q] for q in kept]).argmax(0)
    ids, found, stuff = np.zeros(size, dtype=int), [], {}
    for index, query in enumerate(kept):
        label, mask = int(labels[query]), masks[query] >= 0.5
        won = winner == index
        if not (won & mask).any() or won.sum() / mask.sum() < 0.4:
            continue
        if categories[label].is_thing or label not in stuff:
            found.append(label)
            stuff[label] = len(found)
            segment = len(found)
        else:
            segment = stuff[label]
        ids[(won & mask).numpy()] = segment

    prediction = decode.panoptic(logits, tiling, categories, thresholds)
    assert np.array_equal(prediction.id_map().ids, ids)
    assert prediction.labels.tolist() == found


@pytest.mark.parametrize(("seed", "size"), CASES)
def test_instance_equals_its_definition(seed, size):
    tiling, categories = plan(size, (64, 64), "contain"), random_categories(5)
    logits = random_logits(seed, 1, 20, 5, (16, 16))
    masks = whole_masks(logits, tiling)
    pairs = []
    for query in range(20):
        for label in (0, 2, 4):
            pairs.append((float(logits.class_logits[0].softmax(-1)[query, label]), query, label))
    expected = []
    for probability, query, label in sorted(pairs, reverse=True)[:25]:
        mask = masks[query] > 0
        if mask.any():
            expected.append((probability * float(masks[query].sigmoid()[mask].mean()), label, mask.numpy()))
    expected.sort(key=lambda entry: -entry[0])

    prediction = decode.instance(logits, tiling, categories, Thresholds(max_detections=25))
    assert prediction.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(prediction.scores, [score for score, _, _ in expected], rtol=1e-5)
    for segment, (_, _, mask) in zip(prediction, expected, strict=True):
        assert np.array_equal(segment.mask, mask)


@pytest.mark.parametrize("fit", ["contain", "cover"])
@pytest.mark.parametrize(("seed", "size"), CASES)
def test_semantic_equals_its_definition(seed, size, fit):
    tiling, categories = plan(size, (32, 32), fit), random_categories(7)
    logits = random_logits(seed, len(tiling), 20, 7, (8, 8))
    probabilities = logits.class_logits.softmax(-1)[..., :-1]
    masks = torch.nn.functional.interpolate(logits.mask_logits, size=(32, 32), mode="bilinear").sigmoid()
    values = stitch(torch.einsum("vqc,vqhw->vchw", probabilities, masks), tiling)
    best = values.argmax(0).numpy()

    prediction = decode.semantic(logits, tiling, categories, Thresholds())
    assert np.array_equal(prediction.label_map(), best)
    assert prediction.labels.tolist() == np.unique(best).tolist()
    shares = (values.amax(0) / values.sum(0)).numpy()
    np.testing.assert_allclose(
        prediction.scores, [shares[best == label].mean() for label in np.unique(best)], rtol=1e-5
    )


def test_class_that_wins_only_between_cells_is_not_skipped():
    # Class 2 is the best at neither of the two cells, but it is between them.
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]])
    masks = values.view(3, 1, 2)
    logits = QueryLogits(
        torch.tensor([[[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]]]) * 9,
        torch.eye(3)[None],
        torch.logit(masks.clamp(1e-6, 1 - 1e-6))[None],
    )
    prediction = decode.semantic(logits, plan((3, 12), (1, 2), "contain"), CATEGORIES, Thresholds())
    assert prediction.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_bf16_logits(task):
    logits = QueryLogits(*(part.bfloat16() for part in random_logits(0, 1, 12, 3, (8, 8))))
    prediction = getattr(decode, task)(
        logits, plan((20, 30), (16, 16), "contain"), CATEGORIES, Thresholds(score=0.4)
    )
    assert len(prediction) > 0
    assert prediction.size == (20, 30)
    assert all(segment.mask.any() for segment in prediction)


TASKS = ["semantic", "instance", "panoptic"]


@pytest.mark.parametrize("task", TASKS)
def test_wrong_number_of_categories(task):
    with pytest.raises(ModelError, match="3 classes apart, but 2 categories are given"):
        getattr(decode, task)(logits_of([IS_CAT], [LEFT]), TILING, CATEGORIES[:2], Thresholds())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["class_logits", "features"])
def test_numbers_that_are_not(task, part):
    logits = logits_of([IS_CAT], [LEFT])
    damaged = logits._replace(**{part: torch.full_like(getattr(logits, part), torch.nan)})
    with pytest.raises(NonFiniteError, match="its weights or its input are damaged"):
        getattr(decode, task)(damaged, TILING, CATEGORIES, Thresholds())


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_one_view_is_expected(task):
    tiling = plan((2, 8), (2, 4), "cover")
    logits = QueryLogits(*(torch.cat([part, part]) for part in logits_of([IS_CAT], [LEFT])))
    with pytest.raises(ValueError, match="2 views"):
        getattr(decode, task)(logits, tiling, CATEGORIES, Thresholds())
