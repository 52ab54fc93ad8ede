"""One small set of scenes that every reader's test writes in its own layout and reads back.

Masks are unions of whole rectangles, so that polygons and pixels say the same. Names of classes are ones that
COCO, ADE20K, Cityscapes and Pascal VOC (the things) have.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.types import Dataset

SIZE = 24, 32
THINGS, STUFF = ("person", "car"), ("sky", "road")


class Shape(NamedTuple):
    """One segment: a class and where it lies, from top and left to below bottom and right."""

    name: str
    box: tuple[int, int, int, int]

    @property
    def is_thing(self) -> bool:
        return self.name in THINGS


class Scene(NamedTuple):
    """One image. Things lie over stuff; two things never overlap."""

    split: str
    image_id: str
    shapes: tuple[Shape, ...]

    @property
    def image(self) -> NDArray[np.uint8]:
        """A picture in which every segment has its grey."""
        picture = np.full((*SIZE, 3), 20, dtype=np.uint8)
        for index, (_, (top, left, bottom, right)) in enumerate(self.shapes):
            picture[top:bottom, left:right] = 60 + 30 * index
        return picture

    def masks(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Class and visible pixels of each segment: stuff is what things leave of it."""
        ids = np.zeros(SIZE, dtype=np.int32)
        for index, (_, (top, left, bottom, right)) in enumerate(self.shapes):
            ids[top:bottom, left:right] = index + 1
        return [(shape.name, ids == index + 1) for index, shape in enumerate(self.shapes)]

    @property
    def things(self) -> tuple[Shape, ...]:
        return tuple(shape for shape in self.shapes if shape.is_thing)


SCENES = (
    Scene(
        "train",
        "street_000001",
        (
            Shape("sky", (0, 0, 9, 32)),
            Shape("road", (9, 0, 24, 32)),
            Shape("person", (10, 2, 20, 7)),
            Shape("person", (10, 7, 20, 11)),  # touches the other one
            Shape("car", (14, 18, 22, 30)),
        ),
    ),
    Scene("train", "street_000002", (Shape("sky", (0, 0, 5, 32)), Shape("car", (8, 0, 24, 16)))),  # void elsewhere
    Scene("val", "street_000003", (Shape("road", (12, 0, 24, 32)), Shape("person", (3, 3, 21, 12)))),
)
"""Two to train on and one to validate on."""


def of(split: str) -> tuple[Scene, ...]:
    """Give the scenes of a split."""
    return tuple(scene for scene in SCENES if scene.split == split)


def assert_read(
    dataset: Dataset, split: str, names: tuple[str, ...] = THINGS + STUFF, merged: tuple[str, ...] = STUFF
) -> None:
    """Check that a data set holds the scenes of a split: these classes, to the pixel.

    Segments of the classes in `merged` come as one a class. Other categories may be known but have no segment.
    """
    assert len(dataset) == len(of(split))
    by_id = {sample.image_id.rsplit("/", 1)[-1]: sample for sample in (dataset[i] for i in range(len(dataset)))}
    for scene in of(split):
        sample = by_id[scene.image_id]
        assert sample.image.shape == (3, *SIZE)
        wanted: dict[object, NDArray[np.bool_]] = {}
        for index, (name, mask) in enumerate(scene.masks()):
            if name in names:
                key = name if name in merged else (name, index)
                wanted[key] = wanted.get(key, np.zeros(SIZE, dtype=np.bool_)) | mask
        found = [
            (dataset.categories[int(label)].name, sample.segments.masks.mask(index).tobytes())
            for index, label in enumerate(sample.segments.labels)
        ]
        expected = [(key if isinstance(key, str) else key[0], mask.tobytes()) for key, mask in wanted.items()]
        assert sorted(found) == sorted(expected), scene.image_id
        assert not sample.segments.is_crowd.any()
