"""Adapters: what they compute, which parameters are trained, and that models are loaded without their package."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, LossConfig, ModelConfig, OptimConfig, Recipe, TrackConfig
from eomt.errors import ConfigError
from eomt.models.eomt import EoMT
from eomt.training import setup, state
from eomt.training.adapt import adapt, merged
from eomt.training.loop import train
from eomt.training.optim import parameter_groups

EVA = ModelConfig(
    "eva02_tiny_patch14_224",
    "none",
    image_size=(56, 56),
    patch_size=14,
    depth=2,
    num_queries=5,
    num_joint_blocks=1,
)
DINOV3 = replace(EVA, backbone="vit_small_plus_patch16_dinov3_qkvb", patch_size=16, image_size=(64, 64))


def trained(config: OptimConfig, model: ModelConfig = TOY) -> set[str]:
    """The trained parameters of one early and one joint block, and of what lies outside of blocks."""
    bare = EoMT(model, 2)
    adapt(bare, config)
    names = (name for name, parameter in bare.named_parameters() if parameter.requires_grad)
    return {name for name in names if "blocks." not in name or re.search(r"blocks\.[05]\.", name)}


HEADS = {"queries", "class_head", "mask_head", "upscale"}
ADAPTERS = {f"attn.{layer}.lora_{side}" for layer in ("qkv", "proj") for side in "AB"}
NORMS = {"norm1", "norm2"}


def parts(names: set[str], block: int) -> set[str]:
    inside = {name.partition(f"blocks.{block}.")[2] for name in names if f"blocks.{block}." in name}
    return {re.sub(r"(\.default)?\.(weight|bias)$", "", name) for name in inside}


@pytest.mark.parametrize(
    ("config", "early", "joint"),
    [
        (OptimConfig(lora=4), ADAPTERS | NORMS, ADAPTERS | NORMS),
        (OptimConfig(lora=4, freeze="early_blocks"), set(), ADAPTERS | NORMS),
        (
            OptimConfig(lora=4, lora_layers="attention_and_mlp"),
            ADAPTERS | NORMS | {f"mlp.fc{n}.lora_{side}" for n in "12" for side in "AB"},
            ADAPTERS | NORMS | {f"mlp.fc{n}.lora_{side}" for n in "12" for side in "AB"},
        ),
    ],
)
def test_what_is_trained(config: OptimConfig, early: set[str], joint: set[str]) -> None:
    names = trained(config)
    assert parts(names, 0) == early
    assert parts(names, 5) == joint
    outside = {name for name in names if "blocks." not in name}
    assert {name.split(".")[0] for name in outside} == HEADS | {"backbone"}
    assert {name for name in outside if name.startswith("backbone.")} == {
        "backbone.vit.norm.weight",
        "backbone.vit.norm.bias",
    }


def test_adapters_have_the_rate_of_new_parameters() -> None:
    model = EoMT(TOY, 2)
    adapt(model, OptimConfig(lora=4))
    rates = {
        name: (group["stage"], group["scale"])
        for group in parameter_groups(model, OptimConfig(lora=4, layer_decay=0.5))
        for name, parameter in model.named_parameters()
        if any(parameter is each for each in group["params"])
    }
    assert rates["backbone.vit.blocks.0.attn.qkv.lora_A.default.weight"] == ("new", 1.0)
    assert rates["backbone.vit.blocks.0.norm1.weight"] == ("backbone", 0.5**5)
    assert not any("base_layer" in name for name in rates)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (TOY, "attention"),
        (EVA, "attention_and_mlp"),  # three separate projections, and a gated MLP
        (DINOV3, "attention"),  # one projection, whose biases are added apart
    ],
    ids=["plain", "eva", "dinov3"],
)
def test_merged_computes_what_adapters_do(config: ModelConfig, layers) -> None:
    torch.manual_seed(0)
    model = EoMT(config, 2).eval()
    for name, value in model.named_parameters():
        if "gamma" in name:  # LayerScale is near zero in a model without weights
            torch.nn.init.ones_(value)
    images = torch.randint(256, (2, 3, *config.image_size), dtype=torch.uint8)
    bare = model(images)[-1]
    adapt(model, OptimConfig(lora=4, lora_layers=layers))
    begun = model(images)[-1]
    torch.testing.assert_close(begun, bare, rtol=0, atol=1e-6)  # zero at first
    adapters = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    for value in adapters.values():
        torch.nn.init.normal_(value, std=0.05)
    wanted = model(images)[-1]
    assert (wanted.class_logits - bare.class_logits).abs().max() > 1e-3  # they do something
    wanted.class_logits.square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in adapters.values())  # each of them
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = merged(model)
    found = plain(images)[-1]
    for ours, theirs in zip(found, wanted, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * max(scale, 1))
    assert plain.state_dict().keys() == EoMT(config, 2).state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert merged(plain) is plain


def test_positions_that_timm_does_not_train_are_not_trained() -> None:
    model = EoMT(TOY, 2)
    model.backbone.vit.pos_embed.requires_grad_(False)
    adapt(model, OptimConfig())
    assert not model.backbone.vit.pos_embed.requires_grad
    assert all(value.requires_grad for name, value in model.named_parameters() if "pos_embed" not in name)


def recipe(root: Path, **optim: object) -> Recipe:
    return Recipe(
        task="instance",
        steps=4,
        evaluate_every=0.4,  # every two steps
        model=replace(TOY, drop_path=0.2, gradient_checkpointing=True),
        data=DataConfig(root=str(root), batch_size=4, micro_batch=2, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(lr=1e-2, ema=0.9, lora=4, **optim),
        track=TrackConfig(report=False),
        device="cpu",
    )


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("lora") / "run"
    train(recipe(shapes), run)
    return run


def digest(run: Path, name: str) -> str:
    sha256: str = json.loads((run / name / "config.json").read_text())["weights"]["sha256"]
    return sha256


def test_a_run_goes_on_bit_by_bit(whole: Path, shapes: Path, tmp_path: Path, monkeypatch) -> None:
    """Stopped after its first evaluation, with average, accumulation and checkpointing."""
    from eomt.training import loop

    step = loop.optimizer_step

    def stopping(run, batches):  # type: ignore[no-untyped-def]
        if run.progress.step == 3:
            raise RuntimeError("killed")
        return step(run, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", stopping)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe(shapes), tmp_path / "run")
    train(recipe(shapes), tmp_path / "run", resume=True)
    one, other = (state.newest(run)[0] for run in (whole, tmp_path / "run"))  # type: ignore[index]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(".lora_A." in name for name in one)
    assert digest(whole, "best") == digest(tmp_path / "run", "best")
    assert digest(whole, "last") == digest(tmp_path / "run", "last")


def test_only_adapters_norms_and_what_is_new_moves(whole: Path) -> None:
    (_, first), (_, last) = (
        (path, state.load_file(path / "tensors")) for path in sorted((whole / "states").iterdir())
    )
    moved = {name for name in last if name.startswith("model.") and not torch.equal(first[name], last[name])}
    assert not any("base_layer" in name for name in moved)
    assert {"model.backbone.vit.blocks.0.attn.qkv.lora_B.default.weight", "model.queries.weight"} <= moved
    moments = {name.removeprefix("exp_avg.") for name in last if name.startswith("exp_avg.")}
    assert not any("base_layer" in name or ".mlp." in name for name in moments)


def test_it_says_how_many_parameters_train(whole: Path) -> None:
    model = EoMT(TOY, 2)
    adapt(model, OptimConfig(lora=4))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False)]
    total, some = (f"{count / 1e6:.1f} M" for count in counts)
    assert f"{total} parameters, {some} of them trained" in (whole / "log.txt").read_text()


def test_what_it_made_is_loaded_without_the_package(whole: Path) -> None:
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from eomt import Segmenter\n"
        f"model = Segmenter.from_pretrained({str(whole)!r}, device='cpu').model\n"
        "print(sum(p.numel() for p in model.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == sum(parameter.numel() for parameter in EoMT(TOY, 2).parameters())


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (OptimConfig(lora=0), "optim.lora 0: a rank of at least 1"),
        (OptimConfig(lora=4, freeze="backbone"), "drop one of them"),
    ],
)
def test_adapters_that_cannot_be(tmp_path: Path, optim: OptimConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        setup.check(Recipe(optim=optim), tmp_path / "run")


def test_without_the_package(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(setup, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'eomt\[lora\]'"):
        setup.check(Recipe(optim=OptimConfig(lora=4)), tmp_path / "run")


def test_a_backbone_without_such_layers() -> None:
    model = EoMT(TOY, 2)
    for block in model.backbone.blocks:
        block.attn = torch.nn.Identity()
    with pytest.raises(ConfigError, match="have no attention that takes adapters"):
        adapt(model, OptimConfig(lora=4))
