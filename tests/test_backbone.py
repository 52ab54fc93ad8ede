"""Each family of the paper's sweep beside timm's own forward, with random weights, narrow and two blocks deep."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError
from eomt.models import backbone as module
from eomt.models.backbone import Backbone, resample
from eomt.models.eomt import EoMT

TOLERANCE = 1e-5  # of the largest value
NARROW = {"embed_dim": 96, "depth": 2, "num_heads": 2}
create_model = timm.create_model

# name, its own patch, prefix tokens, where timm keeps the final norm, a part that only some families have
FAMILIES = [
    ("vit_small_patch14_dinov2", 14, 1, "norm", "blocks.1.ls2.gamma"),  # LayerScale; class token in the table
    ("vit_large_patch14_reg4_dinov2", 14, 5, "norm", "reg_token"),
    ("vit_giant_patch14_reg4_dinov2", 14, 5, "norm", "blocks.1.mlp.fc1.weight"),  # SwiGLU in one product
    ("eva02_large_patch14_224.mim_m38m", 14, 1, "fc_norm", "blocks.1.mlp.norm.weight"),  # rotation and table
    ("deit3_large_patch16_384.fb_in22k_ft_in1k", 16, 1, "norm", "blocks.1.ls1.gamma"),
    ("vit_large_patch16_dinov3", 16, 5, "norm", "blocks.1.gamma_2"),  # rotation only
    ("vit_large_patch16_dinov3_qkvb", 16, 5, "norm", "blocks.1.attn.q_bias"),
    ("vit_huge_plus_patch16_dinov3", 16, 5, "norm", "blocks.1.mlp.fc1_g.weight"),  # SwiGLU in two products
    ("vit_small_patch16_rope_mixed_224", 16, 1, "norm", "rope.freqs"),  # a learned rotation for each block
    ("vit_tiny_patch16_224.augreg_in21k", 16, 1, "norm", "pos_embed"),
    ("vit_base_patch16_siglip_512.webli", 16, 0, "norm", "pos_embed"),  # no prefix; a head that attends
    ("vit_base_patch16_siglip_512.v2_webli", 16, 0, "norm", "pos_embed"),
    ("vit_medium_patch16_reg4_gap_256", 16, 4, "fc_norm", "fc_norm.weight"),
    ("vit_base_patch16_clip_224.openai", 16, 1, "norm", "norm_pre.weight"),  # normalised before the first block
]
TABLES = [family for family in FAMILIES if "dinov3" not in family[0] and "mixed" not in family[0]]
ROTARY = [family for family in FAMILIES if family not in TABLES or family[0].startswith("eva02")]
names_patches = ("name", "patch")


def first(families: list[tuple[str, int, int, str, str]]) -> list[tuple[str, int]]:
    return [family[:2] for family in families]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build every model narrow and shallow: all else is the family's own."""
    monkeypatch.setattr(module.timm, "create_model", partial(create_model, **NARROW))


def config_of(name: str, patch: int, size: tuple[int, int] = (0, 0), **more: Any) -> ModelConfig:
    """A configuration at the given size, or at the family's own."""
    own = timm.get_pretrained_cfg(name).input_size[1:]
    return ModelConfig(
        name,
        "none",
        image_size=size if all(size) else own,
        patch_size=patch,
        num_queries=7,
        num_joint_blocks=1,
        **more,
    )


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give each parameter values that count: LayerScale and tokens start near 0, norms at 1."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3 if parameter.dim() == 1 else 0.1)


