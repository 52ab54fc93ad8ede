"""Measure a data set without decoding its images, and remember in the user's cache what was measured.

What that comes to is left to `figures`, pictures to `drawing`, finding what is wrong with the data to `validate`.
torch is imported only to measure: what the cache remembers is told without it.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.config import TaskName, choose_task
from eomt.data.archive import Archive
from eomt.data.figures import Measured
from eomt.errors import DataError, EomtError
from eomt.files import write_aside
from eomt.masks import IdMap

if TYPE_CHECKING:
    from eomt.data.detect import Found
    from eomt.data.reader import Split
    from eomt.types import Sample, Segments

__all__ = ["Inspection", "cache_folder", "examples", "inspect_data"]

log = logging.getLogger("eomt")

_FORM = 1  # of what is written into the cache: another number for another form


@dataclass(frozen=True, eq=False)
class Inspection:
    """A data set, recognised and measured."""

    root: Path
    format: str
    expected: str
    """The layout of that format, in a line."""
    is_told: bool
    """Whether the format was not recognised, but told."""
    class_map: Path | None
    train: str | None
    val: str | None
    """The splits that training takes by default."""
    splits: dict[str, Measured]
    closed: dict[str, str]
    """The splits that cannot be opened, and why."""
    is_cached: bool = False

    @property
    def task(self) -> TaskName:
        """The task that training chooses by itself."""
        return choose_task(None, self.splits.get(self.train or "", next(iter(self.splits.values()))).categories)


def inspect_data(
    root: str | Path,
    *,
    format: str | None = None,
    class_map: str | Path | None = None,
    split: str | None = None,
    workers: int | None = None,
    use_cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Recognise a data set, and measure its splits or one of them: the headers of images, and their segments.

    Images are measured by so many processes (None: as many as there are processors, where it pays; 0: none), with
    the same result. What was measured is remembered, until a file changes, in `cache_folder()`; nothing is written
    beside the data. Images that cannot be read, and splits that cannot be opened, are listed in the result. Raises
    DataError or ConfigError where nothing can be measured at all.
    """
    root, class_map = Path(root), None if class_map is None else Path(class_map)
    note = _note(root, format, class_map, split) if use_cache else None
    known = None if note is None else note.read()
    if known is not None:
        return _from_json(known, root, class_map)
    found = _measure(root, format, class_map, split, workers, progress)
    if note is not None and not any(measured.unreadable for measured in found.splits.values()):
        note.write(_to_json(found))  # an image that cannot be read may be the machine's fault, and soon mended
    return found


