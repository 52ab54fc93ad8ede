"""Mask2Former's Transformer decoder (arXiv 2112.01527, section 3.2) on a plain ViT: the paper's baseline.

Queries look at maps of the image, one level after another, each inside the mask that it has predicted just before.
The maps come from `adapter` or `pyramid`, and through `pixel_decoder`, as the kind of model has it.
"""

from collections.abc import Sequence
from itertools import cycle

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from eomt.config import ModelConfig, num_masked_layers, num_upscale_blocks
from eomt.errors import ConfigError
from eomt.models.adapter import Adapter
from eomt.models.backbone import Backbone
from eomt.models.pixel_decoder import PixelDecoder
from eomt.models.pyramid import FeaturePyramid, Maps, fan_in, sine_positions, tokens
from eomt.types import QueryLogits

__all__ = ["DecoderLayer", "Mask2Former"]

WIDTH = 256
HEADS = 8
HIDDEN = 2048
DOUBLINGS = 2
"""From the patch grid to an adapter's finest map."""


class Mask2Former(nn.Module):
    """A plain ViT whose maps queries look at, instead of joining its tokens.

    `num_classes` counts the categories; class logits have one more, *no object*. Maps come from a ViT-Adapter, or
    from a pyramid of the ViT's last tokens after its own final norm. They are brought to the decoder's width by
    the pixel decoder or, without it, by one matrix a level.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        width = self.backbone.embed_dim
        self.first_joint_block = len(self.backbone.blocks)  # queries join none
        levels = 1 if config.kind == "mask2former_single_scale" else 3
        self.adapter: Adapter | None = None
        self.pyramid: FeaturePyramid | None = None
        if config.kind == "mask2former_vit_adapter":
            if config.num_upscale_blocks not in (None, DOUBLINGS):
                raise ConfigError(f"{config.num_upscale_blocks} upscale blocks: a ViT-Adapter has {DOUBLINGS}")
            self.adapter = Adapter(self.backbone, config)
        else:
            self.pyramid = FeaturePyramid(width, num_upscale_blocks(config), scales=levels > 1)
        has_decoder = config.kind in ("mask2former_vit_adapter", "mask2former")
        self.pixels = PixelDecoder(width, WIDTH, levels) if has_decoder else Project(width, levels)

        self.queries = nn.Embedding(config.num_queries, WIDTH)
        self.query_positions = nn.Embedding(config.num_queries, WIDTH)
        self.level_embedding = nn.Embedding(levels, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(num_masked_layers(config)))
        self.norm = nn.LayerNorm(WIDTH)
        self.class_head = nn.Linear(WIDTH, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], mask_probabilities: Sequence[float] | None = None
    ) -> list[QueryLogits]:
        """Give the query logits of every supervised layer, the final one last.

        Without `mask_probabilities` the final one alone: inference. With them, one a decoder layer, those before
        each layer too. Their values change nothing: a query is always confined to its mask here.
        """
        if mask_probabilities is not None and len(mask_probabilities) != len(self.layers):
            raise ValueError(f"{len(mask_probabilities)} mask probabilities, {len(self.layers)} decoder layers")
        maps: Maps = self.pixels(self.look(images))
        levels = [
            Level(level, maps.finest, embedding)
            for level, embedding in zip(maps.levels, self.level_embedding.weight, strict=True)
        ]
        queries = self.queries.weight.repeat(len(images), 1, 1)
        positions = self.query_positions.weight.repeat(len(images), 1, 1)
        outputs = [self.read_out(queries, maps.finest)]
        for layer, level in zip(self.layers, cycle(levels)):
            visible = level.visible(outputs[-1].mask_embeddings)
            queries = layer(queries, positions, level, visible)
            outputs.append(self.read_out(queries, maps.finest))
        return outputs if mask_probabilities is not None else outputs[-1:]

    def look(self, images: UInt8[Tensor, "b 3 h w"]) -> Maps:
        """Give the maps of the images, at the ViT's width."""
        if self.adapter is not None:
            finest, *levels = self.adapter(images)
            return Maps(finest, levels[::-1])
        assert self.pyramid is not None
        grid = (images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size)
        found, rope = self.backbone.embed(images)
        for index in range(len(self.backbone.blocks)):
            found = self.backbone.run(index, found, rope)
        patches = self.backbone.norm(found)[:, self.backbone.num_prefix_tokens :]
        maps: Maps = self.pyramid(patches.unflatten(1, grid))
        return maps

    def read_out(self, queries: Float[Tensor, "b q d"], features: Float[Tensor, "b d h w"]) -> QueryLogits:
        """Read classes and masks from the queries."""
        queries = self.norm(queries)
        embeddings = self.mask_head(queries)
        return QueryLogits(self.class_head(queries), embeddings, features.to(embeddings.dtype))

    def reset_classes(self, num_classes: int) -> None:
        """Start the class head anew, for other classes."""
        self.class_head = nn.Linear(WIDTH, num_classes + 1).to(self.class_head.weight.device)

    def merge_tokens(self, threshold: float | None) -> None:
        """Raise ConfigError where tokens are to be merged: it is done in EoMT only."""
        if threshold is not None:
            raise ConfigError(f"tokens are merged in models of kind eomt only, not of {self.config.kind}")


