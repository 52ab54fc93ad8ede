"""Read COCO's panoptic annotations: `panoptic_SPLIT.json` beside `panoptic_SPLIT/*.png`, images in `SPLIT/`.

The JSON file lists the segments of every image; a PNG tells their pixels, its colours being ids: red + 256 green +
65536 blue, 0 for void. Both must name the same segments. Categories say in `isthing` what they are and come sorted
by their ids; crowds are kept as such. The images of an entry are found as `coco_json` says.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids
from eomt.data.images import read_color_map
from eomt.data.parts import Part, distinct, require_size, segments_of
from eomt.data.problems import Remark, at_once, each, of_file, strict, tell
from eomt.data.reader import Format, Item, Origin, Split
from eomt.data.readers.coco_claims import boxes_of, differences
from eomt.data.readers.coco_json import (
    Entry,
    Picture,
    add_picture,
    entries,
    find_images,
    flag,
    image_folders,
    is_id,
    named_images,
    read_categories,
    some,
)
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMAT", "open_annotations"]

_NAME = re.compile(r"panoptic(?:_(.+))?\.json")
_MAX_ID = 2**24 - 1  # three channels of 8 bits


def _files(archive: Archive) -> tuple[dict[str, str], str | None]:
    """Map splits to the JSON files that have a folder of PNGs beside them; and name the first thing missing."""
    missing = None
    for prefix in ("annotations", ""):
        candidates, folders = {}, set()
        for name in archive.names(prefix):
            folder, _, base = name.rpartition("/")
            match = _NAME.fullmatch(base)
            if match and folder.count("/") < 3:
                candidates[name] = match.group(1) or "all"
            elif base.lower().endswith(".png"):
                folders.add(folder)
        files: dict[str, str] = {}
        for name, split in candidates.items():
            stem = name.removesuffix(".json")
            if stem in folders:
                files[stem if split in files else split] = name
            else:
                missing = missing or f"{stem}/*.png"
        if files:
            return files, None
    return {}, missing or "annotations/panoptic_SPLIT.json"


def _missing(archive: Archive) -> str | None:
    return _files(archive)[1]


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(sorted(_files(archive)[0]))


def _open(archive: Archive, split: str) -> Split:
    files, _ = _files(archive)
    if split not in files:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(sorted(files))}")
    with of_file(files[split]):
        return _open_file(archive, split, files)


def _open_file(archive: Archive, split: str, files: Mapping[str, str]) -> Split:
    name = files[split]
    where = archive.where(name)
    found = _gather(archive, name)
    categories, labels = _categories(found, where)
    if strict():
        _tell_strangers(archive, name, found)
    pictures = {id: picture for id, picture in found.pictures.items() if id in found.masks}
    if not pictures:
        raise DataError(f'{where}: no annotation\'s "image_id" is the id of an image; export the file again')
    masks = name.removesuffix(".json")
    others = {other: file for other, file in files.items() if other != split}
    images = Images(archive, split, others, partial(named_images, archive, others.values()), masks)
    paths = find_images(where, pictures.values(), images, image_folders(name, split))
    pngs = _find_masks(archive, where, masks, {id: found.masks[id].file_name for id in paths})
    items = tuple(
        Item(image_id, path, pngs[id], _content(found, id), id)
        for image_id, (id, path) in zip(image_ids(paths.values()), paths.items(), strict=True)
        if id in pngs
    )
    counts = {
        "images without an annotation": len(found.pictures) - len(pictures),
        "annotations of images that the file does not list": 0 if strict() else len(found.masks) - len(pictures),
    }
    left_out = tuple(f"{count} {what}" for what, count in counts.items() if count)
    read = partial(_read_segments, labels, name)
    return Split(archive, categories, items, read, left_out, origin=Origin(name, _ids))


def open_annotations(archive: Archive, name: str, known: tuple[Category, ...] = ()) -> Split:
    """Open a JSON file and the folder of PNGs of its name, without the images. Raises DataError.

    Files of predictions need not list images and categories: with `known` categories, these stand in, and images
    are called like their PNGs.
    """
    where, folder = archive.where(name), name.removesuffix(".json")
    found = _gather(archive, name, ("annotations",)) if known else _gather(archive, name)
    categories, labels = _categories(found, where, known)
    if not archive.names(folder):
        raise DataError(f"{where}: no folder {folder}/ beside it, which holds the PNGs of its segments")
    pngs = _find_masks(archive, where, folder, {id: mask.file_name for id, mask in found.masks.items()})
    names = {id: found.pictures[id].file_name if id in found.pictures else pngs[id] for id in pngs}
    items = tuple(
        Item(image_id, pngs[id], pngs[id], _content(found, id), id)
        for image_id, id in zip(image_ids(names.values()), names, strict=True)
    )
    return Split(archive, categories, items, partial(_read_segments, labels, name))


def _categories(
    found: "_Gathered", where: str, known: tuple[Category, ...] = ()
) -> tuple[tuple[Category, ...], dict[int, int]]:
    """Give the categories, known ones where the file lists none, and the place of each by its id."""
    given = found.categories
    categories = read_categories(given, where, things=None) if given or not known else known
    labels = {category.id: label for label, category in enumerate(categories)}
    for id, place in found.used.items():
        if id not in labels and not strict():  # else each segment is told when its image is read
            raise DataError(f"{where}: {place}: {_no_category(id, labels)}")
    return categories, labels


class _Mask(NamedTuple):
    """What the JSON file says of the segments of one image."""

    file_name: str
    segments: bytes
    """Of each segment its id, its category and whether it is a crowd, as int64: [n 3]."""
    text: bytes
    """Where faults are collected, all that is said of them, as it stands in the file."""


class _Content(NamedTuple):
    """What the file says of an image."""

    segments: bytes
    """As `_Mask` has them."""
    text: bytes
    size: tuple[int, int] | None
    """Height and width."""


class _Gathered(NamedTuple):
    """What a file says, not yet compared with each other: annotations may come before the images they are of."""

    pictures: dict[int | str, Picture]
    categories: list[Entry]
    masks: dict[int | str, _Mask]
    used: dict[int, str]
    """Each category that has segments, with a place where."""


def _content(found: _Gathered, id: int | str) -> _Content:
    mask = found.masks[id]
    return _Content(mask.segments, mask.text, found.pictures[id].size if id in found.pictures else None)


def _gather(
    archive: Archive, name: str, needed: Sequence[str] = ("images", "annotations", "categories")
) -> _Gathered:
    where = archive.where(name)
    found = _Gathered({}, [], {}, {})
    for entry in entries(archive, name, needed):
        with each():
            if entry.list == "annotations":
                _gather_annotation(entry, where, found)
            elif entry.list == "categories":
                found.categories.append(entry)
            else:
                add_picture(found.pictures, entry, where)
    return found


def _tell_strangers(archive: Archive, name: str, found: _Gathered) -> None:
    """Tell the annotations of images that the file does not list, and PNGs that no annotation names."""
    where, folder = archive.where(name), name.removesuffix(".json")
    for id, mask in found.masks.items():
        if id not in found.pictures:
            place = f"annotation of {mask.file_name}"
            tell(DataError(f'{where}: {place}: "image_id" is {id!r:.60}, which "images" does not list'))
    named = {f"{folder}/{mask.file_name}" for mask in found.masks.values()}
    for png in archive.names(folder):
        if png.lower().endswith(".png") and png not in named:
            words = f"{archive.where(png)}: no annotation of {name} names this PNG; remove it"
            tell(DataError(words, file=png))


def _no_category(id: int, labels: Iterable[int]) -> str:
    return (
        f"category_id {id} is not among the categories ({some(sorted(labels))}); add it, or remove its segments "
        "(and paint them with 0)"
    )


def _gather_annotation(entry: Entry, where: str, found: _Gathered) -> None:
    image, file_name, given = (entry.values.get(field) for field in ("image_id", "file_name", "segments_info"))
    if not is_id(image):
        raise DataError(f'{where}: {entry.place}: "image_id" is {image!r:.60}; expected the id of an image')
    place = f"{entry.place} of image {image}"
    if image in found.masks:
        raise DataError(f"{where}: {place}: the image has two annotations; remove one")
    if not isinstance(file_name, str) or not isinstance(given, list):
        raise DataError(
            f'{where}: {place}: "file_name" is {file_name!r:.60} and "segments_info" {given!r:.60}; expected the '
            "name of a PNG and a list"
        )
    rows: dict[int, tuple[int, int, int]] = {}
    for segment in given:
        with each():
            row = _row(segment, f"{where}: {place}")
            if row[0] in rows:
                raise DataError(f"{where}: {place}: two segments have the id {row[0]}; give each its own")
            rows[row[0]] = row
            if row[1] not in found.used:
                found.used[row[1]] = place
    text = entry.text.encode() if strict() else b""
    found.masks[image] = _Mask(file_name, np.array([*rows.values()], dtype=np.int64).tobytes(), text)


def _row(segment: Any, place: str) -> tuple[int, int, int]:
    if not isinstance(segment, dict):
        raise DataError(f"{place}: segment {segment!r:.60}; expected an object")
    id, category = segment.get("id"), segment.get("category_id")
    if type(id) is not int or not 0 < id <= _MAX_ID:
        raise DataError(f'{place}: a segment\'s "id" is {id!r:.60}; use 1 to {_MAX_ID} (0 is void)')
    if type(category) is not int or not 0 <= category < 2**31:
        raise DataError(f'{place}: segment {id}: "category_id" is {category!r:.60}; expected a whole number')
    return id, category, int(flag(segment, "iscrowd", False, f"{place}: segment {id}"))


def _rows(item: Item) -> list[list[int]]:
    rows: list[list[int]] = np.frombuffer(item.content.segments, dtype=np.int64).reshape(-1, 3).tolist()
    return rows


def _ids(item: Item, size: tuple[int, int] | None) -> list[int]:
    """Give the ids of the segments of an image: as they are colours, they come rising."""
    return sorted(id for id, _, _ in _rows(item))


def _find_masks(
    archive: Archive, where: str, folder: str, file_names: Mapping[int | str, str]
) -> dict[int | str, str]:
    listed = set(archive.names(folder))
    paths = {id: f"{folder}/{name}" for id, name in file_names.items()}
    lost = [path for path in paths.values() if path not in listed]
    for names in at_once(lost):
        with each():
            raise DataError(
                f"{where}: {len(lost)} of {len(paths)} PNGs are not there: {some(names)}; unpack them all, or "
                "take their images out of the file"
            )
    return {id: path for id, path in paths.items() if path in listed}


def _read_segments(
    labels: Mapping[int, int], json_name: str, archive: Archive, item: Item, size: tuple[int, int]
) -> Segments:
    ids = read_color_map(archive.read(item.annotation), archive.where(item.annotation))
    require_size(ids, size, "the PNG")
    rows = _rows(item)
    parts: dict[int, Part | None] = {0: None}
    for id, category, crowd in rows:
        parts[id] = Part(labels[category], id, bool(crowd)) if category in labels else None
        with each():
            if category not in labels:
                raise ValueError(f"{json_name}: segment {id}: {_no_category(category, labels)}")

    def part_of(id: int) -> Part | None:
        if id not in parts:
            raise ValueError(
                f"the PNG has segment {id} (colour {id & 255}, {id >> 8 & 255}, {id >> 16}), which "
                f"{json_name} does not list; export both together"
            )
        return parts[id]

    segments = segments_of(ids, part_of)
    if strict() and item.content.text:
        _tell_differences(
            ids, item.content, f"{archive.where(item.annotation)}: image {item.image_id}: {json_name}"
        )
    if len(segments) < len(rows):
        drawn = {*distinct(ids)[0].tolist()}
        lost = [id for id, _, _ in rows if id not in drawn]
        for some_lost in at_once(lost):
            with each():
                raise ValueError(
                    f"{json_name} lists segments {some(some_lost)}, which the PNG does not have; export both "
                    "together"
                )
    return segments


def _tell_differences(ids: Integer[np.ndarray, "h w"], content: _Content, place: str) -> None:
    """Tell what the file says of the image, and of the segments in the PNG, that is not so."""
    (height, width), told = ids.shape, content.size
    if told not in (None, (height, width)):
        tell(Remark(f"{place}: its image is {width} x {height}, not {told[1]} x {told[0]}; export both together"))
    given = json.loads(content.text)["segments_info"]
    claims = {said["id"]: said for said in reversed(given) if isinstance(said, dict) and is_id(said.get("id"))}
    for id, (pixels, box) in boxes_of(ids).items():
        for words in differences(claims.get(id, {}), pixels, box):
            tell(Remark(f"{place}: segment {id}: {words}; export both together"))


FORMAT = Format(
    "coco-panoptic",
    "annotations/panoptic_SPLIT.json beside annotations/panoptic_SPLIT/*.png, images in SPLIT/",
    _missing,
    _splits,
    _open,
)
