"""Read COCO's instance annotations: one JSON file a split, with polygons or run-length codes.

Three layouts are known: `annotations/instances_SPLIT.json` beside `SPLIT/` or `images/SPLIT/` (COCO's own, and
CVAT's); `SPLIT/_annotations.coco.json` among the images (Roboflow's); else any few JSON files that list images,
categories and annotations with a `segmentation`, named for their split or lying in its folder.

Categories are things unless `isthing` says otherwise, sorted by their ids. A segment is the union of its polygons;
those of fewer than three points have no pixels. Annotations without a mask are passed over, and counted, as are
those of images that the file does not list and the root of Roboflow's class trees, which stands for no class.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids
from eomt.data.finite_json import require_finite
from eomt.data.problems import Remark, each, of_file, strict, tell
from eomt.data.reader import Format, Item, Origin, Split
from eomt.data.readers.coco_claims import differences, polygon_area
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
from eomt.data.readers.shapes import has_pixels, is_speck, run_lengths, union
from eomt.errors import DataError
from eomt.masks import Rle, RleMasks, bounding_box
from eomt.types import Segments

__all__ = ["FORMAT", "open_annotations"]

_OFFICIAL = re.compile(r"instances_(.+)\.json")
_ROBOFLOW = re.compile(r"_annotations\.coco.*\.json")
_PREPARED = re.compile(r"ade20k_|cityscapes_|instancesonly_")  # made of data sets that have readers of their own
_CATEGORY_ID = re.compile(rb'"category_id"\s*:\s*(\d+)')
_NO_SPLIT = re.compile(
    r"(^|[._-])(annotations?|instances?|coco|labels?|result|output|default|segmentation)(?=[._-]|$)"
)
_NO_AREA = 1e-6  # pixels, by rounding
_MOST_FILES = 20  # JSON files in one folder that are looked into: formats with one file an image have more


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads segments from the text of all annotations, in one array: workers would copy Python objects."""

    labels: Mapping[int, int]
    """Index of each category by its id."""
    text: NDArray[np.uint8]
    spans: NDArray[np.int64]
    """Where the text of each annotation begins and ends, image by image: [n 2]."""
    ends: NDArray[np.int64]
    """How many annotations the images up to each one have."""
    sizes: NDArray[np.int64]
    """Height and width of each image by the file: [images 2]; zeros where it does not tell."""

    def __call__(self, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
        row: int = item.content
        height, width = self.sizes[row].tolist()
        if (height, width) not in ((0, 0), size):
            raise ValueError(
                f"it is {size[1]} x {size[0]} upright, but {width} x {height} by the file: masks would not fit; "
                "export the annotations for these images (turned as their EXIF orientation says)"
            )
        found: list[tuple[Rle, int, bool, float]] = []
        for annotation in self._annotations(row):
            with each():
                rle = _rle(annotation, self.labels, size)
                if strict():
                    _tell_differences(annotation, rle, f"{archive.where(item.annotation)}: image {item.image_id}")
                if has_pixels(rle):
                    label, crowd = self.labels[annotation["category_id"]], bool(annotation.get("iscrowd", 0))
                    found.append((rle, label, crowd, _area(annotation)))
        return Segments(
            RleMasks(size, tuple(rle for rle, *_ in found)),
            torch.tensor([label for _, label, _, _ in found], dtype=torch.int64),
            torch.tensor([crowd for _, _, crowd, _ in found], dtype=torch.bool),
            torch.tensor([area for *_, area in found], dtype=torch.float64),
        )

    def ids(self, item: Item, size: tuple[int, int] | None) -> list[int | str | None]:
        """Give the ids of the annotations of an image; with its size, only of those that have pixels."""
        return [
            annotation.get("id")
            for annotation in self._annotations(item.content)
            if size is None or has_pixels(_rle(annotation, self.labels, size))
        ]

    def _annotations(self, row: int) -> Iterator[dict[str, Any]]:
        begin = int(self.ends[row - 1]) if row else 0
        for start, end in self.spans[begin : int(self.ends[row])].tolist():
            yield json.loads(self.text[start:end].tobytes())


def _files(archive: Archive) -> dict[str, str]:
    """Map splits to JSON files."""
    official = {name: _OFFICIAL.fullmatch(_base(name)) for name in _json_files(archive.names("annotations"))}
    if any(official.values()):
        return _by_split({name: match.group(1) for name, match in official.items() if match})
    files = _json_files(archive.names())
    roboflow = {name: _folder(name) or "all" for name in files if _ROBOFLOW.fullmatch(_base(name))}
    if roboflow:
        return _by_split(roboflow)
    official = {name: _OFFICIAL.fullmatch(_base(name)) for name in files}
    if any(official.values()):
        return _by_split({name: match.group(1) for name, match in official.items() if match})
    crowded = {folder for folder, count in Counter(map(_parent, files)).items() if count > _MOST_FILES}
    few = [name for name in files if _parent(name) not in crowded and not _PREPARED.match(_base(name))]
    return _by_split({name: _split(name) for name in few if _is_instances(archive.read(name))})


def _json_files(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".json") and name.count("/") <= 3]


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _folder(name: str) -> str:
    return _base(_parent(name))