def images(size: tuple[int, int], count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def tokens_of(backbone: Backbone, pictures: Tensor) -> Tensor:
    """Run all blocks and the final norm."""
    tokens, rope = backbone.embed(pictures)
    for index in range(len(backbone.blocks)):
        tokens = backbone.run(index, tokens, rope)
    normed: Tensor = backbone.norm(tokens)
    return normed


def timm_twin(backbone: Backbone, name: str, **options: Any) -> Any:
    """timm's model with its default options (one image size, its own head) and the same weights."""
    twin = timm.create_model(name, num_classes=0, **options)
    fit = twin.load_state_dict(backbone.vit.state_dict(), strict=False)
    assert not fit.unexpected_keys
    assert all(key.startswith("attn_pool.") for key in fit.missing_keys)
    return twin.eval()


@torch.no_grad()
def timm_tokens(twin: Any, pictures: Tensor) -> Tensor:
    """timm's forward_features of pixels normalised by hand, and the norm that timm keeps for after pooling."""
    mean, std = (torch.tensor(twin.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    tokens: Tensor = twin.forward_features((pictures / 255 - mean) / std)
    return twin.fc_norm(tokens) if isinstance(twin.norm, nn.Identity) else tokens


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "patch", "prefix", "norm", "part"), FAMILIES)
def test_tokens_equal_timms(name: str, patch: int, prefix: int, norm: str, part: str) -> None:
    """At the native size: prefix tokens, positions, rotation, SwiGLU, LayerScale and norms are all as in timm."""
    config = config_of(name, patch)
    backbone = Backbone(config).eval()
    randomise(backbone)
    assert backbone.num_prefix_tokens == prefix
    assert backbone.norm is getattr(backbone.vit, norm)
    assert isinstance(backbone.norm, nn.LayerNorm)
    assert not any("attn_pool" in key for key in backbone.state_dict())
    pictures = images(config.image_size)
    ours = tokens_of(backbone, pictures)
    assert close(ours, timm_tokens(timm_twin(backbone, name), pictures))
    with torch.no_grad():  # the comparison is of something: the part takes part
        backbone.vit.get_parameter(part).mul_(1.5)
    assert not close(tokens_of(backbone, pictures), ours)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "mean", "std"),  # of blue, as each family's authors published it
    [
        ("vit_large_patch14_reg4_dinov2.lvd142m", 0.406, 0.225),  # ImageNet's
        ("vit_large_patch16_dinov3.lvd1689m", 0.406, 0.225),
        ("vit_large_patch16_dinov3.sat493m", 0.296, 0.143),  # satellite images
        ("deit3_large_patch16_384.fb_in1k", 0.406, 0.225),
        ("eva02_large_patch14_224.mim_m38m", 0.40821073, 0.27577711),  # CLIP's
        ("vit_tiny_patch16_224.augreg_in21k", 0.5, 0.5),
        ("vit_base_patch16_siglip_512.v2_webli", 0.5, 0.5),
    ],
)
def test_normalisation(name: str, mean: float, std: float) -> None:
    patch = 14 if "patch14" in name else 16
    backbone = Backbone(config_of(name, patch, (patch, patch)))
    assert backbone.pixel_mean[0, 2, 0, 0].item() == pytest.approx(mean * 255)
    assert backbone.pixel_std[0, 2, 0, 0].item() == pytest.approx(std * 255)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
@pytest.mark.parametrize("grid", [(3, 7), (9, 4)])
def test_another_size(name: str, patch: int, grid: tuple[int, int]) -> None:
    """Tables are interpolated and rotations follow the grid, as in a timm model that is set to the size."""
    config = config_of(name, patch, (6 * patch, 6 * patch))
    backbone = Backbone(config).eval()
    randomise(backbone)
    size = (grid[0] * patch, grid[1] * patch)
    twin = timm_twin(backbone, name, img_size=config.image_size)
    twin.set_input_size(size)
    assert close(tokens_of(backbone, images(size)), timm_tokens(twin, images(size)))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(ROTARY))
def test_queries_are_not_rotated(name: str, patch: int) -> None:
    """With queries in front that they do not see, all tokens come out as without; and the rotation matters."""
    model = EoMT(config_of(name, patch, (4 * patch, 6 * patch)), num_classes=2).eval()
    randomise(model)
    bare = Backbone(model.config).eval()
    bare.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        tokens, rope = bare.embed(images((4 * patch, 6 * patch)))
        expected = bare.run(1, tokens, rope)
        unseen = torch.ones(1, 1, tokens.shape[1] + 7, tokens.shape[1] + 7, dtype=torch.bool)
        unseen[..., 7:, :7] = False
        joined = torch.cat([model.queries.weight[None], tokens], dim=1)
        assert close(model.backbone.run(1, joined, rope, unseen)[:, 7:], expected)
        assert not close(bare.blocks[1](tokens), expected)
        moved = torch.cat([joined[:, 6:7], joined[:, :6], joined[:, 7:]], dim=1)  # order of queries says nothing
        turned = [model.backbone.run(1, sequence, rope)[:, :7] for sequence in (joined, moved)]
    assert close(turned[0].roll(1, dims=1), turned[1])


