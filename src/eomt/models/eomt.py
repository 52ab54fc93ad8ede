"""The Encoder-only Mask Transformer (arXiv 2503.19108): a plain ViT that sees queries in its last blocks.

Learned queries join the patch tokens before the last `num_joint_blocks` blocks; masks and classes are read from
the tokens by two small heads. In training every joint block is supervised and masked attention may confine
each query to its own mask; inference is the plain ViT, in which tokens may be merged. Schedules, loss and decoding
are left to others.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from eomt.config import ModelConfig, num_upscale_blocks
from eomt.errors import ConfigError
from eomt.models.backbone import Backbone
from eomt.models.merging import Merged, merge_alike, merge_windows, unmerged
from eomt.types import QueryLogits

__all__ = ["EoMT", "num_upscale_blocks"]

GLOBAL_MERGE = 7
"""After so many blocks, or sooner where the queries join sooner, alike tokens from anywhere are merged."""


class EoMT(nn.Module):
    """Queries in the last blocks of a plain ViT.

    `num_classes` counts the categories; class logits have one more, *no object*.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        width, depth = self.backbone.embed_dim, len(self.backbone.blocks)
        if not 1 <= config.num_joint_blocks <= depth:
            raise ConfigError(f"{config.num_joint_blocks} joint blocks: {config.backbone} has {depth} blocks")
        self.first_joint_block = depth - config.num_joint_blocks
        self.backbone.prepend(config.num_queries, self.first_joint_block)

        self.queries = nn.Embedding(config.num_queries, width)
        self.class_head = nn.Linear(width, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(ScaleBlock(width) for _ in range(num_upscale_blocks(config))))
        self.merging: float | None = None

    def merge_tokens(self, threshold: float | None) -> None:
        """In prediction, merge patches whose tokens have at least this cosine similarity (ALGM); None: none.

        Faster and a little less exact; 0.98 is the value of the paper's experiment. Raises ConfigError for models
        that cannot do it.
        """
        if threshold is not None:
            if not -1 <= threshold <= 1:
                raise ConfigError(f"merging tokens at a similarity of {threshold:g}: it is a number from -1 to 1")
            if self.first_joint_block == 0:
                raise ConfigError("tokens are merged before the queries join, but all blocks are joint blocks")
            if self.config.masked_inference:
                raise ConfigError("merged tokens have no masked attention: not with masked_inference")
            self.backbone.check_rotations_alike()
        self.merging = threshold

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], mask_probabilities: Sequence[float] | None = None
    ) -> list[QueryLogits]:
        """Give the query logits of every supervised layer, the final one last.

        Without `mask_probabilities` there is one layer and, but for `masked_inference`, no masked attention:
        inference. With them, one a joint block, each joint block is supervised, and with that probability a
        query attends in it only to the patches inside the mask that it predicted just before (section 3.3).
        """
        if mask_probabilities is not None and len(mask_probabilities) != self.config.num_joint_blocks:
            raise ValueError(
                f"{len(mask_probabilities)} mask probabilities, {self.config.num_joint_blocks} joint blocks"
            )
        grid = (images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size)
        tokens, rope = self.backbone.embed(images)
        merged = None
        for index in range(self.first_joint_block):
            tokens = self.backbone.run(index, tokens, rope)
            if self.merging is not None and mask_probabilities is None:
                tokens, rope, merged = self.merge(tokens, rope, index + 1, grid, merged)

        outputs: list[QueryLogits] = []
        tokens = torch.cat([self.queries.weight.expand(len(images), -1, -1).to(tokens.dtype), tokens], dim=1)
        for joint in range(self.config.num_joint_blocks):
            attention_mask = None
            if mask_probabilities is not None:
                outputs.append(self.read_out(tokens, grid))
                attention_mask = self.attention_mask(outputs[-1], mask_probabilities[joint], grid)
            elif self.config.masked_inference:
                attention_mask = self.attention_mask(self.read_out(tokens, grid), 1.0, grid)
            tokens = self.backbone.run(self.first_joint_block + joint, tokens, rope, attention_mask)
        outputs.append(self.read_out(tokens, grid, merged))
        return outputs

    def merge(
        self,
        tokens: Float[Tensor, "b n d"],
        rope: Tensor | None,
        blocks: int,
        grid: tuple[int, int],
        merged: Merged | None,
    ) -> tuple[Float[Tensor, "b m d"], Tensor | None, Merged | None]:
        """Merge the patches' tokens where it is time to, after so many blocks. Prefix tokens stay as they are."""
        assert self.merging is not None
        last = min(GLOBAL_MERGE, self.first_joint_block)
        if blocks not in (1, last):
            return tokens, rope, merged
        count = self.backbone.num_prefix_tokens
        prefix, patches = tokens[:, :count], tokens[:, count:]
        state = unmerged(patches, rope) if merged is None else replace(merged, tokens=patches)
        if blocks == 1:
            state = merge_windows(state, grid, self.merging)
        if blocks == last:
            state = merge_alike(state, self.merging)
        return torch.cat([prefix, state.tokens], dim=1), state.rope, state

    def reset_classes(self, num_classes: int) -> None:
        """Start the class head anew, for other classes."""
        head = nn.Linear(self.backbone.embed_dim, num_classes + 1)
        self.class_head = head.to(self.class_head.weight.device)

    def read_out(
        self, tokens: Float[Tensor, "b n d"], grid: tuple[int, int], merged: Merged | None = None
    ) -> QueryLogits:
        """Read classes and masks from the tokens, after the ViT's own final norm."""
        tokens = self.backbone.norm(tokens)
        queries = tokens[:, : self.config.num_queries]
        patches = tokens[:, self.config.num_queries + self.backbone.num_prefix_tokens :]
        if merged is not None:
            patches = merged.patches(patches)
        features = self.upscale(patches.unflatten(1, grid))  # type: ignore[no-untyped-call]
        embeddings = self.mask_head(queries)
        # Under autocast norms give fp32 and products bf16: a mask is the product of the two, so they must agree.
        return QueryLogits(self.class_head(queries), embeddings, features.to(embeddings.dtype).permute(0, 3, 1, 2))

    @torch.no_grad()
    def attention_mask(
        self, logits: QueryLogits, probability: float, grid: tuple[int, int]
    ) -> Bool[Tensor, "b 1 q n"] | None:
        """Let each query see, among the patches, only those inside its mask; None where no query is confined.

        Prefix tokens and other queries stay visible, so a query with an empty mask still attends somewhere.
        """
        if probability <= 0:
            return None
        # Down-sampling is linear: the features are brought to the grid once, not the mask of every query.
        coarse = functional.interpolate(logits.features, size=grid, mode="bilinear", align_corners=False)
        visible = logits.mask_embeddings @ coarse.flatten(2) > 0
        if probability < 1:
            opened = torch.rand(visible.shape[:2], device=visible.device) > probability
            visible |= opened[..., None]
        batch, num_queries, _ = visible.shape
        others = visible.new_ones(batch, num_queries, num_queries + self.backbone.num_prefix_tokens)
        return torch.cat([others, visible], dim=2)[:, None]


class ScaleBlock(nn.Module):
    """Double the resolution of a feature map kept in token layout, [b h w d].

    A transposed convolution whose kernel equals its stride is a matrix product and a reshape; in token layout
    neither it nor the layer norm needs a transposition. Weights have the shapes and names of the convolutions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b 2*h 2*w d"]:
        """Double height and width."""
        doubled = functional.gelu(double(features, self.conv1))
        mixed = self.conv2(doubled.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        upscaled: Tensor = self.norm(mixed)
        return upscaled


def double(features: Float[Tensor, "b h w d"], layer: nn.ConvTranspose2d) -> Float[Tensor, "b 2*h 2*w d"]:
    """Apply a transposed convolution with kernel and stride 2 in token layout: a matrix product and a reshape."""
    batch, height, width, channels = features.shape
    assert layer.bias is not None
    kernel = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [(2 2 out), in]
    doubled = functional.linear(features, kernel, layer.bias.repeat(4))
    doubled = doubled.view(batch, height, width, 2, 2, channels).transpose(2, 3)
    return doubled.reshape(batch, 2 * height, 2 * width, channels)