def _split(name: str) -> str:
    """Name a split for its file, else for its folder: `annotations/train_coco.json`, `train/labels.json`."""
    stem = _NO_SPLIT.sub("", _base(name).removesuffix(".json")).strip("._-")
    return stem or _NO_SPLIT.sub("", _folder(name)).strip("._-") or "all"


def _by_split(splits: Mapping[str, str]) -> dict[str, str]:
    """Turn files with their splits round; files whose splits have one name are told apart by their folders."""
    count = Counter(splits.values())
    return {split if count[split] == 1 else name.removesuffix(".json"): name for name, split in splits.items()}


def _is_instances(data: bytes) -> bool:
    return b'"segments_info"' not in data and all(
        f'"{word}"'.encode() in data for word in ("images", "annotations", "categories", "segmentation")
    )


def _missing(archive: Archive) -> str | None:
    try:
        return None if _files(archive) else "annotations/instances_SPLIT.json or another COCO file with masks"
    except DataError as error:
        return str(error)


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(sorted(_files(archive)))


def _open(archive: Archive, split: str) -> Split:
    files = _files(archive)
    if split not in files:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(sorted(files))}")
    with of_file(files[split]):
        return _open_file(archive, split, files)


def _open_file(archive: Archive, split: str, files: Mapping[str, str]) -> Split:
    name = files[split]
    where = archive.where(name)
    gathered = _gather(archive, name)
    roots = _roots(gathered.categories, archive, files)
    categories, labels = _categories(gathered, where, roots)
    pictures = gathered.pictures
    strangers = sum(len(rows) for id, rows in gathered.rows.items() if id not in pictures)
    if strict():
        _tell_strangers(gathered, where)
    total = len(gathered.ends)
    if not pictures:
        raise DataError(f"{where}: no images; export the file again")
    with each():
        _refuse_all(gathered, where)
    if strangers == total > 0 and not strict():  # else each is told
        raise DataError(f'{where}: no annotation\'s "image_id" is the id of an image; export the file again')
    others = {other: file for other, file in files.items() if other != split}
    images = Images(archive, split, others, partial(named_images, archive, others.values()))
    paths = find_images(where, pictures.values(), images, image_folders(name, split))
    items = tuple(
        Item(image_id, path, name, row, id)
        for row, (image_id, (id, path)) in enumerate(zip(image_ids(paths.values()), paths.items(), strict=True))
    )
    left_out = [f"{count} {what}" for what, count in gathered.counts.items()]
    if strangers and not strict():
        left_out.append(f"{strangers} annotations of images that the file does not list")
    if roots:
        left_out.append(f"{len(roots)} category that only groups others and has no annotations (id {some(roots)})")
    reader = _reader(gathered, labels, paths)
    return Split(archive, categories, items, reader, tuple(left_out), origin=Origin(name, reader.ids))


def open_annotations(archive: Archive, name: str) -> Split:
    """Open a JSON file without its images, which it must give the sizes of. Raises DataError."""
    where, gathered = archive.where(name), _gather(archive, name)
    categories, labels = _categories(gathered, where)
    pictures = gathered.pictures
    for picture in pictures.values():
        if picture.size is None:
            raise DataError(
                f"{where}: image {picture.file_name} has no height and width, which masks need where the image "
                "itself is not at hand; export the file again, or give the data set with its images"
            )
    ids = image_ids(picture.file_name for picture in pictures.values())
    items = tuple(
        Item(image_id, picture.file_name, name, row, id, picture.size)
        for row, (image_id, (id, picture)) in enumerate(zip(ids, pictures.items(), strict=True))
    )
    left_out = tuple(f"{count} {what}" for what, count in gathered.counts.items())
    return Split(archive, categories, items, _reader(gathered, labels, pictures), left_out)


def _categories(
    found: "_Gathered", where: str, roots: tuple[int, ...] = ()
) -> tuple[tuple[Category, ...], dict[int, int]]:
    """Give the categories, and the place of each by its id."""
    categories = read_categories(found.categories, where, things=True, ignored=roots)
    labels = {category.id: label for label, category in enumerate(categories)}
    for id, entry in found.used.items():
        if id not in labels and not strict():  # else each annotation is told when its image is read
            raise DataError(f"{where}: {entry}: {_no_category(id, labels)}")
    return categories, labels


