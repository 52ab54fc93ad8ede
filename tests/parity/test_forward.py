"""Our forward beside Hugging Face's on the same random weights: mask and class logits to 1e-5 relative, fp32."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
)

from eomt.config import ModelConfig
from eomt.models.eomt import EoMT
from eomt.weights.names import HUGGING_FACE, HUGGING_FACE_DINOV3, to_ours

TOLERANCE = 1e-5  # of the largest logit
BLOCKS, QUERIES, CLASSES = 4, 9, 5
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@cache
def pair(backbone: str, size: int, width: int, heads: int, joint: int) -> tuple[EoMT, nn.Module]:
    """Build both models with the same random weights, large enough to make every part count."""
    shared = {
        "hidden_size": width,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": heads,
        "image_size": size,
        "num_queries": QUERIES,
        "num_blocks": joint,
        "num_labels": CLASSES,
    }
    rotary = "dinov3" in backbone
    if rotary:
        # The authors' backbone has 1e-5, as timm's; EomtDinov3Config's default is 1e-6.
        config = EomtDinov3Config(**shared, intermediate_size=4 * width, layer_norm_eps=1e-5)
        theirs = EomtDinov3ForUniversalSegmentation(config)
    else:
        theirs = EomtForUniversalSegmentation(EomtConfig(**shared))
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    for name, parameter in theirs.named_parameters():
        if "norm" in name and name.endswith("weight"):
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    model = EoMT(
        ModelConfig(
            backbone=backbone,
            weights="none",
            image_size=(size, size),
            depth=BLOCKS,
            num_queries=QUERIES,
            num_joint_blocks=joint,
        ),
        CLASSES,
    )
    model.load_state_dict(to_ours(theirs.state_dict(), HUGGING_FACE_DINOV3 if rotary else HUGGING_FACE))
    return model.eval(), theirs.eval()


def reference(model: nn.Module, images: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    pixels = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    model.attn_mask_probs.fill_(float(masked))
    with torch.no_grad():
        output = model(pixel_values=pixels)
    return output.masks_queries_logits, output.class_queries_logits


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("backbone", "size", "width", "heads", "joint"),
    [
        ("vit_small_patch14_reg4_dinov2", 64, 384, 6, 2),
        ("vit_small_patch14_reg4_dinov2", 112, 384, 6, 2),
        ("vit_base_patch14_reg4_dinov2", 80, 768, 12, 3),
        ("vit_small_patch16_dinov3_qkvb", 64, 384, 6, 2),
        ("vit_small_patch16_dinov3_qkvb", 112, 384, 6, 2),
        ("vit_base_patch16_dinov3_qkvb", 80, 768, 12, 3),
    ],
)
def test_forward(backbone: str, size: int, width: int, heads: int, joint: int, masked: bool) -> None:
    model, theirs = pair(backbone, size, width, heads, joint)
    images = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    masks, classes = reference(theirs, images, masked)
    with torch.no_grad():
        outputs = model(images, [1.0] * joint if masked else None)
    assert len(outputs) == (joint + 1 if masked else 1)
    for mine, other in ((outputs[-1].mask_logits, masks), (outputs[-1].class_logits, classes)):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= TOLERANCE * other.abs().max()
    assert masks.std() > 0.1  # the comparison is of something


def test_masks_matter() -> None:
    """Masked and unmasked answers differ, so the masked case above shows what it claims."""
    _, theirs = pair("vit_small_patch14_reg4_dinov2", 64, 384, 6, 2)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    masked, unmasked = (reference(theirs, images, flag)[0] for flag in (True, False))
    assert (masked - unmasked).abs().max() > 0.01 * unmasked.abs().max()
