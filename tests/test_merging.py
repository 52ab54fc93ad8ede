"""Merging of tokens: what is merged, that patches find their token, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from conftest import TOY
from eomt.cli import main
from eomt.errors import ConfigError
from eomt.inference.segmenter import Segmenter
from eomt.models.eomt import EoMT
from eomt.models.merging import merge_alike, merge_windows, unmerged

ROTARY = replace(TOY, backbone="vit_small_patch16_dinov3_qkvb", depth=3)


def tokens_of(alike: list[list[bool]]) -> torch.Tensor:
    """Give tokens [1 16 16] of a 4x4 grid: each a direction of its own, or in some 2x2 windows the same one."""
    directions = torch.eye(16).view(4, 4, 16).clone()
    for row in range(2):
        for column in range(2):
            if alike[row][column]:
                directions[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = directions[2 * row, 2 * column]
    return directions.view(1, 16, 16)


def test_windows_that_are_alike_become_one_token() -> None:
    tokens = tokens_of([[True, False], [False, True]])
    state = merge_windows(unmerged(tokens, None), (4, 4), 0.9)
    assert state.tokens.shape == (1, 10, 16)
    assert state.owners.view(4, 4)[:2, :2].unique().numel() == 1
    assert state.owners.view(4, 4)[2:, 2:].unique().numel() == 1
    assert sorted(state.sizes[0].tolist()) == [1.0] * 8 + [4.0] * 2
    assert torch.allclose(state.patches(state.tokens), tokens)  # what is alike is its own mean


def test_likeness_is_the_mean_cosine_of_all_pairs() -> None:
    tokens = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)) + 1
    pairs = [functional.cosine_similarity(tokens[0, a], tokens[0, b], dim=0) for a in range(4) for b in range(a)]
    mean = float(torch.stack(pairs).mean())
    for threshold, left in ((mean - 1e-4, 1), (mean + 1e-4, 4)):
        assert merge_windows(unmerged(tokens, None), (2, 2), threshold).tokens.shape[1] == left


def test_a_batch_merges_as_many_in_each_image_the_most_alike_first() -> None:
    tokens = torch.cat([tokens_of([[True, True], [True, True]]), tokens_of([[False, False], [True, False]])])
    tokens[0, 0, 5] = 0.1  # the first window is the least alike of the four
    state = merge_windows(unmerged(tokens, None), (4, 4), 0.9)
    assert state.tokens.shape[1] == 13
    assert state.owners[0].view(4, 4)[:2, :2].unique().numel() == 4
    assert state.owners[1].view(4, 4)[2:, :2].unique().numel() == 1


def test_an_odd_grid_keeps_its_last_row_and_column() -> None:
    state = merge_windows(unmerged(torch.ones(1, 15, 4), None), (3, 5), 0.9)
    assert state.tokens.shape[1] == 15 - 2 * 3
    grid = state.owners.view(3, 5)
    assert grid[2].unique().numel() == 5
    assert grid[:, 4].unique().numel() == 3


def test_alike_tokens_anywhere_become_their_mean_over_patches() -> None:
    tokens = torch.eye(8)[None].clone()
    tokens[0, 6] = tokens[0, 1] * 3  # token 6 is among those that look for a partner, 1 among the partners
    state = unmerged(tokens, None)
    state = replace(state, sizes=torch.tensor([[1.0, 4, 1, 1, 1, 1, 2, 1]]))
    merged = merge_alike(state, 0.9)
    assert merged.tokens.shape[1] == 7
    assert merged.owners[0, 6] == merged.owners[0, 1]
    token = merged.tokens[0, merged.owners[0, 1]]
    assert torch.allclose(token, tokens[0, 1] * (4 + 2 * 3) / 6)
    assert merged.sizes[0, merged.owners[0, 1]] == 6


def test_a_merged_token_turns_by_the_mean_angle() -> None:
    angles = torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None]
    rope = torch.cat([angles.sin(), angles.cos()], dim=1)
    state = merge_windows(unmerged(torch.ones(1, 4, 2), rope), (2, 2), 0.9)
    assert state.rope is not None
    assert torch.allclose(state.rope, torch.tensor([[[[np.sin(0.4), np.cos(0.4)]]]], dtype=torch.float32))


def test_pairs_are_merged_that_are_alike_enough_and_more_than_usual() -> None:
    """Of eight pairs, all over 0.9, the one that stands out; where none reaches the threshold, none is."""
    angles = torch.full((8,), 0.3)
    angles[2] = 0.01
    tokens = torch.zeros(1, 16, 16)
    for pair, angle in enumerate(angles):
        tokens[0, 2 * pair, 2 * pair] = 1
        tokens[0, 2 * pair + 1, 2 * pair], tokens[0, 2 * pair + 1, 2 * pair + 1] = angle.cos(), angle.sin()
    merged = merge_alike(unmerged(tokens, None), 0.9)
    assert merged.tokens.shape[1] == 15
    assert merged.owners[0, 4] == merged.owners[0, 5]
    assert merge_alike(unmerged(tokens, None), 0.99999).tokens.shape[1] == 16


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_tokens_stay(count: int) -> None:
    assert merge_alike(unmerged(torch.ones(1, count, 4), None), 0.5).tokens.shape[1] == count


@pytest.mark.parametrize("config", [TOY, ROTARY], ids=["positions", "rotary"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_where_nothing_is_alike_the_model_is_the_plain_one(config, size) -> None:
    torch.manual_seed(0)
    model = EoMT(config, 3).eval()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        (plain,) = model(images)
        model.merge_tokens(1.0)
        (merged,) = model(images)
    for one, other in zip(plain, merged, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)  # gathered patches lie otherwise in memory


@pytest.mark.parametrize("config", [TOY, ROTARY], ids=["positions", "rotary"])
def test_alike_patches_cost_less_and_masks_keep_their_size(config) -> None:
    torch.manual_seed(0)
    model = EoMT(config, 3).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)

    def run() -> tuple[int, torch.Size]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            (logits,) = model(images)
        return counter.get_total_flops(), logits.mask_logits.shape

    plain, shape = run()
    model.merge_tokens(-1.0)  # all windows
    merged, same_shape = run()
    assert same_shape == shape
    assert merged < 0.8 * plain
    model.merge_tokens(None)
    assert run() == (plain, shape)


def test_training_merges_nothing() -> None:
    torch.manual_seed(0)
    model = EoMT(TOY, 3)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    expected = model(images, [0.0, 0.0])
    model.merge_tokens(-1.0)
    for one, other in zip(expected, model(images, [0.0, 0.0]), strict=True):
        assert torch.equal(one.mask_embeddings, other.mask_embeddings)


@pytest.mark.parametrize(
    ("config", "threshold", "says"),
    [
        (TOY, 1.5, "from -1 to 1"),
        (TOY, float("nan"), "from -1 to 1"),
        (replace(TOY, num_joint_blocks=6), 0.9, "before the queries join"),
        (replace(TOY, masked_inference=True), 0.9, "masked_inference"),
        (replace(TOY, backbone="vit_small_patch16_rope_mixed_224", depth=3), 0.9, "each block"),
    ],
)
def test_what_cannot_be_is_refused(config, threshold, says) -> None:
    with pytest.raises(ConfigError, match=says):
        EoMT(config, 3).merge_tokens(threshold)


def test_the_bundled_model_tells_much_the_same(capsys, tmp_path) -> None:
    segmenter = Segmenter.from_pretrained("bundled", device="cpu")
    plain = segmenter.predict("examples/fluorescence.png")
    segmenter.merge_tokens(0.98)
    merged = segmenter.predict("examples/fluorescence.png")
    assert 0.98 < (plain.label_map() == merged.label_map()).mean() < 1
    assert main(["predict", "examples/crowded.png", "--merge", "2", "--out", str(tmp_path / "out")]) == 2
    assert "from -1 to 1" in capsys.readouterr().err
