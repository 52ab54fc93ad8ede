"""ViT-Adapter (arXiv 2205.08534, section 3): a plain ViT that gives a pyramid, convolutions running beside it.

A small convolutional network (`SpatialPrior`) makes a pyramid of the pixels. Before each quarter of the ViT's
blocks the patches take from the pyramid (`Injector`), after it the pyramid takes from the patches (`Extractor`),
both by deformable attention. Widths and heads are those of the public configurations for each size of ViT. What is
made of the pyramid is left to others.

Maps are kept in token layout, [b h w d]: convolutions of one pixel, and transposed ones that double, are matrix
products then, layer norms need no transposition, and the depth-wise convolution reads a view.

Followed is the public code for detection, in which the ViT's last map is added to all levels; that for semantic
segmentation adds one after each quarter. Two things differ. Its norms are synchronised batch norms: they tie the
images of a batch to one another, over processes too, and want many. Here each image is normalised by itself, so
that a batch of one trains and micro-batches add up to their step: group norm after convolutions, layer norm on the
pyramid, as ViTDet has it, and as many parameters. And prefix tokens stay in the blocks; that code has none.
"""

import math

import torch
from jaxtyping import Float, UInt8
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from eomt.config import ModelConfig
from eomt.errors import ConfigError
from eomt.models.backbone import Backbone
from eomt.models.deformable import DeformableAttention, Shapes, cell_centres
from eomt.models.eomt import double

__all__ = ["Adapter"]

INTERACTIONS = 4
EXTRA_EXTRACTORS = 2
POINTS = 4
STEM_WIDTH = 64
EPS = 1e-6


class Adapter(nn.Module):
    """A pyramid of maps at a quarter, an eighth, a sixteenth and a thirty-second of the image's resolution.

    The backbone belongs to the model that has both: its parameters are not the adapter's. It loses its final norm,
    which has no place here. With patches of other sizes than 16 the convolutions see the image scaled to 16 pixels
    a patch, so that the maps always have 4, 2, 1 and 1/2 (rounded up) times the sides of the patch grid.
    """

    def __init__(self, backbone: Backbone, config: ModelConfig) -> None:
        super().__init__()
        depth, width = len(backbone.blocks), backbone.embed_dim
        if depth < INTERACTIONS:
            raise ConfigError(f"ViT-Adapter: {config.backbone} with {depth} blocks; at least {INTERACTIONS}")
        self._backbone = (backbone,)  # in a tuple, or it would be registered twice
        backbone.drop_norm()
        self.ends = [depth * (part + 1) // INTERACTIONS for part in range(INTERACTIONS)]
        self.gradient_checkpointing = config.gradient_checkpointing
        heads: int = backbone.blocks[0].attn.num_heads  # type: ignore[union-attr, assignment]
        ratio = 0.5 if width >= 768 else 1.0  # of the values: the public configurations of S, and of B and L

        self.prior = SpatialPrior(width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.injectors = nn.ModuleList(Injector(width, heads, ratio) for _ in range(INTERACTIONS))
        self.extractors = nn.ModuleList(
            Extractor(width, heads, ratio, config.drop_path) for _ in range(INTERACTIONS + EXTRA_EXTRACTORS)
        )
        self.up = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for _ in range(4))
        initialise(self.up)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b d h4 w4"]]:
        """Give the four maps, the finest first."""
        backbone = self._backbone[0]
        tokens, rope = backbone.embed(images)
        grid = (images.shape[-2] // backbone.patch_size, images.shape[-1] // backbone.patch_size)
        pixels = backbone.normalise(images)
        if backbone.patch_size != 16:
            size = (16 * grid[0], 16 * grid[1])  # in fp32: a processor has no other antialiasing
            scaled = functional.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
            pixels = scaled.to(pixels.dtype)
        finest, *levels = self.prior(pixels)
        shapes = [(level.shape[1], level.shape[2]) for level in levels]
        pyramid = torch.cat([level.flatten(1, 2) + self.level_embed[i] for i, level in enumerate(levels)], dim=1)

        of_grid, of_pyramid = (cell_centres(part, images.device)[None, :, None] for part in ([grid], shapes))
        prefix, start = backbone.num_prefix_tokens, 0
        for part, end in enumerate(self.ends):
            patches = self.call(self.injectors[part], tokens[:, prefix:], of_grid, pyramid, shapes)
            tokens = torch.cat([tokens[:, :prefix], patches], dim=1)
            for index in range(start, end):
                tokens = backbone.run(index, tokens, rope)
            patches, start = tokens[:, prefix:], end
            last = part == INTERACTIONS - 1
            for extractor in self.extractors[part:] if last else self.extractors[part : part + 1]:
                pyramid = self.call(extractor, pyramid, of_pyramid, patches, [grid], shapes)

        return self.maps(finest, split(pyramid, shapes), *split(patches, [grid]))

    def call(self, part: nn.Module, *arguments: object) -> Tensor:
        """Run an interaction; where activations are recomputed in the backward pass, its own are, too."""
        if self.gradient_checkpointing and self.training:
            found: Tensor = checkpoint(part, *arguments, use_reentrant=False)
        else:
            found = part(*arguments)
        return found

    def maps(
        self, finest: Float[Tensor, "b h w d"], levels: list[Tensor], patches: Float[Tensor, "b gh gw d"]
    ) -> list[Float[Tensor, "b d h4 w4"]]:
        """Add to each level, and to the finest one, the patches scaled to it; normalise."""
        finest = double(levels[0], self.up).add_(finest)  # in place where autograd allows: the largest of all
        image = patches.permute(0, 3, 1, 2)
        found = []
        for level, norm in zip([finest, *levels], self.norms, strict=True):
            size = (level.shape[1], level.shape[2])
            scaled = functional.interpolate(image.to(level.dtype), size, mode="bilinear").permute(0, 2, 3, 1)
            found.append(norm(scaled.add_(level)).permute(0, 3, 1, 2))
        return found


class SpatialPrior(nn.Module):
    """Four maps of the pixels by convolutions alone, at a quarter to a thirty-second, projected to one width."""

    def __init__(self, width: int, inner: int = STEM_WIDTH) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, inner, stride=2),
            convolution(inner, inner),
            convolution(inner, inner),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        widths = [inner, 2 * inner, 4 * inner, 4 * inner]
        self.halve = nn.ModuleList(convolution(widths[i], widths[i + 1], stride=2) for i in range(3))
        self.project = nn.ModuleList(nn.Linear(channels, width) for channels in widths)
        self.apply(initialise)
        for linear in self.project:
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=math.sqrt(2 / width))  # as the 1x1 convolution that it is

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b h4 w4 d"]]:
        """Give the four maps in token layout, the finest first."""
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for halve in self.halve:
            maps.append(halve(maps[-1]))
        return [project(level.permute(0, 2, 3, 1)) for project, level in zip(self.project, maps, strict=True)]


