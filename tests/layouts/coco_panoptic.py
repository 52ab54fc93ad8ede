"""COCO's panoptic annotations, unpacked and as the official zips."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from scenes import SIZE, of

CATEGORIES = [
    {"supercategory": "person", "isthing": 1, "id": 1, "name": "person"},
    {"supercategory": "vehicle", "isthing": 1, "id": 3, "name": "car"},
    {"supercategory": "ground", "isthing": 0, "id": 149, "name": "road"},
    {"supercategory": "sky", "isthing": 0, "id": 187, "name": "sky"},
]
IDS = {category["name"]: category["id"] for category in CATEGORIES}


def write(root: Path) -> None:
    """Write the official files, unpacked."""
    for name, data in _files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_zips(root: Path) -> None:
    """Write the official zips: those of the PNGs lie in the one of the annotations."""
    root.mkdir(parents=True, exist_ok=True)
    files = _files()
    annotations = {name: data for name, data in files.items() if name.endswith(".json")}
    for split in ("train2017", "val2017"):
        images = {name: data for name, data in files.items() if name.startswith(f"{split}/")}
        (root / f"{split}.zip").write_bytes(_zipped(images, f"{split}/"))
        folder = f"annotations/panoptic_{split}/"
        pngs = {name.removeprefix("annotations/"): data for name, data in files.items() if name.startswith(folder)}
        annotations[f"annotations/panoptic_{split}.zip"] = _zipped(pngs, f"panoptic_{split}/")
    (root / "panoptic_annotations_trainval2017.zip").write_bytes(_zipped(annotations, "annotations/"))


def _zipped(files: dict[str, bytes], folder: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(folder, b"")
        for name, content in files.items():
            archive.writestr(name, content)
            archive.writestr(f"__MACOSX/{name.rsplit('/', 1)[0]}/._{name.rsplit('/', 1)[-1]}", b"\0")
    return data.getvalue()


def _files() -> dict[str, bytes]:
    files = {}
    for split in ("train", "val"):
        images, annotations = [], []
        for number, scene in enumerate(of(split)):
            colors, info = np.zeros((*SIZE, 3), np.uint8), []
            for index, (name, mask) in enumerate(scene.masks()):
                color = (index, 100 + index, 3 * number)
                colors[mask] = color
                y, x = np.nonzero(mask)
                info.append(
                    {
                        "id": color[0] + 256 * color[1] + 256**2 * color[2],
                        "category_id": IDS[name],
                        "iscrowd": 0,
                        "bbox": [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1],
                        "area": int(mask.sum()),
                    }
                )
            file, id = f"{scene.image_id}.jpg", 1000 + 7 * number
            images.append({"license": 2, "file_name": file, "height": SIZE[0], "width": SIZE[1], "id": id})
            file = f"{scene.image_id}.png"
            annotations.append({"segments_info": info, "file_name": file, "image_id": id})
            files[f"annotations/panoptic_{split}2017/{file}"] = _encoded(colors, "PNG")
            files[f"{split}2017/{scene.image_id}.jpg"] = _encoded(scene.image, "JPEG")
        content = {
            "info": {},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": CATEGORIES,
        }
        files[f"annotations/panoptic_{split}2017.json"] = json.dumps(content).encode()
    return files


def _encoded(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()
