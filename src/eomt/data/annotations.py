"""Open annotations to judge predictions against: a data set, or its annotation file or folder of label maps alone.

Images are not needed. What the files mean is left to the readers.
"""

import logging
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.detect import changed, find_format, open_data
from eomt.data.images import MASK_SUFFIXES
from eomt.data.reader import Item
from eomt.data.readers import coco, coco_panoptic, folder
from eomt.data.readers.mask_code import CATEGORY_FILES, MaskCode, parse_code, read_code
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["Annotations", "map_code", "open_annotations"]

log = logging.getLogger("eomt")


@runtime_checkable
class Annotations(Protocol):
    """The segments of images that need not be at hand; a `Split` is one."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes; a segment's label is an index into them."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The images."""

    def __len__(self) -> int:
        """Count the images."""

    def segments(self, index: int) -> Segments:
        """Read the segments of one image. Raises DataError."""


def open_annotations(
    path: str | Path, split: str, *, format: str | None = None, class_map: str | Path | None = None
) -> Annotations:
    """Open the annotations of a split of a data set, of a COCO JSON file, or of a folder of label maps.

    A panoptic JSON file has the folder of its PNGs beside it. The classes of label maps are listed in
    categories.json, classes.txt or classes.csv among them or up to two folders above. Raises DataError or
    ConfigError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".json":
        archive = Archive(path.parent)
        panoptic = b'"segments_info"' in archive.read(path.name)
        reader = coco_panoptic if panoptic else coco
        opened = reader.open_annotations(archive, path.name)
        for passed_over in opened.left_out:
            log.warning("%s: left out %s", path, passed_over)
        return changed(opened, class_map)  # type: ignore[return-value]
    if format is None and _is_maps(path):
        archive = Archive(path)
        maps, _ = folder.open_maps(archive, map_code(path))
        return changed(maps, class_map)  # type: ignore[return-value]
    return open_data(path, split, format=format, class_map=class_map)  # type: ignore[return-value]


def _is_maps(path: Path) -> bool:
    """Tell whether a folder holds masks directly, and is no data set."""
    if not path.is_dir() or not any(file.suffix.lower() in MASK_SUFFIXES for file in path.iterdir()):
        return False
    try:
        find_format(path)
    except DataError:
        return True
    return False


def map_code(path: Path) -> MaskCode | None:
    """Read what label maps mean from the nearest file that lists classes, at most two folders above theirs."""
    if not path.is_dir():
        return read_code(Archive(path))
    path = path.absolute()
    for place in islice((path, *path.parents), 3):
        for name in CATEGORY_FILES:
            file = place / name
            if file.is_file():
                return parse_code(file.read_bytes(), str(file), file.suffix)
    return None
