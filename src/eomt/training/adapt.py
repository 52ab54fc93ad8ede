"""Train less than everything, or keep a steadier copy: for small data sets and small machines."""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from eomt.config import OptimConfig
from eomt.errors import ConfigError
from eomt.models.ladder import Model
from eomt.training.optim import block_index

__all__ = ["adapt", "averaged", "merged"]


Tensors = tuple[Tensor, ...] | list[Tensor]


def adapt(model: Model, config: OptimConfig) -> None:
    """Put adapters where `config.lora` wants them, and leave as it is what `config.freeze` names.

    What is left as it is needs no gradients, and where nothing before it is trained, no backward pass. Raises
    ConfigError where a backbone has no matrices that take adapters.
    """
    fixed = {parameter for parameter in model.parameters() if not parameter.requires_grad}  # timm's sine positions
    if config.lora is not None:
        add_adapters(model, config.lora, adapted_layers(model, config))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter not in fixed and is_trained(name, model.first_joint_block, config))


def is_trained(name: str, first_joint_block: int, config: OptimConfig) -> bool:
    """Tell by its name whether a parameter is trained: of an adapted backbone, only adapters and norms are."""
    if not name.startswith("backbone."):
        return True
    index = block_index(name)
    is_early = index < first_joint_block if index is not None else "norm." not in name
    if config.freeze == "backbone" or (config.freeze == "early_blocks" and is_early):
        return False
    return config.lora is None or ".lora_" in name or re.search(r"\.\w*norm\w*\.", name) is not None


def adapted_layers(model: Model, config: OptimConfig) -> list[str]:
    """Name the matrices that get adapters. Raises ConfigError where there are none."""
    first = model.first_joint_block if config.freeze == "early_blocks" else 0
    parts = ("attn",) if config.lora_layers == "attention" else ("attn", "mlp")
    names = [
        f"backbone.vit.blocks.{index}.{name}"
        for index, block in enumerate(model.backbone.blocks)
        for name, layer in block.named_modules()
        if index >= first and name.split(".")[0] in parts and isinstance(layer, nn.Linear)
    ]
    if not names:
        raise ConfigError(
            f"optim.lora {config.lora}: the blocks of {model.config.backbone} have no attention that takes "
            "adapters; leave it out, or train less of the model by --optim.freeze"
        )
    return names


def add_adapters(model: Model, rank: int, layers: list[str]) -> None:
    """Add a product of two thin matrices to each layer's own (Hu et al., LoRA, 2021); it is zero at first."""
    from peft import LoraConfig, inject_adapter_in_model

    # With alpha = rank the product is added as it is.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), model)
    for block in model.backbone.blocks:
        attention: Any = block.attn
        if hasattr(attention, "qkv_bias_separate"):
            attention.qkv_bias_separate = True  # or timm's EVA multiplies by the weight, and passes the adapter by


def merged(model: Model) -> Model:
    """Give the model that adapters make of it, without them: a copy, or the model itself where it has none.

    It computes what the adapted one does, but for rounding (1e-6).
    """
    if not any(is_adapted(layer) for layer in model.modules()):
        return model
    plain = copy.deepcopy(model)
    adapted = {name: layer for name, layer in plain.named_modules() if is_adapted(layer)}
    for name, layer in adapted.items():
        layer.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(plain.get_submodule(parent), attribute, layer.get_base_layer())
    return plain


def is_adapted(layer: nn.Module) -> bool:
    """Tell whether a layer is one of peft's around one of ours."""
    return hasattr(layer, "get_base_layer")


def averaged(model: Model, decay: float) -> AveragedModel:
    """Make a copy that follows the model as a moving average; `update_parameters` moves it after a step.

    The decay rises to its value, so that the start is forgotten within a short run too.
    """

    def follow(mine: Tensors, theirs: Tensors, count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(mine, theirs, share)

    return AveragedModel(model, multi_avg_fn=follow)
