"""A plain ViT from timm as the encoder: images to tokens, then block by block.

Hides what differs between timm's families (VisionTransformer and the rotary Eva, where the last norm is kept,
which mean and deviation the pixels are normalised with). Attention, blocks and weights are timm's.
"""

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError

__all__ = ["Backbone"]

log = logging.getLogger("eomt")


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
        self.rotary = getattr(self.vit, "rope", None) is not None
        for name in ("mean", "std"):
            channels = torch.tensor(self.vit.pretrained_cfg[name]).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{name}", channels * 255, persistent=False)

    @property
    def blocks(self) -> nn.Sequential | nn.ModuleList:
        """The transformer blocks, first to last."""
        blocks: nn.Sequential | nn.ModuleList = self.vit.blocks
        return blocks

    @property
    def norm(self) -> nn.Module:
        """The ViT's final norm; timm calls it `fc_norm` where the model was trained with average pooling."""
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
        pixels = vit.patch_embed((images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std)
        if not hasattr(vit, "rope"):
            return vit.norm_pre(vit.patch_drop(vit._pos_embed(pixels))), None
        tokens, rope = vit._pos_embed(pixels)
        return vit.norm_pre(tokens), rope

    def prepend(self, count: int, first_block: int) -> None:
        """Tell the blocks from `first_block` on that `count` more tokens stand in front, which are not rotated."""
        if self.rotary:
            for block in self.vit.blocks[first_block:]:
                block.attn.num_prefix_tokens = self.num_prefix_tokens + count

    def run(
        self,
        index: int,
        tokens: Float[Tensor, "b n d"],
        rope: Tensor | None,
        attention_mask: Bool[Tensor, "b 1 n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Run one block; a token attends to those where its row of the mask is True."""
        options: dict[str, Any] = {"attn_mask": attention_mask}
        if self.rotary:
            mixed = getattr(self.vit, "rope_mixed", False)  # one rotation a block
            options["rope"] = rope[index] if mixed and rope is not None else rope
        if self.gradient_checkpointing and self.training:
            tokens = checkpoint(self.blocks[index], tokens, use_reentrant=False, **options)
        else:
            tokens = self.blocks[index](tokens, **options)
        return tokens


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
    if config.weights == "none":
        return _create(config.backbone, options)
    if config.weights != "auto":
        path = Path(config.weights)
        if not path.is_file():
            raise ModelError(f"backbone weights {path}: no such file; give a safetensors file, auto or none")
        if path.suffix != ".safetensors":
            raise ModelError(f"backbone weights {path}: only safetensors files are read")
        options["pretrained_cfg_overlay"] = {"file": str(path)}
        log.info("backbone %s: weights from %s", config.backbone, path)
    else:
        log.info("backbone %s: fetching its weights through timm (cached after the first time)", config.backbone)
    try:
        return _create(config.backbone, options | {"pretrained": True})
    except ConfigError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ModelError(
            f"backbone {config.backbone}: its weights could not be loaded ({reason}); "
            "give a safetensors file under timm's names with --model.weights PATH, or none for random weights"
        ) from error


def _create(name: str, options: dict[str, Any]) -> Any:
    """Create a timm model. Raises ConfigError for one that is not a plain ViT."""
    try:
        vit = timm.create_model(name, **options)
    except TypeError as error:  # other families do not take these options
        raise ConfigError(f"backbone {name} is not a plain ViT ({error})") from error
    if not all(hasattr(vit, part) for part in ("blocks", "embed_dim", "num_prefix_tokens", "_pos_embed")):
        raise ConfigError(f"backbone {name} is not a plain ViT; take one like vit_small_patch14_reg4_dinov2")
    return vit
