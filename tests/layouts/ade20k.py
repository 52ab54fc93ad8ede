"""ADEChallengeData2016 as its zip has it, with the instance maps of annotations_instance.tar, and as Mask2Former
prepares it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from eomt.categories import class_table
from scenes import SCENES, SIZE, Scene

FOLDERS = {"train": "training", "val": "validation"}
IDS = {"person": 13, "car": 21, "sky": 3, "road": 7}
"""In the masks of classes."""
THINGS = {"person": 4, "car": 9}
"""In the instance maps."""


def write(root: Path, objects: bool = True) -> None:
    """Write images, masks of classes and, for objects, instance maps."""
    (root / "images").mkdir(parents=True)
    (root / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1576\t11664\t1172\t1\twall\n"
    )
    (root / "sceneCategories.txt").write_text("".join(f"{scene.image_id} street\n" for scene in SCENES))
    for scene in SCENES:
        classes, instances = _maps(scene)
        _save(root / "images" / FOLDERS[scene.split] / f"{scene.image_id}.jpg", scene.image)
        _save(root / "annotations" / FOLDERS[scene.split] / f"{scene.image_id}.png", classes)
        if objects:
            _save(root / "annotations_instance" / FOLDERS[scene.split] / f"{scene.image_id}.png", instances)


def write_prepared(root: Path) -> None:
    """Write all of it, and what prepare_ade20k_pan_seg.py and prepare_ade20k_ins_seg.py make of it."""
    write(root)
    table = class_table("ade20k_panoptic")
    categories = [
        {"name": category.name, "id": label, "isthing": int(category.is_thing), "color": category.color}
        for label, category in enumerate(table)
    ]
    for split in FOLDERS:
        images, annotations = [], []
        for scene in (scene for scene in SCENES if scene.split == split):
            colors, info = np.zeros((*SIZE, 3), np.uint8), []
            for index, (name, mask) in enumerate(scene.masks()):
                color = (7, index, 1)
                colors[mask] = color
                id = color[0] + 256 * color[1] + 65536 * color[2]
                segment = {"id": id, "category_id": IDS[name] - 1, "area": int(mask.sum()), "iscrowd": 0}
                info.append(segment | {"bbox": [0, 0, 1, 1]})
            _save(root / f"ade20k_panoptic_{split}" / f"{scene.image_id}.png", colors)
            file = f"{scene.image_id}.jpg"
            images.append({"id": scene.image_id, "file_name": file, "width": SIZE[1], "height": SIZE[0]})
            annotations.append(
                {"image_id": scene.image_id, "file_name": f"{scene.image_id}.png", "segments_info": info}
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"ade20k_panoptic_{split}.json").write_text(json.dumps(content))
        (root / f"ade20k_instance_{split}.json").write_text(json.dumps({"images": images, "annotations": []}))


def _maps(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Give the classes, and red, green and blue of the instance map. Objects are numbered over all classes."""
    classes, instances = np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.uint8)
    number = 0
    for name, mask in scene.masks():
        classes[mask] = IDS[name]
        if name in THINGS:
            number += 1
            instances[mask] = (THINGS[name], number, 0)
    return classes, instances


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