class AttendedRows(TorchDispatchMode):
    """Notes of each call of PyTorch's attention how many tokens attend in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []
        self.packed: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in str(function):
            self.found.append(args[0].shape[2])
            self.packed.append(all(part.is_contiguous() for part in args[:3]))
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(names_patches, [("vit_large_patch14_reg4_dinov2", 14), ("vit_large_patch16_dinov3", 16)])
def test_only_queries_pay_for_a_mask(name: str, patch: int, fused: bool) -> None:
    """Attention is computed in two parts, the queries' with the mask, and equals that with a mask of all rows."""
    backbone = Backbone(config_of(name, patch, (4 * patch, 6 * patch))).eval()
    randomise(backbone)
    backbone.prepend(7, 0)
    block = backbone.blocks[0]
    block.attn.fused_attn = fused
    with torch.no_grad():
        tokens, rope = backbone.embed(images((4 * patch, 6 * patch)))
        tokens = torch.cat([torch.randn(1, 7, tokens.shape[2]), tokens], dim=1)
        count = tokens.shape[1]
        rows = torch.rand(1, 1, 7, count) > 0.5
        with AttendedRows() as attended:
            ours = backbone.run(0, tokens, rope, rows)
        everyone = torch.cat([rows, torch.ones(1, 1, count - 7, count, dtype=torch.bool)], dim=2)
        rotation = {"rope": rope} if backbone.rotary else {}
        assert close(ours, block(tokens, attn_mask=everyone, **rotation))
        assert not close(ours, block(tokens, **rotation))
    assert attended.found == ([7, count - 7] if fused else [])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
def test_heads_are_brought_together_on_a_processor(name: str, patch: int) -> None:
    """The kernel reads each head's keys many times: they lie together, and every value is timm's to the bit."""
    backbone = Backbone(config_of(name, patch, (4 * patch, 6 * patch))).eval()
    randomise(backbone)
    with torch.no_grad():
        tokens, rope = backbone.embed(images((4 * patch, 6 * patch)))
        with AttendedRows() as attended:
            ours = backbone.run(0, tokens, rope)
        options = {"rope": rope[0] if backbone.vit.rope_mixed else rope} if backbone.rotary else {}
        with AttendedRows() as timms:
            theirs = backbone.blocks[0](tokens, **options)
    assert torch.equal(ours, theirs)
    assert attended.packed == [True]
    assert timms.packed == [False]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
def test_masked_attention_confines_queries(name: str, patch: int) -> None:
    """A query that sees one patch only is deaf to the others; and each weight is trained."""
    model = EoMT(config_of(name, patch, (3 * patch, 5 * patch)), num_classes=2)
    randomise(model)
    count = model.backbone.num_prefix_tokens + 15
    tokens, rope = model.backbone.embed(images((3 * patch, 5 * patch)))
    tokens = torch.cat([model.queries.weight[None], tokens], dim=1).detach()
    mask = torch.ones(1, 1, 7 + count, 7 + count, dtype=torch.bool)
    mask[..., :7, -14:] = False
    other = tokens.clone()
    other[:, -14:] = tokens[:, -14:].flip(-1)
    with torch.no_grad():
        seen, unseen = (
            [model.backbone.run(1, sequence, rope, shown)[:, :7] for sequence in (tokens, other)]
            for shown in (None, mask)
        )
    assert not close(*seen)
    assert close(*unseen)
    outputs = model(images((3 * patch, 5 * patch), 2), (1.0,))
    sum(part.float().square().mean() for output in outputs for part in output).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@contextmanager
