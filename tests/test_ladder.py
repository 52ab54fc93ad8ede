"""The paper's steps from Mask2Former to EoMT: their sizes, their contract, and that each is trained and used."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import TOY
from eomt.cli import main
from eomt.config import (
    AugmentConfig,
    DataConfig,
    Kind,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrackConfig,
    from_json,
    num_masked_layers,
)
from eomt.errors import ConfigError
from eomt.inference.segmenter import Segmenter
from eomt.models import ladder
from eomt.models.blank import Blank
from eomt.models.mask2former import Level, Mask2Former
from eomt.models.pyramid import HalveBlock
from eomt.training import loop
from eomt.training.loop import train
from eomt.training.optim import parameter_groups
from eomt.training.setup import check
from eomt.training.stop import Stopped
from eomt.weights import authors, hugging_face

BASELINES = [kind for kind in get_args(Kind) if kind != "eomt"]


def model(kind: str, **changes: object) -> ladder.Model:
    torch.manual_seed(0)
    return ladder.build(replace(TOY, kind=kind, **changes), num_classes=3).eval()


def images(height: int = 64, width: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize(
    ("height", "width", "cells"),
    [
        (64, 64, (16, 16)),  # the configured view
        (96, 32, (24, 8)),  # tall
        (16, 80, (4, 20)),  # one row of patches, an odd number of them
    ],
)
def test_any_size(kind: str, height: int, width: int, cells: tuple[int, int]) -> None:
    [logits] = model(kind)(images(height, width))
    assert logits.class_logits.shape == (2, 12, 4)
    assert logits.mask_logits.shape == (2, 12, *cells)
    assert logits.mask_logits.isfinite().all()


@pytest.mark.parametrize("kind", BASELINES)
def test_supervised_layers(kind: str) -> None:
    own = model(kind)
    layers = num_masked_layers(own.config)
    outputs = own(images(), (1.0,) * layers)
    assert len(outputs) == 10
    [last] = own(images())  # inference confines queries as training does
    torch.testing.assert_close(last.mask_logits, outputs[-1].mask_logits, rtol=0, atol=0)
    with pytest.raises(ValueError, match="2 mask probabilities, 9 decoder layers"):
        own(images(), (1.0, 1.0))


@pytest.mark.parametrize("kind", BASELINES)
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    """So that micro-batches and processes add up to the step of the whole batch."""
    own, pictures = model(kind).train(), images(count=3)
    everywhere = (1.0,) * num_masked_layers(own.config)
    for together, alone in zip(own(pictures, everywhere), own(pictures[:1], everywhere), strict=True):
        torch.testing.assert_close(together.class_logits[:1], alone.class_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.mask_logits[:1], alone.mask_logits, rtol=1e-4, atol=1e-3)


def test_an_empty_mask_confines_nothing() -> None:
    features = torch.ones(1, 256, 8, 8)
    features[:, :, :, :4] = -1
    level = Level(torch.zeros(1, 256, 4, 4), features, torch.zeros(256))
    half, nothing = torch.ones(256), torch.zeros(256)
    nothing[0], nothing[1] = 1e-3, -2e-3  # below zero on the right, above on the left
    shown = level.visible(torch.stack([half, nothing, -torch.ones(256)])[None]).view(3, 4, 4)
    assert shown[0, :, 2:].all()
    assert not shown[0, :, :2].any()
    assert shown[1, :, :2].all()
    assert not shown[1, :, 2:].any()
    level.coarse = -torch.ones_like(level.coarse)
    assert level.visible(half[None, None]).all()


def test_a_query_sees_its_mask_only() -> None:
    """What lies outside a query's first mask does not change its next state, but for what others tell it."""
    own = model("mask2former_single_scale")
    assert isinstance(own, Mask2Former)
    maps = own.pixels(own.look(images(count=1)))
    level = Level(maps.levels[0], maps.finest, own.level_embedding.weight[0])
    queries = own.queries.weight[None]
    visible = level.visible(own.read_out(queries, maps.finest).mask_embeddings)
    query = int(visible[0, 0].sum(1).argmin())
    outside = ~visible[0, 0, query]
    assert 0 < outside.sum() < outside.numel()
    attention = own.layers[0].cross_attention
    before = attention(queries, level.keys, level.values, visible)[0, query]
    level.values[:, outside] += 100
    assert torch.equal(attention(queries, level.keys, level.values, visible)[0, query], before)


