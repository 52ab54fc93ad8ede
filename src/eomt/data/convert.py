"""Write a data set that can be read in another layout: image by image, whole or not at all, saying what is lost.

Image files are copied byte for byte. The result appears at its place when it is complete and has been recognised
as what it is to be. How each layout is written is left to `writers`, which images are taken to `subsets`.

To the bit, as this package reads them: `coco` holds every segment of a class, `yolo` those that are no crowds (as
things), `coco-panoptic` those that do not overlap, `masks` those that do neither. What COCO's files say besides
(see `besides`) is kept in COCO's files.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from posixpath import commonpath
from typing import Literal, NamedTuple

import numpy as np
import torch

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.besides import AREAS, CLASHING_IMAGES, IMAGES, Remarks, read_besides
from eomt.data.classes import Changed, change_classes, read_changes
from eomt.data.detect import Found, find_format
from eomt.data.images import IMAGE_SUFFIXES
from eomt.data.reader import Item, Split
from eomt.data.unions import unions
from eomt.data.writers import (
    YOLO_SPLITS,
    CocoPanopticWriter,
    CocoWriter,
    Heading,
    MaskWriter,
    Picture,
    Writer,
    YoloWriter,
    free_name,
)
from eomt.errors import ConfigError, DataError
from eomt.files import folder_aside
from eomt.types import ANY_CLASS, Segments

__all__ = ["Chosen", "Plan", "Report", "Target", "View", "all_of", "convert", "views"]

log = logging.getLogger("eomt")

Target = Literal["coco", "coco-panoptic", "yolo", "masks"]
_FORMATS: dict[str, str] = {
    "coco": "coco-instance",
    "coco-panoptic": "coco-panoptic",
    "yolo": "yolo",
    "masks": "folder",
}
"""How each target is called where it is read."""
_TABLE = "images.csv"
_SUFFIXES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"GIF8", ".gif"),
)


@dataclass(frozen=True, eq=False)
class View:
    """A split of a data set, seen through a class map if there is one."""

    name: str
    split: Split
    seen: Split | Changed

    def segments(self, index: int) -> Segments:
        """Read the segments of one image without decoding it."""
        return self.seen.segments(index)

    @cached_property
    def _folder(self) -> str:
        """The folder that the names of images are relative to."""
        parents = [str(PurePosixPath(item.image).parent) for item in self.split.items if _is_picture(item.image)]
        parts = PurePosixPath(commonpath(parents)).parts if parents else ()
        ends = [place for place, part in enumerate(parts, 1) if part in (self.name, "images")]
        return "/".join(parts[: ends[-1]] if ends else parts)

    def file_name(self, index: int, data: bytes) -> str:
        """Name the file of an image below the folder of its split: as it is called, where it is a file."""
        item = self.split.items[index]
        if not _is_picture(item.image):  # inside another file
            return _safe(item.image_id) + next((end for start, end in _SUFFIXES if data.startswith(start)), ".tif")
        path = PurePosixPath(item.image).relative_to(self._folder)
        if path.parts[-3:-1] == (PurePosixPath(item.image_id).name, "images"):  # a folder for each image
            return item.image_id + path.suffix
        return _safe(str(path))


class Chosen(NamedTuple):
    """One image of a view."""

    view: View
    place: int

    @property
    def item(self) -> Item:
        """What the reader knows of it."""
        return self.view.split.items[self.place]


Plan = Mapping[str, Sequence[Chosen]]
"""The images of each split that is to be written."""


Became = dict[tuple[str, str], tuple[str, str]]
"""What the split and the name of an image have become."""


@dataclass(frozen=True)
class Report:
    """What was written, and what was not."""

    target: Target
    read: dict[str, Counter[str]] = field(default_factory=dict)
    """For each split: how many images, segments, crowds and annotated pixels were read ..."""
    written: dict[str, Counter[str]] = field(default_factory=dict)
    """... and are there now."""
    lost: dict[str, int] = field(default_factory=dict)
    """What the layout cannot hold, and how often."""
    left_out: tuple[str, ...] = ()
    """What the reader, or the class map, passed over, with its counts."""


def views(found: Found, names: Iterable[str] = (), class_map: str | Path | None = None) -> dict[str, View]:
    """Open splits of a data set; if none is named, all but unions of others (VOC's trainval), which it says.

    Raises DataError.
    """
    known = tuple(dict.fromkeys(found.name_of(name) or name for name in names))
    opened = {name: found.open(name) for name in known or found.splits}
    for name in () if known else unions(opened):
        log.warning("split %s: left out, as it is other splits together (--splits %s takes it)", name, name)
        del opened[name]
    changes = None if class_map is None else read_changes(class_map)
    seen = {name: split if changes is None else change_classes(split, changes) for name, split in opened.items()}
    return {name: View(name, split, seen[name]) for name, split in opened.items() if len(split)}


def all_of(views: Mapping[str, View]) -> dict[str, list[Chosen]]:
    """Plan to write every image in its split."""
    return {name: [Chosen(view, index) for index in range(len(view.split))] for name, view in views.items()}


def convert(
    plan: Plan,
    target: Target,
    destination: Path,
    *,
    polygons: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the images of a plan into a new or empty folder.

    `progress` is told how many are done, of how many. Raises ConfigError for a folder that cannot be taken, and
    DataError for what cannot be read or written; then nothing is left at the destination.
    """
    plan = {name: chosen for name, chosen in plan.items() if chosen}
    if not plan:
        raise DataError("no images to write; is the right split named?")
    opened = list({id(each.view): each.view for chosen in plan.values() for each in chosen}.values())
    _check_apart(destination, opened)
    categories = _categories(opened)
    splits = _split_names(list(plan), target)
    report = Report(target, left_out=_left_out(opened))
    lost: Counter[str] = Counter({"splits under another name": sum(name != new for name, new in splits.items())})
    counts_first = target == "masks" and sum(category.is_thing for category in categories) > 1
    tick = _ticker(progress, sum(map(len, plan.values())) * (2 if counts_first else 1))
    with folder_aside(destination) as root:
        most = _most_objects(plan, categories, tick) if counts_first else {}
        writer = _writer(target, root, categories, polygons, most)
        before = 0
        became: Became = {}
        known = {id(view.split): read_besides(view.split) for view in opened}
        for name, chosen in plan.items():
            read, written = Counter[str](), Counter[str]()
            remarks = Remarks(
                [(each.view.split, each.place) for each in chosen],
                known,
                lost,
                classes={(category.id, category.name) for category in categories},
                held=target in ("coco", "coco-panoptic"),
                same=all(view.seen is view.split for view in opened),
                unique=target == "coco",
            )
            with writer.split(splits[name], Heading(remarks.head, remarks.categories)) as add:
                for each, picture, segments in _pictures(chosen, before, categories, remarks, lost):
                    became[each.view.name, each.item.image_id] = splits[name], picture.stem
                    lost[AREAS] += 0 if target == "coco" else _told_otherwise(segments)
                    read.update(_counts(segments))
                    written.update(_counts(add(picture, segments)))
                    tick()
            before += len(chosen)
            report.read[name], report.written[splits[name]] = read, written
        writer.close()
        lost["rows of images.csv whose image is not clear"] = _write_table(root, opened[0].split.archive, became)
        _check(root, report)
    report.lost.update({what: count for what, count in (lost + writer.lost).items() if count})
    return report


def _pictures(
    chosen: Sequence[Chosen], before: int, categories: tuple[Category, ...], remarks: Remarks, lost: Counter[str]
) -> Iterator[tuple[Chosen, Picture, Segments]]:
    """Read the images of a split that is written, each with what it is called there and what is said of it."""
    taken = set[str]()
    for each, number in zip(chosen, _numbers(chosen, before), strict=True):
        split, place = each.view.split, each.place
        data, segments = split.image_bytes(place), _segments(each, categories)
        if each.item.number not in (None, number if remarks.held else _digits(each.item)):
            lost[CLASHING_IMAGES if remarks.held else IMAGES] += 1
        name, of_image = _file_name(each, data, taken, lost), remarks.of_image(split, place)
        of_segments = remarks.of_segments(split, place, segments.masks.size)
        yield each, Picture(name, data, number, of_image, of_segments), segments


def _writer(
    target: Target, root: Path, categories: tuple[Category, ...], polygons: bool, most: Mapping[int, int]
) -> Writer:
    if target == "coco":
        return CocoWriter(root, categories, polygons)
    if target == "coco-panoptic":
        return CocoPanopticWriter(root, categories)
    return YoloWriter(root, categories) if target == "yolo" else MaskWriter(root, categories, most)


def _left_out(opened: Sequence[View]) -> tuple[str, ...]:
    """List what was passed over in each split, and by the class map, which is one for all."""
    read = [text for view in opened for text in view.split.left_out]
    changed = dict.fromkeys(text for view in opened if view.seen is not view.split for text in view.seen.left_out)
    return (*read, *changed)


def _check_apart(destination: Path, opened: Iterable[View]) -> None:
    for path in {view.split.archive.path for view in opened}:
        if destination.resolve().is_relative_to(path.resolve()):
            raise ConfigError(f"{destination}: lies in the data set that is read; name a folder outside of it")


def _check(root: Path, report: Report) -> None:
    """Recognise what was written, and count its images. Raises DataError."""
    found = find_format(root)
    for name, counts in report.written.items():
        images = len(found.format.open(found.archive, name))
        if found.format.name != _FORMATS[report.target] or images != counts["images"]:
            raise DataError(
                f"what was written is read as {found.format.name} with {images} images in {name}, not as "
                f"{_FORMATS[report.target]} with {counts['images']}; rename splits or images of strange names"
            )


def _categories(opened: Sequence[View]) -> tuple[Category, ...]:
    """Join the classes of the splits; where they are not the same, sorted by id. Raises DataError."""
    first = opened[0].seen.categories
    if all(view.seen.categories == first for view in opened):
        return first
    joined: dict[int, Category] = {}
    for view in opened:
        for category in view.seen.categories:
            other = joined.setdefault(category.id, category)
            if other[:3] != category[:3]:
                raise DataError(
                    f"{view.split.archive.path}: class id {category.id} is {_said(category)} in split {view.name} "
                    f"and {_said(other)} in another; convert them one by one (--splits), or correct the source"
                )
    names = Counter(category.name for category in joined.values())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError(f"class {twice[0]!r} has several ids in different splits; correct the source")
    return tuple(joined[id] for id in sorted(joined))


def _said(category: Category) -> str:
    return f"{category.name!r} ({'thing' if category.is_thing else 'stuff'})"


def _segments(chosen: Chosen, categories: tuple[Category, ...]) -> Segments:
    """Read the segments of an image with labels among these classes."""
    segments, own = chosen.view.segments(chosen.place), chosen.view.seen.categories
    if own == categories:
        return segments
    label_of = {category.id: label for label, category in enumerate(categories)}
    table = torch.tensor([*(label_of[category.id] for category in own), ANY_CLASS])  # the last is that of label -1
    return replace(segments, labels=table[segments.labels])


def _most_objects(plan: Plan, categories: tuple[Category, ...], tick: Callable[[], None]) -> dict[int, int]:
    """Count the objects of each thing in the image that has most of it."""
    most = {label: 0 for label, category in enumerate(categories) if category.is_thing}
    for chosen in plan.values():
        for each in chosen:
            segments = _segments(each, categories)
            for label, count in Counter(segments.labels[~segments.is_crowd].tolist()).items():
                if label in most:
                    most[label] = max(most[label], count)
            tick()
    return most


def _counts(segments: Segments) -> dict[str, int]:
    ignored = int((segments.labels == ANY_CLASS).sum())
    return {
        "images": 1,
        "segments": len(segments) - ignored,
        "crowds": int(segments.is_crowd.sum()) - ignored,
        "ignored_regions": ignored,
        "pixels": int(segments.masks.areas().sum()),
    }


def _told_otherwise(segments: Segments) -> int:
    """Count the segments whose file tells another area than that of their pixels."""
    if segments.told_areas is None:
        return 0
    told = segments.told_areas.numpy()
    return int((~np.isnan(told) & (told != segments.masks.areas())).sum())


def _split_names(names: Sequence[str], target: Target) -> dict[str, str]:
    """Name the splits as the target can: without folders; train, val and test in YOLO."""
    new = {name: name.replace("/", "-") for name in names}
    if target == "yolo":
        for known in YOLO_SPLITS:
            alike = [
                name for name in names if name.casefold().startswith(known) or name.casefold().endswith(known)
            ]
            if known not in names and len(alike) == 1:
                new[alike[0]] = known
        if len(names) == 1 and new[names[0]] not in YOLO_SPLITS:
            new = {names[0]: "train"}
    if len(set(new.values())) < len(new):
        raise DataError(f"splits {', '.join(names)} would have one name; convert them one by one (--splits)")
    return new


def _file_name(chosen: Chosen, data: bytes, taken: set[str], lost: Counter[str]) -> str:
    """Name an image so that its stem is its own in the split."""
    name = PurePosixPath(chosen.view.file_name(chosen.place, data))
    stem = str(name.with_suffix(""))
    free = free_name(stem, taken)
    lost["images under another name, as another has their stem"] += free != stem
    return free + name.suffix


def _safe(name: str) -> str:
    """Make a name that any system takes, and no reader passes over: names may come from anywhere."""
    parts = [part for part in name.replace("\\", "_").replace("\0", "_").split("/") if part not in ("", ".", "..")]
    return "/".join("_" + part if part.startswith(".") else part for part in parts) or "image"


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _numbers(chosen: Sequence[Chosen], before: int) -> list[int | str]:
    """Number images as the source does, or by their names where all are numbers (as COCO's are), else in a row."""
    items = [each.item for each in chosen]
    for numbers in ([item.number for item in items], [_digits(item) for item in items]):
        kept = [number for number in numbers if number is not None]
        if len(set(kept)) == len(items):
            return kept
    return list(range(before + 1, before + 1 + len(items)))


def _digits(item: Item) -> int | None:
    stem = item.image_id.rpartition("/")[2]
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= 15 else None


def _write_table(root: Path, archive: Archive, became: Became) -> int:
    """Keep the rows of `images.csv` that tell of images that are written, with their splits and names of now.

    Where images of several splits share a name, a column `split` tells them apart; rows of which it does not are
    left out, and counted. Raises DataError for a table that cannot be read.
    """
    if not archive.exists(_TABLE):
        return 0
    try:
        rows = list(csv.reader(io.StringIO(archive.read(_TABLE).decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{archive.where(_TABLE)}: is no CSV file in UTF-8 ({error}); export it again") from error
    header = rows[0] if rows else []
    if "image_id" not in header:
        return 0
    place, split = header.index("image_id"), header.index("split") if "split" in header else None
    told = Counter(row[place] for row in rows[1:] if len(row) > place)
    known: dict[str, list[tuple[str, str]]] = {}
    for key in became:
        known.setdefault(key[1], []).append(key)
    unclear = 0
    with (root / _TABLE).open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows[1:]:
            image_id = row[place] if len(row) > place else ""
            source = row[split] if split is not None and split < len(row) else ""
            keys = [key for key in known.get(image_id, ()) if key[0] == source]
            if not keys and told[image_id] == 1:
                keys = known.get(image_id, [])
            if len(keys) == 1:
                new_split, row[place] = became[keys[0]]
                if split is not None and split < len(row):
                    row[split] = new_split
                writer.writerow(row)
            else:
                unclear += image_id in known
    return unclear


def _ticker(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    """Count what is done, and tell it."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick
