"""The mask classification loss: matched queries answer for their masks, all for their classes (Mask2Former 3.3).

Every supervised layer is judged alike; who is matched with whom is left to `matching`. Pixels outside a target,
void ones too, are its negatives. Crowd segments are expected to be gone already: the augmentation drops them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from eomt.config import LossConfig
from eomt.training import matching
from eomt.training.matching import Corners, Match
from eomt.types import QueryLogits, Target

__all__ = ["LossTerms", "amounts", "segmentation_loss"]


@dataclass(frozen=True)
class LossTerms:
    """The loss of one batch. `total` carries the gradient; the terms, already weighted, add up to it."""

    total: Float[Tensor, ""]
    layers: Float[Tensor, "layers 3"]
    """Mask, dice and class term of each supervised layer, detached."""
    matched: int
    """Pairs of a query and a target in each layer."""
    costs: int
    """Costs that the matching considered."""
    replaced_costs: int
    """Those of them that were not finite numbers: a sign that the model diverges."""

    @property
    def mask(self) -> Float[Tensor, ""]:
        """The binary cross-entropy of the masks, summed over layers."""
        return self.layers[:, 0].sum()

    @property
    def dice(self) -> Float[Tensor, ""]:
        """The dice loss of the masks, summed over layers."""
        return self.layers[:, 1].sum()

    @property
    def classes(self) -> Float[Tensor, ""]:
        """The cross-entropy of the classes, summed over layers."""
        return self.layers[:, 2].sum()


class Candidates(NamedTuple):
    """Points at which masks may be compared, and the target masks there.

    An image's candidates serve all its masks and layers: each mask sees points of the published distribution, and
    targets are sampled once rather than in every layer.
    """

    points: Float[Tensor, "b p 2"]
    oversampled: list[Corners]
    """Where those of each image that are chosen from by uncertainty lie in the maps."""
    values: Float[Tensor, "n p"]
    """Of all images' targets, one image after another."""
    first: list[int]
    """Where each image's targets begin."""


def segmentation_loss(
    outputs: Sequence[QueryLogits],
    targets: Sequence[Target],
    config: LossConfig,
    divisors: Float[Tensor, "2"] | None = None,
    generator: torch.Generator | None = None,
) -> LossTerms:
    """Match queries with targets and sum the terms of all layers (paper, equation 2).

    The terms are divided by what the batch holds (`amounts`), or by `divisors`: where processes or micro-batches
    share one step, a share of their sum, so that the step is that of one batch. Without targets the mask
    terms are a zero through which every parameter still gets its gradient.
    """
    device = outputs[0].class_logits.device
    with torch.autocast(device.type, enabled=False):
        matches = matching.match(outputs, targets, config, generator)
        matched = sum(len(found.queries) for found in matches.layers[0])
        if divisors is None:
            divisors = amounts(targets, outputs[0].class_logits.shape[1], config).to(device)
        num_masks, class_weight = divisors.clamp(min=1e-6)  # where there is nothing, their sums are nothing too
        candidates = draw_candidates(outputs[0], targets, config, generator) if matched else None
        layers = []
        for output, found in zip(outputs, matches.layers, strict=True):
            mask, dice = (
                nothing_to_see(output) if candidates is None else mask_terms(output, found, candidates, config)
            )
            layers.append(
                torch.stack(
                    [
                        config.mask_weight * mask / num_masks,
                        config.dice_weight * dice / num_masks,
                        config.class_weight * class_term(output, targets, found, config) / class_weight,
                    ]
                )
            )
        terms = torch.stack(layers)
    return LossTerms(terms.sum(), terms.detach(), matched, matches.costs, matches.replaced)


def amounts(targets: Sequence[Target], num_queries: int, config: LossConfig) -> Float[Tensor, "2"]:
    """Count the masks that will be matched in each layer, and sum the queries' weights in the class term.

    These divide the terms; they are known before the model has run, so that processes can share them.
    """
    matched = sum(min(len(target.labels), num_queries) for target in targets)
    unmatched = len(targets) * num_queries - matched
    return torch.tensor([float(matched), matched + config.no_object_weight * unmatched])


def class_term(
    output: QueryLogits, targets: Sequence[Target], matches: Sequence[Match], config: LossConfig
) -> Float[Tensor, ""]:
    """Give the weighted cross-entropies of all queries, summed; those without a target should say *no object*."""
    logits = output.class_logits.float()
    no_object = logits.shape[-1] - 1
    labels = torch.full(logits.shape[:2], no_object, device=logits.device)
    for row, target, found in zip(labels, targets, matches, strict=True):
        row[found.queries] = target.labels[found.targets].to(row.dtype)
    weights = logits.new_ones(no_object + 1)
    weights[no_object] = config.no_object_weight
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, reduction="sum")


