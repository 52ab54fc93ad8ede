"""Names and cuts of weights, there and back; what the numbers mean is tested beside transformers in parity/."""

import pytest
import torch

from conftest import TOY
from eomt.config import ModelConfig
from eomt.models.blank import Blank
from eomt.models.eomt import EoMT
from eomt.weights.names import AUTHORS, AUTHORS_DINOV3, HUGGING_FACE, HUGGING_FACE_DINOV3, from_ours, to_ours


def state_of(backbone: str) -> dict[str, torch.Tensor]:
    """Give a state of real shapes, of which each number says where it is."""
    with Blank(), torch.device("meta"):
        model = EoMT(ModelConfig(backbone, "none", (64, 64), depth=2, num_queries=5, num_joint_blocks=1), 3)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return {
        name: torch.arange(shape.numel()).view(shape) + index for index, (name, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize(
    ("backbone", "layout"),
    [
        ("vit_small_patch14_reg4_dinov2", AUTHORS),
        ("vit_small_patch14_reg4_dinov2", HUGGING_FACE),
        ("vit_small_patch14_dinov2", HUGGING_FACE),  # no registers
        ("vit_giant_patch14_reg4_dinov2", AUTHORS),
        ("vit_giant_patch14_reg4_dinov2", HUGGING_FACE),  # a gated MLP that is one matrix here and two there
        ("vit_small_patch16_dinov3_qkvb", AUTHORS_DINOV3),
        ("vit_small_patch16_dinov3_qkvb", HUGGING_FACE_DINOV3),
        ("vit_small_plus_patch16_dinov3_qkvb", AUTHORS_DINOV3),  # two matrices here and there
    ],
)
def test_there_and_back(backbone, layout):
    state = state_of(backbone)
    theirs = from_ours(state, layout)
    assert not set(theirs) & {name for name in state if name.startswith(("backbone.", "queries."))}
    back = to_ours(theirs, layout)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


# The authors' keys as section 5.1 of their format says, and Hugging Face's as section 5.2.
@pytest.mark.parametrize(
    ("layout", "backbone", "mine", "theirs"),
    [
        (AUTHORS, "vit_small_patch14_reg4_dinov2", "queries.weight", "network.q.weight"),
        (AUTHORS, "vit_small_patch14_reg4_dinov2", "upscale.1.norm.bias", "network.upscale.1.norm.bias"),
        (
            AUTHORS,
            "vit_small_patch14_reg4_dinov2",
            "backbone.vit.blocks.1.attn.qkv.weight",
            "network.encoder.backbone.blocks.1.attn.qkv.weight",
        ),
        (
            AUTHORS_DINOV3,
            "vit_small_patch16_dinov3_qkvb",
            "backbone.vit.reg_token",
            "network.encoder.backbone.patch_embed.register_tokens",
        ),
        (
            AUTHORS_DINOV3,
            "vit_small_patch16_dinov3_qkvb",
            "backbone.vit.blocks.0.gamma_2",
            "network.encoder.backbone.blocks.0.layer_scale2.lambda1",
        ),
        (
            HUGGING_FACE,
            "vit_small_patch14_reg4_dinov2",
            "upscale.0.norm.weight",
            "upscale_block.block.0.layernorm2d.weight",
        ),
        (HUGGING_FACE, "vit_small_patch14_reg4_dinov2", "mask_head.4.bias", "mask_head.fc3.bias"),
        (HUGGING_FACE, "vit_small_patch14_reg4_dinov2", "backbone.vit.norm.bias", "layernorm.bias"),
        (
            HUGGING_FACE_DINOV3,
            "vit_small_patch16_dinov3_qkvb",
            "backbone.vit.patch_embed.proj.weight",
            "embeddings.patch_embeddings.weight",
        ),
    ],
)
def test_published_names(layout, backbone, mine, theirs):
    state = state_of(backbone)
    assert torch.equal(from_ours(state, layout)[theirs], state[mine])


def test_no_key_bias_is_made_up():
    theirs = from_ours(state_of("vit_small_patch16_dinov3_qkvb"), HUGGING_FACE_DINOV3)
    assert "layers.0.attention.q_proj.bias" in theirs
    assert "layers.0.attention.k_proj.bias" not in theirs


def test_names_of_transformers_4_are_read():
    """Before version 5, the gated MLP of the giant was one matrix, and its second had another name."""
    state = state_of("vit_giant_patch14_reg4_dinov2")
    theirs = from_ours(state, HUGGING_FACE)
    for block in range(2):
        for kind in ("weight", "bias"):
            gate, up, down = (
                theirs.pop(f"layers.{block}.mlp.{part}_proj.{kind}") for part in ("gate", "up", "down")
            )
            theirs[f"layers.{block}.mlp.weights_in.{kind}"] = torch.cat([gate, up])
            theirs[f"layers.{block}.mlp.weights_out.{kind}"] = down
    back = to_ours(theirs, HUGGING_FACE)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_buffers_are_dropped_and_strangers_stay():
    state = to_ours({"network.attn_mask_probs": torch.ones(3), "network.strange": torch.ones(1)}, AUTHORS)
    assert list(state) == ["network.strange"]


def test_blank_draws_nothing_and_changes_nothing_else():
    torch.manual_seed(0)
    with Blank():
        blank = EoMT(TOY, 2)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))  # the stream of random numbers was not touched
    drawn = EoMT(TOY, 2)
    blank.load_state_dict(drawn.state_dict())
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(blank.eval()(images)[-1].mask_logits, drawn.eval()(images)[-1].mask_logits)
