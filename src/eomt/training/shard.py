"""Spread a model over the processes, so that each holds a share of every weight, gradient and moment (FSDP2).

torch's `fully_shard` does it, on processors and accelerators alike; what a run saves and judges is brought
together again. Which model is spread, and when, is left to `loop`.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from eomt.models.ladder import Model

__all__ = ["alike", "shard", "together", "whole", "whole_model"]


def shard(model: Model, device: torch.device) -> None:
    """Leave this process its share of a model that all processes hold; a block is whole only while it runs."""
    # The logits are views; torch warns in each step of changes in place, of which the loss makes none.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for part in (*model.backbone.blocks, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def whole(value: Tensor) -> Tensor:
    """Give a tensor as it is without shares. Of one that is spread, all processes must ask at once."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def together(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Bring tensors, one after another, to the processor of those processes that keep them; all take part."""
    found = {}
    for name, value in tensors.items():
        one = whole(value.detach())
        if keep:
            found[name] = one.cpu()
    return found


def alike(value: Tensor, other: Tensor | None) -> Tensor:
    """Put a whole tensor to where another one is, spread as that is."""
    if other is None:
        return value
    if isinstance(other, DTensor):
        on_device = value.to(other.device_mesh.device_type)
        return distribute_tensor(on_device, other.device_mesh, other.placements, src_data_rank=None)
    return value.to(other.device)


@torch.no_grad()
def whole_model(model: Model, unspread: Model) -> Model:
    """Give a copy of the model as it was before it was spread, with the weights that it has now."""
    found: Any = copy.deepcopy(unspread)
    for mine, theirs in zip(found.parameters(), model.parameters(), strict=True):
        mine.copy_(whole(theirs))
    return cast(Model, found)
