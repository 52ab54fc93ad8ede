"""Assign queries to targets, one to one, at the lowest cost (DETR section 3.1; on points, Mask2Former 3.3).

Also samples masks at points, which the loss shares. What a matched pair costs in training is left to `loss`.

Points are (x, y) in [0, 1] of the view. A sample is bilinear between pixel centres and zero beyond the border:
`grid_sample` with `align_corners=False`. The points of one image serve all its queries, targets and layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from eomt.config import LossConfig
from eomt.types import QueryLogits, Target

__all__ = ["Match", "Matches", "assign", "draw_points", "match", "pair_costs", "sample_logits", "sample_masks"]

COST_LIMIT = 1e10  # as published; beyond it the solver's float64 sums lose the differences between ordinary costs


class Match(NamedTuple):
    """Who belongs to whom in one image and layer: the i-th query to the i-th target."""

    queries: Int[Tensor, " k"]
    targets: Int[Tensor, " k"]


class Corners(NamedTuple):
    """The four pixels around each point, as indices of a flattened map [h w], and their bilinear weights."""

    indices: Int[Tensor, "*p 4"]
    weights: Float[Tensor, "*p 4"]


@dataclass(frozen=True)
class Matches:
    """The matches of all supervised layers and, within each, of all images."""

    layers: list[list[Match]]
    costs: int
    """Pairs of a query and a target that were considered."""
    replaced: int
    """Pairs whose cost was not a finite number: a sign that the model diverges."""


@torch.no_grad()
def match(
    outputs: Sequence[QueryLogits],
    targets: Sequence[Target],
    config: LossConfig,
    generator: torch.Generator | None = None,
) -> Matches:
    """Match every image in every layer, min(queries, targets) pairs each, with one copy to the host.

    Costs are computed in fp32 whatever the autocast: divided by the number of points they would drown in fp16.
    """
    device = outputs[0].class_logits.device
    with torch.autocast(device.type, enabled=False):
        points = draw_points(len(targets), config.num_points, device, generator)
        values = [sample_masks(target.masks, where) for target, where in zip(targets, points, strict=True)]
        around = [corners(where, outputs[0].features.shape[2:]) for where in points]  # of one size in all layers
        costs = [
            image_costs(output, image, target.labels, values[image], around[image], config)
            for output in outputs
            for image, target in enumerate(targets)
        ]
    pairs, replaced = solve(costs)
    layers = [pairs[start : start + len(targets)] for start in range(0, len(pairs), len(targets))]
    return Matches(layers, sum(cost.numel() for cost in costs), replaced)


def image_costs(
    output: QueryLogits,
    image: int,
    labels: Int[Tensor, " n"],
    values: Float[Tensor, "n p"],
    points: Corners,
    config: LossConfig,
) -> Float[Tensor, "q n"]:
    """Give the costs of one image in one layer; `values` are the target masks at the points."""
    class_logits = output.class_logits[image].float()
    if len(labels) == 0:
        return class_logits.new_zeros(len(class_logits), 0)
    embeddings, cells = output.mask_embeddings[image].float(), output.features[image].flatten(1).T.float()
    # Sampling and the product with the embeddings are both linear: the smaller of cells and points is multiplied.
    if len(cells) <= values.shape[1]:
        mask_logits = sample_cells(cells @ embeddings.T, points)
    else:
        mask_logits = sample_cells(cells, points) @ embeddings.T
    return pair_costs(class_logits, mask_logits.T, labels, values, config)


def pair_costs(
    class_logits: Float[Tensor, "q classes"],
    mask_logits: Float[Tensor, "q p"],
    labels: Int[Tensor, " n"],
    values: Float[Tensor, "n p"],
    config: LossConfig,
) -> Float[Tensor, "q n"]:
    """Weigh cross-entropy and dice of the masks at the points, and the probability of the target's class."""
    inside = values.T
    # BCE(x, t) = softplus(x) - x t: one softplus a query and a matrix product, rather than two entropies a pair.
    entropy = functional.softplus(mask_logits).sum(1, keepdim=True) - mask_logits @ inside
    probabilities = mask_logits.sigmoid()
    overlap = probabilities @ inside
    extent = probabilities.sum(1, keepdim=True) + inside.sum(0)
    dice = 1 - (2 * overlap + 1) / (extent + 1)
    confidence = class_logits.softmax(1)[:, labels]
    return (
        config.mask_weight * entropy / values.shape[1]
        + config.dice_weight * dice
        - config.class_weight * confidence
    )


