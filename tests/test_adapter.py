"""ViT-Adapter: what it leaves of the ViT, how large it is, that all of it learns; several families and shapes."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from conftest import TOY
from eomt.config import ModelConfig
from eomt.errors import ConfigError
from eomt.models import backbone as module
from eomt.models.adapter import Adapter
from eomt.models.backbone import Backbone

create_model = timm.create_model


def build(config: ModelConfig = TOY) -> tuple[Backbone, Adapter]:
    torch.manual_seed(0)
    backbone = Backbone(config)
    return backbone, Adapter(backbone, config)


def images(*size: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)


def open_gates(adapter: Adapter) -> None:
    for injector in adapter.injectors:
        nn.init.ones_(injector.gamma)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((64, 128), [(16, 32), (8, 16), (4, 8), (2, 4)]),
        ((96, 32), [(24, 8), (12, 4), (6, 2), (3, 1)]),
        ((48, 80), [(12, 20), (6, 10), (3, 5), (2, 3)]),  # odd grids: the coarsest is rounded up
    ],
)
def test_four_maps(size: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    _, adapter = build()
    found = adapter(images(*size))
    assert [tuple(level.shape) for level in found] == [(2, 64, *side) for side in sides]


def test_other_patches_keep_the_ratios() -> None:
    """A patch of 8 pixels is seen by the convolutions as one of 16: four cells a patch in the finest map."""
    _, adapter = build(replace(TOY, patch_size=8))
    assert [tuple(level.shape[2:]) for level in adapter(images(32, 48))] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("opened", [False, True])
def test_the_vit_is_itself_at_first(opened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injectors are scaled by zero: the patches come out as from the ViT alone, and no longer when they open."""
    backbone, adapter = build()
    if opened:
        open_gates(adapter)
    given: list[Tensor] = []
    maps = adapter.maps
    monkeypatch.setattr(adapter, "maps", lambda *parts: given.append(parts[2]) or maps(*parts))
    picture = images(64, 96)
    with torch.no_grad():
        adapter(picture)
        tokens, rope = backbone.embed(picture)
        for index in range(len(backbone.blocks)):
            tokens = backbone.run(index, tokens, rope)
    alone = tokens[:, backbone.num_prefix_tokens :].unflatten(1, (4, 6))
    assert torch.equal(given[0], alone) is not opened


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_small_patch14_reg4_dinov2", 5_830_160),
        ("vit_base_patch14_reg4_dinov2", 13_680_608),
        ("vit_large_patch14_reg4_dinov2", 23_236_800),
    ],
)
def test_as_many_parameters_as_the_public_code(name: str, count: int) -> None:
    """Counted there with the configurations for COCO, less those of its ViT."""
    with torch.device("meta"):
        _, adapter = build(ModelConfig(name, "none"))
    assert sum(parameter.numel() for parameter in adapter.parameters()) == count


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vit_small_patch14_reg4_dinov2", 14),  # registers
        ("vit_small_patch16_dinov3", 16),  # a rotation
        ("vit_small_patch16_rope_mixed_224", 16),  # one for each block
        ("vit_base_patch16_siglip_512.webli", 16),  # no prefix
        ("vit_medium_patch16_reg4_gap_256", 16),  # the final norm elsewhere
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_of_it_learns(name: str, patch: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient reaches every parameter of both."""
    narrow: dict[str, Any] = {"embed_dim": 96, "depth": 5, "num_heads": 2}
    monkeypatch.setattr(module.timm, "create_model", partial(create_model, **narrow))
    config = ModelConfig(
        name, "none", image_size=(8 * patch, 8 * patch), patch_size=patch, gradient_checkpointing=checkpointing
    )
    backbone, adapter = build(config)
    with torch.no_grad():  # what starts at zero hides other gradients
        for parameter in (*backbone.parameters(), *adapter.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    maps = adapter(images(2 * patch, 4 * patch))
    sum((level * torch.randn_like(level)).sum() for level in maps).backward()
    for part in (backbone, adapter):
        for label, parameter in part.named_parameters():
            assert parameter.grad is not None, label
            assert parameter.grad.isfinite().all(), label
            assert parameter.grad.any(), label


def test_an_image_does_not_depend_on_its_batch() -> None:
    """In training as well: no statistics are shared."""
    _, adapter = build()
    open_gates(adapter.train())
    pictures = images(64, 64, count=3)
    for all_of_them, first in zip(adapter(pictures), adapter(pictures[:1]), strict=True):
        torch.testing.assert_close(all_of_them[:1], first, atol=1e-5, rtol=1e-4)


def test_the_backbone_stays_the_models() -> None:
    """Its parameters are not registered a second time, and a copy has its own: an average, or one to be judged."""
    backbone, adapter = build()
    assert not any("backbone" in name or "vit" in name for name in adapter.state_dict())
    copied_backbone, copied = copy.deepcopy((backbone, adapter))
    with torch.no_grad():
        for parameter in copied_backbone.parameters():
            parameter.zero_()
        for own, others in zip(adapter(images(32, 32)), copied(images(32, 32)), strict=True):
            assert not torch.equal(own, others)


def test_too_few_blocks() -> None:
    with pytest.raises(ConfigError, match="3 blocks; at least 4"):
        build(replace(TOY, depth=3))
