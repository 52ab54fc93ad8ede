"""COCO's instance annotations: as COCO publishes them, as Roboflow exports them, as one file beside its images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from scenes import SCENES, SIZE, Scene, Shape, of

CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "vehicle", "id": 3, "name": "car"},  # ids have gaps
    {"supercategory": "outdoor", "id": 13, "name": "stop sign"},  # of which there are none
]
INFO = {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "version": "1.0", "year": 2017}
LICENSES = [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}]


def polygon(shape: Shape) -> list[list[float]]:
    top, left, bottom, right = map(float, shape.box)
    return [[left, top, right, top, right, bottom, left, bottom]]


def two_polygons(shape: Shape) -> list[list[float]]:
    """Two halves that overlap."""
    top, left, bottom, right = shape.box
    return [
        *polygon(Shape(shape.name, (top, left, top + 6, right))),
        *polygon(Shape(shape.name, (top + 4, left, bottom, right))),
    ]


def plain_rle(shape: Shape) -> dict[str, Any]:
    flat = mask(shape).ravel(order="F")
    borders = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": list(SIZE), "counts": np.diff(borders, prepend=0, append=len(flat)).tolist()}


def compressed_rle(shape: Shape) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask(shape)))
    return {"size": list(SIZE), "counts": rle["counts"].decode()}


def mask(shape: Shape) -> np.ndarray:
    top, left, bottom, right = shape.box
    pixels = np.zeros(SIZE, np.int8)
    pixels[top:bottom, left:right] = 1
    return pixels.astype(np.uint8)


WAYS: tuple[Callable[[Shape], Any], ...] = (polygon, two_polygons, plain_rle, compressed_rle)


def content(scenes: tuple[Scene, ...], categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Make what stands in a file; each object is told in another way."""
    ids = {category["name"]: category["id"] for category in categories}
    images, annotations = [], []
    for number, scene in enumerate(scenes):
        image_id = 1000 + 7 * number
        images.append(
            {
                "license": 4,
                "file_name": f"{scene.image_id}.jpg",
                "height": SIZE[0],
                "width": SIZE[1],
                "id": image_id,
            }
        )
        for shape in scene.things:
            top, left, bottom, right = shape.box
            annotations.append(
                {
                    "segmentation": WAYS[len(annotations) % len(WAYS)](shape),
                    "area": float((bottom - top) * (right - left)),
                    "iscrowd": 0,
                    "image_id": image_id,
                    "bbox": [left, top, right - left, bottom - top],
                    "category_id": ids[shape.name],
                    "id": 5000 + 3 * len(annotations),
                }
            )
    return {
        "info": INFO,
        "licenses": LICENSES,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def save(path: Path, values: object, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=indent))


def save_images(folder: Path, scenes: tuple[Scene, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        Image.fromarray(scene.image).save(folder / f"{scene.image_id}.jpg")


def write(root: Path) -> None:
    """Write what the official zips hold, unpacked: splits train2017 and val2017, captions and keypoints, too."""
    for split in ("train", "val"):
        values = content(of(split), CATEGORIES)
        save_images(root / f"{split}2017", of(split))
        save(root / f"annotations/instances_{split}2017.json", values)
        captions = [{"image_id": image["id"], "id": 9, "caption": "A street."} for image in values["images"]]
        bare = {"info": INFO, "licenses": LICENSES, "images": values["images"]}
        save(root / f"annotations/captions_{split}2017.json", bare | {"annotations": captions})
        people = [entry | {"num_keypoints": 0, "keypoints": [0] * 51} for entry in values["annotations"][:1]]
        save(
            root / f"annotations/person_keypoints_{split}2017.json",
            bare | {"annotations": people, "categories": CATEGORIES[:1]},
        )


def write_roboflow(root: Path) -> None:
    """Write Roboflow's export: splits train and valid, and a class 0 that groups the others."""
    categories = [
        {"id": 0, "name": "streets", "supercategory": "none"},
        {"id": 1, "name": "car", "supercategory": "streets"},
        {"id": 2, "name": "person", "supercategory": "streets"},
    ]
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("streets\n")
    for split, folder in (("train", "train"), ("val", "valid")):
        save_images(root / folder, of(split))
        values = content(of(split), categories)
        for image in values["images"]:
            image["extra"] = {"name": image["file_name"]}
        save(root / folder / "_annotations.coco.json", values)


def write_single(root: Path) -> None:
    """Write one file, indented, beside a folder of all images; its image names are paths of another machine."""
    values = content(SCENES, CATEGORIES)
    for image in values["images"]:
        image["file_name"] = f"C:\\data\\upload\\{image['file_name']}"
    save(root / "annotations.json", values, indent=2)
    save_images(root / "images", SCENES)
