"""Pixel decoder and Transformer decoder against transformers' Mask2Former on the same weights, to 1e-4.

Maps come from our toy ViT; weights are ours, under their names. Masked attention is part of it: masks of every
layer are compared, and each depends on those before it.
"""

import re
from dataclasses import replace

import pytest
import torch
from transformers import Mask2FormerConfig, SwinConfig
from transformers.models.mask2former import modeling_mask2former as reference

from conftest import TOY
from eomt.models.mask2former import Mask2Former
from eomt.models.pyramid import sine_positions

PIXELS = (
    (r"level_embedding", "level_embed"),
    (r"projections\.(\d)", r"input_projections.\1"),
    (r"layers\.(\d)\.attention", r"encoder.layers.\1.self_attn"),
    (r"layers\.(\d)\.norm1", r"encoder.layers.\1.self_attn_layer_norm"),
    (r"layers\.(\d)\.norm2", r"encoder.layers.\1.final_layer_norm"),
    (r"layers\.(\d)\.fc", r"encoder.layers.\1.fc"),
    (r"lateral", "adapter_1"),
    (r"smooth", "layer_1"),
)
DECODER = (
    (r"queries", "queries_features"),
    (r"query_positions", "queries_embedder"),
    (r"level_embedding", "level_embed"),
    (r"norm\.", "decoder.layernorm."),
    (r"mask_head\.0", "decoder.mask_predictor.mask_embedder.0.0"),
    (r"mask_head\.2", "decoder.mask_predictor.mask_embedder.1.0"),
    (r"mask_head\.4", "decoder.mask_predictor.mask_embedder.2.0"),
    (r"layers\.(\d)\.cross_attention", r"decoder.layers.\1.cross_attn"),
    (r"layers\.(\d)\.self_attention", r"decoder.layers.\1.self_attn"),
    (r"layers\.(\d)\.norm1", r"decoder.layers.\1.cross_attn_layer_norm"),
    (r"layers\.(\d)\.norm2", r"decoder.layers.\1.self_attn_layer_norm"),
    (r"layers\.(\d)\.norm3", r"decoder.layers.\1.final_layer_norm"),
    (r"layers\.(\d)\.fc", r"decoder.layers.\1.fc"),
)


def renamed(state, table):
    out = {}
    for name, value in state.items():
        pattern, there = next(row for row in table if re.match(row[0], name))
        out[re.sub("^" + pattern, there, name)] = value
    return out


def settings() -> Mask2FormerConfig:
    return Mask2FormerConfig(
        backbone_config=SwinConfig(),
        encoder_feedforward_dim=1024,
        dim_feedforward=2048,
        num_queries=TOY.num_queries,
        dropout=0.0,
    )


def moved(kind: str) -> Mask2Former:
    """A model of random weights in which zeros and ones of the beginning are gone."""
    torch.manual_seed(0)
    model = Mask2Former(replace(TOY, kind=kind), num_classes=3).eval()
    with torch.no_grad():
        for parameter in (*model.pixels.parameters(), *model.layers.parameters(), *model.norm.parameters()):
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def images(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("size", [(1, 7), (5, 3)])
def test_positions(size: tuple[int, int]) -> None:
    theirs = reference.Mask2FormerSinePositionEmbedding(16, normalize=True)
    expected = theirs(torch.Size((1, 32, *size)), "cpu", torch.float32).flatten(2)[0].T
    torch.testing.assert_close(sine_positions(size, 32, torch.device("cpu")), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_pixel_decoder(size: tuple[int, int]) -> None:
    model = moved("mask2former")
    theirs = reference.Mask2FormerPixelDecoder(settings(), [model.backbone.embed_dim] * 4).eval()
    theirs.load_state_dict(renamed(model.pixels.state_dict(), (*PIXELS, ("mask_projection", "mask_projection"))))
    maps = model.look(images(*size))
    ours, expected = model.pixels(maps), theirs([maps.finest, *maps.levels[::-1]])
    torch.testing.assert_close(ours.finest, expected.mask_features, rtol=0, atol=1e-4)
    for level, other in zip(ours.levels, expected.multi_scale_features, strict=True):
        torch.testing.assert_close(level, other, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mask2former", "mask2former_no_pixel_decoder"])
def test_transformer_decoder(kind: str) -> None:
    model = moved(kind)
    alone = kind == "mask2former_no_pixel_decoder"
    state = {
        name: value
        for name, value in model.state_dict().items()
        if name.split(".")[0] not in ("backbone", "pyramid", "pixels", "class_head")
    }
    state = renamed(state, DECODER)
    for layer in range(len(model.layers)):
        name = f"decoder.layers.{layer}.cross_attn"
        for kind_of in ("weight", "bias"):
            parts = [state.pop(f"{name}.{part}_proj.{kind_of}") for part in "qkv"]
            state[f"{name}.in_proj_{kind_of}"] = torch.cat(parts)
    maps = model.look(images(64, 96))
    if alone:
        state |= {
            name.replace("projections", "input_projections"): value
            for name, value in model.pixels.state_dict().items()
            if name.startswith("projections")
        }
        levels, finest = maps.levels, model.pixels.mask_projection(maps.finest)
    else:
        finest, levels = model.pixels(maps)
    theirs = reference.Mask2FormerTransformerModule(model.backbone.embed_dim if alone else 256, settings()).eval()
    theirs.load_state_dict(state)
    expected = theirs(levels, finest)
    outputs = model(images(64, 96), (1.0,) * 9)
    assert len(outputs) == len(expected.masks_queries_logits) == 10
    confined = 0
    for ours, masks, states in zip(
        outputs, expected.masks_queries_logits, expected.intermediate_hidden_states, strict=True
    ):
        torch.testing.assert_close(ours.mask_logits, masks, rtol=1e-4, atol=1e-4)
        logits = model.class_head(states.transpose(0, 1))
        torch.testing.assert_close(ours.class_logits, logits, rtol=1e-4, atol=1e-4)
        inside = (masks > 0).flatten(2)
        confined += int((inside.any(-1) & ~inside.all(-1)).sum())
    assert confined > 50  # masks that do confine their queries
