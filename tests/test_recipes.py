"""Recipes: published settings, sizes and rates, what their words promise, and how the command line shows them."""

import inspect
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import timm
import torch

from eomt.cli import main
from eomt.cli.config import SETTLED
from eomt.cli.options import check_names
from eomt.cli.recipes import find
from eomt.cli.train import TrainArguments
from eomt.config import ModelConfig, Recipe, flat, to_json
from eomt.errors import ConfigError
from eomt.models.eomt import EoMT
from eomt.recipes import (
    OWN_DATA,
    PUBLISHED,
    RECIPES,
    ade20k_semantic_large_512_dinov3,
    coco_panoptic_large_640_dinov3,
    with_batch_size,
)
from eomt.tasks import TASKS
from eomt.training.optim import layer_scale

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
CLASSES = {
    "coco_panoptic": 133,
    "coco_instance": 80,
    "ade20k_panoptic": 150,
    "ade20k_semantic": 150,
    "cityscapes_semantic": 19,
}

# Task, view, queries, joint blocks, epochs, backbone.
SETTINGS = {
    "coco_panoptic_small_640": ("panoptic", 640, 200, 3, 12, "vit_small_patch14_reg4_dinov2"),
    "coco_panoptic_small_640_2x": ("panoptic", 640, 200, 3, 24, "vit_small_patch14_reg4_dinov2"),
    "coco_panoptic_base_640": ("panoptic", 640, 200, 3, 12, "vit_base_patch14_reg4_dinov2"),
    "coco_panoptic_base_640_2x": ("panoptic", 640, 200, 3, 24, "vit_base_patch14_reg4_dinov2"),
    "coco_panoptic_large_640": ("panoptic", 640, 200, 4, 12, "vit_large_patch14_reg4_dinov2"),
    "coco_panoptic_large_1280": ("panoptic", 1280, 200, 4, 12, "vit_large_patch14_reg4_dinov2"),
    "coco_panoptic_giant_640": ("panoptic", 640, 200, 5, 12, "vit_giant_patch14_reg4_dinov2"),
    "coco_panoptic_giant_1280": ("panoptic", 1280, 200, 5, 12, "vit_giant_patch14_reg4_dinov2"),
    "coco_instance_large_640": ("instance", 640, 200, 4, 12, "vit_large_patch14_reg4_dinov2"),
    "coco_instance_large_1280": ("instance", 1280, 200, 4, 12, "vit_large_patch14_reg4_dinov2"),
    "ade20k_panoptic_large_640": ("panoptic", 640, 200, 4, 31, "vit_large_patch14_reg4_dinov2"),
    "ade20k_panoptic_large_1280": ("panoptic", 1280, 200, 4, 31, "vit_large_patch14_reg4_dinov2"),
    "ade20k_panoptic_giant_640": ("panoptic", 640, 200, 5, 31, "vit_giant_patch14_reg4_dinov2"),
    "ade20k_panoptic_giant_1280": ("panoptic", 1280, 200, 5, 31, "vit_giant_patch14_reg4_dinov2"),
    "ade20k_semantic_large_512": ("semantic", 512, 100, 4, 31, "vit_large_patch14_reg4_dinov2"),
    "cityscapes_semantic_large_1024": ("semantic", 1024, 100, 4, 107, "vit_large_patch14_reg4_dinov2"),
    "coco_panoptic_small_640_2x_dinov3": ("panoptic", 640, 200, 3, 24, "vit_small_patch16_dinov3_qkvb"),
    "coco_panoptic_base_640_2x_dinov3": ("panoptic", 640, 200, 3, 24, "vit_base_patch16_dinov3_qkvb"),
    "coco_panoptic_large_640_dinov3": ("panoptic", 640, 200, 4, 12, "vit_large_patch16_dinov3_qkvb"),
    "coco_panoptic_large_1280_dinov3": ("panoptic", 1280, 200, 4, 12, "vit_large_patch16_dinov3_qkvb"),
    "coco_instance_large_640_dinov3": ("instance", 640, 200, 4, 12, "vit_large_patch16_dinov3_qkvb"),
    "coco_instance_large_1280_dinov3": ("instance", 1280, 200, 4, 12, "vit_large_patch16_dinov3_qkvb"),
    "ade20k_semantic_large_512_dinov3": ("semantic", 512, 100, 4, 16, "vit_large_patch16_dinov3_qkvb"),
}
# Millions, as the paper prints them; none is published for the view of 512, nor for DINOv3.
PARAMETERS = {
    ("small", 640): 24,
    ("base", 640): 93,
    ("large", 512): 316,
    ("large", 640): 316,
    ("large", 1024): 319,
    ("large", 1280): 322,
    ("giant", 640): 1164,
    ("giant", 1280): 1171,
}
PARAMETERS_DINOV3 = {"small": 23, "base": 92, "large": 315}


