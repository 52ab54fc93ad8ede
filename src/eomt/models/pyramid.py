"""A simple feature pyramid: maps of several resolutions from a plain ViT's last one (ViTDet, arXiv 2203.16527).

Each map is made of the ViT's own, on its own way and at the ViT's width: doublings and halvings are EoMT's blocks.
What looks at the maps, and their projection to its width, is left to others.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from eomt.models.eomt import ScaleBlock

__all__ = ["FeaturePyramid", "HalveBlock", "Maps"]


class Maps(NamedTuple):
    """What an image looks like to a decoder."""

    finest: Float[Tensor, "b d h w"]
    """Of which masks are made."""
    levels: list[Float[Tensor, "b d _h _w"]]
    """At which queries look, coarse ones first."""


class FeaturePyramid(nn.Module):
    """The ViT's map, its `doublings` times finer one for the masks and, with several `scales`, half and double.

    Separate ways and the full width are what meets the paper's parameters and multiply-adds: a shared first
    doubling, or maps of the decoder's width, would be 4 and 12 M parameters short.
    """

    def __init__(self, width: int, doublings: int, scales: bool) -> None:
        super().__init__()
        self.finest = nn.Sequential(*(ScaleBlock(width) for _ in range(doublings)))
        self.finer = ScaleBlock(width) if scales else None
        self.coarser = HalveBlock(width) if scales else None

    def forward(self, patches: Float[Tensor, "b h w d"]) -> Maps:
        """Give the maps of patch tokens that lie as their grid."""
        levels = [patches]
        if self.finer is not None and self.coarser is not None:
            levels = [self.coarser(patches), patches, self.finer(patches)]
        finest = self.finest(patches)
        return Maps(finest.permute(0, 3, 1, 2), [level.permute(0, 3, 1, 2) for level in levels])


class HalveBlock(nn.Module):
    """Halve the resolution of a feature map in token layout, [b h w d]: a `ScaleBlock` the other way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h2 w2 d"]:
        """Halve height and width, rounded up."""
        height, width = features.shape[1:3]
        even = functional.pad(features.permute(0, 3, 1, 2), (0, width % 2, 0, height % 2))
        mixed = self.conv2(functional.gelu(self.conv1(even)))
        halved: Tensor = self.norm(mixed.permute(0, 2, 3, 1))
        return halved


def fan_in(part: nn.Module) -> None:
    """Draw a convolution of Mask2Former as it does, values keeping their variance; others are left alone."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_uniform_(part.weight, a=1)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def tokens(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n d"]:
    """Lay the cells of a map row by row."""
    return features.flatten(2).transpose(1, 2)


def sine_positions(size: tuple[int, int], width: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Give the positions of a map's cells as sines and cosines of many wavelengths (DETR, arXiv 2005.12872).

    Half of the width tells the row, half the column, each as a share of the map that goes from 0 to 2 pi.
    """
    rows, columns = (sine_waves(length, width // 2, device) for length in size)
    by_row = rows[:, None].expand(-1, size[1], -1)
    by_column = columns[None].expand(size[0], -1, -1)
    return torch.cat([by_row, by_column], dim=2).flatten(0, 1)


def sine_waves(length: int, width: int, device: torch.device) -> Float[Tensor, "n d"]:
    """Give sines and cosines, in turns, of the places 1 to `length`."""
    places = torch.arange(1, length + 1, device=device) / (length + 1e-6) * (2 * torch.pi)
    frequencies = 10000 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = places[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
