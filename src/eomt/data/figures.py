"""Sum up what was measured of a data set: sizes, classes, counts. Measuring is left to `inspect`."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.config import TaskName

__all__ = [
    "COCO_EDGES",
    "PIXEL_EDGES",
    "SHARE_EDGES",
    "ClassFigures",
    "Figures",
    "Measured",
    "Repeated",
    "Size",
    "View",
    "figures",
    "repeated",
    "together",
]

SHARE_EDGES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Between the bins of an instance's size (square root of its area) as a share of its image's."""
PIXEL_EDGES = (8, 16, 32, 64, 128, 256, 512)
"""Between the bins of an instance's size in pixels."""
COCO_EDGES = (32, 96)
"""Between COCO's small, medium and large."""

_COMMON = 3  # image sizes, and examples, that are listed


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a split, in columns: n images that can be read, and their m segments."""

    categories: tuple[Category, ...]
    left_out: tuple[str, ...]
    """What the reader, or the class map, passed over."""
    unreadable: tuple[str, ...]
    """What is wrong with each image that cannot be measured; these are not among the n."""
    image_ids: tuple[str, ...]
    files: tuple[str, ...]
    annotations: tuple[str, ...]
    """The files of each image in the archive."""
    places: NDArray[np.int64]
    """[n] the index of each image in the split."""
    sizes: NDArray[np.int64]
    """[n 2] height and width."""
    covered: NDArray[np.int64]
    """[n] pixels that belong to any segment."""
    owners: NDArray[np.int64]
    """[m] the image of each segment, from 0 to n."""
    labels: NDArray[np.int64]
    """[m] -1 where anything may be in it."""
    areas: NDArray[np.int64]
    """[m] pixels."""
    crowds: NDArray[np.bool_]
    """[m]"""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def is_instance(self) -> NDArray[np.bool_]:
        """[m] whether a segment is a single thing."""
        is_thing = np.array([category.is_thing for category in self.categories] + [False])  # the last is of -1
        instances: NDArray[np.bool_] = is_thing[self.labels] & ~self.crowds
        return instances

    def select(self, images: Sequence[int]) -> "Measured":
        """Keep these images, and their segments."""
        if len(images) == len(self):
            return self
        new = np.full(len(self), -1, dtype=np.int64)
        new[images] = np.arange(len(images))
        kept = new[self.owners] >= 0
        return replace(
            self,
            image_ids=tuple(self.image_ids[index] for index in images),
            files=tuple(self.files[index] for index in images),
            annotations=tuple(self.annotations[index] for index in images),
            places=self.places[images],
            sizes=self.sizes[images],
            covered=self.covered[images],
            owners=new[self.owners[kept]],
            labels=self.labels[kept],
            areas=self.areas[kept],
            crowds=self.crowds[kept],
        )


class Size(NamedTuple):
    """Height and width of so many images."""

    height: int
    width: int
    images: int = 1


class ClassFigures(NamedTuple):
    """How much there is of a class."""

    name: str
    id: int
    is_thing: bool
    images: int
    """In which it is."""
    segments: int
    """Single objects, where it is a thing; without crowds."""
    pixel_share: float
    """Of all pixels; crowds too; where objects overlap, each counts."""


class View(NamedTuple):
    """How large instances are in the model's view, in pixels: the square roots of their areas."""

    side: int
    fit: str
    """contain: the longest side of an image fits the view; cover: its shortest side fills it."""
    scale: float
    """Of the median image."""
    tenth: float
    """A tenth of the instances is smaller."""
    median: float


class Repeated(NamedTuple):
    """What is there more than once."""

    images: int
    """Images that are in several splits."""
    names: int
    """Names, without folder and suffix, that several files have."""
    examples: tuple[str, ...]
    """Some of these files."""


@dataclass(frozen=True)
class Figures:
    """What there is to know about a split, or about all of them."""

    images: int
    unreadable: tuple[str, ...]
    left_out: tuple[str, ...]
    negatives: int
    """Images without a thing, crowds included; where all classes are stuff, without any segment."""
    instances: int
    """Single things."""
    crowds: int
    ignored: int
    """Regions in which anything may be."""
    per_image: float
    """Mean of the instances."""
    most: int
    """Instances in one image."""
    segments_per_image: float
    """Mean of the segments, stuff too, that training shows the model; of semantic segmentation, of the classes."""
    most_segments: int
    above_queries: int
    """Images with more segments than the model has queries."""
    void_share: float
    """Of all pixels, those outside of all segments."""
    smallest: Size | None
    median: Size | None
    largest: Size | None
    """Images by the number of their pixels."""
    common: tuple[Size, ...]
    by_share: tuple[int, ...]
    by_pixels: tuple[int, ...]
    by_coco: tuple[int, ...]
    """Instances by size, in the bins of `SHARE_EDGES`, `PIXEL_EDGES` and `COCO_EDGES`."""
    classes: tuple[ClassFigures, ...]
    view: View | None
    """None without instances."""


