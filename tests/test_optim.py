"""Schedules and parameter groups, by numbers that can be checked by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from eomt.config import OptimConfig
from eomt.training.optim import (
    annealing_windows,
    build_optimizer,
    learning_rate,
    mask_probabilities,
    parameter_groups,
    poly,
    set_learning_rates,
    warmup_steps,
)


class Vit(nn.Module):
    """Three blocks, named as timm names them."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1))
        self.patch_embed = nn.Sequential(nn.Linear(1, 1))
        self.norm_pre = nn.LayerNorm(1)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(1), nn.Linear(1, 1)) for _ in range(3)))
        self.fc_norm = nn.LayerNorm(1)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.vit = Vit()
        self.queries = nn.Embedding(2, 1)
        self.upscale = nn.Sequential(nn.Linear(1, 1))


def scales(model, config):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["stage"], group["scale"])
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("progress", "expected"), [(-1.0, 1), (0.0, 1), (0.5, 0.5**0.9), (1.0, 0), (1.5, 0)]
)  # flat outside of the run: never complex
def test_poly(progress, expected):
    assert poly(progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("blocks", "first_end", "expected"),
    [
        (0, None, ()),
        (1, None, ((5 / 12, 7 / 12),)),  # alone: the middle of the run
        (2, None, ((1 / 6, 1 / 3), (2 / 3, 5 / 6))),
        (3, None, ((1 / 6, 1 / 3), (5 / 12, 7 / 12), (2 / 3, 5 / 6))),
        (2, 0.1, ((0, 0.1), (2 / 3, 5 / 6))),
    ],
)
def test_annealing_windows(blocks, first_end, expected):
    windows = annealing_windows(blocks, first_end)
    assert [edge for window in windows for edge in window] == pytest.approx([e for w in expected for e in w])


def test_mask_probabilities_fall_from_one_to_zero_early_blocks_first():
    at = [mask_probabilities(step, 600, OptimConfig(), 3) for step in range(601)]
    assert at[0] == at[100] == (1, 1, 1)
    assert at[200][0] == 0
    assert at[200][1] == 1
    assert at[500] == at[600] == (0, 0, 0)
    assert at[150][0] == pytest.approx(0.5**0.9)
    for before, after in pairwise(at):
        assert all(b >= a for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize("warmup", [(0, 0), (500, 0)])
def test_a_first_window_of_no_length_is_over(warmup):
    config = OptimConfig(warmup=warmup, anneal_first_in_warmup=True)
    assert [mask_probabilities(step, 600, config, 2)[0] for step in (0, 1, 600)] == [0, 0, 0]


@pytest.mark.parametrize("step", [0, 300, 600])
def test_masked_attention_without_annealing(step):
    assert mask_probabilities(step, 600, OptimConfig(masked_attention="always"), 3) == (1, 1, 1)
    assert mask_probabilities(step, 600, OptimConfig(masked_attention="never"), 3) is None


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (88692, (500, 1000)),  # as published
        (3000, (100, 200)),  # a tenth of the run
        (300, (10, 20)),
        (10, (1, 2)),  # a tenth would be one step
        (2, (1 / 3, 2 / 3)),  # half of the run
        (1, (1 / 6, 1 / 3)),
        (0, (0, 0)),
    ],
)
def test_warmup_fits_the_run(total, expected):
    assert warmup_steps(total, OptimConfig()) == pytest.approx(expected)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 5, 10, 300, 2000])
@pytest.mark.parametrize("warmup", [(500, 1000), (0, 0), (0, 10), (10, 0)])
def test_rates_rise_fall_and_stay_real(total, warmup):
    config = OptimConfig(warmup=warmup)
    for stage in ("new", "backbone"):
        rates = [learning_rate(step, total, config, stage) for step in range(total + 20)]
        assert all(isinstance(rate, float) and 0 <= rate <= config.lr for rate in rates)
        assert rates[total:] == [0.0] * 20
        peak = rates.index(max(rates))
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        if total >= 10:
            assert max(rates) >= 0.9 * config.lr


def test_ten_steps_warm_up():
    new = [learning_rate(step, 10, OptimConfig(lr=1.0), "new") for step in range(3)]
    backbone = [learning_rate(step, 10, OptimConfig(lr=1.0), "backbone") for step in range(5)]
    assert new == pytest.approx([0, 1, (8 / 9) ** 0.9])
    assert backbone == pytest.approx([0, 0, 0.5, 1, (6 / 7) ** 0.9])


def test_layer_decay():
    found = scales(Toy(), OptimConfig(layer_decay=0.5))
    expected = {
        "backbone.vit.cls_token": ("backbone", 0.25),
        "backbone.vit.patch_embed.0.weight": ("backbone", 0.25),
        "backbone.vit.norm_pre.weight": ("backbone", 0.25),
        "backbone.vit.blocks.0.0.weight": ("backbone", 0.25),
        "backbone.vit.blocks.1.1.bias": ("backbone", 0.5),
        "backbone.vit.blocks.2.0.weight": ("backbone", 1),
        "backbone.vit.fc_norm.weight": ("backbone", 1),
        "queries.weight": ("new", 1),
        "upscale.0.bias": ("new", 1),
    }
    assert {name: found[name] for name in expected} == expected
    assert set(found) == {name for name, _ in Toy().named_parameters()}  # each once


def test_undecayed_blocks_keep_the_exponents_of_the_others():
    found = scales(Toy(), OptimConfig(layer_decay=0.5, undecayed_blocks=2))
    assert [found[f"backbone.vit.blocks.{block}.0.weight"][1] for block in range(3)] == [0.25, 1, 1]


def test_backbone_factor_leaves_undecayed_blocks_and_the_final_norm():
    found = scales(Toy(), OptimConfig(layer_decay=0.5, backbone_lr_factor=0.1, undecayed_blocks=1))
    blocks = [found[f"backbone.vit.blocks.{block}.0.weight"][1] for block in range(3)]
    assert blocks == pytest.approx([0.025, 0.05, 1])
    assert found["backbone.vit.cls_token"] == ("backbone", pytest.approx(0.025))
    assert found["backbone.vit.fc_norm.weight"] == ("backbone", 1)
    assert found["queries.weight"] == ("new", 1)


def test_few_groups_and_no_frozen_parameter():
    model = Toy()
    model.backbone.vit.cls_token.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig())
    assert [group["name"] for group in optimizer.param_groups] == [
        "backbone x0.64",
        "backbone x0.8",
        "backbone x1",
        "new x1",
    ]
    assert all(group["weight_decay"] == 0.05 for group in optimizer.param_groups)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(list(model.parameters())) - 1


def test_frozen_last_block_does_not_shift_the_decay():
    model = Toy()
    model.backbone.vit.blocks[2].requires_grad_(False)
    assert scales(model, OptimConfig(layer_decay=0.5))["backbone.vit.blocks.1.0.weight"] == ("backbone", 0.5)


def test_set_learning_rates():
    config = OptimConfig(lr=1.0, layer_decay=0.5)
    optimizer = build_optimizer(Toy(), config)
    set_learning_rates(optimizer, 5, 300, config)  # warm-up: 10 steps, then 20
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0, 0, 0.5]
    set_learning_rates(optimizer, 20, 300, config)
    assert [group["lr"] for group in optimizer.param_groups[:3]] == [0.125, 0.25, 0.5]
