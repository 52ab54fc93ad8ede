"""What a step may not do, counted rather than timed: wait for the device more than once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from conftest import TOY
from eomt.config import LossConfig, OptimConfig
from eomt.models.eomt import EoMT
from eomt.training.loss import segmentation_loss
from eomt.training.optim import build_optimizer
from eomt.types import Target

READING = {"cpu", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "unique", "equal"}
"""Calls that need a tensor's values on the host. What NumPy reads there was copied by `cpu` before."""


class Reads(TorchFunctionMode):
    """Notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function.__name__ in READING:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("images", "joint_blocks"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_the_host_waits_once(images: int, joint_blocks: int) -> None:
    """For the costs of all images and layers together; the optimiser and the masks of attention need nothing."""
    model = EoMT(replace(TOY, num_joint_blocks=joint_blocks), num_classes=3).train()
    optimizer = build_optimizer(model, OptimConfig())
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    targets = [Target(masks, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool))] * images
    pixels = torch.zeros(images, 3, 64, 64, dtype=torch.uint8)
    with Reads() as reads:
        outputs = model(pixels, (0.5,) * joint_blocks)
        segmentation_loss(outputs, targets, LossConfig(num_points=64)).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
    assert reads.found == ["cpu"]


def test_reads_are_noticed() -> None:
    with Reads() as reads:
        assert torch.ones(1) > 0
        torch.ones(1).item()
        torch.ones(2).tolist()
    assert reads.found == ["__bool__", "item", "tolist"]
