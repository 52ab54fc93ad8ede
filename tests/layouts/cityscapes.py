"""Cityscapes as its two zips have it: leftImg8bit and gtFine, with the dummy labels of the split test."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from eomt.categories import class_table
from scenes import SCENES, SIZE, STUFF, Scene

IDS = {"person": 24, "car": 26, "sky": 23, "road": 7}
TRAIN_IDS = {"person": 11, "car": 13, "sky": 10, "road": 0}
CITY = "street"


def write(root: Path, kinds: tuple[str, ...] = ("instanceIds", "labelIds")) -> None:
    """Write all splits, with id maps of these kinds."""
    for name, content in _files(kinds):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.fromarray(content).save(path)


def write_zips(root: Path) -> None:
    """Write the two zips as they are downloaded, into one folder."""
    write(root / "unpacked")
    for part in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(root / f"{part}_trainvaltest.zip", "w") as archive:
            for path in sorted((root / "unpacked").rglob("*")):
                name = path.relative_to(root / "unpacked")
                if path.is_file() and name.parts[0] in (part, "README", "license.txt"):
                    archive.write(path, name)
    for path in sorted((root / "unpacked").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "unpacked").rmdir()


def _files(kinds: tuple[str, ...]) -> Iterator[tuple[str, bytes | np.ndarray]]:
    yield "README", b"The Cityscapes Dataset\n"
    yield "license.txt", b"Terms\n"
    test = Scene("test", "street_000009", ())
    for scene in (*SCENES, test):
        stem = f"{scene.split}/{CITY}/{scene.image_id}"
        yield f"leftImg8bit/{stem}_leftImg8bit.png", scene.image
        for kind, values in maps(scene).items():
            if kind in kinds or kind == "color":
                yield f"gtFine/{stem}_gtFine_{kind}.png", values
        polygons = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": []}
        yield f"gtFine/{stem}_gtFine_polygons.json", json.dumps(polygons).encode()


def maps(scene: Scene) -> dict[str, np.ndarray]:
    """Give all maps of a scene: what is not annotated is out of the region of interest (3)."""
    ids, instances, train = np.full(SIZE, 3, np.uint8), np.full(SIZE, 3, np.uint16), np.full(SIZE, 255, np.uint8)
    colors, counts = np.zeros((*SIZE, 4), np.uint8), dict.fromkeys(IDS, 0)
    palette = {category.name: category.color for category in class_table("cityscapes_semantic")}
    for name, mask in scene.masks():
        ids[mask] = IDS[name]
        train[mask] = TRAIN_IDS[name]
        instances[mask] = IDS[name] if name in STUFF else IDS[name] * 1000 + counts[name]
        counts[name] += 1
        colors[mask] = (*palette[name], 255)
    return {"labelIds": ids, "instanceIds": instances, "labelTrainIds": train, "color": colors}
