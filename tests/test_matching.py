"""Matching: total for any costs, optimal where they are finite, and cheap sampling equal to grid_sample."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from eomt.config import LossConfig
from eomt.training.matching import assign, corners, draw_points, match, sample_cells, sample_logits, sample_masks
from eomt.types import QueryLogits, Target

CONFIG = LossConfig(num_points=256)
ANY_COST = st.sampled_from([0.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e38, -1e38]) | st.floats(
    width=32
)


@st.composite
def matrices(draw, cost, longest):
    rows, columns = draw(st.integers(1, longest)), draw(st.integers(0, longest))
    entries = draw(st.lists(cost, min_size=rows * columns, max_size=rows * columns))
    return np.array(entries, dtype=np.float32).reshape(rows, columns)


def cheapest(costs):
    """Try every assignment."""
    if costs.shape[0] < costs.shape[1]:
        costs = costs.T
    return min(
        sum(costs[row, column] for column, row in enumerate(rows))
        for rows in permutations(range(costs.shape[0]), costs.shape[1])
    )


@settings(max_examples=300, deadline=None)
@given(matrices(ANY_COST, 8))
def test_any_costs_give_a_one_to_one_result(costs):
    rows, columns = assign(costs)
    assert len(rows) == len(columns) == min(costs.shape)
    assert len(set(rows.tolist())) == len(rows)
    assert len(set(columns.tolist())) == len(columns)
    assert rows.tolist() == sorted(rows.tolist())
    assert ((rows >= 0) & (rows < costs.shape[0]) & (columns >= 0) & (columns < costs.shape[1])).all()


@settings(max_examples=200, deadline=None)
@given(matrices(st.floats(-1000, 1000, width=32), 5))
def test_finite_costs_are_assigned_as_cheaply_as_possible(costs):
    costs = costs.astype(np.float64)
    assert costs[assign(costs)].sum() == pytest.approx(cheapest(costs), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(matrices(st.floats(-10, 10, width=32) | st.sampled_from([float("nan"), float("inf"), float("-inf")]), 5))
def test_a_non_finite_cost_is_paid_only_where_none_other_is_left(costs):
    broken = (~np.isfinite(costs)).astype(np.float64)
    assert broken[assign(costs)].sum() == pytest.approx(cheapest(broken))


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ([[np.nan], [7.0]], [1]),  # NaN is not attractive
        ([[-np.inf], [7.0]], [1]),  # nor is minus infinity
        ([[1e38], [2.0], [1.0]], [2]),
        ([[3.0, 1e38], [1e38, 4.0]], [0, 1]),
        ([[np.nan, np.nan]], [0]),  # more targets than queries, none finite
        (np.zeros((3, 0)), []),  # no targets
    ],
)
def test_assign(costs, rows):
    assert assign(np.array(costs))[0].tolist() == rows


def target(masks, labels):
    return Target(masks, torch.tensor(labels, dtype=torch.long), torch.zeros(len(labels), dtype=torch.bool))


def halves():
    """Left and right half of an 8x8 view, in this order."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, 4:] = True, True
    return masks


def output(embeddings, classes=3):
    """Features are the two halves, as logits: an embedding (1, -1) shows the left one."""
    features = halves().float()[None].expand(len(embeddings), -1, -1, -1) * 10 - 5
    return QueryLogits(torch.zeros(*embeddings.shape[:2], classes + 1), embeddings, features)


def test_queries_get_the_masks_that_they_show():
    left, right, nothing = [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]
    first = output(torch.tensor([[right, nothing, left], [left, right, nothing]]))
    second = output(torch.tensor([[left, right, nothing], [nothing, left, right]]))
    targets = [target(halves(), [0, 1]), target(halves()[1:], [2])]
    matches = match([first, second], targets, CONFIG)
    found = [[(m.queries.tolist(), m.targets.tolist()) for m in layer] for layer in matches.layers]
    assert found == [[([0, 2], [1, 0]), ([1], [0])], [([0, 1], [0, 1]), ([2], [0])]]
    assert matches.costs == 2 * (3 * 2 + 3 * 1)
    assert matches.replaced == 0


def test_class_decides_between_equal_masks():
    logits = output(torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]))
    logits.class_logits[0, 1, 2] = 3  # the second query says class 2
    matches = match([logits], [target(halves()[:1], [2])], CONFIG)
    assert matches.layers[0][0].queries.tolist() == [1]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_query_is_left_out_and_counted(broken):
    embeddings = torch.tensor([[[broken, broken], [-1.0, 1.0], [1.0, -1.0]]])
    matches = match([output(embeddings)], [target(halves(), [0, 1])], CONFIG)
    assert matches.layers[0][0].queries.tolist() == [1, 2]
    assert matches.replaced == 2


@pytest.mark.parametrize(("counts", "pairs"), [((0, 0), [0, 0]), ((0, 2), [0, 2]), ((9, 1), [3, 1])])
def test_any_number_of_targets(counts, pairs):
    targets = [target(torch.rand(n, 8, 8) > 0.5, [0] * n) for n in counts]
    matches = match([output(torch.randn(2, 3, 2))], targets, CONFIG)
    assert [len(m.queries) for m in matches.layers[0]] == pairs


def test_a_generator_fixes_the_points():
    one, other = (draw_points(2, 5, torch.device("cpu"), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (32, 48)])
def test_samples_equal_grid_sample(size, monkeypatch):
    maps, points = torch.randn(4, *size, requires_grad=True), torch.rand(4, 300, 2)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])  # corners, too
    grid = 2 * points[:, :, None] - 1
    shared = grid[:1].expand(4, -1, -1, -1)

    expected = functional.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]
    for deterministic in (False, True):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda on=deterministic: on)
        sampled = sample_logits(maps, points)
        torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)
        ours, theirs = (
            torch.autograd.grad(s.square().sum(), maps, retain_graph=True) for s in (sampled, expected)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-3)

    cells = sample_cells(maps.detach().flatten(1).T, corners(points[0], size)).T
    expected = functional.grid_sample(maps.detach()[:, None], shared, align_corners=False)[:, 0, :, 0]
    torch.testing.assert_close(cells, expected, atol=1e-4, rtol=0)

    masks = maps.detach() > 0
    expected = functional.grid_sample(masks.float()[:, None], shared, align_corners=False)[:, 0, :, 0]
    torch.testing.assert_close(sample_masks(masks, points[0]), expected, atol=1e-4, rtol=0)