def _refuse_all(gathered: "_Gathered", where: str) -> None:
    """Raise DataError where no annotation is of any use. None is kept, to look at the images without them."""
    total = len(gathered.ends)
    if not total and gathered.counts:
        counts = ", ".join(f"{count} {what}" for what, count in gathered.counts.items())
        gathered.counts.clear()
        raise DataError(f"{where}: none of the annotations has a mask: {counts}; export segmentations")
    if total and gathered.shares == total:
        gathered.rows.clear()
        raise DataError(
            f"{where}: all polygons lie within 1.5 pixels of the top left corner: their coordinates are shares of "
            "the width and height; multiply them, as COCO's are pixels"
        )


@dataclass
class _Gathered:
    """What a file says, not yet compared with each other: annotations may come before the images they are of."""

    pictures: dict[int | str, Picture]
    categories: list[Entry]
    text: bytearray
    """Of all annotations that have a mask, one after another."""
    ends: list[int]
    """Where each of them ends in the text."""
    rows: dict[int | str, list[int]]
    """Which of them are those of each image."""
    used: dict[int, str]
    """Each category that has annotations, with one of them."""
    counts: Counter[str]
    """What has no mask."""
    shares: int = 0
    """How many of the annotations have no coordinate above 1.5."""


def _gather(archive: Archive, name: str) -> _Gathered:
    where = archive.where(name)
    found = _Gathered({}, [], bytearray(), [], {}, {}, Counter())
    ids = set()
    for entry in entries(archive, name):
        with each():
            if entry.list == "annotations":
                id = entry.values.get("id")
                if id is not None:
                    if not is_id(id) or id in ids:
                        wrong = "two annotations have this id" if is_id(id) else "no id"
                        raise DataError(f'{where}: {entry.place}: "id" is {id!r:.60}: {wrong}; number them anew')
                    ids.add(id)
                _gather_annotation(entry, where, found)
            elif entry.list == "categories":
                found.categories.append(entry)
            else:
                add_picture(found.pictures, entry, where)
    return found


def _tell_strangers(found: _Gathered, where: str) -> None:
    """Tell the annotations of images that the file does not list."""
    for image, rows in found.rows.items():
        if image not in found.pictures:
            texts = (found.text[found.ends[row - 1] if row else 0 : found.ends[row]] for row in rows)
            ids = some(json.loads(text).get("id", "without id") for text in texts)
            which = f"annotation {ids}" if len(rows) == 1 else f"{len(rows)} annotations ({ids})"
            tell(DataError(f'{where}: {which}: "image_id" is {image!r:.60}, which "images" does not list'))


def _no_category(id: int, labels: Iterable[int]) -> str:
    return (
        f"category_id {id!r} is not among the categories ({some(sorted(labels))}); add the category, or remove "
        "its annotations"
    )


def _gather_annotation(entry: Entry, where: str, found: _Gathered) -> None:
    values, place = entry.values, f"annotation {entry.values.get('id', entry.place)}"
    image, category, segmentation = values.get("image_id"), values.get("category_id"), values.get("segmentation")
    if not is_id(image):
        raise DataError(f'{where}: {place}: "image_id" is {image!r:.60}; expected the id of an image')
    if not isinstance(category, int) or isinstance(category, bool):
        raise DataError(f'{where}: {place}: "category_id" is {category!r:.60}; expected the id of a category')
    flag(values, "iscrowd", False, f"{where}: {place}")
    if not segmentation:
        found.counts["annotations without a mask (boxes only)"] += 1
        return
    if isinstance(segmentation, list):
        outlines = _outlines(segmentation)
        _tell_degenerate(segmentation, f"{where}: {place}")
        if len(outlines) < len(segmentation) and not strict():
            found.counts["polygons of fewer than three points"] += len(segmentation) - len(outlines)
        if not outlines:
            if not strict():
                found.counts["annotations without a mask (no polygon of three points)"] += 1
            return
    elif not (isinstance(segmentation, dict) and {"counts", "size"} <= segmentation.keys()):
        raise DataError(
            f'{where}: {place}: "segmentation" is {segmentation!r:.60}; expected a list of polygons '
            '[x0, y0, x1, y1, ...], or {"size": [height, width], "counts": ...}'
        )
    found.used.setdefault(category, place)
    if _is_empty(segmentation) and not strict():  # else it is told when its image is read
        found.counts["annotations whose outline has no pixels"] += 1
        return
    found.shares += isinstance(segmentation, list) and _is_share(segmentation)
    found.rows.setdefault(image, []).append(len(found.ends))
    found.text += entry.text.encode()
    found.ends.append(len(found.text))


