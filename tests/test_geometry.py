"""Views lie where the description says, and what was seen in them comes back to the same pixels."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from eomt.errors import DataError
from eomt.inference import geometry
from eomt.inference.geometry import Enlargement, Tiling, assemble, plan, split, stitch


@pytest.mark.parametrize(
    ("image", "view", "fit", "scaled", "corners"),
    [
        ((100, 200), (100, 100), "contain", (50, 100), ((0, 0),)),  # wide: one view, padded below
        ((200, 100), (100, 100), "contain", (100, 50), ((0, 0),)),  # tall: padded on the right
        ((100, 200), (100, 100), "cover", (100, 200), ((0, 0), (0, 100))),  # two windows side by side
        ((250, 100), (100, 100), "cover", (250, 100), ((0, 0), (75, 0), (150, 0))),  # 50 shared by two overlaps
        ((100, 101), (100, 100), "cover", (100, 101), ((0, 0), (0, 1))),  # one column more: nearly all overlaps
        ((50, 50), (100, 100), "cover", (100, 100), ((0, 0),)),  # square: both fits agree
        ((50, 50), (100, 100), "contain", (100, 100), ((0, 0),)),
        ((100, 100), (50, 100), "contain", (50, 50), ((0, 0),)),  # wide view, square image
        ((100, 100), (50, 100), "cover", (100, 100), ((0, 0), (50, 0))),  # windows go down, the view is wide
        ((100, 500), (50, 100), "cover", (50, 250), ((0, 0), (0, 75), (0, 150))),
        ((1, 1), (64, 64), "contain", (64, 64), ((0, 0),)),
        ((1, 5000), (64, 64), "contain", (1, 64), ((0, 0),)),  # 0.01 pixels high: one is the least
        ((5000, 1), (64, 64), "contain", (64, 1), ((0, 0),)),
    ],
)
def test_plan(image, view, fit, scaled, corners):
    tiling = plan(image, view, fit)
    assert tiling.scaled == scaled
    assert tiling.corners == corners


def test_last_window_ends_with_the_image():
    # The formula alone puts the last of 8 windows at int(8185.99...): no window would see the last column.
    count, side, view = 8, 9466, 1280
    assert int((count - 1) * (view - (count * view - side) / (count - 1))) == side - view - 1
    assert plan((1280, side), (view, view), "cover").corners[-1] == (0, side - view)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_windows_of_a_line_would_fill_the_memory(size):
    assert len(plan(size, (16, 16), "cover")) == 5000
    assert len(plan((100, 8100), (640, 640), "cover")) == 81
    with pytest.raises(DataError, match="5000 windows of 640 x 640; cut it"):
        plan(size, (640, 640), "cover")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_image_without_pixels(size):
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels"):
        plan(size, (64, 64), "contain")


def described_cover(height: int, width: int, view: int) -> tuple[tuple[int, int], list[int]]:
    """Re-derive section 3.1: the shorter side reaches the view, windows slide along the longer."""
    factor = view / min(height, width)
    scaled = round(height * factor), round(width * factor)
    longer = max(scaled)
    count = math.ceil(longer / view)
    overlap = (count * view - longer) / (count - 1) if count > 1 else 0.0
    return scaled, [int(index * (view - overlap)) for index in range(count)]


def test_plan_equals_the_description_on_random_sizes():
    draw = random.Random(0)
    for _ in range(240):
        height, width, view = draw.randint(20, 2000), draw.randint(20, 2000), draw.choice([448, 512, 640, 1024])
        scaled, starts = described_cover(height, width, view)
        cover = plan((height, width), (view, view), "cover")
        assert cover.scaled == scaled
        assert [max(corner) for corner in cover.corners[:-1]] == starts[:-1]
        assert max(cover.corners[-1]) == max(scaled) - view
        assert max(cover.corners[-1]) - starts[-1] in (0, 1)

        longest = max(height, width)
        contain = plan((height, width), (view, view), "contain")
        assert contain.scaled == (round(height * (view / longest)), round(width * (view / longest)))
        assert contain.corners == ((0, 0),)


@pytest.mark.parametrize("fit", ["contain", "cover"])
@pytest.mark.parametrize("view", [(32, 32), (32, 48), (48, 16)])
def test_every_pixel_is_shown(fit, view):
    draw = random.Random(1)
    for _ in range(60):
        size = draw.randint(1, 300), draw.randint(1, 300)
        tiling = plan(size, view, fit)
        shown = np.zeros(tiling.scaled, dtype=int)
        for rows, columns in tiling.windows():
            shown[rows, columns] += 1
        assert shown.min() == 1 or fit == "cover"
        assert shown.min() >= 1
        if fit == "contain":
            assert len(tiling) == 1
            assert tiling.scaled <= view
            assert tiling.scaled[0] == view[0] or tiling.scaled[1] == view[1]
        else:
            assert all(rows.stop - rows.start == view[0] for rows, _ in tiling.windows())
            assert all(columns.stop - columns.start == view[1] for _, columns in tiling.windows())


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(50, 90), (90, 50), (1, 1), (1, 200), (200, 1), (33, 400), (64, 64)])
@pytest.mark.parametrize("fit", ["contain", "cover"])
def test_split_equals_pillow(size, fit):
    image = noise(*size)
    before = image.clone()
    tiling = plan(size, (64, 64), fit)
    views = split(image, tiling)
    height, width = tiling.scaled
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    canvas = np.zeros((max(height, 64), max(width, 64), 3), dtype=np.uint8)
    canvas[:height, :width] = np.asarray(pillow)
    for view, (top, left) in zip(views, tiling.corners, strict=True):
        assert np.array_equal(view.permute(1, 2, 0).numpy(), canvas[top : top + 64, left : left + 64])
    assert torch.equal(image, before)


def test_split_refuses_another_image():
    with pytest.raises(ValueError, match=r"planned for \(10, 20\), the image is \(20, 10\)"):
        split(noise(20, 10), plan((10, 20), (64, 64), "contain"))


def test_assemble_averages_where_windows_overlap():
    tiling = Tiling(image=(2, 5), scaled=(2, 5), view=(2, 3), corners=((0, 0), (0, 2)))
    views = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 3)
    assert assemble(views, tiling)[0].tolist() == [[1, 1, 2, 3, 3]] * 2


def test_stitch_cuts_padding_off_and_enlarges():
    tiling = plan((2, 8), (4, 4), "contain")  # scaled to 1 x 4, three rows of padding
    view = torch.full((1, 1, 4, 4), torch.nan)
    view[0, 0, 0] = torch.tensor([0.0, 4.0, 8.0, 12.0])
    # Centres of the 8 columns lie at -0.25, 0.25, 0.75, ... of the 4; outside of them the border value holds.
    assert stitch(view, tiling)[0].tolist() == [[0, 1, 3, 5, 7, 9, 11, 12]] * 2


@pytest.mark.parametrize("size", [(30, 40), (7, 100), (100, 7), (1, 1), (64, 64)])
@pytest.mark.parametrize("fit", ["contain", "cover"])
def test_constant_maps_come_back_constant(size, fit):
    tiling = plan(size, (32, 32), fit)
    maps = stitch(torch.full((len(tiling), 2, 32, 32), 0.75), tiling)
    assert maps.shape == (2, *size)
    torch.testing.assert_close(maps, torch.full_like(maps, 0.75), rtol=0, atol=1e-6)


SIZES = [
    ((40, 40), (160, 160)),
    ((107, 160), (301, 450)),
    ((160, 90), (333, 187)),
    ((160, 160), (1, 1)),
    ((3, 1), (500, 2)),
]


@pytest.mark.parametrize(("low", "high"), SIZES)
def test_enlargement_equals_interpolate(low, high):
    maps = torch.randn(3, *low, generator=torch.Generator().manual_seed(0)) * 5
    whole = torch.nn.functional.interpolate(maps[None], size=high, mode="bilinear")[0]
    enlarge = Enlargement([(low, high)], maps.device)
    for block in enlarge.blocks():
        part = enlarge(maps, block)
        torch.testing.assert_close(part, whole[:, block.rows, block.columns], rtol=0, atol=4e-6)


@pytest.mark.parametrize("cut", [(1, 1), (7, 5), (96, 160), (50, 1000)])
def test_blocks_are_bit_equal_to_the_whole(cut, monkeypatch):
    maps = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0)) * 5
    steps = [((40, 40), (64, 64)), ((48, 64), (37, 53))]
    monkeypatch.setattr(geometry, "BLOCK", (1000, 1000))
    enlarge = Enlargement(steps, maps.device)
    (everything,) = enlarge.blocks()
    whole = enlarge(maps, everything)
    monkeypatch.setattr(geometry, "BLOCK", cut)
    enlarge = Enlargement(steps, maps.device)
    again = torch.zeros_like(whole)
    for block in enlarge.blocks():
        again[:, block.rows, block.columns] = enlarge(maps, block)
    assert torch.equal(again, whole)


def test_bounds_hold_and_are_tight():
    maps = torch.randn(4, 20, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-6, 1.0, 5, 100]
    ).view(4, 1, 1)
    enlarge = Enlargement([((20, 20), (80, 80)), ((60, 80), (300, 400))], maps.device)
    lower, upper = enlarge.bounds(maps)
    for block in enlarge.blocks():
        values = enlarge(maps, block).flatten(1)
        assert torch.all(values.amin(1) >= lower[:, block.row, block.column])
        assert torch.all(values.amax(1) <= upper[:, block.row, block.column])
    assert torch.all(upper <= maps.amax((1, 2))[:, None, None] + 1e-5 * maps.abs().amax((1, 2))[:, None, None])