def figures(measured: Measured, task: TaskName, queries: int = 200, view: int = 640) -> Figures:
    """Sum up what was measured, for a task and a model with so many queries and a square view of this side."""
    things, n = measured.is_instance, len(measured)
    instances = np.bincount(measured.owners[things], minlength=n)
    segments = np.bincount(_shown(measured, task), minlength=n)
    pixels = measured.sizes.prod(1)
    size = np.sqrt(measured.areas[things])
    owners = measured.owners[things]
    by_pixels = np.argsort(pixels, kind="stable")
    smallest, median, largest = (
        (_size(measured, int(by_pixels[place])) for place in (0, (n - 1) // 2, -1)) if n else (None, None, None)
    )
    common = Counter(map(tuple, measured.sizes.tolist())).most_common(_COMMON)
    return Figures(
        images=n + len(measured.unreadable),
        unreadable=measured.unreadable,
        left_out=measured.left_out,
        negatives=_negatives(measured),
        instances=int(things.sum()),
        crowds=int((measured.crowds & (measured.labels >= 0)).sum()),
        ignored=int((measured.labels < 0).sum()),
        per_image=_mean(instances),
        most=int(instances.max(initial=0)),
        segments_per_image=_mean(segments),
        most_segments=int(segments.max(initial=0)),
        above_queries=int((segments > queries).sum()),
        void_share=1 - float(measured.covered.sum()) / float(pixels.sum()) if n else 0.0,
        smallest=smallest,
        median=median,
        largest=largest,
        common=tuple(Size(height, width, count) for (height, width), count in common),
        by_share=_histogram(size / np.sqrt(pixels[owners]), SHARE_EDGES),
        by_pixels=_histogram(size, PIXEL_EDGES),
        by_coco=_histogram(size, COCO_EDGES),
        classes=_classes(measured),
        view=_view(measured.sizes, size, owners, task, view),
    )


def together(splits: Sequence[Measured]) -> Measured:
    """Make one of several splits; an image that is in several of them counts once, a class goes by its name."""
    by_name: dict[str, Category] = {}
    for category in (category for split in splits for category in split.categories):
        by_name.setdefault(category.name, category)
    categories = tuple(by_name.values())
    label_of = {category.name: label for label, category in enumerate(categories)}
    seen: set[tuple[str, str]] = set()
    parts = []
    for split in splits:
        labels = np.array([label_of[category.name] for category in split.categories] + [-1], dtype=np.int64)
        names = list(zip(split.files, split.image_ids, strict=True))
        kept = [index for index, name in enumerate(names) if name not in seen]
        seen.update(names)
        parts.append(replace(split, labels=labels[split.labels]).select(kept))
    starts = np.cumsum([0, *map(len, parts)])
    return Measured(
        categories,
        tuple(text for part in parts for text in part.left_out),
        tuple(dict.fromkeys(text for part in parts for text in part.unreadable)),
        tuple(name for part in parts for name in part.image_ids),
        tuple(name for part in parts for name in part.files),
        tuple(name for part in parts for name in part.annotations),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.covered for part in parts]),
        np.concatenate([part.owners + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.areas for part in parts]),
        np.concatenate([part.crowds for part in parts]),
    )


def repeated(splits: Sequence[Measured]) -> Repeated:
    """Count images that are in several splits, and names that several files have."""
    images = Counter(name for split in splits for name in zip(split.files, split.image_ids, strict=True))
    alike: dict[str, set[str]] = defaultdict(set)
    for file, _ in images:
        alike[PurePosixPath(file).stem].add(file)
    shared = [sorted(files) for _, files in sorted(alike.items()) if len(files) > 1]
    twice = sorted({file for (file, _), count in images.items() if count > 1})
    shown = tuple(twice[:_COMMON] + [file for files in shared[:_COMMON] for file in files[:2]])
    return Repeated(sum(count > 1 for count in images.values()), len(shared), shown)


def _shown(measured: Measured, task: TaskName) -> NDArray[np.int64]:
    """Give the image of each segment that training shows the model: the one that a query is to find."""
    if task != "semantic":
        return measured.owners[~measured.crowds & (measured.labels >= 0)]
    return _seen(measured)[0]


def _seen(measured: Measured) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair each image with each class that is in it."""
    labelled, count = measured.labels >= 0, max(len(measured.categories), 1)
    return np.divmod(np.unique(measured.owners[labelled] * count + measured.labels[labelled]), count)


def _negatives(measured: Measured) -> int:
    is_thing = np.array([category.is_thing for category in measured.categories] + [False])
    counted = is_thing[measured.labels] if is_thing.any() else measured.labels >= 0
    return len(measured) - len(np.unique(measured.owners[counted]))


def _classes(measured: Measured) -> tuple[ClassFigures, ...]:
    total = max(int(measured.sizes.prod(1).sum()), 1)
    count = len(measured.categories)
    labelled = measured.labels >= 0
    labels = measured.labels[labelled]
    pixels = np.zeros(count, dtype=np.int64)
    np.add.at(pixels, labels, measured.areas[labelled])
    images = np.bincount(_seen(measured)[1], minlength=count)
    segments = np.bincount(measured.labels[labelled & ~measured.crowds], minlength=count)
    return tuple(
        ClassFigures(each.name, each.id, each.is_thing, int(images[i]), int(segments[i]), int(pixels[i]) / total)
        for i, each in enumerate(measured.categories)
    )


def _view(
    sizes: NDArray[np.int64], size: NDArray[np.float64], owners: NDArray[np.int64], task: TaskName, side: int
) -> View | None:
    if not len(size):
        return None
    fit = "cover" if task == "semantic" else "contain"  # as the table of tasks has it
    scale = side / (sizes.min(1) if fit == "cover" else sizes.max(1))
    tenth, median = np.quantile(size * scale[owners], [0.1, 0.5]).tolist()
    return View(side, fit, float(np.median(scale)), tenth, median)


def _size(measured: Measured, image: int) -> Size:
    height, width = measured.sizes[image].tolist()
    return Size(height, width, int((measured.sizes == measured.sizes[image]).all(1).sum()))


def _mean(counts: NDArray[np.int64]) -> float:
    return float(counts.mean()) if len(counts) else 0.0


def _histogram(values: NDArray[np.float64], edges: tuple[float, ...] | tuple[int, ...]) -> tuple[int, ...]:
    """Count values in the bins between edges; one that is an edge belongs to the bin above it."""
    bins = np.searchsorted(edges, values, side="right")
    return tuple(np.bincount(bins, minlength=len(edges) + 1).tolist())
