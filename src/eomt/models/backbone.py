"""A plain ViT from timm as the encoder: images to tokens, then block by block.

Hides what differs between timm's families, each in one place: which models are plain ViTs (`_create`), the mean
and deviation of the pixels (`Backbone.__init__`), positions and prefix tokens (`embed`), tokens that are not
rotated (`prepend`), rotations of a block (`run`), the final norm (`norm`). Attention, blocks, sub-norms,
LayerScale and weights are timm's.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from timm.layers import DropPath, PatchEmbed, resample_abs_pos_embed, resample_patch_embed
from timm.models import eva, load_state_dict, vision_transformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError

__all__ = ["Backbone", "pixel_statistics", "resample"]

log = logging.getLogger("eomt")

NOT_OURS = re.compile(r"(head|head_dist|attn_pool|lm_head)\..*|mask_token")
"""Parts of a file that a backbone has no place for: what pools, classifies and reconstructs."""
ZERO_AT_FIRST = re.compile(r"blocks\.\d+\.attn\.[qv]_bias")
"""Parts that a file may lack, as they are zero then: DINOv3's biases of queries and values."""


class Backbone(nn.Module):
    """A timm ViT whose blocks can be run one at a time, at any image size that is a multiple of the patch."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check(config)
        self.vit = create_vit(config)
        if config.depth is not None:
            if not 1 <= config.depth <= len(self.vit.blocks):
                raise ConfigError(f"depth {config.depth}: {config.backbone} has {len(self.vit.blocks)} blocks")
            self.vit.blocks = self.vit.blocks[: config.depth]
        for index, block in enumerate(self.vit.blocks):  # timm spreads the rate over the blocks before the cut
            for part in block.modules():
                if isinstance(part, DropPath):
                    part.drop_prob = config.drop_path * index / (len(self.vit.blocks) - 1)
        if config.norm_eps is not None:
            for part in self.vit.modules():
                if isinstance(part, nn.LayerNorm):
                    part.eps = config.norm_eps
        self.embed_dim: int = self.vit.embed_dim
        self.num_prefix_tokens: int = self.vit.num_prefix_tokens
        self.patch_size = config.patch_size
        self.gradient_checkpointing = config.gradient_checkpointing
        self.rotary = isinstance(self.vit, Eva) and self.vit.rope is not None
        if config.rope_rescale is not None and not self.rotary:
            raise ConfigError(f"rope_rescale {config.rope_rescale}: {config.backbone} has no rotary embedding")
        for name in ("mean", "std"):
            channels = torch.tensor(pixel_statistics(config.backbone)[name]).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{name}", channels * 255, persistent=False)

    @property
    def blocks(self) -> nn.Sequential | nn.ModuleList:
        """The transformer blocks, first to last."""
        blocks: nn.Sequential | nn.ModuleList = self.vit.blocks
        return blocks

    @property
    def norm(self) -> nn.Module:
        """The ViT's final norm; timm calls it `fc_norm` where the model was trained with average pooling.

        The identity for the few families that have none (RADIO, InternViT, PE-spatial and PE-lang).
        """
        norm: nn.Module = self.vit.fc_norm if isinstance(self.vit.norm, nn.Identity) else self.vit.norm
        return norm

    def embed(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Turn pixels into tokens, prefix (class, registers) first, and the rotary embedding if there is one."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                f"images of {height}x{width} pixels: sides must be multiples of the patch size, {self.patch_size}"
            )
        vit = self.vit
        pixels = vit.patch_embed(self.normalise(images))
        tokens, rope = vit._pos_embed(pixels) if isinstance(vit, Eva) else (vit._pos_embed(pixels), None)
        return vit.norm_pre(tokens), rope

    def normalise(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Bring pixels to the mean and deviation that the backbone was trained with."""
        return (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def drop_norm(self) -> None:
        """Part with the final norm, for a model that reads the blocks' tokens as they are."""
        self.vit.norm = self.vit.fc_norm = nn.Identity()

    def prepend(self, count: int, first_block: int) -> None:
        """Tell the blocks from `first_block` on that `count` more tokens stand in front, which are not rotated."""
        if self.rotary:
            for block in self.vit.blocks[first_block:]:
                block.attn.num_prefix_tokens = self.num_prefix_tokens + count

    def check_rotations_alike(self) -> None:
        """Raise ConfigError where every block has a rotation of its own, so that tokens cannot be merged."""
        if self.rotary and self.vit.rope_mixed:
            raise ConfigError("tokens cannot be merged: each block of this backbone rotates them in its own way")

    def run(
        self,
        index: int,
        tokens: Float[Tensor, "b n d"],
        rope: Tensor | None,
        attention_mask: Bool[Tensor, "b 1 q n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Run one block; the first q tokens attend to those where their row of the mask is True, others to all."""
        block = self.blocks[index]
        options: dict[str, Any] = {"attn_mask": attention_mask}
        if getattr(getattr(block, "attn", None), "fused_attn", False):
            if attention_mask is not None or not torch.compiler.is_compiling():
                options["attn_mask"] = AttentionCall(attention_mask)
        elif attention_mask is not None:
            options["attn_mask"] = with_all_rows(attention_mask)
        if self.rotary:
            assert rope is not None
            options["rope"] = rope[index] if self.vit.rope_mixed else rope  # mixed: one rotation a block
        if self.gradient_checkpointing and self.training:
            tokens = checkpoint(block, tokens, use_reentrant=False, **options)
        else:
            tokens = block(tokens, **options)
        return tokens


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """How PyTorch's attention is to be called; every value stays the same.

    A block takes it for its mask and hands it on as it is, and PyTorch asks it what to do, as it does the masks of
    `torch.nn.attention.bias`. Two things are faster than what timm's blocks do. Where only the first tokens have
    a mask, attention is computed in two parts: all others, most of them, get the kernel without a mask. And on
    a processor each head's queries, keys and values are brought together first: in timm's views of one product the
    heads of a token follow one another, and the kernel reads them many times.
    """

    rows: Bool[Tensor, "b 1 q n"] | None
    """The mask of the first q tokens; None where no token has one."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Attend with the rows, and without a mask. Nothing but attention is to be asked of it."""
        if function is not functional.scaled_dot_product_attention or kwargs is None:
            return NotImplemented
        tokens, keys, values = (part.contiguous() for part in args) if args[0].device.type == "cpu" else args
        rows = kwargs["attn_mask"].rows
        free = kwargs | {"attn_mask": None}
        if rows is None:
            return function(tokens, keys, values, **free)
        count = rows.shape[2]
        first = function(tokens[:, :, :count], keys, values, **kwargs | {"attn_mask": rows})
        others = function(tokens[:, :, count:], keys, values, **free)
        return torch.cat([first, others], dim=2)


def with_all_rows(mask: Bool[Tensor, "b 1 q n"]) -> Bool[Tensor, "b 1 n n"]:
    """Add the rows of the other tokens, for blocks that compute attention by themselves."""
    batch, _, count, tokens = mask.shape
    return torch.cat([mask, mask.new_ones(batch, 1, tokens - count, tokens)], dim=2)


def pixel_statistics(backbone: str) -> dict[str, tuple[float, float, float]]:
    """Give the `mean` and `std` of red, green and blue (of 1) that a backbone's pixels are normalised by."""
    known = timm.get_pretrained_cfg(backbone)
    return {"mean": known.mean, "std": known.std}


def check(config: ModelConfig) -> None:
    """Refuse an unknown backbone or a view that patches do not tile, before anything is built or fetched."""
    if not timm.is_model(config.backbone.split(".")[0]):
        near = timm.list_models(f"*{config.backbone.split('_')[1] if '_' in config.backbone else ''}*patch*")[:5]
        raise ConfigError(f"timm has no model {config.backbone!r}; near are {', '.join(near)}")
    try:
        timm.get_pretrained_cfg(config.backbone)
    except RuntimeError as error:
        raise ConfigError(f"backbone {config.backbone}: {error}") from error
    if config.patch_size < 1 or config.num_queries < 1:
        raise ConfigError(f"patch size {config.patch_size}, {config.num_queries} queries: each at least 1")
    if config.num_upscale_blocks is not None and not 0 <= config.num_upscale_blocks <= 6:
        raise ConfigError(f"{config.num_upscale_blocks} upscale blocks: from 0 to 6")
    if config.norm_eps is not None and config.norm_eps <= 0:
        raise ConfigError(f"norm_eps {config.norm_eps}: more than 0")
    if config.rope_rescale is not None and config.rope_rescale < 1:
        raise ConfigError(f"rope_rescale {config.rope_rescale}: a factor of at least 1")
    if not 0 <= config.drop_path < 1:
        raise ConfigError(f"drop_path {config.drop_path}: from 0 to below 1")
    if any(side <= 0 or side % config.patch_size for side in config.image_size):
        size = "x".join(map(str, config.image_size))
        raise ConfigError(
            f"image size {size}: each side must be a multiple of the patch size, {config.patch_size}"
        )


def create_vit(config: ModelConfig) -> Any:
    """Create the timm model with its weights; patch kernel and position table are resampled to the view."""
    options: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "num_classes": 0,
        "dynamic_img_size": True,
        "drop_path_rate": config.drop_path,
    }
    if config.rope_rescale is not None:
        options["rope_rescale_coords"] = config.rope_rescale
    if config.weights == "none":
        return _create(config.backbone, options)
    if config.weights != "auto":
        path = Path(config.weights)
        if not path.is_file():
            raise ModelError(f"backbone weights {path}: no such file; give a safetensors file, auto or none")
        if path.suffix != ".safetensors":
            raise ModelError(f"backbone weights {path}: only safetensors files are read")
        # Heads of another number of classes are dropped by timm, which then leaves strictness to _check_names.
        overlay = {"file": str(path), "num_classes": 1, "classifier": ("head", "head_dist")}
        options["pretrained_cfg_overlay"] = overlay
        log.info("backbone %s: weights from %s", config.backbone, path)
    else:
        log.info("backbone %s: fetching its weights through timm (cached after the first time)", config.backbone)
    try:
        vit = _create(config.backbone, options | {"pretrained": True})
        if config.weights != "auto":
            _check_names(Path(config.weights), vit)
        return vit
    except (ConfigError, ModelError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__  # shapes that differ take many lines
        raise ModelError(
            f"backbone {config.backbone}: its weights could not be loaded ({reason}); "
            "give a safetensors file under timm's names with --model.weights PATH, or none for random weights"
        ) from error


def _check_names(path: Path, vit: Any) -> None:
    """Refuse a file that lacks a part of the backbone, or holds another's: timm loads what it finds."""
    family = eva if isinstance(vit, Eva) else vision_transformer
    found = family.checkpoint_filter_fn(load_state_dict(str(path)), vit).keys()  # other projects' names to timm's
    wanted = vit.state_dict().keys()
    amiss = {
        "missing": [name for name in wanted if name not in found and not ZERO_AT_FIRST.fullmatch(name)],
        "not of this backbone": [name for name in found if name not in wanted and not NOT_OURS.fullmatch(name)],
    }
    if any(amiss.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in amiss.items() if names)
        raise ModelError(
            f"backbone weights {path}: {listed}; give the backbone's own file, under the names that timm saves it"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _create(name: str, options: dict[str, Any]) -> Any:
    """Create a timm model without its head. Raises ConfigError for one that is not a plain ViT.

    Plain means: patches are cut by one convolution, and positions come from a table or a rotation of any size.
    That leaves out pyramids, convolutional stems, windows (SAM) and relative position tables of one size (BEiT).
    """
    advice = "take one like vit_small_patch14_reg4_dinov2"
    try:
        vit = timm.create_model(name, **options)
    except (TypeError, AssertionError) as error:  # other families do not take these options, or not these values
        if "rope_rescale_coords" in str(error):
            raise ConfigError(f"rope_rescale: {name} has no rotary embedding that can be rescaled") from error
        reason = str(error) or "its patches cannot have this size"
        raise ConfigError(f"backbone {name} is not a plain ViT ({reason}); {advice}") from error
    if not isinstance(vit, VisionTransformer | Eva):
        raise ConfigError(f"backbone {name} is not a plain ViT but timm's {type(vit).__name__}; {advice}")
    if not isinstance(vit.patch_embed, PatchEmbed):
        stem = type(vit.patch_embed).__name__
        raise ConfigError(f"backbone {name} is not a plain ViT: it has a convolutional stem ({stem}); {advice}")
    vit.reset_classifier(0, "")  # drops the attention that pools the tokens for a class (SigLIP)
    return vit


def resample(state: dict[str, Tensor], old: ModelConfig, new: ModelConfig) -> dict[str, Tensor]:
    """Bring an EoMT's weights from one view and patch size to another, as timm does when it loads a backbone.

    Resamples the position table (bicubic; entries of prefix tokens stay) and the patch kernel (FlexiViT's
    pseudo-inverse). Rotary families have no table, or one beside the rotation. All else, and all where nothing
    differs, is the same tensors; `state` is not changed. Raises ModelError for a table that does not fit `old`.
    """
    table, kernel = "backbone.vit.pos_embed", "backbone.vit.patch_embed.proj.weight"
    resampled = dict(state)
    if kernel in state:
        resampled[kernel] = resample_patch_embed(state[kernel], [new.patch_size, new.patch_size])
    if table in state:
        old_grid, new_grid = ([side // config.patch_size for side in config.image_size] for config in (old, new))
        tokens = (state.get(f"backbone.vit.{kind}_token") for kind in ("cls", "dist", "reg"))
        prefix = sum(token.shape[1] for token in tokens if token is not None)
        entries = state[table].shape[1]
        count = entries - old_grid[0] * old_grid[1]  # of prefix tokens: all of them are in the table, or none
        if count not in (0, prefix):
            raise ModelError(
                f"{table} has {entries} entries; a view of {'x'.join(map(str, old.image_size))} pixels has "
                f"{old_grid[0]}x{old_grid[1]} patches of {old.patch_size}, and {prefix} prefix tokens"
            )
        resampled[table] = resample_abs_pos_embed(state[table], new_grid, old_grid, num_prefix_tokens=count)
    return resampled
