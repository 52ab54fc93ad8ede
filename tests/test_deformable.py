"""Deformable attention beside a loop over pixels, and beside transformers' module with the same weights."""

import math

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
)

from eomt.models.deformable import DeformableAttention, cell_centres, deformable_attention

SHAPES = [
    [(5, 3)],  # tall
    [(4, 8), (2, 4), (1, 2)],  # wide, down to one row
    [(1, 1), (6, 5)],  # one cell; small before large
]


def sample(level: Tensor, x: float, y: float) -> Tensor:
    """Interpolate a map [h w d] at a place in [0, 1], pixel by pixel; outside it is zero."""
    height, width, channels = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(channels, dtype=level.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def naive(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, _ = values.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    rows = []
    for b in range(batch):
        levels_of_b = values[b].split([height * width for height, width in shapes])
        maps = [level.unflatten(0, shape) for level, shape in zip(levels_of_b, shapes, strict=True)]
        for q in range(queries):
            for h in range(heads):
                row = torch.zeros(values.shape[-1], dtype=values.dtype)
                for k in range(levels):
                    for p in range(points):
                        x, y = locations[b, q, h, k, p].tolist()
                        row += weights[b, q, h, k, p] * sample(maps[k][:, :, h], x, y)
                rows.append(row)
    return torch.stack(rows).view(batch, queries, -1)


def problem(shapes: list[tuple[int, int]], heads: int = 2, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Two images, seven queries, four points; a third of the locations lie outside."""
    torch.manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    values = torch.randn(2, cells, heads, width)
    locations = torch.rand(2, 7, heads, len(shapes), 4, 2) * 1.4 - 0.2
    return values, locations, torch.rand(2, 7, heads, len(shapes), 4)


@pytest.mark.parametrize("shapes", SHAPES)
def test_equals_a_loop(shapes: list[tuple[int, int]]) -> None:
    values, locations, weights = problem(shapes)
    expected = naive(values.double(), shapes, locations.double(), weights.double())
    torch.testing.assert_close(
        deformable_attention(values, shapes, locations, weights), expected.float(), atol=1e-5, rtol=0
    )


def test_far_outside_is_zero_and_nan_stays_nan() -> None:
    values, locations, weights = problem(SHAPES[1])
    for far in (-7.0, 1e30, math.inf):
        locations[:] = far
        found = deformable_attention(values, SHAPES[1], locations, weights)
        assert not found.nan_to_num(0.0).any()
    locations[:] = math.nan
    assert deformable_attention(values, SHAPES[1], locations, weights).isnan().all()


@pytest.mark.parametrize("shapes", SHAPES)
def test_gradients_are_those_of_the_loop(shapes: list[tuple[int, int]]) -> None:
    values, locations, weights = problem(shapes)
    found, expected = [], []
    for gradients, function in ((found, deformable_attention), (expected, grid_samples)):
        inputs = [part.clone().requires_grad_() for part in (values, locations, weights)]
        function(inputs[0], shapes, inputs[1], inputs[2]).square().sum().backward()
        gradients.extend(part.grad for part in inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def grid_samples(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The same by PyTorch's own sampler, whose gradients can be trusted."""
    total = torch.zeros(())
    for k, level in enumerate(values.split([height * width for height, width in shapes], dim=1)):
        maps = level.unflatten(1, shapes[k]).permute(0, 3, 4, 1, 2).flatten(0, 1)
        grid = locations[:, :, :, k].transpose(1, 2).flatten(0, 1) * 2 - 1
        samples = torch.nn.functional.grid_sample(maps, grid, align_corners=False).unflatten(0, (len(values), -1))
        total = total + torch.einsum("bhdqp,bqhp->bqhd", samples, weights[:, :, :, k])
    return total.flatten(2)


@pytest.mark.parametrize("shapes", SHAPES)
def test_module_equals_transformers(shapes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    heads, points = 4, 3
    ours = DeformableAttention(32, heads, len(shapes), points)
    theirs = Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(32, heads, len(shapes), points)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    reference = cell_centres(shapes)
    features = torch.randn(2, len(reference), 32)
    queries = torch.randn_like(features)
    expected, _ = theirs(
        queries,
        encoder_hidden_states=features,
        reference_points=reference[None, :, None].expand(2, -1, len(shapes), -1),
        spatial_shapes_list=shapes,
    )
    found = ours(queries, reference[None, :, None], features, shapes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_starts_as_a_ring() -> None:
    """Four heads look right, down, left and up, at one and two cells; the same in both levels."""
    attention = DeformableAttention(8, heads=4, levels=2, points=2, ratio=0.5)
    offsets = attention.sampling_offsets.bias.detach().view(4, 2, 2, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(offsets[:, :, 0], directions[:, None].expand(-1, 2, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, :, 1], 2 * offsets[:, :, 0])
    assert attention.value_proj.out_features == attention.output_proj.in_features == 4
    queries, features = torch.randn(1, 3, 8), torch.randn(1, 10, 8)
    reference = torch.rand(1, 3, 2, 2)
    attention(queries, reference, features, [(2, 4), (1, 2)]).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_cell_centres() -> None:
    centres = cell_centres([(1, 2), (2, 1)])
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


def test_runs_in_bf16() -> None:
    """Values and weights may be coarse; places are not: at 0.9 of 640 cells, bf16 would be off by a whole cell."""
    attention = DeformableAttention(32, heads=4, levels=1, points=2)
    queries, features = torch.randn(1, 5, 32), torch.randn(1, 640, 32)
    reference = torch.linspace(0.88, 0.92, 5).view(1, 5, 1, 1).expand(-1, -1, -1, 2)
    exact = attention(queries, reference, features, [(1, 640)])
    with torch.autocast("cpu", torch.bfloat16):
        coarse = attention(queries, reference, features, [(1, 640)])
    torch.testing.assert_close(coarse.float(), exact, atol=0.05, rtol=0.05)
