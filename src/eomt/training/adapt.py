"""Train less than everything, or keep a steadier copy: for small data sets and small machines."""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from eomt.config import OptimConfig
from eomt.models.eomt import EoMT
from eomt.training.optim import block_index

__all__ = ["averaged", "freeze"]


Tensors = tuple[Tensor, ...] | list[Tensor]


def freeze(model: EoMT, config: OptimConfig) -> int:
    """Leave the part of the backbone that `config.freeze` names as it is; give the number of parameters left out.

    A frozen block costs no backward pass where nothing before it is trained.
    """
    if config.freeze == "nothing":
        return 0
    frozen = 0
    for name, parameter in model.named_parameters():
        index = block_index(name)
        early = index is not None and index < model.first_joint_block
        embedding = index is None and name.startswith("backbone.") and "norm." not in name
        if name.startswith("backbone.") and (config.freeze == "backbone" or early or embedding):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def averaged(model: EoMT, decay: float) -> AveragedModel:
    """Make a copy that follows the model as a moving average; `update_parameters` moves it after a step.

    The decay rises to its value, so that the start is forgotten within a short run too.
    """

    def follow(mine: Tensors, theirs: Tensors, count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(mine, theirs, share)

    return AveragedModel(model, multi_avg_fn=follow)
