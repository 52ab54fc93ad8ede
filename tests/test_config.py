"""Configurations to JSON and back, and what a wrong one is told."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from eomt.categories import Category
from eomt.config import ModelConfig, Recipe, choose_task, from_json, to_json
from eomt.errors import ConfigError

CHANGED = replace(
    Recipe(),
    task="instance",
    steps=300,
    model=ModelConfig(image_size=(224, 448), depth=9, gradient_checkpointing=True),
)


@pytest.mark.parametrize("recipe", [Recipe(), CHANGED])
def test_a_recipe_survives_json(recipe) -> None:
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_fields_left_out_keep_their_defaults_and_whole_numbers_become_fractions() -> None:
    recipe = from_json(Recipe, {"epochs": 3, "optim": {"lr": 1}})
    assert recipe == replace(Recipe(), epochs=3.0, optim=replace(Recipe().optim, lr=1.0))
    assert isinstance(recipe.epochs, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"recipe\.json: unknown epoch; known are task, epochs"),
        ({"model": {"heads": 3}}, r"recipe\.json\.model: unknown heads; known are kind, backbone"),
        ({"task": "detection"}, r'recipe\.json\.task: "detection" is not one of semantic, instance, panoptic'),
        ({"seed": 1.5}, r"recipe\.json\.seed: 1\.5 is not int"),
        ({"seed": True}, r"recipe\.json\.seed: true is not int"),
        ({"epochs": False}, r"recipe\.json\.epochs: false is not float"),
        ({"steps": "many"}, r'recipe\.json\.steps: "many" is not int'),
        ({"epochs": 10**400}, r"recipe\.json\.epochs: 10{79} is not float"),
        ({"data": {"micro_batch": "all"}}, r'data\.micro_batch: "all" is not int or one of auto'),
        ({"epochs": None}, r"recipe\.json\.epochs: null is not float"),
        ({"model": {"image_size": [640]}}, r"recipe\.json\.model\.image_size: \[640\] is not tuple\[int, int\]"),
        ({"model": {"image_size": [640, "w"]}}, r'recipe\.json\.model\.image_size\[1\]: "w" is not int'),
        ({"model": 3}, r"recipe\.json\.model: expected an object with named values, found 3"),
        ([], r"recipe\.json: expected an object with named values, found \[\]"),
    ],
)
def test_a_fault_is_told_with_its_place(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(Recipe, values, "recipe.json")


def test_what_the_command_line_needs_first_is_free_of_torch() -> None:
    code = "import sys, eomt, eomt.config, eomt.categories, eomt.errors, eomt.masks; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("asked", "things", "expected"),
    [
        (None, (True, False), "panoptic"),
        (None, (True, True), "instance"),
        (None, (False, False), "semantic"),
        ("semantic", (True, False), "semantic"),
    ],
)
def test_the_task_is_the_data_s_where_none_is_asked_for(asked, things, expected) -> None:
    categories = tuple(Category(str(i), is_thing, i, (0, 0, 0)) for i, is_thing in enumerate(things))
    assert choose_task(asked, categories) == expected
    with pytest.raises(ConfigError, match="all classes of the data are stuff"):
        choose_task("instance", tuple(category._replace(is_thing=False) for category in categories))
