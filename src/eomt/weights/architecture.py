"""Recognise a model by the shapes of its weights, where a file does not say what it is.

Only the families that published EoMT models have: DINOv2 and DINOv3. Heads are 64 wide in all of them.
"""

import logging
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from eomt.config import LossConfig, ModelConfig, TaskName
from eomt.errors import ModelError
from eomt.weights.names import VIT, State

__all__ = ["BACKBONES", "KNOWN_CLASSES", "annealing", "class_weights", "is_masked", "num_classes", "recognise"]

log = logging.getLogger("eomt")

KNOWN_CLASSES: dict[int, tuple[str, TaskName | None]] = {
    133: ("coco_panoptic", "panoptic"),
    80: ("coco_instance", "instance"),
    150: ("ade20k_panoptic", None),
}
"""Class tables that a number of classes gives away, and the task. ADE20K's 150 are the same for two tasks."""


class Shape(NamedTuple):
    """What tells one backbone from another."""

    width: int
    depth: int
    registers: int
    hidden: int
    """Columns of an MLP's second matrix."""
    gated: bool
    dinov3: bool


BACKBONES = {
    "vit_small_patch14_reg4_dinov2": Shape(384, 12, 4, 1536, gated=False, dinov3=False),
    "vit_base_patch14_reg4_dinov2": Shape(768, 12, 4, 3072, gated=False, dinov3=False),
    "vit_large_patch14_reg4_dinov2": Shape(1024, 24, 4, 4096, gated=False, dinov3=False),
    "vit_giant_patch14_reg4_dinov2": Shape(1536, 40, 4, 4096, gated=True, dinov3=False),
    "vit_small_patch14_dinov2": Shape(384, 12, 0, 1536, gated=False, dinov3=False),
    "vit_base_patch14_dinov2": Shape(768, 12, 0, 3072, gated=False, dinov3=False),
    "vit_large_patch14_dinov2": Shape(1024, 24, 0, 4096, gated=False, dinov3=False),
    "vit_giant_patch14_dinov2": Shape(1536, 40, 0, 4096, gated=True, dinov3=False),
    "vit_small_patch16_dinov3_qkvb": Shape(384, 12, 4, 1536, gated=False, dinov3=True),
    "vit_small_plus_patch16_dinov3_qkvb": Shape(384, 12, 4, 1536, gated=True, dinov3=True),
    "vit_base_patch16_dinov3_qkvb": Shape(768, 12, 4, 3072, gated=False, dinov3=True),
    "vit_large_patch16_dinov3_qkvb": Shape(1024, 24, 4, 4096, gated=False, dinov3=True),
    "vit_huge_plus_patch16_dinov3_qkvb": Shape(1280, 32, 4, 5120, gated=True, dinov3=True),
}
"""Shapes by timm's names."""


def num_classes(state: State) -> int:
    """Count the classes that a state's class head knows, without *no object*."""
    return len(state["class_head.weight"]) - 1


def recognise(
    state: State, where: object, num_joint_blocks: int, image_size: tuple[int, int] | None = None
) -> ModelConfig:
    """Give the architecture that a state under our names belongs to.

    The view is the one that the table of positions was made for, a square if it can be one; `image_size` says it
    where there is no table, or no square one. Raises ModelError where a part is missing or no known backbone has
    these shapes.
    """
    try:
        shape = _shape(state)
        patch = state[f"{VIT}.patch_embed.proj.weight"].shape[-1]
        queries = len(state["queries.weight"])
        num_classes(state)
    except KeyError as error:
        raise ModelError(f"model {where}: it has no {error}, so it is no EoMT model of a known layout") from error
    names = [name for name, known in BACKBONES.items() if known._replace(depth=shape.depth) == shape]
    if not names or shape.depth > BACKBONES[names[0]].depth:
        raise ModelError(
            f"model {where}: no known backbone is {shape.width} wide with {shape.depth} blocks, {shape.registers} "
            f"registers and MLPs of {shape.hidden}; known are DINOv2 and DINOv3, 384 to 1536 wide"
        )
    return ModelConfig(
        backbone=names[0],
        weights="none",
        image_size=_view(state, patch, image_size, where),
        patch_size=patch,
        depth=None if shape.depth == BACKBONES[names[0]].depth else shape.depth,
        num_queries=queries,
        num_joint_blocks=num_joint_blocks,
        num_upscale_blocks=_count(state, "upscale."),
    )


def class_weights(state: State) -> Tensor:
    """Give the loss's weight of each class and of *no object*, a buffer in other projects' files."""
    return torch.tensor([1.0] * num_classes(state) + [LossConfig.no_object_weight])


def annealing(model: ModelConfig) -> Tensor:
    """Give the probability of masked attention in each joint block, a buffer in other projects' files."""
    return torch.full((model.num_joint_blocks,), float(model.masked_inference))


def is_masked(probabilities: Tensor | None, where: object) -> bool:
    """Tell whether prediction masks attention: it does where the annealing buffer of a file is still all ones."""
    if probabilities is None or not probabilities.any():
        return False
    if bool((probabilities == 1).all()):
        log.warning("%s: saved with masked attention, which is therefore kept in prediction (slow)", where)
        return True
    log.warning("%s: saved in the midst of mask annealing; used without masked attention", where)
    return False


def _shape(state: State) -> Shape:
    block = f"{VIT}.blocks.0"
    gate_apart = f"{block}.mlp.fc1_g.weight" in state
    hidden = state[f"{block}.mlp.fc2.weight"].shape[1]
    registers = state.get(f"{VIT}.reg_token")
    return Shape(
        width=state[f"{VIT}.cls_token"].shape[-1],
        depth=_count(state, f"{VIT}.blocks."),
        registers=0 if registers is None else registers.shape[-2],
        hidden=hidden,
        gated=gate_apart or len(state[f"{block}.mlp.fc1.weight"]) == 2 * hidden,
        dinov3=f"{VIT}.pos_embed" not in state,
    )


def _count(state: State, prefix: str) -> int:
    """Count the numbered parts that begin so."""
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _view(state: State, patch: int, image_size: tuple[int, int] | None, where: object) -> tuple[int, int]:
    positions = state.get(f"{VIT}.pos_embed")
    if positions is not None:
        # DINOv2 without registers has an entry for the class token, too.
        count = positions.shape[-2] - (f"{VIT}.reg_token" not in state)
        side = isqrt(count)
        if side * side == count:
            return side * patch, side * patch
        if image_size is not None and (image_size[0] // patch) * (image_size[1] // patch) == count:
            return image_size
    elif image_size is not None:
        return image_size
    else:
        raise ModelError(
            f"model {where}: its weights do not tell the size of its view (DINOv3 has no table of positions); say "
            f"it: --image-size 640 640 (image_size=) is that of most published ones; eomt convert {where} DIR "
            "--image-size SIDE SIDE --task TASK --classes CLASSES writes it down with what else is open"
        )
    raise ModelError(
        f"model {where}: {positions.shape[-2]} positions are no square; say the size of the view that they were "
        "made for: --image-size HEIGHT WIDTH (image_size=)"
    )