def cache_folder() -> Path:
    """Give the folder for what can be made again: EOMT_CACHE, or `eomt` in XDG_CACHE_HOME or in ~/.cache."""
    own = os.environ.get("EOMT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eomt"


def examples(
    inspection: Inspection, count: int
) -> "Iterator[tuple[str, Sample | DataError, tuple[Category, ...]]]":
    """Read some images: always the same ones, of all splits and spread over the classes, the rarest ones first.

    Gives the split, the image or what is wrong with it, and the categories.
    """
    changes, found = _changes(inspection.class_map), _found(inspection.root, inspection.format)
    opened: dict[str, Any] = {}
    for split, index in _chosen(inspection.splits, count):
        if split not in opened:
            opened[split] = _open(found, split, changes)[1]
        dataset = opened[split]
        try:
            yield split, dataset[index], dataset.categories
        except DataError as error:
            yield split, error, dataset.categories


def _chosen(splits: dict[str, Measured], count: int) -> list[tuple[str, int]]:
    """Choose images: again and again one, by a digest of its name, of the class that was chosen least so far."""
    names = list(dict.fromkeys(category.name for split in splits.values() for category in split.categories))
    classes_of: dict[tuple[str, int], set[str]] = {}
    seen: set[tuple[str, str]] = set()
    for name, split in splits.items():
        places: list[int] = split.places.tolist()
        images = list(zip(split.files, split.image_ids, strict=True))
        classes_of |= {
            (name, place): set() for place, image in zip(places, images, strict=True) if image not in seen
        }
        seen.update(images)
        for owner, label in zip(split.owners.tolist(), split.labels.tolist(), strict=True):
            if label >= 0 and (name, places[owner]) in classes_of:
                classes_of[name, places[owner]].add(split.categories[label].name)
    order = sorted(classes_of, key=lambda image: hashlib.sha256(repr(image).encode()).digest())
    having = {name: [image for image in order if name in classes_of[image]] for name in names}
    shown: Counter[str] = Counter()
    chosen: dict[tuple[str, int], None] = {}
    while len(chosen) < min(count, len(order)):
        left = {name: [image for image in images if image not in chosen] for name, images in having.items()}
        open_classes = [name for name in names if left[name]]
        if open_classes:
            rarest = min(open_classes, key=lambda name: (shown[name], len(having[name])))
            image = left[rarest][0]
        else:  # only images without any segment
            image = next(image for image in order if image not in chosen)
        chosen[image] = None
        shown.update(classes_of[image])
    return list(chosen)


def _measure(
    root: Path,
    format: str | None,
    class_map: Path | None,
    split: str | None,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Inspection:
    changes = _changes(class_map)
    found = _found(root, format)
    names = found.splits if split is None else (found.require(split),)
    opened: dict[str, tuple[Split, Any]] = {}
    closed: dict[str, DataError] = {}
    for name in names:
        try:
            opened[name] = _open(found, name, changes)
        except DataError as error:
            closed[name] = error
    if not opened:
        raise next(iter(closed.values()), DataError(f"{root}: read as {found.format.name}, it has no split"))
    total, done = sum(len(split) for split, _ in opened.values()), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    splits = {name: _measure_split(split, seen, workers, tick) for name, (split, seen) in opened.items()}
    train, val = (name if name in opened else None for name in map(found.name_of, ("train", "val")))
    reasons = {name: str(error) for name, error in closed.items()}
    told = format is not None
    return Inspection(root, found.format.name, found.format.expected, told, class_map, train, val, splits, reasons)


def _found(root: Path, format: str | None) -> "Found":
    from eomt.data.detect import find_format

    return find_format(root, format)


def _changes(class_map: Path | None) -> Any:
    if class_map is None:
        return None
    from eomt.data.classes import read_changes

    return read_changes(class_map)


def _open(found: "Found", name: str, changes: Any) -> "tuple[Split, Any]":
    """Open a split, without a word about what is left out; and see it through the class map, if there is one."""
    split = found.format.open(found.archive, name)
    if changes is None:
        return split, split
    from eomt.data.classes import change_classes

    return split, change_classes(split, changes)


class _Row(NamedTuple):
    """What is measured of one image."""

    size: tuple[int, int]
    covered: int
    labels: NDArray[np.int64]
    areas: NDArray[np.int64]
    crowds: NDArray[np.bool_]


@dataclass(frozen=True)
class _Rows:
    """Measures images by their index; what a reader says against one is returned: torch would garble its words."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Row | EomtError:
        try:
            return _row(self.dataset.segments(index))
        except EomtError as error:
            return error


def _row(segments: "Segments") -> _Row:
    masks = segments.masks
    areas = masks.areas()
    disjoint = isinstance(masks, IdMap) or len(masks) < 2
    covered = areas.sum() if disjoint else masks.merge([range(len(masks))]).areas()[0]
    height, width = masks.size
    return _Row((height, width), int(covered), segments.labels.numpy(), areas, segments.is_crowd.numpy())


def _measure_split(split: "Split", seen: Any, workers: int | None, tick: Callable[[int], None]) -> Measured:
    """Measure a split as it is seen through the class map."""
    from eomt.data.pool import in_order

    rows: list[_Row | EomtError] = []
    for chunk in in_order(_Rows(seen), "annotations", workers):
        rows += chunk
        tick(len(chunk))
    good = [(index, row) for index, row in enumerate(rows) if isinstance(row, _Row)]
    other = [row for row in rows if isinstance(row, EomtError)]
    fatal = next((error for error in other if not isinstance(error, DataError)), None)
    if fatal is not None:
        raise fatal
    items = [split.items[index] for index, _ in good]
    left_out = split.left_out if seen is split else (*split.left_out, *seen.left_out)
    return Measured(
        tuple(seen.categories),
        tuple(left_out),
        tuple(str(error) for error in other),
        tuple(item.image_id for item in items),
        tuple(item.image for item in items),
        tuple(item.annotation for item in items),
        np.array([index for index, _ in good], dtype=np.int64),
        np.array([row.size for _, row in good], dtype=np.int64).reshape(-1, 2),
        np.array([row.covered for _, row in good], dtype=np.int64),
        np.repeat(np.arange(len(good)), [len(row.labels) for _, row in good]),
        _joined([row.labels for _, row in good], np.int64),
        _joined([row.areas for _, row in good], np.int64),
        _joined([row.crowds for _, row in good], np.bool_),
    )


def _joined(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)


class _Note(NamedTuple):
    """A file of the cache, and what it was made from."""

    path: Path
    key: str

    def read(self) -> Any:
        """Give what is remembered; None where there is nothing, or it is damaged, or was made from other files."""
        try:
            head, _, body = self.path.read_bytes().partition(b"\n")
            if head.decode() == f"{self.key} {hashlib.sha256(body).hexdigest()}":
                return json.loads(body)
        except (OSError, ValueError):
            pass
        return None

    def write(self, values: dict[str, Any]) -> None:
        """Remember; where that is not possible, do without."""
        body = json.dumps(values).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(self.path, f"{self.key} {hashlib.sha256(body).hexdigest()}\n".encode() + body)
        except OSError as error:
            log.info("not remembered: %s: %s", self.path, error.strerror)


def _note(root: Path, format: str | None, class_map: Path | None, split: str | None) -> _Note:
    """Find the place in the cache of a data set and what is asked of it, and tell what its files are like now."""
    changes = class_map.read_bytes() if class_map is not None and class_map.is_file() else None
    place = hashlib.sha256(
        repr((str(root.resolve()), format, class_map, split)).encode("utf-8", "backslashreplace")
    )
    key = hashlib.sha256(
        repr((_FORM, metadata.version("eomt"), str(root), changes)).encode("utf-8", "backslashreplace")
    )
    for stamp in Archive(root).stamps():
        key.update(repr(stamp).encode("utf-8", "backslashreplace"))
    return _Note(cache_folder() / "inspect" / f"{place.hexdigest()[:32]}.txt", key.hexdigest())


_ARRAYS = {"places": np.int64, "sizes": np.int64, "covered": np.int64, "owners": np.int64} | {
    "labels": np.int64,
    "areas": np.int64,
    "crowds": np.bool_,
}


def _to_json(found: Inspection) -> dict[str, Any]:
    return {
        "format": found.format,
        "expected": found.expected,
        "is_told": found.is_told,
        "train": found.train,
        "val": found.val,
        "closed": found.closed,
        "splits": {
            name: {key: value.tolist() if key in _ARRAYS else value for key, value in vars(measured).items()}
            for name, measured in found.splits.items()
        },
    }


def _from_json(values: dict[str, Any], root: Path, class_map: Path | None) -> Inspection:
    splits = {name: _measured(columns) for name, columns in values.pop("splits").items()}
    return Inspection(root=root, class_map=class_map, splits=splits, is_cached=True, **values)


def _measured(columns: dict[str, Any]) -> Measured:
    categories = [
        Category(name, is_thing, id, tuple(color)) for name, is_thing, id, color in columns.pop("categories")
    ]
    arrays: dict[str, Any] = {key: np.array(columns.pop(key), dtype=kind) for key, kind in _ARRAYS.items()}
    arrays["sizes"] = arrays["sizes"].reshape(-1, 2)
    texts: dict[str, Any] = {key: tuple(each) for key, each in columns.items()}
    return Measured(tuple(categories), **texts, **arrays)