def no_initial_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build on the meta device: to draw values that are none takes seconds, and only shapes are counted."""
    with monkeypatch.context() as patch, torch.device("meta"):
        for owner in ("timm.layers.weight_init", "timm.models.vision_transformer", "timm.models.eva"):
            patch.setattr(f"{owner}.trunc_normal_", lambda tensor, **_: tensor)
        yield


@pytest.mark.parametrize(
    ("name", "patch", "size", "joint", "millions"),
    [  # EoMT for 133 classes with 200 queries; the first four are the paper's 24, 93, 316 and 1164 M (table 3)
        ("vit_small_patch14_reg4_dinov2", 16, 640, 3, 23.976),
        ("vit_base_patch14_reg4_dinov2", 16, 640, 3, 93.663),
        ("vit_large_patch14_reg4_dinov2", 16, 640, 4, 316.696),
        ("vit_giant_patch14_reg4_dinov2", 16, 640, 5, 1163.622),
        ("vit_large_patch14_reg4_dinov2", 16, 1024, 4, 319.252),
        ("vit_large_patch14_reg4_dinov2", 16, 1280, 4, 321.611),
        ("vit_giant_patch14_reg4_dinov2", 16, 1280, 5, 1170.995),
        ("vit_small_patch14_dinov2", 16, 640, 3, 23.975),
        ("vit_base_patch14_dinov2", 16, 640, 3, 93.661),
        ("vit_large_patch14_dinov2", 16, 640, 4, 316.693),
        ("vit_giant_patch14_dinov2", 16, 640, 5, 1163.617),
        ("eva02_large_patch14_224.mim_m38m", 16, 640, 4, 316.734),
        ("eva02_large_patch14_224.mim_m38m", 14, 630, 4, 312.778),  # native patch, one doubling
        ("deit3_large_patch16_384.fb_in22k_ft_in1k", 16, 640, 4, 316.692),
        ("deit3_large_patch16_384.fb_in1k", 16, 640, 4, 316.692),
        ("vit_small_patch16_dinov3", 16, 640, 3, 23.348),
        ("vit_small_plus_patch16_dinov3", 16, 640, 3, 30.444),
        ("vit_base_patch16_dinov3", 16, 640, 3, 92.407),
        ("vit_large_patch16_dinov3", 16, 640, 4, 314.984),
        ("vit_huge_plus_patch16_dinov3", 16, 640, 5, 858.994),
        ("vit_7b_patch16_dinov3", 16, 640, 5, 6902.059),
        ("vit_tiny_patch16_224.augreg_in21k", 16, 640, 3, 6.269),
        ("vit_tiny_patch16_dinov3_qkvb", 16, 640, 3, 5.965),
        ("deit_tiny_patch16_224", 16, 640, 3, 6.269),
        ("vit_large_patch16_224.augreg_in21k", 16, 640, 4, 316.643),
        ("vit_base_patch16_siglip_512.webli", 16, 640, 3, 93.641),
        ("vit_large_patch16_siglip_512.v2_webli", 16, 640, 4, 316.641),
        ("vit_so400m_patch16_siglip_512.v2_webli", 16, 640, 4, 429.212),
    ],
)
def test_parameter_counts(
    name: str, patch: int, size: int, joint: int, millions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(name, "none", image_size=(size, size), patch_size=patch, num_joint_blocks=joint)
    with no_initial_values(monkeypatch):
        model = EoMT(config, num_classes=133)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_meta_device_needs_no_help() -> None:
    with torch.device("meta"):
        model = EoMT(ModelConfig("test_vit", "none", image_size=(64, 64), num_joint_blocks=2), num_classes=2)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny_patch4_window7_224", "not a plain ViT"),  # windows
        ("convnext_atto", "not a plain ViT"),
        ("hiera_tiny_224", "not a plain ViT"),
        ("vit_tiny_r_s16_p8_224", "not a plain ViT"),  # a ResNet cuts the patches
        ("vit_tiny_r_s16_p8_384", r"convolutional stem \(HybridEmbed\)"),
        ("vitamin_small_224", "not a plain ViT"),
        ("samvit_base_patch16", "not a plain ViT"),  # window attention
        ("beit_base_patch16_224", "not a plain ViT"),  # relative positions for one size
        ("vit_relpos_small_patch16_224", "not a plain ViT"),
        ("naflexvit_base_patch16_gap", "not a plain ViT"),
        ("cait_xxs24_224", "not a plain ViT"),
        ("xcit_nano_12_p16_224", "not a plain ViT"),
        ("mixer_s16_224", "not a plain ViT"),
    ],
)
def test_refuses_what_is_no_plain_vit(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_initial_values(monkeypatch), pytest.raises(ConfigError, match=f"backbone {name} is .*{message}"):
        Backbone(ModelConfig(name, "none", image_size=(384, 384)))


@pytest.mark.usefixtures("narrow")
def test_rotation_is_rescaled_in_training_only() -> None:
    """The factor of a batch lies between 1/2 and 2; prediction and the default never draw one."""
    config = config_of("vit_small_patch16_dinov3", 16, (64, 96))
    plain, rescaled = Backbone(config), Backbone(replace(config, rope_rescale=2.0))
    _, expected = plain.train().embed(images((64, 96)))
    assert torch.equal(expected, rescaled.eval().embed(images((64, 96)))[1])
    slow = expected.shape[1] // 8 - 1  # sine of the slowest turn along height; twice as far, along width
    corner = expected[0].asin()
    for _ in range(20):
        drawn = rescaled.train().embed(images((64, 96)))[1][0].asin() / corner
        down, across = drawn[slow].item(), drawn[2 * slow + 1].item()
        assert 0.5 <= down <= 2
        assert down != 1
        assert down == pytest.approx(across, rel=1e-3)  # one factor for both


@pytest.mark.parametrize(
    ("name", "rescale", "message"),
    [
        ("test_vit", 2.0, "rope_rescale: test_vit has no rotary embedding"),
        ("eva_giant_patch14_224", 2.0, "rope_rescale 2.0: eva_giant_patch14_224 has no rotary embedding"),
        ("vit_small_patch16_dinov3", 0.5, "rope_rescale 0.5: a factor of at least 1"),
    ],
)
def test_rescale_is_for_rotations(
    name: str, rescale: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = 14 if "patch14" in name else 16
    config = ModelConfig(name, "none", image_size=(4 * patch, 4 * patch), patch_size=patch, rope_rescale=rescale)
    with no_initial_values(monkeypatch), pytest.raises(ConfigError, match=message):
        Backbone(config)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
@pytest.mark.parametrize(
    ("old", "new", "new_patch"),
    [
        ((6, 6), (3, 3), None),  # down
        ((6, 6), (9, 9), None),  # up
        ((4, 9), (6, 6), None),  # as many patches, another shape
        ((6, 6), (5, 8), 8),  # another patch
        ((3, 7), (3, 7), 18),  # the same grid of larger patches
    ],
)
def test_resample(
    name: str, patch: int, old: tuple[int, int], new: tuple[int, int], new_patch: int | None
) -> None:
    """As a timm model that is set to the new size; the rest of the weights is the same tensors."""
    side = new_patch or patch
    before = config_of(name, patch, (old[0] * patch, old[1] * patch))
    after = config_of(name, side, (new[0] * side, new[1] * side), num_upscale_blocks=2)
    backbone = Backbone(before)
    randomise(backbone)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    held = {key: value.clone() for key, value in state.items()}
    resampled = resample(state, before, after)
    twin = timm_twin(backbone, name, img_size=before.image_size, patch_size=patch)
    twin.set_input_size(after.image_size, (side, side))
    for key, value in resampled.items():
        assert torch.equal(value, twin.state_dict()[key.removeprefix("backbone.vit.")])
        assert torch.equal(state[key], held[key])  # pure
        if not key.endswith((".pos_embed", ".patch_embed.proj.weight")):
            assert value is state[key]
    Backbone(after).load_state_dict({key.removeprefix("backbone."): value for key, value in resampled.items()})


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
def test_resample_to_the_same_is_identity(name: str, patch: int) -> None:
    config = config_of(name, patch, (4 * patch, 6 * patch))
    state = EoMT(config, num_classes=2).state_dict()
    resampled = resample(state, config, replace(config, depth=1))
    assert resampled.keys() == state.keys()
    assert all(resampled[key] is state[key] for key in state)


@pytest.mark.usefixtures("narrow")
def test_resample_refuses_another_table() -> None:
    config = config_of("vit_tiny_patch16_224.augreg_in21k", 16, (64, 96))
    state = EoMT(config, num_classes=2).state_dict()
    wrong = replace(config, image_size=(64, 64))
    with pytest.raises(ModelError, match="25 entries; a view of 64x64 pixels has 4x4 patches of 16, and 1 prefix"):
        resample(state, wrong, config)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(names_patches, first(FAMILIES))
def test_resample_equals_timms_load(name: str, patch: int, tmp_path: Path) -> None:
    """A file at another resolution and patch gives the same backbone through timm as through `resample`."""
    before = config_of(name, patch, (6 * patch, 6 * patch))
    after = replace(before, image_size=(48, 80), patch_size=8)
    source = Backbone(before)
    randomise(source)
    path = tmp_path / "vit.safetensors"
    save_file({key: value.contiguous() for key, value in source.vit.state_dict().items()}, path)
    loaded = Backbone(replace(after, weights=str(path))).state_dict()
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    for key, value in resample(state, before, after).items():
        assert torch.equal(value, loaded[key.removeprefix("backbone.")])


def saved(state: dict[str, Tensor], path: Path) -> str:
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


@pytest.mark.usefixtures("narrow")
def test_another_models_file_is_refused(tmp_path: Path) -> None:
    """Such as an EoMT's own: timm would leave the backbone random and say nothing."""
    config = config_of("vit_tiny_patch16_224.augreg_in21k", 16, (64, 64))
    path = saved(EoMT(config, num_classes=2).state_dict(), tmp_path / "eomt.safetensors")
    parts = r"missing: cls_token, pos_embed, .* and 20 more; not of this backbone: backbone.vit.blocks.0.attn"
    with pytest.raises(ModelError, match=parts):
        Backbone(replace(config, weights=path))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "patch", "prefix", "norm", "part"), FAMILIES)
