"""Views show what they should: image and masks together, at the promised scales and odds."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from eomt.config import AugmentConfig
from eomt.data.augment import View, augment, draw_view, jitter_color, turn_hue
from eomt.masks import IdMap, RleMasks
from eomt.types import Sample, Segments

COLORS = torch.tensor([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(ids: np.ndarray, count: int, crowd: tuple[int, ...] = (), rle: bool = False) -> Sample:
    """An image whose colours are those of its ids; label = 10 + the segment's place."""
    id_map = IdMap(ids.astype(np.int32), count)
    masks = RleMasks.encode((id_map.mask(k) for k in range(count)), id_map.size) if rle else id_map
    is_crowd = torch.tensor([k in crowd for k in range(count)], dtype=torch.bool)
    segments = Segments(masks, torch.arange(10, 10 + count), is_crowd)
    return Sample(COLORS[torch.from_numpy(ids.astype(np.int64))].permute(2, 0, 1), segments, "x")


def blocks(height: int, width: int) -> np.ndarray:
    """Quarters: void, segment 1; segment 2, segment 3."""
    ids = np.zeros((height, width), np.int64)
    ids[: height // 2, width // 2 :] = 1
    ids[height // 2 :, : width // 2] = 2
    ids[height // 2 :, width // 2 :] = 3
    return ids


def test_zoom_shows_images_of_all_sizes_alike() -> None:
    config = AugmentConfig(scale=(1.0, 1.0))
    for source in [(40, 50), (300, 200), (64, 1000)]:
        view = draw_view(source, (48, 64), config, generator(), zoom=1.5)
        assert view.scaled == (source[0] * 1.5, source[1] * 1.5)
        assert view.window[2:] == pytest.approx((min(source[0], 32), min(source[1], 64 / 1.5)), abs=1)


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_image_and_masks_stay_together(size, rle):
    config = AugmentConfig(flip=0.5, vertical_flip=0.5, scale=(0.3, 2.0))
    for seed in range(30):
        image, target = augment(sample(blocks(90, 130), 3, rle=rle), size, config, generator(seed))
        assert image.shape == (3, *size)
        assert target.masks.shape[1:] == size
        painted = torch.zeros_like(image)
        for mask, label in zip(target.masks, target.labels, strict=True):
            painted[:, mask] = COLORS[label - 9][:, None]
        # only pixels at the border between two colours, which scaling mixes, may differ
        differs = (painted.int() - image.int()).abs().amax(0) > 2
        border = torch.zeros(size, dtype=torch.bool)
        border[:, 1:] |= (painted[:, :, 1:] != painted[:, :, :-1]).any(0)
        border[1:] |= (painted[:, 1:] != painted[:, :-1]).any(0)
        near = torch.nn.functional.max_pool2d(border[None].float(), 5, stride=1, padding=2)[0] > 0
        assert not (differs & ~near).any()


@pytest.mark.parametrize("rle", [False, True])
def test_id_maps_and_run_lengths_give_the_same_view(rle):
    config = AugmentConfig(flip=0.5)
    for seed in range(10):
        image, target = augment(sample(blocks(50, 70), 3), (40, 40), config, generator(seed))
        other_image, other = augment(sample(blocks(50, 70), 3, rle=True), (40, 40), config, generator(seed))
        assert torch.equal(image, other_image)
        assert torch.equal(target.masks, other.masks)
        assert torch.equal(target.labels, other.labels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("scaled", "corner", "window"),
    [
        ((20, 20), (0, 0), (0, 0, 100, 120)),  # all of the image, as the authors scale it
        ((50, 40), (0, 0), (0, 0, 100, 120)),
        ((50, 60), (0, 10), (0, 20, 100, 80)),  # halved, then cut
        ((200, 240), (80, 46), (40, 23, 25, 20)),  # doubled, then cut
    ],
)
def test_cutting_first_equals_scaling_first(scaled, corner, window, flip):
    """To a level of 255; along a cut, the filter does not reach over it."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (100, 120, 3), dtype=np.uint8)
    ids = chance.integers(0, 4, (100, 120)).astype(np.int32)
    view = View((100, 120), scaled, corner, (50, 40), flip=flip)
    assert view.window == window
    rows, columns = (slice(c, c + f) for c, f in zip(corner, view.filled, strict=True))
    resize = (scaled[1], scaled[0])
    whole = np.array(Image.fromarray(pixels).resize(resize, Image.Resampling.BILINEAR))[rows, columns]
    whole_ids = np.array(Image.fromarray(ids).resize(resize, Image.Resampling.NEAREST))[rows, columns]
    if flip:
        whole, whole_ids = whole[:, ::-1], whole_ids[:, ::-1]
    cut = view.image(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    away = np.s_[:] if window[2:] == (100, 120) else np.s_[1:-1, 1:-1]
    assert np.abs(cut.astype(int) - whole)[away].max() <= 1
    masks, seen = view.masks(IdMap(ids, 3))
    assert seen == [0, 1, 2]
    for index in seen:
        inside = masks[index, : view.filled[0], : view.filled[1]].numpy()
        assert (inside != (whole_ids == index + 1)).mean() < 0.01


@pytest.mark.parametrize("source", [(480, 640), (1, 5000), (7, 3), (1, 1)])
def test_a_view_begins_and_ends_with_a_pixel_of_the_source(source):
    chance = generator()
    for fit in ("contain", "cover"):
        for _ in range(100):
            view = draw_view(source, (64, 96), AugmentConfig(fit=fit), chance)
            for axis in (0, 1):
                start, length = view.window[axis], view.window[axis + 2]
                assert 0 <= start < start + length <= source[axis]
                ratio = source[axis] / view.scaled[axis]
                assert abs(start - view.corner[axis] * ratio) < 1
                assert abs(start + length - (view.corner[axis] + view.filled[axis]) * ratio) <= 1


@pytest.mark.parametrize(
    ("source", "view", "whole"),
    [
        ((100, 200), (50, 50), (25, 50)),  # the longest side fits
        ((200, 100), (50, 50), (50, 25)),
        ((100, 200), (50, 100), (50, 100)),  # a view of the image's shape is filled (torchvision's jitter: 25, 50)
        ((10, 20), (50, 50), (25, 50)),  # small images grow
        ((1, 5000), (50, 50), (1, 50)),  # a line keeps one pixel
        ((1, 1), (50, 60), (50, 50)),
    ],
)
def test_scale_one_fits_the_image_into_the_view(source, view, whole):
    drawn = draw_view(source, view, AugmentConfig(scale=(1.0, 1.0)), generator())
    assert drawn.scaled == whole
    assert drawn.corner == (0, 0)
    assert drawn.filled == whole


@pytest.mark.parametrize(
    ("source", "view", "whole", "filled"),
    [
        ((100, 200), (50, 50), (50, 100), (50, 50)),  # the shortest side fills the view
        ((200, 100), (50, 50), (100, 50), (50, 50)),
        ((100, 200), (50, 100), (50, 100), (50, 100)),
        ((100, 200), (50, 150), (75, 150), (50, 150)),
    ],
)
def test_scale_one_may_fill_the_view(source, view, whole, filled):
    drawn = draw_view(source, view, AugmentConfig(scale=(1.0, 1.0), fit="cover"), generator())
    assert drawn.scaled == whole
    assert drawn.filled == filled


def test_scales_corners_and_flips_are_spread_as_promised():
    config = AugmentConfig(flip=0.5, vertical_flip=0.25, scale=(0.1, 2.0))
    chance = generator()
    views = [draw_view((1000, 1000), (1000, 1000), config, chance) for _ in range(2000)]
    factors = np.array([view.scaled[0] / 1000 for view in views])
    assert factors.min() == pytest.approx(0.1, abs=0.01)
    assert factors.max() == pytest.approx(2.0, abs=0.01)
    assert factors.mean() == pytest.approx(1.05, abs=0.04)
    assert np.mean([view.flip for view in views]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([view.vertical_flip for view in views]) == pytest.approx(0.25, abs=0.04)
    large = [view for view in views if view.scaled[0] > 1001]
    shares = np.array([view.corner[0] / (view.scaled[0] - 1000) for view in large])
    assert (shares.min(), shares.max()) == (0, 1)
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert all(view.corner == (0, 0) for view in views if view.scaled[0] <= 1000)


def test_padding_is_black_and_void_and_to_the_right_and_below():
    ids = np.ones((20, 40), np.int64)
    image, target = augment(sample(ids, 1), (40, 40), AugmentConfig(flip=1.0, scale=(0.5, 0.5)), generator())
    assert torch.equal(image[0] > 0, target.masks[0])
    assert torch.nonzero(target.masks[0]).amax(0).tolist() == [9, 19]
    assert int(target.masks.sum()) == 200


def test_flips_mirror():
    ids = np.zeros((4, 4), np.int64)
    ids[0, 0] = 1
    whole = {"scale": (1.0, 1.0)}
    for config, corner in [
        (AugmentConfig(flip=0.0, **whole), [0, 0]),
        (AugmentConfig(flip=1.0, **whole), [0, 3]),
        (AugmentConfig(flip=0.0, vertical_flip=1.0, **whole), [3, 0]),
        (AugmentConfig(flip=1.0, vertical_flip=1.0, **whole), [3, 3]),
    ]:
        image, target = augment(sample(ids, 1), (4, 4), config, generator())
        assert torch.nonzero(target.masks[0]).tolist() == [corner]
        assert torch.nonzero(image[0]).tolist() == [corner]


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize(
    ("ids", "count", "crowd", "labels"),
    [
        (np.zeros((8, 8)), 0, (), []),  # all void
        (np.ones((8, 8)), 1, (0,), []),  # only a crowd (the authors' code recurses for ever)
        (np.zeros((8, 8)), 2, (), []),  # segments without a pixel
        (blocks(8, 8), 3, (1,), [10, 12]),
        (np.ones((1, 1)), 1, (), [10]),
        (np.ones((1, 500)), 1, (), [10]),
        (np.ones((500, 1)), 1, (), [10]),
    ],
)
def test_degenerate_samples(ids, count, crowd, labels, rle):
    config = AugmentConfig(scale=(1.0, 1.0), color=True)
    image, target = augment(sample(ids.astype(np.int64), count, crowd, rle), (16, 24), config, generator())
    assert image.shape == (3, 16, 24)
    assert target.masks.shape == (len(labels), 16, 24)
    assert target.labels.tolist() == labels
    assert target.is_crowd.tolist() == [False] * len(labels)


def test_a_view_that_misses_everything_is_drawn_again():
    ids = np.zeros((64, 64), np.int64)
    ids[:4, :4] = 1  # 8 x 8 of 128 x 128 pixels once scaled: a view sees it in (8 / 65)^2 = 1.5 % of the draws
    config = AugmentConfig(flip=0.0, scale=(2.0, 2.0))
    seen = [len(augment(sample(ids, 1), (64, 64), config, generator(seed))[1].labels) for seed in range(100)]
    assert set(seen) == {0, 1}  # after ten draws the view is kept as a negative
    assert 0.06 < np.mean(seen) < 0.25  # 1 - 0.985^10 = 14 %


def test_the_sample_is_left_as_it_was():
    given = sample(blocks(20, 20), 3)
    before = given.image.clone()
    augment(given, (20, 20), AugmentConfig(color=True), generator())[0].fill_(7)
    assert torch.equal(given.image, before)


def test_a_generator_decides_everything():
    given, config = sample(blocks(30, 30), 3), AugmentConfig(color=True)
    torch.manual_seed(1)
    first = augment(given, (30, 30), config, generator(5))
    torch.manual_seed(2)
    again, other = augment(given, (30, 30), config, generator(5)), augment(given, (30, 30), config, generator(6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].masks, again[1].masks)
    assert not torch.equal(first[0], other[0])


def test_color_jitter_changes_colours_within_bounds():
    grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    levels = [int(jitter_color(grey, generator(seed))[0, 0, 0]) for seed in range(200)]
    # of a plain grey only the brightness can change: by 32 of 255 at most, and in half of the cases
    assert min(levels) == pytest.approx(128 * (1 - 32 / 255), abs=2)
    assert max(levels) == pytest.approx(128 * (1 + 32 / 255), abs=2)
    assert np.mean(np.abs(np.array(levels) - 128) <= 2) == pytest.approx(0.5, abs=0.1)
    red = torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 200
    shades = {tuple(jitter_color(red, generator(seed))[:, 0, 0].tolist()) for seed in range(100)}
    assert len(shades) > 50
    assert all(shade[0] == max(shade) for shade in shades)  # a hue moved by 18 degrees is still reddish


@pytest.mark.parametrize("turns", [-0.05, -0.01, 0.0, 0.03, 0.05])
def test_hues_turn_as_in_torchvision(turns):
    """To a level of 255: torchvision rounds after more steps."""
    steps = torch.tensor([0, 1, 77, 128, 254, 255], dtype=torch.uint8)
    image = torch.cat([torch.cartesian_prod(steps, steps, steps), torch.randint(256, (4780, 3)).byte()])
    image = image.T.reshape(3, 4, -1)
    difference = turn_hue(image, turns).int() - functional.adjust_hue(image, turns).int()
    assert difference.abs().max() <= 1
    assert torch.equal(turn_hue(image, 0.0), image)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_views_are_those_of_the_authors_in_distribution():
    """200 small views of each side; what is compared, and with what, is in benchmarks/data_pipeline.py."""
    compared = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "data_pipeline.py"))
    scene = compared["draw_scene"]((90, 120), count=6)
    ours, theirs = (
        compared["distribution"](compared[side]((96, 96), color=True), scene, 200) for side in ("Ours", "Theirs")
    )
    for name, values in ours.items():
        error = np.hypot(values.std(), theirs[name].std()) / len(values) ** 0.5
        assert abs(values.mean() - theirs[name].mean()) < 4 * error, name
