"""The scenes as Label Studio exports them in "JSON": things as polygons in percent, stuff as brush masks."""

import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes import SIZE, Scene, of

SIZES = (3, 4, 8, 16)


def png(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def brush(mask: NDArray[np.bool_]) -> list[int]:
    """Label Studio's own code of a mask: its pixels as RGBA bytes, by runs. A single value is its own block."""
    values = np.repeat(mask.astype(np.uint8) * 255, 4).tolist()
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in SIZES)
    for value, run in groupby(values):
        length = len(list(run))
        while length:
            part = min(length, 1 << SIZES[-1])
            choice = next(index for index, size in enumerate(SIZES) if part <= 1 << size)
            bits += f"{int(part > 1)}{choice:02b}{part - 1:0{SIZES[choice]}b}{value:08b}"
            length -= part
    return packed(bits)


def packed(bits: str) -> list[int]:
    return [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]


def region(kind: str, label: str, id: str = "aB3_x", **value: Any) -> dict[str, Any]:
    return {
        "id": id,
        "type": kind,
        "value": {kind: [label]} | value,
        "origin": "manual",
        "to_name": "image",
        "from_name": "label",
        "image_rotation": 0,
        "original_width": SIZE[1],
        "original_height": SIZE[0],
    }


def brush_region(label: str, mask: NDArray[np.bool_], **fields: Any) -> dict[str, Any]:
    return region("brushlabels", label, rle=brush(mask), format="rle") | fields


def polygon_region(label: str, box: tuple[int, int, int, int], **fields: Any) -> dict[str, Any]:
    top, left, bottom, right = box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in corners]
    return region("polygonlabels", label, points=points, closed=True) | fields


def regions_of(scene: Scene) -> list[dict[str, Any]]:
    return [
        polygon_region(name, shape.box, id=f"r{index}")
        if shape.is_thing
        else brush_region(name, mask, id=f"r{index}")
        for index, (shape, (name, mask)) in enumerate(zip(scene.shapes, scene.masks(), strict=True))
    ]


def annotation(result: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    times = {"created_at": "2024-07-05T10:00:00.000000Z", "updated_at": "2024-07-05T10:00:00.000000Z"}
    rest = {"was_cancelled": False, "ground_truth": False, "completed_by": 1, "lead_time": 12.5}
    return {"id": 1, "result": result} | rest | times | fields


def task(id: int, image: str, annotations: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    rest = {"drafts": [], "predictions": [], "meta": {}, "project": 1}
    return {"id": id, "annotations": annotations, "data": {"image": image}} | rest | fields


def write(root: Path) -> None:
    """A file of tasks for each split, and the uploaded images under their own names."""
    for split in ("train", "val"):
        tasks = []
        (root / "images").mkdir(parents=True, exist_ok=True)
        for index, scene in enumerate(of(split)):
            (root / "images" / f"{scene.image_id}.png").write_bytes(png(scene.image))
            address = f"/data/upload/1/1a2b3c{index:02}-{scene.image_id}.png"
            tasks.append(task(index + 1, address, [annotation(regions_of(scene))]))
        (root / f"{split}.json").write_text(json.dumps(tasks))
