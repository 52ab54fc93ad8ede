"""The scenes as images beside masks: objects numbered in 16 bits, or classes as numbers or as colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes import SCENES, SIZE, STUFF, THINGS, Scene

NAMES = STUFF + THINGS
COLORS = {"sky": (70, 130, 180), "road": (128, 64, 128), "person": (220, 20, 60), "car": (0, 0, 142)}


def panoptic(scene: Scene) -> NDArray[np.uint16]:
    """Number the objects: 1000 times the id of the class, plus 1, 2, ...; 0 is void."""
    values = np.zeros(SIZE, dtype=np.uint16)
    for number, (name, mask) in enumerate(scene.masks(), 1):
        values[mask] = 1000 * (NAMES.index(name) + 1) + number
    return values


def semantic(scene: Scene) -> NDArray[np.uint8]:
    """Number the classes from 0; 255 is void."""
    values = np.full(SIZE, 255, dtype=np.uint8)
    for name, mask in scene.masks():
        values[mask] = NAMES.index(name)
    return values


def colored(scene: Scene) -> NDArray[np.uint8]:
    """Paint the classes; black is void."""
    colors = np.zeros((*SIZE, 3), dtype=np.uint8)
    for name, mask in scene.masks():
        colors[mask] = COLORS[name]
    return colors


def categories() -> list[dict[str, Any]]:
    return [
        {"name": name, "is_thing": name in THINGS, "id": index, "color": COLORS[name]}
        for index, name in enumerate(NAMES, 1)
    ]


def save(path: Path, picture: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write(root: Path) -> None:
    """images/SPLIT and masks/SPLIT, with things and stuff."""
    for scene in SCENES:
        save(root / "images" / scene.split / f"{scene.image_id}.png", scene.image)
        save(root / "masks" / scene.split / f"{scene.image_id}.png", panoptic(scene))
    options = {"categories": categories(), "label_divisor": 1000}
    (root / "categories.json").write_text(json.dumps(options))


def write_semantic(root: Path) -> None:
    """SPLIT/images and SPLIT/labels, with other endings, and the names line by line."""
    for scene in SCENES:
        save(root / scene.split / "images" / f"{scene.image_id}.png", scene.image)
        save(root / scene.split / "labels" / f"{scene.image_id}_label.png", semantic(scene))
    (root / "classes.txt").write_text("\n".join(NAMES))


def write_colored(root: Path) -> None:
    """images/SPLIT and annotations/SPLIT, in colours; void is a class, as in CamVid's own list."""
    for scene in SCENES:
        save(root / "images" / scene.split / f"{scene.image_id}.png", scene.image)
        save(root / "annotations" / scene.split / f"{scene.image_id}_L.png", colored(scene))
    rows = [f"{name}, {', '.join(map(str, COLORS[name]))}" for name in NAMES]
    (root / "class_dict.csv").write_text("\n".join(["name, r, g, b", *rows, "Void, 0, 0, 0", ""]))


def write_beside(root: Path) -> None:
    """Images and masks in one folder a split, as Roboflow exports them."""
    for scene in SCENES:
        save(root / scene.split / f"{scene.image_id}.png", scene.image)
        save(root / scene.split / f"{scene.image_id}_mask.png", semantic(scene) + np.uint8(1))  # 0 is void
        rows = [f"{value}, {name}" for value, name in enumerate(("void", *NAMES))]
        (root / scene.split / "_classes.csv").write_text("\n".join(["Pixel Value, Class", *rows]))