def solve(costs: Sequence[Float[Tensor, "_ _"]]) -> tuple[list[Match], int]:
    """Assign within each cost matrix, and count the costs that were not finite; one copy there and one back."""
    flat = torch.cat([cost.flatten() for cost in costs])
    numbers = np.split(flat.cpu().numpy(), np.cumsum([cost.numel() for cost in costs])[:-1])
    pairs = [assign(n.reshape(cost.shape)) for n, cost in zip(numbers, costs, strict=True)]
    chosen = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    queries, targets = torch.from_numpy(chosen).to(flat.device)
    lengths = [len(pair[0]) for pair in pairs]
    matches = [Match(q, t) for q, t in zip(queries.split(lengths), targets.split(lengths), strict=True)]
    return matches, int(flat.numel() - np.isfinite(np.concatenate(numbers)).sum())


def assign(costs: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose min(q, n) pairs of rows and columns with the lowest total cost, [q n]; rows are in rising order.

    Total for any numbers: costs are limited to ±1e10, and a pair whose cost is NaN or infinite is chosen only
    where no other is left.
    """
    finite = np.isfinite(costs)
    limited = np.where(finite, costs, 0).astype(np.float64).clip(-COST_LIMIT, COST_LIMIT)
    if not finite.all():
        lowest, highest = limited.min(), limited.max()
        limited[~finite] = highest + min(costs.shape) * (highest - lowest) + 1  # dearer than all others together
    rows, columns = linear_sum_assignment(limited)
    return rows.astype(np.int64), columns.astype(np.int64)


def draw_points(
    images: int, count: int, device: torch.device, generator: torch.Generator | None = None
) -> Float[Tensor, "b p 2"]:
    """Draw points uniformly from the views, (x, y) in [0, 1]. All randomness of matching and loss is here."""
    return torch.rand(images, count, 2, device=device, generator=generator)


def corners(points: Float[Tensor, "*p 2"], size: Sequence[int]) -> Corners:
    """Find the four pixels around each point in maps of a size [h w]."""
    height, width = size
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    indices, weights = [], []
    for row, row_weight in ((top, 1 - bottom_share), (top + 1, bottom_share)):
        for column, column_weight in ((left, 1 - right_share), (left + 1, right_share)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append((row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long())
            weights.append(row_weight * column_weight * inside)
    return Corners(torch.stack(indices, -1), torch.stack(weights, -1))


def sample_cells(cells: Float[Tensor, "hw c"], points: Corners) -> Float[Tensor, "p c"]:
    """Sample a map in token layout at points that all its channels share."""
    # A weighted sum of four rows each: several times faster than `grid_sample` with its channels in front.
    return functional.embedding_bag(
        points.indices, cells.contiguous(), mode="sum", per_sample_weights=points.weights
    )


def sample_masks(masks: Bool[Tensor, "n h w"], points: Float[Tensor, "p 2"]) -> Float[Tensor, "n p"]:
    """Sample binary masks at points that they share, reading one byte a pixel: no mask is turned into floats."""
    indices, weights = corners(points, masks.shape[-2:])
    pixels = masks.flatten(1).view(torch.uint8).gather(1, indices.T.flatten().expand(len(masks), -1))
    first, *others = pixels.view(len(masks), 4, len(points)).unbind(1)
    values: Tensor = first * weights[:, 0]
    for corner, weight in zip(others, weights.T[1:], strict=True):
        values += corner * weight
    return values


def sample_logits(maps: Float[Tensor, "k h w"], points: Float[Tensor, "k p 2"]) -> Float[Tensor, "k p"]:
    """Sample each map at its own points; gradients flow to the maps."""
    if not torch.are_deterministic_algorithms_enabled():
        return functional.grid_sample(maps[:, None], 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]
    indices, weights = corners(points, maps.shape[-2:])  # the backward pass of grid_sample is not, on CUDA
    pixels = maps.flatten(1).gather(1, indices.flatten(1))
    return (pixels.view_as(weights) * weights).sum(-1)