def _tell_degenerate(segmentation: list[Any], place: str) -> None:
    """Tell the polygons without an area, where faults are collected; beside others, they are but worth a look."""
    if not strict():
        return
    outlines = _outlines(segmentation)
    if not outlines:
        tell(DataError(f"{place}: segmentation: no polygon of three points or more; draw it again, or remove it"))
        return
    flat = [index for index, ring in enumerate(segmentation) if polygon_area(ring) < _NO_AREA]
    for index in flat if len(flat) < len(segmentation) else ():
        points = len(segmentation[index]) // 2
        why = f"{points} points" if points < 3 else "its points lie on a line"
        tell(Remark(f"{place}: segmentation[{index}] has no area ({why}); remove this polygon"))


def _outlines(segmentation: list[Any]) -> list[Any]:
    """Leave out polygons that are lines or points. What is no polygon stays, to be refused."""
    return [ring for ring in segmentation if not isinstance(ring, list) or len(ring) >= 6]


def _roots(categories: list[Entry], archive: Archive, files: Mapping[str, str]) -> tuple[int, ...]:
    """Give the ids of categories that are but the root of others, in all splits: Roboflow puts one first."""
    named = [
        (entry.values.get("id"), entry.values.get("name"), entry.values.get("supercategory"))
        for entry in categories
    ]
    roots = {
        id
        for id, name, above in named
        if above == "none"
        and isinstance(id, int)
        and isinstance(name, str)
        and any(group == name and other != id for other, _, group in named)
    }
    if roots:
        roots -= {int(id) for file in files.values() for id in _CATEGORY_ID.findall(archive.read(file))}
    return tuple(sorted(roots))


def _reader(found: _Gathered, labels: Mapping[int, int], images: Iterable[int | str]) -> _Reader:
    """Bring the annotations into the order of their images."""
    images = list(images)
    ends = np.array(found.ends, dtype=np.int64)
    spans = np.stack([np.concatenate([[0], ends[:-1]])[: len(ends)], ends], axis=1)
    rows = [found.rows.get(id, []) for id in images]
    order = np.concatenate([np.array(some, dtype=np.int64) for some in rows]) if rows else ends[:0]
    return _Reader(
        labels,
        np.frombuffer(found.text, dtype=np.uint8),
        spans[order],
        np.cumsum([len(some) for some in rows], dtype=np.int64),
        np.array([found.pictures[id].size or (0, 0) for id in images], dtype=np.int64).reshape(-1, 2),
    )


def _is_share(segmentation: list[Any]) -> bool:
    """Tell whether no coordinate is above 1.5: then they are shares of the width and height, not pixels."""
    numbers = (number for ring in segmentation for number in (ring if isinstance(ring, list) else [math.inf]))
    return all(isinstance(number, int | float) and number <= 1.5 for number in numbers)


def _is_empty(segmentation: Any) -> bool:
    """Tell whether polygons have no pixels, wherever they lie."""
    if not isinstance(segmentation, list) or _is_share(segmentation):
        return False
    return all(isinstance(ring, list) and is_speck(ring) for ring in _outlines(segmentation))


def _tell_differences(annotation: dict[str, Any], rle: Rle, place: str) -> None:
    """Tell what an annotation says of its mask that is not so."""
    segmentation = annotation["segmentation"]
    polygons = _outlines(segmentation) if isinstance(segmentation, list) else ()
    pixels = int(RleMasks((rle["size"][0], rle["size"][1]), (rle,)).areas()[0])
    for words in differences(annotation, pixels, bounding_box(rle), polygons):
        tell(Remark(f"{place}: annotation {annotation.get('id', 'without id')}: {words}; export it again"))


def _rle(annotation: dict[str, Any], labels: Mapping[int, int], size: tuple[int, int]) -> Rle:
    segmentation, category = annotation["segmentation"], annotation["category_id"]
    require_finite(segmentation)
    try:
        if category not in labels:  # where faults are collected
            raise ValueError(_no_category(category, labels))
        if isinstance(segmentation, dict):
            return run_lengths(segmentation["counts"], segmentation["size"], size)
        return union(_outlines(segmentation), size)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.get('id', 'without id')}: {error}") from error


def _area(annotation: Mapping[str, Any]) -> float:
    """Give the area that the file tells, NaN where it tells none that could be one."""
    area = annotation.get("area")
    return float(area) if isinstance(area, int | float) and 0 <= area < 2**31 else math.nan


FORMAT = Format(
    "coco-instance",
    "annotations/instances_SPLIT.json beside SPLIT/*.jpg, or SPLIT/_annotations.coco.json among its images",
    _missing,
    _splits,
    _open,
)
