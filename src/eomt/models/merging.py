"""Merge patch tokens that are alike, for less work in the blocks that follow: ALGM (arXiv 2406.09936), untrained.

First 2x2 neighbours become one token where they are alike enough, later pairs from anywhere in the image. A merged
token is the mean of its patches, and so is its rotation. When masks are read, every patch takes its token. Where
in the network this happens is left to `eomt`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["Merged", "merge_alike", "merge_windows", "unmerged"]


@dataclass(frozen=True, eq=False)
class Merged:
    """Patch tokens, some of which stand for several patches. All images of a batch have as many."""

    tokens: Float[Tensor, "b n d"]
    rope: Float[Tensor, "b 1 n r"] | None
    """Sine and cosine of each token's rotation; None without rotary embedding."""
    sizes: Float[Tensor, "b n"]
    """Patches that a token stands for."""
    owners: Int[Tensor, "b patches"]
    """The token that stands for each patch."""

    def patches(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b patches c"]:
        """Give each patch what the token has that stands for it."""
        return tokens.gather(1, self.owners[..., None].expand(-1, -1, tokens.shape[-1]))


def unmerged(tokens: Float[Tensor, "b n d"], rope: Float[Tensor, "n r"] | None) -> Merged:
    """Let every token stand for its own patch."""
    batch, count, _ = tokens.shape
    sizes = torch.ones(batch, count, device=tokens.device)
    owners = torch.arange(count, device=tokens.device).expand(batch, -1)
    return Merged(tokens, None if rope is None else rope.expand(batch, 1, -1, -1), sizes, owners)


def merge_windows(state: Merged, grid: tuple[int, int], threshold: float) -> Merged:
    """Make one token of each 2x2 window whose tokens have a mean cosine similarity of at least `threshold`.

    Nothing may be merged yet. Every image merges as many windows as the one with the fewest, its most alike first.
    Where the grid is odd, its last row and column stay as they are.
    """
    batch, _, _ = state.tokens.shape
    height, width = grid[0] // 2, grid[1] // 2
    places = torch.arange(grid[0] * grid[1], device=state.tokens.device).view(grid)
    members = places[: 2 * height, : 2 * width].reshape(height, 2, width, 2).transpose(1, 2).reshape(-1, 4)
    directions = functional.normalize(state.tokens.float(), dim=-1)[:, members]  # [b windows 4 d]
    # The square of a sum of four directions is 4 and twice the similarities of the six pairs.
    alike = (directions.sum(2).square().sum(-1) - 4) / 12
    merged = _best(alike, alike >= threshold)
    firsts = places.flatten().repeat(batch, 1)
    chosen = members[merged]  # [b merged 4]
    firsts.scatter_(1, chosen.flatten(1), chosen[..., :1].expand_as(chosen).flatten(1))
    return _pooled(state, firsts)


def merge_alike(state: Merged, threshold: float) -> Merged:
    """Merge each of every other token with the token among the rest that is most alike, if it is alike enough.

    Enough is `threshold`, and more than the usual likeness of such pairs: their mean and one deviation. (The
    public code asks for less, a deviation over the number of the layer, and for no threshold here.)
    """
    batch, count, _ = state.tokens.shape
    if count < 4:  # one pair, which has no usual likeness
        return state
    directions = functional.normalize(state.tokens.float(), dim=-1)
    alike, partner = (directions[:, ::2] @ directions[:, 1::2].transpose(1, 2)).max(-1)
    usual = alike.mean(1, keepdim=True) + alike.std(1, keepdim=True)
    merged = _best(alike, (alike >= threshold) & (alike >= usual))
    firsts = torch.arange(count, device=state.tokens.device).repeat(batch, 1)
    firsts.scatter_(1, 2 * merged, 2 * partner.gather(1, merged) + 1)
    return _pooled(state, firsts)


def _best(alike: Float[Tensor, "b c"], enough: Tensor) -> Int[Tensor, "b k"]:
    """Choose the candidates that are most alike: as many in each image as are enough in all."""
    count = int(enough.sum(1).min())
    return alike.topk(count, dim=1).indices


def _pooled(state: Merged, firsts: Int[Tensor, "b n"]) -> Merged:
    """Make one token of those that name the same one, which names itself: means over patches."""
    stays = firsts == torch.arange(firsts.shape[1], device=firsts.device)
    count = int(stays[0].sum())
    if count == firsts.shape[1]:
        return state
    index = (stays.cumsum(1) - 1).gather(1, firsts)
    sizes = state.sizes.new_zeros(len(firsts), count).scatter_add(1, index, state.sizes)

    def mean(values: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
        weighted = values.float() * state.sizes[..., None]
        total = weighted.new_zeros(len(firsts), count, values.shape[-1])
        total.scatter_add_(1, index[..., None].expand_as(weighted), weighted)
        return (total / sizes[..., None]).to(values.dtype)

    rope = state.rope
    if rope is not None:
        sine, cosine = mean(rope[:, 0]).chunk(2, dim=-1)
        length = torch.hypot(sine, cosine).clamp(min=1e-6)
        rope = torch.cat([sine / length, cosine / length], dim=-1)[:, None]
    return Merged(mean(state.tokens), rope, sizes, index.gather(1, state.owners))
