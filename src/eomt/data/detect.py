"""Tell the layout of a data set, and open it with the reader for it. What files mean is left to the readers."""

import logging
import re
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from eomt.data.archive import Archive
from eomt.data.classes import change_classes, read_changes
from eomt.data.images import IMAGE_SUFFIXES
from eomt.data.reader import Format, Split
from eomt.data.readers import (
    ade20k,
    cityscapes,
    coco,
    coco_panoptic,
    cvat,
    folder,
    instance_folder,
    label_studio,
    labelme,
    saved_dataset,
    voc,
    yolo,
)
from eomt.errors import ConfigError, DataError
from eomt.types import Dataset

__all__ = ["FORMATS", "Found", "find_format", "open_data"]

log = logging.getLogger("eomt")

FORMATS: tuple[Format, ...] = (
    coco_panoptic.FORMAT,
    coco.FORMAT,
    *ade20k.FORMATS,
    cityscapes.FORMAT,
    voc.FORMAT,
    yolo.FORMAT,
    folder.FORMAT,
    instance_folder.FORMAT,
    saved_dataset.FORMAT,
    labelme.FORMAT,
    *cvat.FORMATS,
    label_studio.FORMAT,
)
RICHER = {("coco-panoptic", "coco-instance"), ("ade20k-panoptic", "ade20k-semantic")}
"""Where both layouts are there, the first one says more of the same images."""
SPLITS = ("train", "val", "test")
"""The usual splits. A folder that is called so is a split, not the data set."""
SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True, eq=False)
class Found:
    """A data set of which the layout is known."""

    archive: Archive
    format: Format

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits."""
        return self.format.splits(self.archive)

    def name_of(self, split: str) -> str | None:
        """Give the name that a split has here; None where it is not clear.

        `val` may be called `val2017`, `validation` or `stage1_val`, where only one split is called so. Where there
        is only one split, it is `train`, whatever its name.
        """
        known = self.splits
        if split in known:
            return split
        alike = [name for name in known if split in _words(name)]
        if len(alike) == 1:
            return alike[0]
        other = {word for name in known for word in _words(name)} & {*SPLITS}
        return known[0] if len(known) == 1 and split == "train" and not other else None

    def require(self, split: str) -> str:
        """Give the name that a split has here. Raises DataError where there is none, or it is not clear which."""
        name, known = self.name_of(split), self.splits
        if name is None:
            near = get_close_matches(split, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(
                f"{self.archive.path}: no split {split!r}{hint}; read as {self.format.name}, it has "
                f"{', '.join(known) or 'none'}"
            )
        return name

    def open(self, split: str) -> Split:
        """Open a split. Raises DataError where there is no such split, or it cannot be used."""
        opened = self.format.open(self.archive, self.require(split))
        for passed_over in opened.left_out:
            log.warning("%s, split %s: left out %s", self.archive.path, split, passed_over)
        return opened


def _words(name: str) -> list[str]:
    """Give the words of a split's name, the usual ones by their short form."""
    found = re.findall(r"[^\W\d_]+", name.casefold())
    return [SYNONYMS.get(word, word) for word in found]


def open_data(
    root: str | Path, split: str, *, format: str | None = None, class_map: str | Path | None = None
) -> Dataset:
    """Open a split of a data set: a folder, or a zip or tar that need not be unpacked, in any layout known.

    The layout is recognised; `format` says it where it is not, or not uniquely. `class_map` is a file that merges,
    renames, drops or ignores classes (see `classes`). Raises DataError or ConfigError.
    """
    opened = find_format(root, format).open(split)
    return changed(opened, class_map)


def changed(dataset: Dataset, class_map: str | Path | None) -> Dataset:
    """See a data set through a class map, if there is one, and say what that leaves out."""
    if class_map is None:
        return dataset
    seen = change_classes(dataset, read_changes(class_map))
    for passed_over in seen.left_out:
        log.info("class map %s: %s", class_map, passed_over)
    return seen


def find_format(root: str | Path, format: str | None = None) -> Found:
    """Tell the layout of a folder or an archive, or of the only folder in it.

    Raises DataError where none is recognised, or two that do not go together, or not the one that was named.
    """
    archive = Archive(root)
    if format is not None:
        return _named(archive, format)
    for place in _places(archive):
        missing = _missing(place)
        found = _recognised(place, missing)
        if found:
            break
    if len(found) == 1:
        return Found(place, found[0])
    if found:
        names = [each.name for each in found]
        raise DataError(
            f"{archive.path}: it may be read as {' or as '.join(names)}; say which: --format {names[0]} (format=)"
        )
    width = max(len(each.name) for each in FORMATS)
    nearest = _lacking_later(missing)
    ordered = sorted(missing.items(), key=lambda row: row[0] not in nearest)
    listed = "\n".join(f"{each.name:<{width}}  no {reason}" for each, reason in ordered)
    raise DataError(
        f"{archive.path}: no data set in a layout that is known{_what_is_there(archive)}. What each of them lacks "
        f"first:\n{listed}\n"
        "docs/data.md describes them; --format NAME (format=) says more about one."
    )


def _lacking_later(missing: dict[Format, str | None]) -> list[Format]:
    """List the layouts of which the beginning is there: they lack another thing first than in an empty folder."""
    with tempfile.TemporaryDirectory() as empty:
        nothing = _missing(Archive(empty))
    return [each for each, reason in missing.items() if reason != nothing[each]]


def _what_is_there(archive: Archive) -> str:
    """Say what strikes the eye where no layout is recognised."""
    names = archive.names()
    if not names:
        return "; it is empty"
    pictures = sum(name.lower().endswith(IMAGE_SUFFIXES) for name in names)
    return f"; it holds {pictures} pictures and no annotations" if pictures == len(names) else ""


def _named(archive: Archive, name: str) -> Found:
    by_name = {each.name: each for each in FORMATS}
    if name not in by_name:
        near = get_close_matches(name, by_name, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"no data format {name!r}{hint}; known are {', '.join(by_name)}")
    chosen = by_name[name]
    for place in _places(archive):
        if chosen.missing(place) is None:
            return Found(place, chosen)
    raise DataError(
        f"{archive.path}: cannot be read as {name}: no {chosen.missing(archive)}; expected {chosen.expected}"
    )


def _missing(archive: Archive) -> dict[Format, str | None]:
    return {each: each.missing(archive) for each in FORMATS}


def _recognised(archive: Archive, missing: dict[Format, str | None]) -> list[Format]:
    """List the layouts of which nothing is missing, without those that a richer one has the usual splits of."""
    found = [each for each, reason in missing.items() if reason is None]

    def usual(each: Format) -> set[str]:
        return {word for name in each.splits(archive) for word in _words(name)} & {*SPLITS}

    return [
        each
        for each in found
        if not any((other.name, each.name) in RICHER and usual(each) <= usual(other) for other in found)
    ]


def _places(archive: Archive) -> list[Archive]:
    """List where the data may lie: in the only folder of a folder, as unpacking an archive makes it, or here."""
    if not archive.path.is_dir():
        return [archive]
    entries = [entry for entry in archive.path.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) != 1 or not entries[0].is_dir() or set(_words(entries[0].name)) & {*SPLITS}:
        return [archive]
    return [Archive(entries[0]), archive]
