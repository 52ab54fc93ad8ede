"""The scenes as CVAT exports them: things as polygons, stuff as masks with CVAT's own run lengths."""

import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray
from PIL import Image

from scenes import SCENES, SIZE, STUFF, THINGS, Scene

NAMES = THINGS + STUFF
COLORS = ("#c06060", "#6080c0", "#80c0ff", "#804080")


def png(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def element(tag: str, **fields: object) -> str:
    return f"    <{tag} {' '.join(f'{name}={quoteattr(str(value))}' for name, value in fields.items())}></{tag}>\n"


def mask_fields(mask: NDArray[np.bool_]) -> dict[str, object]:
    """The runs of the bounding box, row by row, zeros first."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    patch = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    runs = [(value, len(list(run))) for value, run in groupby(patch.ravel().tolist())]
    lengths = [0] * runs[0][0] + [length for _, length in runs]
    rle = ", ".join(map(str, lengths))
    return {"rle": rle, "left": left, "top": top, "width": patch.shape[1], "height": patch.shape[0]}


def corners(box: tuple[int, int, int, int]) -> list[tuple[float, float]]:
    top, left, bottom, right = map(float, box)
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def shapes_of(scene: Scene) -> str:
    found = ""
    for shape, (name, mask) in zip(scene.shapes, scene.masks(), strict=True):
        rest = {"label": name, "source": "manual", "occluded": 0, "z_order": 0}
        if shape.is_thing:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(shape.box))
            found += element("polygon", **rest, points=points)
        else:
            found += element("mask", **rest, **mask_fields(mask))
    return found


def image(name: str, shapes: str, **fields: object) -> str:
    fields = {"id": 0, "name": name, "width": SIZE[1], "height": SIZE[0]} | fields
    return element("image", **fields).replace("></image>", f">\n{shapes}  </image>")


def document(images: str, names: tuple[str, ...] = NAMES, more: str = "") -> str:
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>any</type><attributes></attributes></label>\n"
        for name, color in zip(names, COLORS, strict=False)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        "  <meta>\n    <project>\n"
        f"<id>7</id><name>streets</name>{more}\n<labels>\n{labels}</labels>\n    </project>\n"
        f"<dumped>2024-07-05 10:00:00.000000+00:00</dumped>\n  </meta>\n{images}</annotations>\n"
    )


def write(root: Path) -> None:
    """'CVAT for images 1.1' of a project with two subsets."""
    for scene in SCENES:
        folder = root / "images" / scene.split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{scene.image_id}.png").write_bytes(png(scene.image))
    images = "".join(
        image(f"{scene.image_id}.png", shapes_of(scene), id=index, subset=scene.split, task_id=1)
        for index, scene in enumerate(SCENES)
    )
    (root / "annotations.xml").write_text(document(images), encoding="utf-8")


def datumaro_annotation(index: int, kind: str, label: int, **fields: Any) -> dict[str, Any]:
    rest = {"attributes": {"occluded": False}, "group": 0, "label_id": label, "z_order": 0}
    return {"id": index, "type": kind} | rest | fields


def coco_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rle = coco_mask.encode(mask)
    return {"counts": rle["counts"].decode("ascii"), "size": list(mask.shape)}


def datumaro_annotations(scene: Scene) -> list[dict[str, Any]]:
    found = []
    for index, (shape, (name, mask)) in enumerate(zip(scene.shapes, scene.masks(), strict=True)):
        if shape.is_thing:
            points = [value for corner in corners(shape.box) for value in corner]
            found.append(datumaro_annotation(index, "polygon", NAMES.index(name), points=points))
        else:
            found.append(datumaro_annotation(index, "mask", NAMES.index(name), rle=coco_rle(mask)))
    return found


def datumaro_item(id: str, annotations: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    media = {"image": {"path": f"{id}.png", "size": list(SIZE)}}
    return {"id": id, "annotations": annotations, "attr": {"frame": 0}} | media | fields


def datumaro_document(items: list[dict[str, Any]]) -> dict[str, Any]:
    labels = [{"name": name, "parent": "", "attributes": []} for name in NAMES]
    colors = [tuple(bytes.fromhex(color[1:])) for color in COLORS]
    colormap = [{"label_id": i, "r": r, "g": g, "b": b} for i, (r, g, b) in enumerate(colors)]
    categories = {"label": {"labels": labels, "attributes": ["occluded"]}, "mask": {"colormap": colormap}}
    return {"info": {}, "categories": categories, "items": items}


def write_datumaro(root: Path) -> None:
    """'Datumaro' of a project with two subsets."""
    for split in ("train", "val"):
        scenes = [scene for scene in SCENES if scene.split == split]
        (root / "images" / split).mkdir(parents=True)
        for scene in scenes:
            (root / "images" / split / f"{scene.image_id}.png").write_bytes(png(scene.image))
        items = [datumaro_item(scene.image_id, datumaro_annotations(scene)) for scene in scenes]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(datumaro_document(items)))
