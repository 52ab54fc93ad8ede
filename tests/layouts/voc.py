"""Pascal VOC as VOCtrainval_11-May-2012.tar has it, and CVAT's "Segmentation mask 1.1" with images."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from scenes import SCENES, SIZE, Scene

INDICES = {"person": 15, "car": 7, "sky": 0, "road": 0}
"""VOC does not know sky and road: they are background."""
COLORS = {
    "background": (0, 0, 0),
    "car": (250, 50, 83),
    "person": (51, 221, 255),
    "road": (1, 2, 3),
    "sky": (9, 9, 8),
}
"""Of a CVAT task, its labels sorted by name."""
TOP = "VOCdevkit/VOC2012"


@cache
def colormap(count: int = 256) -> np.ndarray:
    """Give the palette of VOC's masks, as its development kit makes it: [count 3]."""
    colors = np.zeros((count, 3), np.int64)
    for index in range(count):
        rest = index
        for place in range(8):
            colors[index] |= [(rest >> channel & 1) << 7 - place for channel in range(3)]
            rest >>= 3
    return colors.astype(np.uint8)


def write(root: Path, objects: bool = True) -> None:
    """Write VOCdevkit/VOC2012: masks with a palette; pixels that nobody annotated are void (255)."""
    top = root / TOP
    for scene in SCENES:
        classes, instances = _maps(scene)
        _save(top / "JPEGImages" / f"{scene.image_id}.jpg", Image.fromarray(scene.image))
        _save(top / "SegmentationClass" / f"{scene.image_id}.png", palette(classes))
        if objects:
            _save(top / "SegmentationObject" / f"{scene.image_id}.png", palette(instances))
        boxes = "".join(f"<object><name>{shape.name}</name></object>" for shape in scene.things)
        annotation = f"<annotation><filename>{scene.image_id}.jpg</filename>{boxes}</annotation>"
        _text(top / "Annotations" / f"{scene.image_id}.xml", annotation)
    lists = {split: [scene.image_id for scene in SCENES if scene.split == split] for split in ("train", "val")}
    for name, ids in (lists | {"trainval": lists["train"] + lists["val"], "test": ["street_000009"]}).items():
        _text(top / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{id}\n" for id in ids))
        _text(top / "ImageSets" / "Main" / f"person_{name}.txt", "".join(f"{id}  1\n" for id in ids))


def write_cvat(root: Path, objects: bool = True) -> None:
    """Write a CVAT project of two subsets: masks in RGB, classes and colours in labelmap.txt."""
    _text(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\n"
        + "".join(f"{name}:{','.join(map(str, color))}::\n" for name, color in COLORS.items()),
    )
    palette = colormap()
    for scene in SCENES:
        classes, instances = np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)
        for index, (name, mask) in enumerate(scene.masks()):
            classes[mask] = COLORS[name]
            instances[mask] = palette[index + 1]
        _save(root / "JPEGImages" / f"{scene.image_id}.png", Image.fromarray(scene.image))
        _save(root / "SegmentationClass" / f"{scene.image_id}.png", Image.fromarray(classes))
        if objects:
            _save(root / "SegmentationObject" / f"{scene.image_id}.png", Image.fromarray(instances))
    for split in ("train", "val"):
        ids = [scene.image_id for scene in SCENES if scene.split == split]
        _text(root / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(ids) + "\n")


def palette(values: np.ndarray) -> Image.Image:
    """Give indices VOC's colours."""
    image = Image.fromarray(values)
    image.putpalette(colormap().tobytes())
    return image


def _maps(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    classes, instances = np.full(SIZE, 255, np.uint8), np.full(SIZE, 255, np.uint8)
    count = 0
    for name, mask in scene.masks():
        classes[mask] = INDICES[name]
        instances[mask] = 0
        if INDICES[name]:
            count += 1
            instances[mask] = count
    return classes, instances


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
