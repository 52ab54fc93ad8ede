"""A picture to look at, and what a trained model would say of it: random weights are sure of nothing.

Decoding takes time by how many queries are sure and where their masks lie, so neither may be left to chance.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eomt.errors import ConfigError
from eomt.types import QueryLogits

__all__ = ["Confident", "confident_logits", "draw_photo"]

SURE, UNSURE = 14.0, 8.0
"""Class logits above noise: of the label of a sure query, and of no-object for all."""


def draw_photo(size: tuple[int, int], seed: int = 0) -> UInt8[NDArray[Any], "h w 3"]:
    """Draw a picture with detail of every size, as photographs have."""
    chance = np.random.default_rng(seed)
    height, width = size
    picture = np.zeros((height, width, 3), dtype=np.float32)
    for step in 2 ** np.arange(max(1, min(8, int(math.log2(min(size)))))):
        noise = chance.standard_normal((-(-height // step), -(-width // step), 3)).astype(np.float32)
        planes = [np.asarray(Image.fromarray(noise[..., c]).resize((width, height))) for c in range(3)]
        picture += step**0.7 * np.stack(planes, axis=-1)
    picture = 125 + 45 * (picture - picture.mean((0, 1))) / picture.std((0, 1)).clip(1e-6)
    drawn: NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
    return drawn


def confident_logits(
    like: QueryLogits, confident: int, shown: tuple[float, float] = (1.0, 1.0), seed: int = 0
) -> QueryLogits:
    """Give logits of the shapes, types and layout of others, as a trained model gives them.

    Each view is laid out in cells, each claimed by one sure query: where its centre is the nearest one. `shown`
    are the shares of the view's height and width that the image takes. Raises ConfigError where there are not so
    many queries.
    """
    views, queries, width = like.mask_embeddings.shape
    if confident > min(queries, width):
        raise ConfigError(f"--confident {confident}: the model has {queries} queries of width {width}")
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features = random(*like.features.shape) * 0.1
    embeddings = random(views, queries, width) * 0.1
    classes = random(*like.class_logits.shape)
    classes[..., -1] += UNSURE
    rows = torch.arange(confident)
    for view in range(views if confident else 0):
        features[view, :confident] = _cells(confident, like.features.shape[-2:], shown, generator)
        sure = torch.randperm(queries, generator=generator)[:confident]
        embeddings[view, sure] = random(confident, width) * 0.05
        embeddings[view, sure, rows] += 1
        labels = torch.randint(0, classes.shape[-1] - 1, (confident,), generator=generator)
        classes[view, sure, labels] += SURE + torch.rand(confident, generator=generator)
    parts = (classes, embeddings, features)
    return QueryLogits(*(torch.empty_like(old).copy_(new) for old, new in zip(like, parts, strict=True)))


def _cells(
    count: int, size: Sequence[int], shown: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "cells h w"]:
    """Give each cell's map: how much nearer its centre is than the next one. Centres are a jittered grid."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = torch.cartesian_prod(
        (torch.arange(rows) + 0.5) / rows * shown[0], (torch.arange(columns) + 0.5) / columns * shown[1]
    )
    jitter = (torch.rand(rows * columns, 2, generator=generator) - 0.5) * 0.6
    centers = (grid + jitter * torch.tensor([shown[0] / rows, shown[1] / columns]))[:count]
    pixels = torch.cartesian_prod(*(torch.linspace(0, 1, side) for side in size))
    distance = torch.cdist(pixels, centers).T
    if count == 1:
        return ((0.3 - distance) * 100).clamp(-10, 10).view(1, *size)
    two_nearest, nearest = distance.topk(2, dim=0, largest=False)
    others = two_nearest[0].expand_as(distance).clone()
    others.scatter_(0, nearest[:1], two_nearest[1:])
    return ((others - distance) * 100).clamp(-10, 10).view(count, *size)


class Confident:
    """A hook of a model's forward pass: it runs as it is, and what it gives is replaced by sure queries.

    They are made once for each shape, so that making them is not timed.
    """

    def __init__(self, count: int, shown: tuple[float, float]) -> None:
        self.count, self.shown = count, shown
        self.last: QueryLogits | None = None
        """What it gave last."""
        self._made: dict[tuple[Any, ...], QueryLogits] = {}

    def __call__(self, module: nn.Module, images: object, outputs: list[QueryLogits]) -> list[QueryLogits]:
        """Replace the last layer's logits."""
        last = outputs[-1]
        key = tuple((part.shape, part.dtype, part.device) for part in last)
        if key not in self._made:
            self._made[key] = confident_logits(last, self.count, self.shown)
        self.last = self._made[key]
        return [*outputs[:-1], self.last]
