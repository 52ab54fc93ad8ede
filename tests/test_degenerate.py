"""Images at the edge of what there is train without a crash or a NaN: a step from the loader to the weights."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from conftest import TOY
from eomt.categories import Category
from eomt.config import AugmentConfig, DataConfig, LossConfig, Recipe
from eomt.data.loader import train_loader
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.models.eomt import EoMT
from eomt.training.loss import segmentation_loss
from eomt.types import Sample, Segments

CATEGORIES = (Category("thing", True, 1, (255, 0, 0)), Category("stuff", False, 2, (0, 255, 0)))


@dataclass
class Images:
    """Samples as they are."""

    samples: list[Sample]
    categories: tuple[Category, ...] = CATEGORIES

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def sample(masks: EncodedMasks, crowd: bool = False) -> Sample:
    height, width = masks.size
    image = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    is_crowd = torch.full((len(masks),), crowd)
    return Sample(torch.from_numpy(image), Segments(masks, torch.arange(len(masks)) % 2, is_crowd), "x")


def ids(height: int, width: int, count: int) -> IdMap:
    """Segments of equal areas, one after another; with none, all is void."""
    pixels = np.arange(height * width).reshape(height, width) * count // (height * width) + 1
    return IdMap((pixels * (count > 0)).astype(np.int32), count)


def corner(height: int, width: int) -> IdMap:
    """One segment of a single pixel, that hardly any view sees."""
    pixels = np.zeros((height, width), np.int32)
    pixels[0, 0] = 1
    return IdMap(pixels, 1)


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("attention", [None, (1.0, 1.0)])
@pytest.mark.parametrize(
    ("masks", "crowd", "scale", "matched"),
    [
        (ids(40, 50, 0), False, (0.1, 2.0), 0),  # no instance: all void
        (ids(40, 50, 3), True, (0.1, 2.0), 0),  # only crowd
        (IdMap(np.zeros((40, 50), np.int32), 4), False, (0.1, 2.0), 0),  # instances without a pixel
        (corner(2000, 2000), False, (0.1, 0.1), 0),  # lost as it is scaled: no pixel of the view lies on it
        (corner(500, 500), False, (2.0, 2.0), None),  # lost by nearly every crop
        (ids(1, 1, 1), False, (1.0, 1.0), 1),
        (ids(1, 1, 1), False, (0.1, 2.0), 1),
        (ids(1, 5000, 1), False, (1.0, 1.0), 1),  # one row of the view is left of it
        (ids(5000, 1, 3), False, (0.1, 2.0), None),
        (ids(40, 50, 30), False, (1.0, 1.0), TOY.num_queries),  # more instances than queries
    ],
)
def test_a_step(
    masks: IdMap,
    crowd: bool,
    scale: tuple[float, float],
    matched: int | None,
    attention: tuple[float, ...] | None,
    rle: bool,
) -> None:
    """Two views of an odd image: how many masks are matched in each, finite losses and gradients, new weights."""
    code = RleMasks.encode((masks.mask(index) for index in range(len(masks))), masks.size) if rle else masks
    losses = step([sample(code, crowd)], scale, attention, None if matched is None else 2 * matched)
    assert torch.isfinite(losses).all()


def test_odd_images_beside_an_ordinary_one() -> None:
    step([sample(ids(64, 64, 4)), sample(ids(1, 1, 0)), sample(ids(3, 700, 40))], (0.1, 2.0), (0.5, 0.5), None)


@pytest.mark.parametrize("fit", ["contain", "cover"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_views_of_slivers_are_small_work(size: tuple[int, int], fit: str) -> None:
    """Scaled as a whole to fill the view, a line of 5000 pixels would have 320,000 by 64."""
    step([sample(ids(*size, 2))], (0.1, 2.0), None, None, fit)


def step(
    samples: list[Sample],
    scale: tuple[float, float],
    attention: tuple[float, ...] | None,
    matched: int | None,
    fit: str = "contain",
) -> torch.Tensor:
    """Take one step of AdamW on a batch of two views or more; give the terms of the loss."""
    batch_size = max(2, len(samples))
    recipe = Recipe(
        model=TOY,
        data=DataConfig(batch_size=batch_size, workers=0),
        augment=AugmentConfig(scale=scale, fit=fit, color=True),
        loss=LossConfig(num_points=128),
    )
    torch.manual_seed(0)
    model = EoMT(TOY, len(CATEGORIES)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    before = [weight.clone() for weight in model.parameters()]
    batch = next(train_loader(Images(samples), recipe))
    assert batch.images.shape == (batch_size, 3, *TOY.image_size)
    terms = segmentation_loss(model(batch.images, attention), batch.targets, recipe.loss)
    terms.total.backward()
    assert matched is None or terms.matched == matched
    assert terms.replaced_costs == 0
    assert torch.isfinite(terms.total)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.isfinite(weight.grad).all(), name
    optimizer.step()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    return terms.layers
