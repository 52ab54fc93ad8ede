"""Write predictions as files that other tools read: COCO panoptic, COCO instance results, label maps, overlays.

Drawing the overlay is left to `drawing`. Every file appears whole or not at all.
"""

import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image

from eomt.categories import Category
from eomt.config import TaskName
from eomt.files import write_aside
from eomt.types import Prediction

__all__ = ["ResultFolder", "image_numbers", "result_names"]

NAME_BYTES = 200
"""Longest name of a result; most file systems allow 255 bytes with what is put behind it."""

KINDS: dict[TaskName, tuple[str, ...]] = {
    "semantic": ("overlay", "labels"),
    "instance": ("overlay", "labels", "panoptic", "instances"),
    "panoptic": ("overlay", "labels", "panoptic", "instances"),
}
"""What is written for each task: regions of a class are no objects, so a semantic prediction has no ids."""


class ResultFolder:
    """A folder of results. Use it as a context: the JSON files are written when it closes, also after an error.

    - `NAME.overlay.png`: the image with its segments drawn on it.
    - `NAME.labels.png`: label of every pixel, the index in `categories.json`; 8-bit with 255 for *nothing found*,
      16-bit with 65535 where there are more than 255 categories.
    - `panoptic/NAME.png` and `panoptic.json`: COCO's panoptic form, id = R + 256 G + 65536 B, 0 for nothing found.
    - `instances.json`: COCO's instance results with run-length codes; of a panoptic prediction, its things.
      Where masks of an instance prediction overlap, only this file has all of their pixels: in the others, a pixel
      belongs to the mask of the highest score.
    - `categories.json`: name, thing or stuff, the data set's own id and colour of each label, in order.

    A semantic prediction has overlay and labels only, the others have all. Files of an earlier run with the same
    names are replaced, others are left alone.
    """

    def __init__(self, folder: Path, task: TaskName, categories: Sequence[Category]):
        self.folder, self.kinds, self.categories = folder, KINDS[task], tuple(categories)
        self._named = False
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []

    def __enter__(self) -> "ResultFolder":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._named:  # nothing was added: what an earlier run left stays as it is
            return
        _write_json(self.folder / "categories.json", [category._asdict() for category in self.categories])
        if "panoptic" in self.kinds:
            categories = [
                {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color, "supercategory": c.name}
                for c in self.categories
            ]
            content = {"images": self._images, "annotations": self._annotations, "categories": categories}
            _write_json(self.folder / "panoptic.json", content)
        if "instances" in self.kinds:
            _write_json(self.folder / "instances.json", self._instances)

    def files(self, name: str) -> dict[str, Path]:
        """Give the file of each kind for the image of this name; the JSON files hold all images together."""
        paths = {
            "overlay": self.folder / f"{name}.overlay.png",
            "labels": self.folder / f"{name}.labels.png",
            "panoptic": self.folder / "panoptic" / f"{name}.png",
            "instances": self.folder / "instances.json",
        }
        return {kind: paths[kind] for kind in self.kinds}

    def add(
        self, name: str, image_id: int, source: str, prediction: Prediction, overlay: UInt8[NDArray[Any], "h w 3"]
    ) -> dict[str, Path]:
        """Write the results of one image under a name and give the files. `source` is told in the JSON files."""
        self._named = True
        files = self.files(name)
        if "panoptic" in self.kinds:
            (self.folder / "panoptic").mkdir(exist_ok=True)
        _write_png(files["overlay"], overlay)
        flat = replace(prediction, masks=prediction.id_map())  # every pixel to one segment, decided once
        if "labels" in self.kinds:
            _write_png(files["labels"], label_image(flat))
        if "panoptic" in self.kinds:
            self._add_panoptic(files["panoptic"], image_id, source, flat)
        if "instances" in self.kinds:
            is_thing = [prediction.categories[label].is_thing for label in prediction.labels]
            things = prediction.select(np.flatnonzero(is_thing).tolist())
            self._instances += [{**entry, "file_name": source} for entry in things.coco(image_id)]
        return files

    def _add_panoptic(self, path: Path, image_id: int, source: str, prediction: Prediction) -> None:
        ids, segments = prediction.panoptic()
        boxes = _boxes(ids)
        _write_png(path, id_image(ids))
        height, width = prediction.size
        self._images.append({"id": image_id, "file_name": source, "height": height, "width": width})
        info = [{**segment, "bbox": boxes[segment["id"]], "iscrowd": 0} for segment in segments]
        self._annotations.append({"image_id": image_id, "file_name": path.name, "segments_info": info})


def label_image(prediction: Prediction) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Give the label of every pixel [h w] as the smallest integers that hold it; the greatest one is void."""
    if len(prediction.categories) <= 255:
        return prediction.label_map(void=255).astype(np.uint8)
    return prediction.label_map(void=65535).astype(np.uint16)


def id_image(ids: Int[NDArray[Any], "h w"]) -> UInt8[NDArray[Any], "h w 3"]:
    """Write ids as colours, as COCO's panoptic PNG does: id = R + 256 G + 65536 B."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _boxes(ids: Int[NDArray[Any], "h w"]) -> dict[int, list[int]]:
    """Give the box (x, y, width, height) of every id but 0."""
    from scipy.ndimage import find_objects

    slices = find_objects(ids)
    return {
        index: [found[1].start, found[0].start, found[1].stop - found[1].start, found[0].stop - found[0].start]
        for index, found in enumerate(slices, start=1)
        if found is not None
    }


def result_names(files: Sequence[Path]) -> list[str]:
    """Name the results of each file: by its stem, and by more of its path where others have the same stem.

    Two names never differ in case only, so that no file system mixes them up.

    >>> result_names([Path("a/1.png"), Path("b/1.png"), Path("b/2.png")])
    ['a_1', 'b_1', '2']
    """
    stems = [_short(path.stem) for path in files]
    counts = Counter(stem.casefold() for stem in stems)
    taken = {stem for stem, count in counts.items() if count == 1}
    names = []
    for path, stem in zip(files, stems, strict=True):
        if stem.casefold() in taken:
            names.append(stem)
            continue
        name = next(name for name in _longer_names(path) if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _longer_names(path: Path) -> Iterator[str]:
    """Offer names for a file whose stem is taken: with its folder, with its suffix as well, then numbered."""
    parent = path.absolute().parent.name
    with_folder = f"{parent}_{path.stem}" if parent else path.stem
    yield _short(with_folder)
    with_suffix = f"{with_folder}_{path.suffix[1:]}"
    yield _short(with_suffix)
    yield from (f"{_short(with_suffix)}-{number}" for number in itertools.count(2))


def _short(name: str) -> str:
    """Cut a name to what a file system takes."""
    return os.fsencode(name)[:NAME_BYTES].decode(errors="ignore") if len(os.fsencode(name)) > NAME_BYTES else name


def image_numbers(files: Sequence[Path]) -> list[int]:
    """Give each image the number that COCO's files need: that in its name where all have one, else its place."""
    if all(path.stem.isascii() and path.stem.isdecimal() for path in files):
        numbers = [int(path.stem) for path in files]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(files) + 1))


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    write_aside(path, stream.getvalue())


def _write_json(path: Path, content: Any) -> None:
    write_aside(path, json.dumps(content).encode())
