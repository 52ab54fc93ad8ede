"""Cut one random view out of a sample, as EoMT does: large-scale jitter, pad and crop, flip, colour jitter.

All parameters are drawn first, so that only what the view shows is touched: it is cut out of the image at whole
pixels and then scaled; masks are looked up at the source pixel below the centre of each pixel of the view. A view
depends on the sample, the settings and the generator only.

Five deliberate differences from the authors' code: views may be of any shape; scales are relative to the way that
prediction fits an image (theirs to the longest side, in semantic segmentation too); a sample without a usable
mask becomes a negative (theirs recurses without end); images are cut before they are scaled, so that a view begins
and ends with a pixel of the source; and colour is jittered last, on the view alone, so that contrast pivots on the
mean of the view and not of the whole image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional

from eomt.config import AugmentConfig
from eomt.masks import EncodedMasks, Window
from eomt.types import Sample, Target

__all__ = ["View", "augment", "draw_view", "jitter_color", "turn_hue"]

_TRIES = 10  # draws that may miss all segments before a view is kept as a negative


@dataclass(frozen=True)
class View:
    """Where a view lies: on the image scaled to `scaled`, at `corner`; what it shows is flipped, padded to `size`.

    Sizes are (height, width), the corner is (top, left), in pixels. Padding is to the right and below.
    """

    source: tuple[int, int]
    scaled: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]
    flip: bool = False
    vertical_flip: bool = False

    @property
    def filled(self) -> tuple[int, int]:
        """Height and width of the part that shows the image; the rest is padding."""
        return min(self.size[0], self.scaled[0]), min(self.size[1], self.scaled[1])

    @property
    def window(self) -> Window:
        """The part of the source that is shown, at whole pixels: a whole image that is seen is exactly itself."""
        starts, stops = [], []
        for source, scaled, corner, filled in zip(self.source, self.scaled, self.corner, self.filled, strict=True):
            starts.append(corner * source // scaled)
            stops.append(max(round((corner + filled) * source / scaled), starts[-1] + 1))
        return starts[0], starts[1], stops[0] - starts[0], stops[1] - starts[1]

    def image(self, image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """Show the filled part of the source image, with antialiasing."""
        top, left, height, width = self.window
        cut = image[None, :, top : top + height, left : left + width]
        # Torch scales bytes several times faster than Pillow, and fastest where a pixel's colours lie together.
        cut = cut.contiguous(memory_format=torch.channels_last)
        shown: Tensor = functional.resize(cut, list(self.filled))[0]
        return shown.flip((-2,) * self.vertical_flip + (-1,) * self.flip)

    def masks(self, masks: EncodedMasks) -> tuple[Bool[Tensor, "k h w"], list[int]]:
        """Show the masks that have a pixel in the view, at its full size, and say which of them these are."""
        top, left, height, width = self.window
        rows = top + ((np.arange(self.filled[0]) + 0.5) * height / self.filled[0]).astype(np.intp)
        columns = left + ((np.arange(self.filled[1]) + 0.5) * width / self.filled[1]).astype(np.intp)
        padding = np.subtract(self.size, self.filled)  # outside of the image, where masks are empty
        rows = np.pad(rows, (0, padding[0]), constant_values=self.source[0])
        columns = np.pad(columns[::-1] if self.flip else columns, (0, padding[1]), constant_values=self.source[1])
        shown, seen = masks.sample(rows, columns)
        if self.vertical_flip:
            shown[:, : self.filled[0]] = shown[:, : self.filled[0]][:, ::-1].copy()
        return torch.from_numpy(shown), seen


def augment(
    sample: Sample,
    view_size: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
    zoom: float | None = None,
) -> tuple[UInt8[Tensor, "3 h w"], Target]:
    """Draw one training view (height, width) of a sample, and what is to be seen in it.

    Crowd segments are dropped, and masks without a pixel in the view. A view that misses all segments is drawn
    again up to ten times, then kept as a negative. Padding is black and void.
    """
    segments = sample.segments
    masks, labels = segments.masks, segments.labels
    if segments.is_crowd.any():
        kept = torch.nonzero(~segments.is_crowd).flatten()
        masks, labels = masks.select(kept.tolist()), labels[kept]
    height, width = sample.image.shape[1:]
    for _ in range(_TRIES):
        view = draw_view((height, width), view_size, config, generator, zoom)
        shown, seen = view.masks(masks)
        if seen or not len(masks):
            break
    image = torch.zeros(3, *view_size, dtype=torch.uint8)
    filled = image[:, : view.filled[0], : view.filled[1]]
    filled.copy_(view.image(sample.image))
    if config.color:
        filled.copy_(jitter_color(filled, generator))
    return image, Target(shown, labels[seen], torch.zeros(len(seen), dtype=torch.bool))


def draw_view(
    source: tuple[int, int],
    view: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
    zoom: float | None = None,
) -> View:
    """Draw where a view of size (height, width) lies in an image of size `source`.

    At factor 1 the whole image just fits into the view, or with `config.fit` of cover, just fills it; or it is
    magnified by `zoom`, where that is given. The factor is uniform in `config.scale`.
    """
    fit = max if config.fit == "cover" else min
    factor = _uniform(*config.scale, generator) * (zoom or fit(view[0] / source[0], view[1] / source[1]))
    scaled = max(1, int(source[0] * factor)), max(1, int(source[1] * factor))
    corner = _below(max(scaled[0] - view[0], 0) + 1, generator), _below(max(scaled[1] - view[1], 0) + 1, generator)
    flip, vertical_flip = _chance(config.flip, generator), _chance(config.vertical_flip, generator)
    return View(source, scaled, corner, view, flip, vertical_flip)


def jitter_color(image: UInt8[Tensor, "3 h w"], generator: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    """Change brightness, contrast, saturation and hue, each with probability 1/2 (SSD's ranges, as in EoMT).

    Contrast comes either before saturation and hue or after them, at even odds.
    """
    if _chance(0.5, generator):
        image = functional.adjust_brightness(image, _uniform(1 - 32 / 255, 1 + 32 / 255, generator))
    contrast_first = _chance(0.5, generator)
    if contrast_first:
        image = _jitter_contrast(image, generator)
    if _chance(0.5, generator):
        image = functional.adjust_saturation(image, _uniform(0.5, 1.5, generator))
    if _chance(0.5, generator):
        image = turn_hue(image, _uniform(-18 / 360, 18 / 360, generator))
    if not contrast_first:
        image = _jitter_contrast(image, generator)
    return image


def turn_hue(image: UInt8[Tensor, "3 h w"], turns: float) -> UInt8[Tensor, "3 h w"]:
    """Turn the hue of each pixel, in turns of the colour circle; its largest and smallest values stay.

    A level off torchvision's `adjust_hue` at most, which rounds later, in a quarter of its time.
    """
    red, green, blue = colors = image.to(torch.float32)
    most, least = colors.amax(0), colors.amin(0)
    chroma = most - least
    unit = 1 / chroma.clamp(min=1)  # grey has no hue: any will do
    hue = torch.where(  # in sixths of the circle: red is at 0, green at 2, blue at 4
        most == red,
        (green - blue) * unit,
        torch.where(most == green, (blue - red) * unit + 2, (red - green) * unit + 4),
    )
    hue = (hue + 6 * turns).remainder_(6)
    shares = torch.stack([(hue - 3).abs_() - 1, 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()])
    return shares.clamp_(0, 1).mul_(chroma).add_(least).round_().to(torch.uint8)


def _jitter_contrast(image: UInt8[Tensor, "3 h w"], generator: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    if _chance(0.5, generator):
        image = functional.adjust_contrast(image, _uniform(0.5, 1.5, generator))
    return image


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())


def _chance(probability: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability
