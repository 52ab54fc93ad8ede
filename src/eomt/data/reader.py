"""What readers share: a split of images, each with a way to read its segments when they are asked for.

A reader is a module for one layout of files, with the functions that a `Format` names. It finds the files and says
what their contents mean; reading bytes is left to `archive`, pictures to `images`, masks to `masks`, and choosing
a reader to `detect`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.images import image_size, read_image
from eomt.data.problems import of_file, within
from eomt.types import Sample, Segments

__all__ = ["Format", "Item", "Origin", "Split"]

_ARCHIVES = (".zip", ".tar")


class Item(NamedTuple):
    """One annotated image, not read yet."""

    image_id: str
    """Its name, unique in the split: by default its file name without suffix."""
    image: str
    """Its file in the archive."""
    annotation: str
    """The file in the archive that tells its segments, for reading and for messages."""
    content: Any = None
    """What else the reader needs for this image: small and picklable (of a large JSON file, its part as bytes)."""
    number: int | str | None = None
    """Its id in the data set's own files, where these number images (COCO's), for files that are written."""
    size: tuple[int, int] | None = None
    """Upright height and width, where annotations are opened without the images that would tell them."""


class Origin(NamedTuple):
    """The file of COCO's that a split is read from, which says more than segments; see `besides`."""

    file: str
    ids: Callable[[Item, tuple[int, int] | None], Sequence[int | str | None]]
    """Gives the ids of the segments of an image of this size, in their order; without a size, of all that are
    listed, those without pixels too."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set: a `Dataset`. Opening lists the files; they are decoded when they are asked for."""

    archive: Archive
    categories: tuple[Category, ...]
    items: tuple[Item, ...]
    read_segments: Callable[[Archive, Item, tuple[int, int]], Segments]
    """Reads the segments of one image, given its upright height and width. Picklable. Raises DataError, or
    ValueError with a message to which the annotation file's name is put in front."""
    left_out: tuple[str, ...] = ()
    """What the reader passed over, each with a count and a reason: `3 annotations without a mask (boxes only)`."""
    read_bytes: Callable[[Archive, Item], bytes] | None = None
    """Reads the image file of an item where it may lie inside another file (`Item.image` then names that one)."""
    origin: Origin | None = None

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The name of each image."""
        return tuple(item.image_id for item in self.items)

    def listing(self) -> list[str]:
        """Name each image with its files and their sizes, in a line each: no file is opened. In an archive, the
        size is that of the archive."""
        sizes = {name: size for name, size, _ in self.archive.stamps()}
        around = "+".join(str(size) for name, size in sizes.items() if not name or name.endswith(_ARCHIVES))
        return [
            "\t".join(
                (item.image_id, *(f"{name} {sizes.get(name, around)}" for name in (item.image, item.annotation)))
            )
            for item in self.items
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its segments. Raises DataError naming the file that is at fault."""
        item = self.items[index]
        with of_file(item.image):
            image = read_image(self._bytes(item), self.archive.where(item.image))
        segments = self._segments(item, (image.shape[0], image.shape[1]))
        return Sample(torch.from_numpy(image).permute(2, 0, 1), segments, item.image_id)

    def segments(self, index: int) -> Segments:
        """Read the segments of one image without decoding it: its header tells its size. Raises DataError."""
        item = self.items[index]
        with of_file(item.image):
            size = item.size or image_size(self._bytes(item), self.archive.where(item.image))
        return self._segments(item, size)

    def image_bytes(self, index: int) -> bytes:
        """Read the image file as it is. Raises DataError."""
        return self._bytes(self.items[index])

    def _bytes(self, item: Item) -> bytes:
        return self.archive.read(item.image) if self.read_bytes is None else self.read_bytes(self.archive, item)

    def _segments(self, item: Item, size: tuple[int, int]) -> Segments:
        with (
            of_file(item.annotation),
            within(lambda: f"{self.archive.where(item.annotation)}: image {item.image_id}"),
        ):
            return self.read_segments(self.archive, item, size)


class Format(NamedTuple):
    """A layout of files that can be read: a row of the table in `detect`."""

    name: str
    """As `--format` takes it: `coco-panoptic`."""
    expected: str
    """The layout in a line, for messages: `annotations/instances_SPLIT.json beside SPLIT/*.jpg`."""
    missing: Callable[[Archive], str | None]
    """Names the first thing that is not there; None where the layout is this one. Lists files and reads small ones
    at most; never raises for files of other layouts."""
    splits: Callable[[Archive], tuple[str, ...]]
    """Lists the splits."""
    open: Callable[[Archive, str], Split]
    """Opens a split. Raises DataError for what cannot be used, with what, where and what to do."""
