"""Cut one random view out of a sample, as EoMT does: large-scale jitter, pad and crop, flip, colour jitter.

All parameters are drawn first, so that only what the view shows is scaled: the image by Pillow's resize of a box
(what scaling the whole image and cropping gives), masks by looking up the source pixel below the centre of each
pixel of the view. A view depends on the sample, the settings and the generator only.

Four deliberate differences from the authors' code: views may be of any shape; scales are relative to the way that
prediction fits an image (theirs to the longest side, in semantic segmentation too); a sample without a usable mask
becomes a negative (theirs recurses without end); and colour is jittered last, on the view alone, so that contrast
pivots on the mean of the view and not of the whole image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from eomt.config import AugmentConfig
from eomt.masks import EncodedMasks, IdMap
from eomt.types import Sample, Target

__all__ = ["View", "augment", "draw_view", "jitter_color"]

_TRIES = 10  # draws that may miss all segments before a view is kept as a negative


@dataclass(frozen=True)
class View:
    """Where a view lies: the image scaled to `scaled`, cut at `corner`; the cut is flipped and padded to `size`.

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
    def flipped_axes(self) -> tuple[int, ...]:
        """Axes to reverse, counted from the end."""
        return (-2,) * self.vertical_flip + (-1,) * self.flip

    def image(self, image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """Show the filled part of the source image, with antialiasing."""
        (top, left), (height, width) = self.corner, self.filled
        y, x = (source / scaled for source, scaled in zip(self.source, self.scaled, strict=True))
        right, bottom = min((left + width) * x, self.source[1]), min((top + height) * y, self.source[0])
        whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        shown = whole.resize((width, height), Image.Resampling.BILINEAR, box=(left * x, top * y, right, bottom))
        return torch.from_numpy(np.array(shown)).permute(2, 0, 1).flip(self.flipped_axes)

    def masks(self, masks: EncodedMasks) -> tuple[Bool[Tensor, "k h w"], list[int]]:
        """Show the masks that have a pixel in the view, at its full size, and say which of them these are."""
        rows, columns = (
            ((np.arange(filled) + corner + 0.5) * source / scaled).astype(np.intp)
            for filled, corner, source, scaled in zip(
                self.filled, self.corner, self.source, self.scaled, strict=True
            )
        )
        pixels = np.ix_(rows[::-1] if self.vertical_flip else rows, columns[::-1] if self.flip else columns)
        if isinstance(masks, IdMap):
            return self._expand(masks.ids[pixels])
        shown: list[NDArray[np.bool_]] = []
        seen: list[int] = []
        for index in range(len(masks)):  # one after another: many masks of a large image do not fit in memory
            mask = masks.mask(index)[pixels]
            if mask.any():
                shown.append(self._padded(mask))
                seen.append(index)
        stacked = np.stack(shown) if shown else np.zeros((0, *self.size), dtype=np.bool_)
        return torch.from_numpy(stacked), seen

    def _expand(self, ids: NDArray[np.int32]) -> tuple[Bool[Tensor, "k h w"], list[int]]:
        present = np.flatnonzero(np.bincount(ids.ravel()))
        present = present[present > 0]
        place = np.zeros(ids.max() + 1, dtype=np.intp)
        place[present] = np.arange(len(present))
        out = np.zeros((len(present), *self.size), dtype=np.bool_)
        y, x = np.nonzero(ids)
        out[place[ids[y, x]], y, x] = True
        return torch.from_numpy(out), (present - 1).tolist()

    def _padded(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.zeros(self.size, dtype=np.bool_)
        out[: mask.shape[0], : mask.shape[1]] = mask
        return out


def augment(
    sample: Sample, view_size: tuple[int, int], config: AugmentConfig, generator: torch.Generator
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
        view = draw_view((height, width), view_size, config, generator)
        shown, seen = view.masks(masks)
        if seen or not len(masks):
            break
    picture = view.image(sample.image)
    if config.color:
        picture = jitter_color(picture, generator)
    image = torch.zeros(3, *view_size, dtype=torch.uint8)
    image[:, : picture.shape[1], : picture.shape[2]] = picture
    return image, Target(shown, labels[seen], torch.zeros(len(seen), dtype=torch.bool))


def draw_view(
    source: tuple[int, int], view: tuple[int, int], config: AugmentConfig, generator: torch.Generator
) -> View:
    """Draw where a view of size (height, width) lies in an image of size `source`.

    At factor 1 the whole image just fits into the view, or with `config.fit` of cover, just fills it; the factor
    is uniform in `config.scale`.
    """
    fit = max if config.fit == "cover" else min
    factor = _uniform(*config.scale, generator) * fit(view[0] / source[0], view[1] / source[1])
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
        image = functional.adjust_hue(image, _uniform(-18 / 360, 18 / 360, generator))
    if not contrast_first:
        image = _jitter_contrast(image, generator)
    return image


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
