"""AdamW with layer-wise decay, and the schedules of a run: learning rates and mask annealing.

Schedules are pure functions of step and length, and one function sets the rates. The loop that steps is elsewhere.
"""

import re
from typing import Any, Literal

import torch
from torch import nn

from eomt.config import OptimConfig

__all__ = [
    "annealing_windows",
    "build_optimizer",
    "learning_rate",
    "mask_probabilities",
    "parameter_groups",
    "poly",
    "set_learning_rates",
    "warmup_steps",
]

Stage = Literal["new", "backbone"]
"""New parameters warm up first; the pre-trained backbone stands still meanwhile and follows."""


def poly(progress: float, power: float = 0.9) -> float:
    """Fall from 1 to 0 while progress goes from 0 to 1; flat outside."""
    return float((1 - min(max(progress, 0.0), 1.0)) ** power)


def annealing_windows(num_joint_blocks: int, first_end: float | None = None) -> tuple[tuple[float, float], ...]:
    """Give the shares of the run in which masked attention fades, one window a joint block, early blocks first.

    Starts are spread evenly from 1/6 to 2/3, ends from 1/3 to 5/6: the rule behind the step numbers of all
    published configurations. One block alone takes the middle. `first_end` makes the first window
    (0, first_end), as in the published DINOv3 panoptic and semantic runs.
    """
    last = num_joint_blocks - 1
    places = [block / last if last else 0.5 for block in range(num_joint_blocks)]
    windows = [(1 / 6 + place / 2, 1 / 3 + place / 2) for place in places]
    if first_end is not None and windows:
        windows[0] = (0.0, first_end)
    return tuple(windows)


def mask_probabilities(
    step: int, total_steps: int, config: OptimConfig, num_joint_blocks: int
) -> tuple[float, ...] | None:
    """Give each joint block's probability that a query is confined to its mask, before optimiser step `step`.

    1 before the block's window, 0 after it, polynomial in between (paper section 3.3). Where attention is always
    masked, all 1. Where it never is, None: the paper's ablation leaves out the joint blocks' supervision too.
    """
    if config.masked_attention == "never":
        return None
    if config.masked_attention == "always":
        return (1.0,) * num_joint_blocks
    total = max(total_steps, 1)
    first_end = warmup_steps(total, config)[1] / total if config.anneal_first_in_warmup else None
    windows = annealing_windows(num_joint_blocks, first_end)
    return tuple(
        poly((step / total - start) / (end - start), config.poly_power) if start < end else 0.0
        for start, end in windows
    )


def warmup_steps(total_steps: int, config: OptimConfig) -> tuple[float, float]:
    """Give the lengths of the two warm-ups, new parameters' and backbone's, in steps.

    As configured, but together at most `warmup_limit` of the run, or three steps (half of a run of fewer than
    six), as less would be no warm-up at all. The two keep their ratio, and need not be whole.
    """
    new, backbone = config.warmup
    longest = max(config.warmup_limit * total_steps, min(3.0, total_steps / 2))
    scale = min(1.0, longest / max(new + backbone, 1))
    return new * scale, backbone * scale


def learning_rate(step: int, total_steps: int, config: OptimConfig, stage: Stage) -> float:
    """Give the rate of optimiser step `step` (the first is 0) for new parameters or for the backbone's last block.

    New parameters rise linearly, then fall polynomially to 0 at the end of the run; the backbone waits until the
    first warm-up is over, then does the same on the steps that are left. Past the end the rate is 0.
    """
    new, backbone = warmup_steps(total_steps, config)
    wait, rise = (0.0, new) if stage == "new" else (new, backbone)
    if step < wait:
        return 0.0
    if step < wait + rise:
        return config.lr * (step - wait) / rise
    remaining = total_steps - wait - rise
    if remaining <= 0:
        return 0.0
    return config.lr * poly((step - wait - rise) / remaining, config.poly_power)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Sort the trained parameters into groups of equal rate: few, so that AdamW can update many tensors at once.

    Each group has a `name`, a `stage` and the `scale` of its layer; its rate is `learning_rate(...) * scale`.
    Weight decay acts on all parameters, norms and biases too, as in the published runs.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    num_blocks = 1 + max((block_index(name) or 0 for name, _ in model.named_parameters()), default=0)
    groups: dict[tuple[Stage, float], dict[str, Any]] = {}
    for name, parameter in named:
        stage, scale = layer_scale(name, num_blocks, config)
        group = groups.setdefault(
            (stage, scale),
            {
                "params": [],
                "name": f"{stage} x{scale:.4g}",
                "stage": stage,
                "scale": scale,
                "lr": config.lr * scale,
                "weight_decay": config.weight_decay,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def layer_scale(name: str, num_blocks: int, config: OptimConfig) -> tuple[Stage, float]:
    """Give a parameter's stage and the factor on its rate.

    Each block's factor is `layer_decay` times that of the block after it, and `backbone_lr_factor` acts on all.
    What comes before the blocks (patches, positions, class and register tokens) goes with the first block; the
    final norm, which new heads read, has 1, and so have the last `undecayed_blocks`. Adapters are new parameters,
    wherever they are: they begin at zero, so that there is nothing to be careful with.
    """
    if not re.search(r"(^|\.)backbone\.", name) or ".lora_" in name:
        return "new", 1.0
    if re.search(r"(^|\.)backbone\.(\w+\.)?(fc_)?norm\.", name):
        return "backbone", 1.0
    depth_left = num_blocks - 1 - (block_index(name) or 0)
    if depth_left < config.undecayed_blocks:
        return "backbone", 1.0
    return "backbone", config.backbone_lr_factor * config.layer_decay**depth_left


def block_index(name: str) -> int | None:
    """Read a parameter's transformer block from its name; None outside of the backbone's blocks."""
    found = re.search(r"(?:^|\.)backbone\.(?:\w+\.)?blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Create AdamW over the model's trained parameters (betas and epsilon as published: the defaults).

    Fused: a group is one call, and the count of its steps lies on the device as the moments do.
    """
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, total_steps: int, config: OptimConfig) -> None:
    """Set every group's rate for optimiser step `step`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total_steps, config, group["stage"]) * group["scale"]