COMPILED = """
import sys, torch
from dataclasses import replace
from eomt.config import ModelConfig
from eomt.models.ladder import build
torch.set_num_threads(1)
config = ModelConfig("test_vit", "none", image_size=(64, 64), num_queries=12, num_joint_blocks=2, depth=4)
images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
for kind in sys.argv[1:]:
    model = build(replace(config, kind=kind), 3).eval()
    whole = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(whole(images)[-1].mask_logits, model(images)[-1].mask_logits)
"""


def test_a_compiled_model_is_one_graph() -> None:
    """A break in the baseline, and not in EoMT, would make their comparison unfair.

    In a process of its own, in which types are not checked as they are in tests: nothing could look through that.
    """
    kinds = ["eomt", "mask2former_vit_adapter", "mask2former_single_scale"]
    subprocess.run([sys.executable, "-c", COMPILED, *kinds], check=True, timeout=300)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_weights_of_half_the_width(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    own = model(kind, patch_size=14, image_size=(56, 56))
    with torch.no_grad():
        exact = own(images(56, 56))[-1].class_logits
        half = own.to(dtype)(images(56, 56))[-1].class_logits
    assert half.dtype == dtype
    assert (half.float() - exact).abs().mean() < tolerance * exact.std()


@pytest.mark.parametrize("kind", BASELINES)
def test_parts_of_mask2former_are_drawn_as_it_draws_them(kind: str) -> None:
    """Its convolutions keep the variance of what they get, its attention is one matrix; biases are zero."""
    own = model(kind)
    convolutions = [part for part in own.pixels.modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) >= 2
    for part in convolutions:
        inputs, outputs = part.weight[0].numel(), len(part.weight) * part.weight[0, 0].numel()
        variances = (1 / inputs, 2 / (inputs + outputs))  # by the inputs; in the pixel decoder's maps by both
        assert any(float(part.weight.detach().var()) == pytest.approx(each, rel=0.05) for each in variances)
        assert part.bias is None or not part.bias.any()
    for layer in own.layers:
        for attention in (layer.cross_attention, layer.self_attention):
            joined = [attention.q_proj, attention.k_proj, attention.v_proj]
            for part in joined:
                assert float(part.weight.detach().var()) == pytest.approx(2 / (256 + 768), rel=0.05)
            assert float(attention.out_proj.weight.detach().var()) == pytest.approx(2 / (256 + 256), rel=0.05)
            assert not any(part.bias.any() for part in [*joined, attention.out_proj])


def test_an_adapter_has_its_own_resolution() -> None:
    with pytest.raises(ConfigError, match="3 upscale blocks: a ViT-Adapter has 2"):
        model("mask2former_vit_adapter", num_upscale_blocks=3)


def test_halving_rounds_up() -> None:
    assert HalveBlock(8)(torch.zeros(1, 3, 4, 8)).shape == (1, 2, 2, 8)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", get_args(Kind))
def test_nothing_waits_for_values_that_are_not_drawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(1e9))
    with Blank():
        model(kind)


@pytest.mark.parametrize("kind", BASELINES)
def test_what_is_no_backbone_has_the_full_rate(kind: str) -> None:
    own = model(kind)
    groups = parameter_groups(own, OptimConfig(layer_decay=0.5))
    new = {id(parameter) for group in groups if group["stage"] == "new" for parameter in group["params"]}
    assert {group["scale"] for group in groups if group["stage"] == "new"} == {1.0}
    assert new == {id(value) for name, value in own.named_parameters() if not name.startswith("backbone.")}


def recipe(root: Path, kind: Kind, **changes: object) -> Recipe:
    toy = Recipe(
        task="instance",
        steps=3,
        model=replace(TOY, kind=kind),
        data=DataConfig(root=str(root), batch_size=2, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(lr=1e-3),
        precision="fp32",
        device="cpu",
        track=TrackConfig(to="none", images=1),
    )
    return replace(toy, **changes)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_run_is_trained_saved_and_used(kind: Kind, shapes: Path, tmp_path: Path) -> None:
    result = train(recipe(shapes, kind), tmp_path / "run")
    settled = json.loads((tmp_path / "run/recipe.json").read_text())
    assert settled["optim"]["masked_attention"] == "always"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["masked_attention_9"] for row in rows if "loss" in row] == [1.0] * 3
    assert "AP" in result.metrics
    loaded = Segmenter.from_pretrained(tmp_path / "run", "cpu")
    assert loaded.info.model.kind == kind
    for size in ((40, 90, 3), (64, 64, 3)):
        assert loaded.predict(np.zeros(size, np.uint8)).size == size[:2]
    for name, value in result.segmenter.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


