"""Mask2Former's pixel decoder (arXiv 2112.01527, section 3.2): deformable attention over maps of three sizes.

Cells of all three look at each other, layer by layer; the finest map takes in what came of it. How deformable
attention is computed, where the maps come from, and the queries are left to others.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from eomt.models.deformable import DeformableAttention, Shapes, cell_centres
from eomt.models.pyramid import Maps, fan_in, sine_positions, tokens

__all__ = ["EncoderLayer", "PixelDecoder"]

LAYERS = 6
HEADS = 8
POINTS = 4
HIDDEN = 1024
GROUPS = 32


class PixelDecoder(nn.Module):
    """Maps of width `width_in` to maps of `width`, with six layers of deformable attention over the levels."""

    def __init__(self, width_in: int, width: int, levels: int = 3) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width_in, width, 1), nn.GroupNorm(GROUPS, width)) for _ in range(levels)
        )
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(EncoderLayer(width, levels) for _ in range(LAYERS))
        self.lateral = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.GroupNorm(GROUPS, width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU()
        )
        self.mask_projection = nn.Conv2d(width, width, 1)
        for part in (self.lateral, self.smooth, self.mask_projection):
            part.apply(fan_in)
        for convolution in self.projections.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.xavier_uniform_(convolution.weight)
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)

    def forward(self, maps: Maps) -> Maps:
        """Let the levels look at each other; the last, finest of them is added to the finest map."""
        levels = [project(level) for project, level in zip(self.projections, maps.levels, strict=True)]
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        device, width = levels[0].device, levels[0].shape[1]
        positions = torch.cat(
            [
                sine_positions(shape, width, device).to(embedding.dtype) + embedding
                for shape, embedding in zip(shapes, self.level_embedding, strict=True)
            ]
        )
        cells = torch.cat([tokens(level) for level in levels], dim=1)
        centres = cell_centres(shapes, device)[None, :, None]
        for layer in self.layers:
            cells = layer(cells, positions, centres, shapes)
        parts = torch.split(cells, [height * width for height, width in shapes], dim=1)
        mixed = [
            part.transpose(1, 2).reshape(len(part), -1, *shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        lateral = self.lateral(maps.finest)
        raised = functional.interpolate(mixed[-1], size=lateral.shape[2:], mode="bilinear", align_corners=False)
        return Maps(self.mask_projection(self.smooth(lateral + raised)), mixed)


class EncoderLayer(nn.Module):
    """Deformable attention of all cells to places of all levels, then a perceptron; a norm after each."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, HEADS, levels, POINTS)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, width)
        self.norm2 = nn.LayerNorm(width)
        for matrix in (self.fc1.weight, self.fc2.weight):
            nn.init.xavier_uniform_(matrix)

    def forward(
        self,
        cells: Float[Tensor, "b n d"],
        positions: Float[Tensor, "n d"],
        centres: Float[Tensor, "1 n 1 2"],
        shapes: Shapes,
    ) -> Float[Tensor, "b n d"]:
        """Let each cell look around its own centre in every level."""
        cells = self.norm1(cells + self.attention(cells + positions, centres, cells, shapes))
        mixed: Tensor = self.norm2(cells + self.fc2(functional.relu(self.fc1(cells))))
        return mixed