def mask_terms(
    output: QueryLogits, matches: Sequence[Match], candidates: Candidates, config: LossConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Give the cross-entropy and the dice loss of the matched masks, each summed over them."""
    maps = matched_maps(output, matches)
    images = torch.cat([torch.full_like(found.queries, image) for image, found in enumerate(matches)])
    rows = torch.cat([found.targets + first for found, first in zip(matches, candidates.first, strict=True)])
    with torch.no_grad():
        chosen = choose_points(maps, [len(found.queries) for found in matches], candidates, config)
        count = candidates.points.shape[1]
        points = candidates.points.flatten(0, 1)[chosen + images[:, None] * count]
        values = candidates.values.take(chosen + rows[:, None] * count)
    logits = matching.sample_logits(maps, points)
    entropy = functional.binary_cross_entropy_with_logits(logits, values, reduction="none").mean(1)
    probabilities = logits.sigmoid()
    overlap, extent = (probabilities * values).sum(1), probabilities.sum(1) + values.sum(1)
    dice = 1 - (2 * overlap + 1) / (extent + 1)
    return entropy.sum(), dice.sum()


def matched_maps(output: QueryLogits, matches: Sequence[Match]) -> Float[Tensor, "k h w"]:
    """Give the mask logits of the matched queries only, of one image after another, in fp32.

    Images with fewer of them are filled up: one product for all makes the backward pass write the features'
    gradient once, instead of image by image and then together.
    """
    precision = torch.promote_types(output.mask_embeddings.dtype, output.features.dtype)
    queries = pad_sequence([found.queries for found in matches], batch_first=True)
    cells = output.features.to(precision).flatten(2).transpose(1, 2)
    embeddings = output.mask_embeddings.to(precision).gather(1, queries[..., None].expand(-1, -1, cells.shape[2]))
    maps = (cells @ embeddings.transpose(1, 2)).transpose(1, 2).unbind(0)
    matched = torch.cat([part[: len(found.queries)] for part, found in zip(maps, matches, strict=True)])
    return matched.float().view(-1, *output.features.shape[2:])


def draw_candidates(
    output: QueryLogits, targets: Sequence[Target], config: LossConfig, generator: torch.Generator | None
) -> Candidates:
    """Draw each image's points and sample its target masks there; all layers' maps are like those of `output`."""
    oversampled = num_candidates(config)
    count = oversampled + config.num_points - num_important(config)
    points = matching.draw_points(len(targets), count, output.features.device, generator)
    around = [matching.corners(where[:oversampled], output.features.shape[2:]) for where in points]
    values = [matching.sample_masks(target.masks, where) for target, where in zip(targets, points, strict=True)]
    first = np.cumsum([0, *map(len, values)])[:-1].tolist()
    return Candidates(points, around, torch.cat(values), first)


def choose_points(
    maps: Float[Tensor, "k h w"], counts: Sequence[int], candidates: Candidates, config: LossConfig
) -> Int[Tensor, "k p"]:
    """Choose each mask's points, as indices of its image's candidates: the least certain ones, then uniform ones.

    `counts` says how many of the maps belong to each image. PointRend section 3.1: a logit near zero is uncertain.
    """
    certainty = torch.cat(
        [
            matching.sample_cells(part.flatten(1).T, around).T.contiguous().abs()
            for part, around in zip(torch.split(maps, list(counts)), candidates.oversampled, strict=True)
            if len(part)
        ]
    )
    important = smallest(certainty, num_important(config))
    uniform = torch.arange(num_candidates(config), candidates.points.shape[1], device=maps.device)
    return torch.cat([important, uniform.expand(len(maps), -1)], dim=1)


def smallest(numbers: Float[Tensor, "k p"], count: int) -> Int[Tensor, "k count"]:
    """Give the indices of the smallest numbers of each row, in no order."""
    if numbers.device.type == "cpu" and 0 < count < numbers.shape[1]:
        # NumPy's vectorised selection is four times faster than topk, the dearest step of the loss on a CPU.
        return torch.from_numpy(np.argpartition(numbers.numpy(), count - 1, axis=1)[:, :count])
    return numbers.topk(count, dim=1, largest=False, sorted=False).indices


def num_candidates(config: LossConfig) -> int:
    """Count the points of which the least certain are chosen."""
    return int(config.num_points * config.oversample_ratio)


def num_important(config: LossConfig) -> int:
    """Count the points that are chosen for their uncertainty."""
    return min(int(config.num_points * config.importance_sample_ratio), num_candidates(config))


def nothing_to_see(output: QueryLogits) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Give zeros that still depend on embeddings and features: distributed training waits for every gradient."""
    zero = output.mask_embeddings[:, :0].float().sum() + output.features[:, :, :0].float().sum()
    return zero, zero