def test_a_run_goes_on_to_the_same_weights(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = recipe(shapes, "mask2former", optim=OptimConfig(lr=1e-3, ema=0.9))
    whole = train(own, tmp_path / "whole").segmenter.model.state_dict()
    original, taken = loop.optimizer_step, 0

    def step(run, batches):  # type: ignore[no-untyped-def]
        nonlocal taken
        taken += 1
        if taken == 3:
            raise Stopped(signal.SIGINT)
        return original(run, batches)

    monkeypatch.setattr(loop, "optimizer_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(own, tmp_path / "parts")
    monkeypatch.undo()
    resumed = train(own, tmp_path / "parts", resume=True).segmenter.model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_adapters_and_an_average_leave_a_plain_model(shapes: Path, tmp_path: Path) -> None:
    toy = recipe(shapes, "mask2former_vit_adapter", optim=OptimConfig(lr=1e-3, lora=2, ema=0.9))
    train(replace(toy, steps=2, model=replace(toy.model, gradient_checkpointing=True)), tmp_path / "run")
    state = load_file(tmp_path / "run/states/step-000000002/tensors")
    matrix = "average.module.backbone.vit.blocks.0.attn.qkv."
    product = state[matrix + "lora_B.default.weight"] @ state[matrix + "lora_A.default.weight"]
    assert product.any()
    plain = Segmenter.from_pretrained(tmp_path / "run/last", "cpu").model
    assert plain.state_dict().keys() == model("mask2former_vit_adapter").state_dict().keys()
    merged = plain.state_dict()["backbone.vit.blocks.0.attn.qkv.weight"]
    torch.testing.assert_close(merged, state[matrix + "base_layer.weight"] + product)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked_attention": "never"}, "a model of kind mask2former always confines queries"),
        ({"freeze": "early_blocks"}, "a model of kind mask2former has no joint blocks"),
    ],
)
def test_what_only_eomt_has_is_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check(recipe(tmp_path, "mask2former", optim=OptimConfig(**changes)), tmp_path / "run")


def test_masked_prediction_is_not_asked_for(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "mask2former")
    asked = replace(asked, model=replace(asked.model, masked_inference=True))
    with pytest.raises(ConfigError, match="a model of kind mask2former has it by itself"):
        check(asked, tmp_path / "run")


def test_another_kind_starts_none(shapes: Path, tmp_path: Path) -> None:
    train(recipe(shapes, "mask2former_single_scale", steps=1), tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"kind mask2former_single_scale starts no other; .* or leave out --init-from"
    ):
        train(recipe(shapes, "eomt"), tmp_path / "other", init_from=tmp_path / "run")
    started = train(
        recipe(shapes, "mask2former_single_scale", steps=1), tmp_path / "next", init_from=tmp_path / "run"
    )
    assert started.segmenter.info.model.kind == "mask2former_single_scale"


def test_other_layouts_hold_eomt_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    categories = Segmenter.from_pretrained("bundled", "cpu").categories
    config = replace(TOY, kind="mask2former")
    own = ladder.build(config, len(categories))
    info = replace(Segmenter.from_pretrained("bundled", "cpu").info, model=config)
    with pytest.raises(ConfigError, match="Hugging Face's EoMT cannot hold a model of kind mask2former"):
        hugging_face.write(own.state_dict(), info, tmp_path / "hf")
    with pytest.raises(ConfigError, match="the authors' layout cannot hold a model of kind mask2former"):
        authors.write(own.state_dict(), info, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="merged in models of kind eomt only"):
        Segmenter(own, info, "cpu").merge_tokens(0.9)
    Segmenter(own, info, "cpu").save(tmp_path / "own")
    assert main(["convert", str(tmp_path / "own"), str(tmp_path / "copy")]) == 0
    assert "kind mask2former" in capsys.readouterr().out
    card = (tmp_path / "copy/README.md").read_text()
    assert "# Mask2Former on a plain ViT" in card
    assert "in 9 decoder layers" in card


def test_a_model_without_a_kind_is_eomt() -> None:
    assert from_json(ModelConfig, {"backbone": "test_vit"}).kind == "eomt"


def test_settings_show_the_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "small", "--model.kind", "mask2former"]) == 0
    assert re.search(r"^model\.kind +mask2former +command line$", capsys.readouterr().out, re.MULTILINE)
