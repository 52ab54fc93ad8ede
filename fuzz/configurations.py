"""Fuzz recipes, lists of classes, class maps and the configurations of models."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from eomt.categories import Category
from eomt.cli.recipes import find
from eomt.config import ModelConfig, Recipe, to_json
from eomt.data.classes import change_classes, read_changes
from eomt.data.detect import open_data
from eomt.data.readers.folder import read_categories
from eomt.errors import ConfigError, DataError, EomtError, ModelError
from eomt.models.eomt import EoMT
from eomt.weights import checkpoint, hugging_face
from eomt.weights.checkpoint import ModelInfo
from eomt.weights.source import Told, read
from fuzz.kind import Changes, Files, Kind, files_below, judge
from fuzz.mutations import mutate_files
from layouts import folder as folders

__all__ = ["KIND"]

SMALL = ModelConfig(
    "vit_small_patch14_reg4_dinov2",
    "none",
    (64, 64),
    depth=2,
    num_queries=6,
    num_joint_blocks=1,
    num_upscale_blocks=2,
)
CLASSES = tuple(Category(f"class {label}", True, label, (0, 0, label)) for label in range(3))
CHANGES = {
    "merge": {"vehicle": ["person", "car"]},
    "rename": {"sky": "air"},
    "drop": ["road"],
    "things": ["vehicle"],
}
YAML = "merge:\n  vehicle: [person, car]\nrename: {sky: air}\ndrop: [road]\nthings: [vehicle]\n"


class Configured(NamedTuple):
    """How a configuration is read, and which errors may refuse it."""

    read: Callable[[Path], object]
    errors: tuple[type[EomtError], ...]


def _read_changes(table: Path) -> None:
    change_classes(open_data(table.parent / "data", "train"), read_changes(table))


TABLE = {
    "recipe": Configured(lambda folder: find(str(folder / "recipe.json")), (ConfigError,)),
    "categories.json": Configured(lambda folder: read_categories(folder / "categories.json"), (DataError,)),
    "classes.txt": Configured(lambda folder: read_categories(folder / "classes.txt"), (DataError,)),
    "classes.csv": Configured(lambda folder: read_categories(folder / "classes.csv"), (DataError,)),
    "_classes.csv": Configured(lambda folder: read_categories(folder / "_classes.csv"), (DataError,)),
    "map.json": Configured(lambda folder: _read_changes(folder / "map.json"), (DataError,)),
    "map.yaml": Configured(lambda folder: _read_changes(folder / "map.yaml"), (DataError,)),
    "model": Configured(lambda folder: read(folder, Told()), (ModelError, ConfigError)),
    "hugging face": Configured(lambda folder: read(folder, Told()), (ModelError, ConfigError)),
}


def _seeds(place: Path) -> dict[str, Files]:
    place.mkdir()
    torch.manual_seed(0)
    model, info = EoMT(SMALL, len(CLASSES)).eval(), ModelInfo("instance", CLASSES, SMALL)
    checkpoint.save(model, info, place / "model")
    hugging_face.write(model.state_dict(), info, place / "hugging face")
    folders.write(place / "data")
    data = {f"data/{name}": content for name, content in files_below(place / "data").items()}
    categories = [
        {"name": "cell", "is_thing": True, "id": 1, "color": [1, 2, 3]},
        {"name": "sky", "isthing": False, "pixel_value": 9},
    ]
    options = {"categories": categories, "masks": "instance", "void": [0, 255], "label_divisor": 1000}
    return {
        "recipe": {"recipe.json": json.dumps(to_json(Recipe())).encode()},
        "categories.json": {"categories.json": json.dumps(options).encode()},
        "classes.txt": {"classes.txt": b"sky\nroad\nperson\n"},
        "classes.csv": {"classes.csv": b"name,r,g,b\nsky,1,2,3\nroad,4,5,6\n"},
        "_classes.csv": {"_classes.csv": b"Pixel Value, Class\n0, background\n1, person\n"},
        "map.json": {"map.json": json.dumps(CHANGES).encode(), **data},
        "map.yaml": {"map.yaml": YAML.encode(), **data},
        "model": files_below(place / "model"),
        "hugging face": files_below(place / "hugging face"),
    }


def _is_configuration(name: str) -> bool:
    return not name.startswith("data/") and name.endswith((".json", ".txt", ".csv", ".yaml"))


def _change(chance: Random, files: Files) -> Changes:
    configurations = {name: content for name, content in files.items() if _is_configuration(name)}
    return mutate_files(chance, configurations)


def _read(folder: Path, seed: str) -> bool:
    configured = TABLE[seed]
    try:
        configured.read(folder)
    except configured.errors as error:
        judge(error)
        return False
    return True


KIND = Kind(_seeds, _change, _read)