def test_each_part_of_a_file_is_needed(
    name: str, patch: int, prefix: int, norm: str, part: str, tmp_path: Path
) -> None:
    """Without attention, MLPs, positions, tokens or the last norm, those would stay random."""
    config = config_of(name, patch, (4 * patch, 4 * patch))
    state = Backbone(config).vit.state_dict()
    parts = ("attn.qkv", "attn.q_proj", "mlp.fc1", "pos_embed", "cls_token", "reg_token", norm, part)
    absent = [key for key in state if not key.endswith("q_bias") and any(word in key for word in parts)]
    path = saved({key: value for key, value in state.items() if key not in absent}, tmp_path / "vit.safetensors")
    with pytest.raises(ModelError) as error:
        Backbone(replace(config, weights=path))
    assert f"missing: {', '.join(absent[:10])}" in str(error.value)


@pytest.mark.usefixtures("narrow")
def test_what_a_file_may_lack_or_have_besides(tmp_path: Path) -> None:
    """Heads are not the backbone's; DINOv3's biases of queries and values are zero; registers are of another."""
    config = config_of("vit_tiny_patch16_224.augreg_in21k", 16, (64, 64))
    state = Backbone(config).vit.state_dict()
    heads = {"head.weight": torch.ones(5, 96), "head.bias": torch.ones(5)}
    path = saved(state | heads, tmp_path / "a.safetensors")
    loaded = Backbone(replace(config, weights=path)).vit.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    path = saved(state | {"reg_token": torch.ones(1, 4, 96)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"b\.safetensors: not of this backbone: reg_token; give"):
        Backbone(replace(config, weights=path))
    plain = config_of("vit_large_patch16_dinov3", 16, (64, 64))
    path = saved(Backbone(plain).vit.state_dict(), tmp_path / "c.safetensors")
    with_biases = Backbone(replace(plain, backbone=f"{plain.backbone}_qkvb", weights=path)).vit
    assert not with_biases.blocks[1].attn.q_bias.any()


@pytest.mark.usefixtures("narrow")
def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    config = config_of("vit_tiny_patch16_224.augreg_in21k", 16, (64, 64))
    state = Backbone(config).vit.state_dict()
    path = saved(state | {"norm.weight": torch.ones(97)}, tmp_path / "vit.safetensors")
    with pytest.raises(ModelError, match=r"could not be loaded .*size mismatch for norm.weight"):
        Backbone(replace(config, weights=path))