class Injector(nn.Module):
    """Patches take from the pyramid; at first nothing, as the result is scaled by zero."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=EPS)
        self.feature_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = DeformableAttention(width, heads, levels=3, points=POINTS, ratio=ratio)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(
        self, patches: Float[Tensor, "b n d"], centres: Tensor, pyramid: Float[Tensor, "b c d"], shapes: Shapes
    ) -> Float[Tensor, "b n d"]:
        """Give the patches with what they took."""
        taken = self.attention(self.query_norm(patches), centres, self.feature_norm(pyramid), shapes)
        return torch.addcmul(patches, self.gamma.to(patches.dtype), taken.to(patches.dtype))


class Extractor(nn.Module):
    """The pyramid takes from the patches, then passes a convolutional feed-forward network."""

    def __init__(self, width: int, heads: int, ratio: float, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=EPS)
        self.feature_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = DeformableAttention(width, heads, levels=1, points=POINTS, ratio=ratio)
        self.ffn_norm = nn.LayerNorm(width, eps=EPS)
        self.ffn = ConvFeedForward(width, width // 4)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        pyramid: Float[Tensor, "b c d"],
        centres: Tensor,
        patches: Float[Tensor, "b n d"],
        grid: Shapes,
        shapes: Shapes,
    ) -> Float[Tensor, "b c d"]:
        """Give the pyramid with what it took; `shapes` are its own."""
        pyramid = pyramid + self.attention(self.query_norm(pyramid), centres, self.feature_norm(patches), grid)
        extracted: Tensor = pyramid + self.drop_path(self.ffn(self.ffn_norm(pyramid), shapes))
        return extracted


class ConvFeedForward(nn.Module):
    """Two linear layers with a depth-wise convolution between them, the same one for all levels."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.mix = nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner)
        self.fc2 = nn.Linear(inner, width)
        self.apply(initialise)

    def forward(self, pyramid: Float[Tensor, "b c d"], shapes: Shapes) -> Float[Tensor, "b c d"]:
        """Mix the channels, the neighbours, and the channels again."""
        mixed = []
        for level in split(self.fc1(pyramid), shapes):
            image = self.mix(level.permute(0, 3, 1, 2))
            mixed.append(image.permute(0, 2, 3, 1).flatten(1, 2))
        found: Tensor = self.fc2(functional.gelu(torch.cat(mixed, dim=1)))
        return found


def split(pyramid: Float[Tensor, "b c d"], shapes: Shapes) -> list[Float[Tensor, "b h w d"]]:
    """Split the pyramid's tokens into the maps of its levels: views."""
    levels = torch.split(pyramid, [height * width for height, width in shapes], dim=1)
    return [level.view(len(level), *shape, -1) for level, shape in zip(levels, shapes, strict=True)]


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Make a 3x3 convolution with its norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(32, outputs),
        nn.ReLU(inplace=True),
    )


def initialise(part: nn.Module) -> None:
    """Draw weights as the public code does: linear layers' alike, convolutions' by their fan-out."""
    if isinstance(part, nn.Linear):
        trunc_normal_(part.weight, std=0.02)  # torch's draws until all values fit: without end in `Blank`
    elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        size = part.kernel_size[0] * part.kernel_size[1]
        nn.init.normal_(part.weight, std=math.sqrt(2 * part.groups / (size * part.out_channels)))
    if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
        nn.init.zeros_(part.bias)