class Project(nn.Module):
    """Bring maps to the decoder's width, one matrix a map, where there is no pixel decoder."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for _ in range(levels))
        self.mask_projection = nn.Conv2d(width, WIDTH, 1)
        self.apply(fan_in)

    def forward(self, maps: Maps) -> Maps:
        """Project all maps."""
        levels = [project(level) for project, level in zip(self.projections, maps.levels, strict=True)]
        return Maps(self.mask_projection(maps.finest), levels)


class Level:
    """What queries see of one level: keys, which tell where cells lie, values, and the masks' features there."""

    def __init__(
        self, cells: Float[Tensor, "b d h w"], features: Float[Tensor, "b d _h _w"], embedding: Float[Tensor, " d"]
    ) -> None:
        self.size = (cells.shape[2], cells.shape[3])
        self.values = tokens(cells) + embedding
        self.keys = self.values + sine_positions(self.size, cells.shape[1], cells.device).to(embedding.dtype)
        # Down-sampling is linear: the features are brought to the level once, not the mask of every query.
        self.coarse = functional.interpolate(
            features.detach(), size=self.size, mode="bilinear", align_corners=False
        )

    def visible(self, embeddings: Float[Tensor, "b q d"]) -> Bool[Tensor, "b 1 q n"]:
        """Let each query see the cells inside its mask, or all where there is none."""
        with torch.no_grad():  # not as a decorator, at which torch.compile would part the model
            inside = embeddings @ self.coarse.to(embeddings.dtype).flatten(2) >= 0
            return (inside | ~inside.any(-1, keepdim=True))[:, None]


class DecoderLayer(nn.Module):
    """Masked attention to one level, attention among queries, a perceptron; a norm after each."""

    def __init__(self) -> None:
        super().__init__()
        self.cross_attention = Attention()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.self_attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)
        for matrix in (self.fc1.weight, self.fc2.weight):
            nn.init.xavier_uniform_(matrix)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        positions: Float[Tensor, "b q d"],
        level: Level,
        visible: Bool[Tensor, "b 1 q n"],
    ) -> Float[Tensor, "b q d"]:
        """Change the queries by what they see of the level, and of each other."""
        seen = self.cross_attention(queries + positions, level.keys, level.values, visible)
        queries = self.norm1(queries + seen)
        placed = queries + positions
        queries = self.norm2(queries + self.self_attention(placed, placed, queries))
        changed: Tensor = self.norm3(queries + self.fc2(functional.relu(self.fc1(queries))))
        return changed


class Attention(nn.Module):
    """Attention of several heads, with PyTorch's kernels: a mask that all heads share is not copied for each."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            joined = projection is not self.out_proj  # the three are one matrix in Mask2Former, and drawn as one
            nn.init.xavier_uniform_(projection.weight, gain=0.5**0.5 if joined else 1.0)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        keys: Float[Tensor, "b n d"],
        values: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b 1 q n"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Give each query the values whose keys it finds, where the mask is True."""
        q, k, v = (
            project(given).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for project, given in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return mixed