def data_set(name: str) -> str:
    return "_".join(name.split("_")[:2])


def test_all_published_configurations_are_here():
    assert set(PUBLISHED) == set(SETTINGS)
    assert len(PUBLISHED) == 23
    assert list(OWN_DATA) == ["small", "base", "large", "giant", "nuclei"]
    assert list(RECIPES) == [*OWN_DATA, *PUBLISHED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    """Against the authors' configuration files, field by field."""
    recipe = PUBLISHED[name]()
    model, dinov3 = recipe.model, name.endswith("_dinov3")
    view = model.image_size[0]
    assert (
        recipe.task,
        view,
        model.num_queries,
        model.num_joint_blocks,
        recipe.epochs,
        model.backbone,
    ) == SETTINGS[name]
    assert model.image_size == (view, view)
    assert model.patch_size == 16
    assert model.rope_rescale == (2.0 if dinov3 else None)
    assert recipe.steps is None
    assert recipe.data.batch_size == 16
    assert recipe.evaluate_every == (2 if recipe.task == "instance" else 1)
    assert recipe.augment.color == (not name.startswith("coco"))
    assert recipe.augment.scale == ((0.5, 2.0) if recipe.task == "semantic" else (0.1, 2.0))
    assert recipe.augment.fit is None  # as the task predicts
    assert (recipe.optim.lr, recipe.optim.warmup) == ((2e-4, (2000, 3000)) if dinov3 else (1e-4, (500, 1000)))
    assert recipe.optim.undecayed_blocks == (model.num_joint_blocks if dinov3 else 0)
    factors = (recipe.optim.layer_decay, recipe.optim.backbone_lr_factor)
    assert factors == ((1.0, 0.1) if name == "ade20k_semantic_large_512_dinov3" else (0.8, 1.0))
    assert timm.get_pretrained_cfg(model.backbone).tag == ("lvd1689m" if dinov3 else "lvd142m")


@cache
def body(model: ModelConfig) -> tuple[int, int]:
    """Count the parameters but for the class head, on the meta device, and give the width."""
    with torch.device("meta"):
        built = EoMT(replace(model, weights="none"), num_classes=1)
    head = sum(parameter.numel() for parameter in built.class_head.parameters())
    return sum(parameter.numel() for parameter in built.parameters()) - head, built.backbone.embed_dim


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Parameters on the meta device. The paper rounds some (321.6 to 322) and cuts others (316.7 to 316): 1 M."""
    recipe = PUBLISHED[name]()
    parameters, width = body(recipe.model)
    counted = (parameters + (CLASSES[data_set(name)] + 1) * (width + 1)) / 1e6
    size, view = name.split("_")[2], recipe.model.image_size[0]
    published = PARAMETERS_DINOV3[size] if name.endswith("dinov3") else PARAMETERS[size, view]
    assert counted == pytest.approx(published, abs=1)
    assert f"Cost: {published} M parameters" in inspect.getdoc(PUBLISHED[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_words(name):
    """The docstring's score stands in the page's table, and its command trains this recipe with known options."""
    words = inspect.getdoc(PUBLISHED[name])
    score = re.search(r": (PQ|AP|mIoU) (\d\d\.\d) \((paper, table \d|model zoo)", words.partition("\n")[0])
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert f" {score[1]} {score[2]} " in row
    recipe = PUBLISHED[name]()
    assert f", view {recipe.model.image_size[0]}, {recipe.epochs:.0f} epochs" in words
    parameters = re.search(r"Cost: (\d+) M parameters", words)[1]
    assert f" {parameters} M " in row
    program, command, trained, *arguments = shlex.split(words[words.index("\neomt train ") :].replace("\\\n", " "))
    assert (program, command, trained) == ("eomt", "train", name)
    check_names(TrainArguments, arguments, "eomt train")
    assert ("--init-from" in arguments) == name.startswith("ade20k_panoptic")
    if "--init-from" in arguments:
        start = arguments[arguments.index("--init-from") + 1].removeprefix("runs/")
        assert PUBLISHED[start]().model == recipe.model


def factors(recipe: Recipe) -> list[float]:
    """Give the factor on the rate of the patch embedding, each of 24 blocks, the final norm and the queries."""
    parts = ["patch_embed.proj", *(f"blocks.{block}.norm1" for block in range(24)), "norm"]
    names = [f"backbone.vit.{part}.weight" for part in parts] + ["queries.weight"]
    return [layer_scale(name, 24, recipe.optim)[1] for name in names]


def test_rates_of_each_dinov3_layer():
    """COCO: 0.8 to the power of the blocks behind, up to the joint blocks, which have the full rate."""
    decayed = [0.8 ** (23 - block) for block in range(20)]
    assert factors(coco_panoptic_large_640_dinov3()) == pytest.approx([0.8**23, *decayed, 1, 1, 1, 1, 1, 1])
    # ADE20K: a tenth for what is no joint block, the full rate behind it.
    assert factors(ade20k_semantic_large_512_dinov3()) == pytest.approx([0.1] * 21 + [1] * 6)


# The command line


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments", [["recipes", "ls"], ["recipes", "show", "small"], ["config", "show", "small", "--seed", "1"]]
)
def test_all_of_it_is_light(arguments):
    code = f"import sys; from eomt.cli import main; assert main({arguments}) == 0; "
    code += "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_ls(capsys):
    assert main(["recipes", "ls"]) == 0
    text = capsys.readouterr().out
    assert [name for name in RECIPES if f"  {name} " not in text] == []
    rows = shown(["recipes", "ls"], capsys)["recipes"]
    assert [row["name"] for row in rows] == list(RECIPES)
    assert sum(row["published"] for row in rows) == 23
    assert rows[-1]["image_size"] == [512, 512]


def test_show(capsys):
    assert main(["recipes", "show", "coco-panoptic-large-640"]) == 0
    text = capsys.readouterr().out
    assert "PQ 56.0 (paper, table 4)" in text
    assert re.search(r"^model\.image_size +640 640$", text, re.MULTILINE)
    recipe = shown(["recipes", "show", "nuclei"], capsys)
    assert recipe["name"] == "nuclei"
    assert recipe["settings"] == json.loads(json.dumps(to_json(RECIPES["nuclei"]())))


def test_origins_of_settings(tmp_path, capsys):
    arguments = ["config", "show", "--optim.lr=2e-4", "coco-instance-large-640-dinov3", "--data", "cells"]
    arguments += ["--model.image-size", "320", "320", "--augment.no-color", "--seed", "0"]
    settings = shown(arguments, capsys)["settings"]
    assert settings["optim.lr"] == {"value": 2e-4, "origin": "command line"}  # though the recipe has the same
    assert settings["seed"] == {"value": 0, "origin": "command line"}
    assert settings["augment.color"] == {"value": False, "origin": "command line"}
    assert settings["data.root"] == {"value": "cells", "origin": "command line"}
    assert settings["model.image_size"] == {"value": [320, 320], "origin": "command line"}
    assert settings["task"] == {"value": "instance", "origin": "recipe coco_instance_large_640_dinov3"}
    assert settings["optim.layer_decay"] == {"value": 0.8, "origin": "default"}
    assert set(settings) == set(flat(to_json(Recipe())))

    file = tmp_path / "recipe.json"
    file.write_text('{"steps": 7, "optim": {"lr": 0.1, "clip_norm": 1}}')
    settings = shown(["config", "show", str(file), "--optim.lr", "1"], capsys)["settings"]
    assert settings["steps"] == {"value": 7, "origin": f"file {file}"}
    assert settings["optim.clip_norm"] == {"value": 1.0, "origin": f"file {file}"}
    assert settings["optim.lr"] == {"value": 1.0, "origin": "command line"}
    assert settings["optim.weight_decay"] == {"value": 0.05, "origin": "default"}

    assert main(["config", "show", "small"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^model\.num_joint_blocks +3 +recipe small$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "setting", "settled"),
    [
        ("small", "task", "as the data are"),
        ("small", "augment.fit", "as the task in prediction"),
        *((f"small --task {task}", "augment.fit", TASKS[task].fit) for task in TASKS),
        ("small", "model.num_upscale_blocks", 2),  # 16 pixels: a quarter of the view
        ("small --model.patch-size 14", "model.num_upscale_blocks", 1),
        ("small --model.patch-size 0", "model.num_upscale_blocks", 1),  # training refuses it, not this
        ("small --data.batch-size 8", "data.micro_batch", 8),
        ("small --data.val None --data.val-fraction 0.2", "data.val", "0.2 of train"),
    ],
)
def test_what_is_left_open_is_shown_settled(options, setting, settled, capsys):
    facts = shown(["config", "show", *options.split()], capsys)["settings"][setting]
    assert (facts["value"], facts["settled"]) == (None, settled)
    assert main(["config", "show", *options.split()]) == 0
    assert re.search(rf"^{re.escape(setting)} +None \({settled}\) ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "rate", "origin"),
    [
        ("small", 1e-4, "default"),
        ("small --data.batch-size 4", 5e-5, "data.batch_size, by its square root"),
        ("small --data.batch-size 64", 2e-4, "data.batch_size, by its square root"),
        ("small --data.batch-size 4 --optim.lr 1e-4", 1e-4, "command line"),  # said, though it is the recipe's
        ("nuclei", 2e-4, "recipe nuclei"),  # its own batch is 4
        ("nuclei --data.batch-size 16", 4e-4, "data.batch_size, by its square root"),
    ],
)
def test_the_learning_rate_follows_the_batch(options, rate, origin, capsys):
    facts = shown(["config", "show", *options.split()], capsys)["settings"]["optim.lr"]
    assert facts == {"value": pytest.approx(rate), "origin": origin}


def test_the_learning_rate_follows_the_batch_in_training(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("eomt.cli.train._complete", lambda options: asked.append(options.settings) or 1 / 0)
    for options in ("--data.batch-size 4", "--data.batch-size 4 --optim.lr 1e-4", "--data.batch-size 0"):
        assert main(["train", "small", "--data", "x", "--out", "y", *options.split()]) == 1
    assert [recipe.optim.lr for recipe in asked] == [5e-5, 1e-4, 1e-4]
    assert asked[0] == with_batch_size(RECIPES["small"](), 4)


def test_what_is_given_settles_itself(capsys):
    settings = shown(["config", "show", "small", "--augment.fit", "cover", "--steps", "9"], capsys)["settings"]
    assert settings["augment.fit"] == {"value": "cover", "origin": "command line"}
    assert settings["steps"] == {"value": 9, "origin": "command line"}


def test_every_setting_that_may_be_left_open_says_what_it_comes_to():
    """But those of which None says it: no data set, no class map, no rescaling."""
    assert set(SETTLED) == optional(Recipe) - {"data.root", "data.class_map", "model.rope_rescale"}


def optional(part: type, section: str = "") -> set[str]:
    """Name the settings that may be None."""
    names = set()
    for name, hint in get_type_hints(part).items():
        if hasattr(hint, "__dataclass_fields__"):
            names |= optional(hint, f"{section}{name}.")
        elif type(None) in get_args(hint):
            names.add(section + name)
    return names


def test_a_measured_micro_batch_is_a_setting(capsys):
    facts = shown(["config", "show", "small", "--data.micro-batch", "auto"], capsys)["settings"][
        "data.micro_batch"
    ]
    assert facts == {"value": "auto", "origin": "command line"}


def test_a_recipe_file_is_a_recipe(tmp_path, monkeypatch):
    """What a run leaves can be trained again, changed by options."""
    file = tmp_path / "lr=3" / "recipe.json"
    file.parent.mkdir()
    recipe = replace(RECIPES["nuclei"](), steps=3)
    file.write_text(json.dumps(to_json(recipe)))
    asked = []
    monkeypatch.setattr("eomt.cli.train._complete", lambda options: asked.append(options.settings) or 1 / 0)
    assert main(["train", str(file), "--data", "x", "--out", "y", "--optim.lr", "1"]) == 1
    assert main(["train", "--steps", "9", str(file), "--data", "x", "--out", "y"]) == 1
    assert main(["train", "coco-panoptic-small-640-2x", "--data", "x", "--out", "y"]) == 1
    assert asked == [
        replace(recipe, optim=replace(recipe.optim, lr=1.0)),
        replace(recipe, steps=9),
        PUBLISHED["coco_panoptic_small_640_2x"](),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read this file (No such file or directory)"),
        (b"{", "this is no JSON"),
        (b"\xff\xfe\x00", "this is no JSON"),
        (b"[" * 100_000, "this is no JSON"),
        (b"[]", "expected an object with named values"),
        (b'{"code": "os"}', "unknown code"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, words):
    file = tmp_path / "recipe.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        find(str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipes"], ["usage: eomt recipes", "ls", "show"]),
        (["recipes", "lss"], ["no action lss; did you mean ls?"]),
        (["recipes", "show"], ["needs a NAME"]),
        (["recipes", "show", "coco_panoptic_larg_640"], ["did you mean coco_panoptic_large_640"]),
        (["recipes", "ls", "--jsn"], ["--jsn; did you mean --json"]),
        (["config"], ["usage: eomt config"]),
        (["config", "show"], ["needs a RECIPE"]),
        (["config", "show", "smal"], ["did you mean small"]),
        (["config", "show", "small", "--optm.lr", "1"], ["did you mean --optim.lr"]),
    ],
)
def test_mistakes(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [word for word in words if word not in err] == []


def test_a_run_folder_is_told_its_recipe(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"did you mean .*recipe\.json"):
        find(str(tmp_path))
