"""What inference may not cost, counted rather than timed: operations of a block, waits for the device."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from conftest import TOY
from eomt.benchmark.operations import Kind, Operations
from eomt.benchmark.subject import BareViT, build
from eomt.config import ModelConfig
from test_step import Reads

KINDS = get_args(ModelConfig.__annotations__["kind"])


def operations_of(model: torch.nn.Module, views: Tensor) -> dict[str, Kind]:
    with torch.no_grad(), Operations() as operations:
        model(views)
    return operations.kinds


def views(side: int = 64) -> Tensor:
    return torch.zeros(1, 3, side, side, dtype=torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_never_waits(kind: str) -> None:
    model = build(replace(TOY, kind=kind, depth=4), 3).eval()
    with torch.inference_mode(), Reads() as reads:
        model(views())
    assert reads.found == []


def test_a_block_costs_what_timms_costs() -> None:
    """Queries add none to a block, and no masks are built; heads are brought together and apart by four copies."""
    added = []
    for bare in (False, True):
        calls = []
        for depth in (3, 5):
            model = build(replace(TOY, depth=depth), 3).eval()
            kinds = operations_of(BareViT(model.backbone) if bare else model, views())
            calls.append({name: kind.calls for name, kind in kinds.items()})
        added.append({name: calls[1][name] - calls[0][name] for name in calls[0]})
    ours, timms = added
    assert timms["matrix products"] == 2 * 4
    assert ours["copies and casts"] - timms.get("copies and casts", 0) == 2 * 4
    for part in (ours, timms):
        part.pop("copies and casts", None)
    assert ours == {"convolutions": 0, **timms}
