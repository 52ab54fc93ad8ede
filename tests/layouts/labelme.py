"""The scenes as LabelMe saves them: a JSON beside each image; things as polygons or rectangles, stuff as masks."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes import SCENES, SIZE, Scene


def png(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def base64_png(values: NDArray[Any]) -> str:
    return base64.b64encode(png(values)).decode()


def shape(label: str, kind: str, points: list[list[float]], **fields: Any) -> dict[str, Any]:
    rest = {"group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
    return {"label": label, "points": points} | rest | fields


def mask_shape(label: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The pixels in their bounding box, whose first and last pixel are the points."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    (top, bottom), (left, right) = (rows[0], rows[-1]), (columns[0], columns[-1])
    patch = mask[top : bottom + 1, left : right + 1].astype(np.uint8)
    points = [[float(left), float(top)], [float(right), float(bottom)]]
    return shape(label, "mask", points, mask=base64_png(patch))


def shapes_of(scene: Scene) -> list[dict[str, Any]]:
    found = []
    for drawn, (name, mask) in zip(scene.shapes, scene.masks(), strict=True):
        top, left, bottom, right = map(float, drawn.box)
        if not drawn.is_thing:
            found.append(mask_shape(name, mask))
        elif name == "car":
            found.append(shape(name, "rectangle", [[left, top], [right, bottom]]))
        else:
            found.append(shape(name, "polygon", [[left, top], [right, top], [right, bottom], [left, bottom]]))
    return found


def file(shapes: list[dict[str, Any]], image: str, **fields: Any) -> dict[str, Any]:
    sizes = {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image} | sizes | fields


def write(root: Path) -> None:
    """Folders for the splits. The image of street_000002 is in its JSON only."""
    for scene in SCENES:
        folder = root / scene.split
        folder.mkdir(parents=True, exist_ok=True)
        content = file(shapes_of(scene), f"{scene.image_id}.png")
        if scene.image_id == "street_000002":
            content["imageData"] = base64_png(scene.image)
        else:
            (folder / f"{scene.image_id}.png").write_bytes(png(scene.image))
        (folder / f"{scene.image_id}.json").write_text(json.dumps(content, indent=2))
