import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import TOY
from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError
from eomt.models.backbone import Backbone
from eomt.models.eomt import EoMT


def images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize(
    ("height", "width", "cells"),
    [
        (64, 64, (16, 16)),  # the configured view
        (96, 32, (24, 8)),  # tall
        (16, 160, (4, 40)),  # one row of patches
    ],
)
def test_any_size(height: int, width: int, cells: tuple[int, int]) -> None:
    model = EoMT(TOY, num_classes=3).eval()
    [logits] = model(images(height, width))
    assert logits.class_logits.shape == (2, 12, 4)
    assert logits.mask_logits.shape == (2, 12, *cells)


def test_supervised_layers() -> None:
    model = EoMT(TOY, num_classes=3)
    assert len(model(images())) == 1  # inference
    assert len(model(images(), (1.0, 0.5))) == 3  # before each joint block, and at the end
    with pytest.raises(ValueError, match="3 mask probabilities, 2 joint blocks"):
        model(images(), (1.0, 1.0, 1.0))


def test_mask_is_built_only_when_it_acts() -> None:
    model = EoMT(TOY, num_classes=3).eval()
    [*_, logits] = model(images())
    assert model.attention_mask(logits, 0.0, (4, 4)) is None
    mask = model.attention_mask(logits, 1.0, (4, 4))
    assert mask is not None
    prefix = model.backbone.num_prefix_tokens
    assert mask.shape == (2, 1, 12, 12 + prefix + 16)  # rows of queries only: all others see everything
    assert mask[:, :, :, : 12 + prefix].all()  # queries see queries and prefix
    expected = logits.mask_logits.unflatten(2, (4, 4)).unflatten(4, (4, 4))[:, :, :, 1:3, :, 1:3].mean((3, 5)) > 0
    assert torch.equal(
        mask[:, 0, :12, 12 + prefix :], expected.flatten(2)
    )  # bilinear at a quarter: the middle four


def test_annealing_opens_rows() -> None:
    model = EoMT(replace(TOY, num_queries=2000), num_classes=3).eval()
    [logits] = model(images(count=1))
    logits = logits._replace(mask_embeddings=torch.zeros_like(logits.mask_embeddings))  # no patch is inside a mask
    mask = model.attention_mask(logits, 0.7, (4, 4))
    assert mask is not None
    rows = mask[0, 0, :2000, -16:]
    assert (rows.all(1) | ~rows.any(1)).all()  # a query is confined or free
    assert rows.all(1).float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_unmasked_training_equals_inference() -> None:
    model = EoMT(TOY, num_classes=3).eval()
    assert torch.equal(model(images(), (0.0, 0.0))[-1].mask_logits, model(images())[-1].mask_logits)


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = EoMT(replace(TOY, gradient_checkpointing=checkpointing), num_classes=2).train()
        model(images(), (0.0, 0.0))[-1].mask_logits.square().mean().backward()
        gradients.append(model.backbone.blocks[0].mlp.fc1.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4)


def test_drop_path_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = EoMT(replace(TOY, drop_path=0.5), num_classes=2)
    a, b = (model.train()(images())[0].mask_logits for _ in range(2))
    assert not torch.equal(a, b)
    a, b = (model.eval()(images())[0].mask_logits for _ in range(2))
    assert torch.equal(a, b)


COMPILE = """
import torch
from eomt.config import ModelConfig
from eomt.models.eomt import EoMT

torch.set_num_threads(1)
config = ModelConfig("test_vit", "none", image_size=(64, 64), num_queries=12, num_joint_blocks=2)
model = EoMT(config, num_classes=2).eval()
compiled = torch.compile(model, backend="eager", fullgraph=True)
images = torch.randint(0, 256, (2, 3, 64, 64)).byte()
with torch.no_grad():
    for probabilities in (None, (0.0, 0.0), (1.0, 0.0)):
        expected, got = model(images, probabilities)[-1], compiled(images, probabilities)[-1]
        assert torch.allclose(expected.mask_logits, got.mask_logits, atol=1e-5)
"""


def test_compiles_as_one_graph() -> None:
    """In a process of its own: the compiler does not trace through this test run's shape checks."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=300)


@pytest.mark.parametrize(("depth", "rates"), [(None, [0, 0.1, 0.2, 0.3, 0.4, 0.5]), (3, [0, 0.25, 0.5]), (1, [0])])
def test_drop_path_rises_to_the_last_block_that_is_kept(depth: int | None, rates: list[float]) -> None:
    blocks = Backbone(replace(TOY, drop_path=0.5, depth=depth, num_joint_blocks=1)).blocks
    found = [getattr(block.drop_path1, "drop_prob", 0) for block in blocks]
    assert found == pytest.approx(rates)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vit_small_patch14_dinov2.unknown"}, r"Invalid pretrained tag \(unknown\)"),
        ({"backbone": "resnet18"}, "resnet18 is not a plain ViT"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "swin_tiny_patch4_window7_224 is not a plain ViT"),
        ({"patch_size": 0}, "patch size 0"),
        ({"num_queries": 0}, "0 queries"),
        ({"drop_path": 1.0}, "drop_path 1.0"),
        ({"image_size": (60, 64)}, "image size 60x64: each side must be a multiple of the patch size, 16"),
        ({"backbone": "vit_smal_patch16"}, "timm has no model 'vit_smal_patch16'"),
        ({"num_joint_blocks": 9}, "9 joint blocks"),
        ({"depth": 70}, "depth 70"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EoMT(replace(TOY, **change), num_classes=2)


def test_image_must_be_tiled_by_patches() -> None:
    with pytest.raises(ConfigError, match="images of 60x64 pixels"):
        EoMT(TOY, num_classes=2)(images(60, 64))


def test_weights_from_a_file(tmp_path: Path) -> None:
    """Weights made at another patch size and resolution are resampled; what does not fit is refused."""
    small = replace(TOY, backbone="vit_tiny_patch16_224", image_size=(64, 64), patch_size=16)
    source = Backbone(small)
    path = tmp_path / "vit.safetensors"
    save_file({name: value.contiguous().half() for name, value in source.vit.state_dict().items()}, path)
    same = Backbone(replace(small, weights=str(path)))
    assert torch.allclose(same.vit.pos_embed, source.vit.pos_embed, atol=1e-3)
    resampled = Backbone(replace(small, weights=str(path), image_size=(96, 96), patch_size=8))
    assert resampled.vit.patch_embed.proj.weight.shape[-1] == 8
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not be loaded"):
        Backbone(replace(small, weights=str(tmp_path / "cut.safetensors")))
    with pytest.raises(ModelError, match="no such file"):
        Backbone(replace(small, weights=str(tmp_path / "absent.safetensors")))
    with pytest.raises(ModelError, match="could not be loaded"):
        Backbone(replace(small, backbone="vit_small_patch16_224", weights=str(path)))


def test_default_configuration_is_the_papers() -> None:
    """ViT-S at 640 with 133 classes and 200 queries has 23.98 M parameters (reference, measured)."""
    config = ModelConfig(weights="none", num_joint_blocks=3)
    model = EoMT(config, num_classes=133)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(23.98e6, rel=1e-3)
