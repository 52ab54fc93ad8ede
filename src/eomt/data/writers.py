"""Write annotated images in layouts that other tools read, one image at a time: COCO's two, YOLO's, masks.

Image files are written as they are. Whatever a layout cannot hold is counted in `lost`, in words that follow a
number. Which images are written, under which names, and into which folder, is left to `convert`.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

import numpy as np
import yaml
from jaxtyping import Int
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from eomt.categories import Category
from eomt.errors import DataError
from eomt.masks import IdMap, Rle, bounding_box, decode_rle, rle_of_polygons, trace_polygons
from eomt.types import ANY_CLASS, Segments

__all__ = [
    "YOLO_SPLITS",
    "CocoPanopticWriter",
    "CocoWriter",
    "Heading",
    "MaskWriter",
    "Picture",
    "Writer",
    "YoloWriter",
    "free_name",
]

YOLO_SPLITS = ("train", "val", "test")
"""The splits that YOLO knows."""
_VOID = 255
_COLORS = 2**24 - 1
"""The largest id of a segment that is a colour."""
_MOST = {8: 2**8 - 1, 16: 2**16 - 1, 32: 2**31 - 1}
"""The largest number that a pixel of so many bits is read as."""
_DIVISORS = (1000, 10_000, 100_000, 1_000_000)

IGNORED = "ignored regions of no class: left out"
CROWDS = "crowds, which this layout does not know: left out"
EMPTY = "segments without pixels: left out"
COVERED = "segments that gave pixels to another that has them too: a thing, or the smaller one"
COVERED_PIXELS = "pixels given to another segment"
HIDDEN = "segments wholly under others: left out"
JOINED = "segments of stuff joined with another of their class in the image"
REPEATED = "segments of the same class and pixels as another in the image: left out"
INEXACT = "outlines that do not give back every pixel"
ENDLESS = "segments with outlines too long for a polygon: left out"
STUFF = "classes of stuff, which are things in this layout"
COLORS = "colours of classes"
NO_COLORS = "ids of segments in COCO's files that are no colours of their own: numbered anew"
RENUMBERED = "ids of classes, numbered from 0"
REORDERED = "classes in another order: by their ids"


class Picture(NamedTuple):
    """An image to be written."""

    file_name: str
    """Below the folder of its split."""
    data: bytes
    number: int | str
    """Its id in files that number images."""
    fields: Mapping[str, Any]
    """What else such files say of it ..."""
    of_segments: Sequence[Mapping[str, Any]]
    """... and of its segments, `id` too, in their order; or nothing."""

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return str(PurePosixPath(self.file_name).with_suffix(""))


class Heading(NamedTuple):
    """What files of COCO's say besides images and segments."""

    members: Mapping[str, Any]
    """Beside the lists: `info`, `licenses`."""
    categories: Mapping[tuple[int, str], Mapping[str, Any]]
    """Other fields of a category, by its id and name: `supercategory`."""


Add = Callable[[Picture, Segments], Segments]
"""Writes an image; gives the segments that are there now."""


@runtime_checkable
class Writer(Protocol):
    """Writes a data set into an empty folder."""

    lost: Counter[str]
    """What could not be held, each with a count."""

    def split(self, name: str, heading: Heading) -> AbstractContextManager[Add]:
        """Write a split: each image is added within."""

    def close(self) -> None:
        """Write what belongs to all splits."""


class _CocoFile:
    """A JSON file of COCO's: annotations are written as they come, images last."""

    def __init__(self, file: TextIO, categories: Sequence[Category], heading: Heading):
        listed = []
        for each in categories:
            own = {"id": each.id, "name": each.name, "isthing": int(each.is_thing), "color": list(each.color)}
            listed.append({**own, **heading.categories.get((each.id, each.name), {})})
        self._file, self._images, self.count = file, list[str](), 0
        head = {"info": {}, "licenses": [], **heading.members, "categories": listed}
        file.write(json.dumps(head).removesuffix("}") + ',\n"annotations": [')

    def annotate(self, values: Mapping[str, Any]) -> None:
        """Write an annotation."""
        self._file.write((",\n" if self.count else "\n") + json.dumps(values))
        self.count += 1

    def list_image(self, picture: Picture, size: tuple[int, int]) -> None:
        """Keep the entry of an image."""
        values = {"id": picture.number, "file_name": picture.file_name, "height": size[0], "width": size[1]}
        self._images.append(json.dumps({**values, **picture.fields}))

    def close(self) -> None:
        """Write the images."""
        self._file.write('\n],\n"images": [\n' + ",\n".join(self._images) + "\n]}\n")


@contextmanager
def _coco_file(path: Path, categories: Sequence[Category], heading: Heading) -> Iterator[_CocoFile]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        content = _CocoFile(file, categories, heading)
        yield content
        content.close()


class CocoWriter:
    """COCO's instance annotations: `annotations/instances_SPLIT.json`, images in `SPLIT/`.

    Masks are run-length codes; with `polygons`, outlines along the edges of their pixels (crowds stay codes).
    """

    def __init__(self, root: Path, categories: Sequence[Category], polygons: bool = False):
        self.root, self.categories, self.polygons = root, tuple(categories), polygons
        self.lost: Counter[str] = Counter()
        _count_order(self.categories, self.lost)

    @contextmanager
    def split(self, name: str, heading: Heading) -> Iterator[Add]:
        """Write a split."""
        with _coco_file(self.root / "annotations" / f"instances_{name}.json", self.categories, heading) as file:
            yield partial(self._add, file, self.root / name)

    def close(self) -> None:
        """Nothing belongs to all splits."""

    def _add(self, file: _CocoFile, folder: Path, picture: Picture, segments: Segments) -> Segments:
        kept = _of_classes(segments, self.lost)
        segments, others = segments.select(kept), _others(picture, kept)
        _write(folder / picture.file_name, picture.data)
        file.list_image(picture, segments.masks.size)
        for index, area in enumerate(_areas(segments)):
            rle, crowd = segments.masks.rle(index), bool(segments.is_crowd[index])
            file.annotate(
                {
                    "id": file.count + 1,
                    **others[index],
                    "image_id": picture.number,
                    "category_id": self.categories[int(segments.labels[index])].id,
                    "iscrowd": int(crowd),
                    "area": area,
                    "bbox": list(bounding_box(rle)),
                    "segmentation": self._segmentation(rle, crowd),
                }
            )
        return segments

    def _segmentation(self, rle: Rle, crowd: bool) -> Any:
        code = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        rings = [] if crowd or not self.polygons else _parts(decode_rle(rle))
        if not rings:
            return code
        flat = [ring.ravel().tolist() for ring in rings]
        exact = _is_exact(flat, rle)
        if exact is None:
            self.lost["outlines too long for a polygon: kept as run-length codes"] += 1
            return code
        self.lost[INEXACT] += not exact
        return flat


class CocoPanopticWriter:
    """COCO's panoptic annotations: `annotations/panoptic_SPLIT.json`, `annotations/panoptic_SPLIT/*.png`."""

    def __init__(self, root: Path, categories: Sequence[Category]):
        self.root, self.categories = root, tuple(categories)
        self.lost: Counter[str] = Counter()
        _count_order(self.categories, self.lost)

    @contextmanager
    def split(self, name: str, heading: Heading) -> Iterator[Add]:
        """Write a split."""
        path = self.root / "annotations" / f"panoptic_{name}.json"
        with _coco_file(path, self.categories, heading) as file:
            yield partial(self._add, file, path.with_suffix(""), set(), self.root / name)

    def close(self) -> None:
        """Nothing belongs to all splits."""

    def _add(
        self, file: _CocoFile, pngs: Path, taken: set[str], folder: Path, picture: Picture, segments: Segments
    ) -> Segments:
        kept = _of_classes(segments, self.lost)
        segments, left = _disjoint(segments.select(kept), self.categories, self.lost)
        others = _others(picture, [kept[place] for place in left])
        assert isinstance(segments.masks, IdMap)
        numbers = self._ids(others)
        ids = np.array([0, *numbers])[segments.masks.ids]
        png = free_name(picture.stem.replace("/", "_"), taken) + ".png"  # all in one folder, as COCO has them
        _write(folder / picture.file_name, picture.data)
        _write(pngs / png, _encoded(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)))
        file.list_image(picture, segments.masks.size)
        info = []
        boxes = _boxes(segments.masks.ids)
        for index, (area, box) in enumerate(zip(segments.masks.areas().tolist(), boxes, strict=True)):
            category = self.categories[int(segments.labels[index])].id
            crowd = int(segments.is_crowd[index])
            own = {
                "id": numbers[index],
                "category_id": category,
                "iscrowd": crowd,
                "area": area,
                "bbox": list(box),
            }
            info.append({**others[index], **own})
        file.annotate({"image_id": picture.number, "file_name": png, "segments_info": info})
        return segments

    def _ids(self, others: Sequence[Mapping[str, Any]]) -> list[int]:
        """Take the ids that segments have, where each is a colour of its own; else number them."""
        given = [each["id"] for each in others if "id" in each]
        if len(set(given)) == len(others) and all(isinstance(id, int) and 0 < id <= _COLORS for id in given):
            return given
        self.lost[NO_COLORS] += len(given)
        return list(range(1, len(others) + 1))


class YoloWriter:
    """YOLO's labels: `data.yaml`, `images/SPLIT/*`, and `labels/SPLIT/*.txt` with a polygon a segment.

    Parts and holes of a segment are joined to one polygon by lines that it walks there and back.
    """

    def __init__(self, root: Path, categories: Sequence[Category]):
        self.root, self.categories = root, tuple(categories)
        ids = [category.id for category in categories]
        self.numbers = ids if sorted(ids) == list(range(len(ids))) else list(range(len(ids)))
        self.splits: list[str] = []
        self.lost: Counter[str] = Counter()
        self.lost[STUFF] = sum(not category.is_thing for category in categories)
        self.lost[COLORS] = len(ids)
        self.lost[RENUMBERED] = sum(id != number for id, number in zip(ids, self.numbers, strict=True))

    @contextmanager
    def split(self, name: str, heading: Heading) -> Iterator[Add]:
        """Write a split. Raises DataError for a name that the layout does not know."""
        if name not in YOLO_SPLITS:
            raise DataError(
                f"split {name!r}: YOLO's data.yaml knows train, val and test only; make such splits with "
                "`eomt data split`, or name one split with --splits"
            )
        self.splits.append(name)
        yield partial(self._add, f"images/{name}")

    def close(self) -> None:
        """Write `data.yaml`."""
        names = {number: self.categories[label].name for label, number in enumerate(self.numbers)}
        content = {split: f"images/{split}" for split in self.splits} | {"names": dict(sorted(names.items()))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1 << 20)
        _write(self.root / "data.yaml", text.encode())

    def _add(self, folder: str, picture: Picture, segments: Segments) -> Segments:
        segments = _without_crowds(segments, self.lost)
        image = f"{folder}/{picture.file_name}"
        lines: dict[str, int] = {}
        for index, label in enumerate(segments.labels.tolist()):
            line = self._line(segments.masks.rle(index), label)
            if line is not None:
                self.lost[REPEATED] += line in lines
                lines.setdefault(line, index)
        _write(self.root / image, picture.data)
        _write(self.root / _label_file(image), "".join(f"{line}\n" for line in lines).encode())
        return segments.select(list(lines.values()))

    def _line(self, rle: Rle, label: int) -> str | None:
        height, width = rle["size"]
        ring = _outline(trace_polygons(decode_rle(rle)))
        exact = _is_exact([ring.ravel().tolist()], rle)
        if exact is None:
            self.lost[ENDLESS] += 1
            return None
        self.lost[INEXACT] += not exact
        shares = (ring / (width, height)).ravel().tolist()
        return " ".join([str(self.numbers[label]), *(f"{share:.8g}" for share in shares)])


class MaskWriter:
    """Images beside masks, as `docs/data.md` has them: `images/SPLIT/*`, `masks/SPLIT/*`, `categories.json`.

    Where all classes are stuff, masks hold their numbers in 8 bits (of more than 255 classes, in 16). Otherwise
    they number objects in 16 bits, or, where numbers do not fit, in TIFF files of 32.
    """

    def __init__(self, root: Path, categories: Sequence[Category], most: Mapping[int, int]):
        """`most`: for each label that is a thing, the most objects in an image; of one thing it is not asked for.

        Raises DataError where no number of 32 bits can tell class and object.
        """
        self.root, self.categories = root, tuple(categories)
        self.lost: Counter[str] = Counter()
        self.things = [label for label, category in enumerate(categories) if category.is_thing]
        self.divisor = _divisor(self.categories, most) if len(self.things) > 1 else None
        self.values = _stuff_values(self.categories, self.divisor)
        self.bits = 16 if self.things or max(self.values.values()) >= _VOID else 8
        self.void = 0 if self.things else _MOST[self.bits]

    @contextmanager
    def split(self, name: str, heading: Heading) -> Iterator[Add]:
        """Write a split."""
        yield partial(self._add, self.root / "images" / name, self.root / "masks" / name)

    def close(self) -> None:
        """Write `categories.json`."""
        entries: list[dict[str, Any]] = []
        for label, (name, is_thing, id, color) in enumerate(self.categories):
            entry = {"name": name, "is_thing": is_thing, "id": id, "color": list(color)}
            if label in self.values and (self.things or self.values[label] != id):
                entry["pixel_value"] = self.values[label]
            entries.append(entry)
        content: dict[str, Any] = {"masks": "instance" if self.things else "semantic", "void": [self.void]}
        if self.divisor is not None:
            content["label_divisor"] = self.divisor
        _write(self.root / "categories.json", json.dumps(content | {"categories": entries}, indent=1).encode())

    def _add(self, images: Path, masks: Path, picture: Picture, segments: Segments) -> Segments:
        segments, _ = _disjoint(_without_crowds(segments, self.lost), self.categories, self.lost)
        stuff = [label for label, category in enumerate(self.categories) if not category.is_thing]
        whole = segments.merged(stuff)
        self.lost[JOINED] += len(segments) - len(whole)
        assert isinstance(whole.masks, IdMap)
        table = np.array([self.void, *self._numbers(whole.labels.tolist())], dtype=np.int64)
        bits = self.bits if table.max() <= _MOST[self.bits] else 32
        values = table[whole.masks.ids].astype({8: np.uint8, 16: np.uint16, 32: np.int32}[bits])
        _write(images / picture.file_name, picture.data)
        _write(masks / (picture.stem + (".png" if bits < 32 else ".tif")), _encoded(values))
        return whole

    def _numbers(self, labels: list[int]) -> Iterator[int]:
        """Number the segments of an image."""
        seen: Counter[int] = Counter()
        for label in labels:
            seen[label] += 1
            if label in self.values:
                yield self.values[label]
            elif self.divisor is None:
                yield len(self.values) + seen[label]  # behind those of stuff
            else:
                yield self.categories[label].id * self.divisor + seen[label]


def _divisor(categories: tuple[Category, ...], most: Mapping[int, int]) -> int:
    """Choose by what ids of classes are multiplied, so that 16 bits suffice if they can."""
    objects = max(most.values(), default=0)
    id = max(categories[label].id for label in most) if most else 0
    largest = {bits: (_MOST[bits] + 1) // (id + 1) for bits in (16, 32)}
    for limit in largest.values():
        for divisor in (*_DIVISORS, limit):
            if objects < divisor <= limit and divisor > 1:
                return divisor
    raise DataError(
        f"masks: the class id {id} with {objects} objects in an image makes numbers of more than 31 bits; convert "
        "to coco or coco-panoptic, or give the class a smaller id"
    )


def _stuff_values(categories: tuple[Category, ...], divisor: int | None) -> dict[int, int]:
    """Number the classes of stuff: by their ids where all are stuff and fit, else by what objects leave free."""
    stuff = [label for label, category in enumerate(categories) if not category.is_thing]
    if len(stuff) == len(categories):
        ids = [category.id for category in categories]
        return dict(enumerate(ids if max(ids) < _VOID else range(len(ids))))
    things = {category.id for category in categories if category.is_thing}
    free = (value for value in range(1, _MOST[32]) if divisor is None or value // divisor not in things)
    return dict(zip(stuff, free, strict=False))


def _disjoint(
    segments: Segments, categories: Sequence[Category], lost: Counter[str]
) -> tuple[Segments, list[int]]:
    """Give every pixel to one segment at most: crowds lie lowest, then stuff, then the larger things.

    Gives the segments that have pixels left, and their places among those that were there.
    """
    areas = segments.masks.areas()
    if isinstance(segments.masks, IdMap):
        ids = segments.masks.ids
    else:
        is_thing = [categories[label].is_thing for label in segments.labels.tolist()]
        keys = list(zip((~segments.is_crowd).tolist(), is_thing, (-areas).tolist(), strict=True))
        ids = np.zeros(segments.masks.size, dtype=np.int32)
        for index in sorted(range(len(segments)), key=keys.__getitem__):
            ids[segments.masks.mask(index)] = index + 1
    left = np.bincount(ids.ravel(), minlength=len(segments) + 1)[1:]
    lost[HIDDEN] += int((left == 0).sum())
    lost[COVERED] += int(((left > 0) & (left < areas)).sum())
    lost[COVERED_PIXELS] += int((areas - left).sum())
    seen: list[int] = np.flatnonzero(left).tolist()
    return Segments(IdMap(ids, len(segments)), segments.labels, segments.is_crowd).select(seen), seen


def _of_classes(segments: Segments, lost: Counter[str]) -> list[int]:
    """Pass over regions of no class, and segments without pixels, which no reader would give back."""
    ignored, empty = (segments.labels == ANY_CLASS).numpy(), segments.masks.areas() == 0
    lost[IGNORED] += int(ignored.sum())
    lost[EMPTY] += int((empty & ~ignored).sum())
    kept: list[int] = np.flatnonzero(~(ignored | empty)).tolist()
    return kept


def _without_crowds(segments: Segments, lost: Counter[str]) -> Segments:
    """Leave out crowds, and what has no class or no pixels."""
    segments = segments.select(_of_classes(segments, lost))
    crowds = segments.is_crowd.numpy()
    lost[CROWDS] += int(crowds.sum())
    return segments.select(np.flatnonzero(~crowds).tolist())


def _areas(segments: Segments) -> list[int | float]:
    """Give the areas that a file told, else pixels."""
    pixels = segments.masks.areas().tolist()
    told = [math.nan] * len(pixels) if segments.told_areas is None else segments.told_areas.tolist()
    return [count if math.isnan(area) else area for area, count in zip(told, pixels, strict=True)]


def _others(picture: Picture, places: Sequence[int]) -> list[Mapping[str, Any]]:
    """Give what else is said of the segments at these places."""
    return [picture.of_segments[place] if picture.of_segments else {} for place in places]


def _outline(rings: Sequence[Int[np.ndarray, "_ 2"]]) -> Int[np.ndarray, "k 2"]:
    """Join the rings round a mask to one, by lines from each to the next that it walks there and back.

    Drawn so that what is inside is told by crossings (as COCO's tools and OpenCV do), these lines enclose nothing.
    """
    closed = [np.concatenate([ring, ring[:1]]) for ring in rings[:-1]]
    back = np.stack([ring[0] for ring in rings[-2::-1]]) if len(rings) > 1 else rings[0][:0]
    last = rings[-1] if len(rings) == 1 else np.concatenate([rings[-1], rings[-1][:1]])
    return np.concatenate([*closed, last, back])


def _is_exact(rings: list[list[int]], rle: Rle) -> bool | None:
    """Tell whether polygons give back a mask to the pixel; None where they are too long to be read."""
    height, width = rle["size"]
    try:
        found = rle_of_polygons(rings, (height, width))
    except ValueError:
        return None
    return found["counts"] == rle["counts"] or bool((decode_rle(found) == decode_rle(rle)).all())


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Outline the parts of a mask, each by one ring."""
    numbered, _ = ndimage.label(mask)
    rings = []
    for number, place in enumerate(ndimage.find_objects(numbered), 1):
        ring = _outline(trace_polygons(numbered[place] == number))
        rings.append(ring + np.array([place[1].start, place[0].start], dtype=np.int32))
    return rings


def _boxes(ids: NDArray[np.int32]) -> Iterator[tuple[int, int, int, int]]:
    """Give left, top, width and height of the pixels of each number; every one must occur."""
    for rows, columns in ndimage.find_objects(ids):
        yield columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _count_order(categories: Sequence[Category], lost: Counter[str]) -> None:
    ids = [category.id for category in categories]
    lost[REORDERED] = sum(a != b for a, b in zip(ids, sorted(ids), strict=True))


def free_name(name: str, taken: set[str]) -> str:
    """Give a name that is not taken yet, and take it."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def _label_file(image: str) -> str:
    """Name the file of labels of an image: `labels` in place of the last folder called `images`."""
    *folders, name = PurePosixPath(image).with_suffix(".txt").parts
    folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return "/".join((*folders, name))


def _encoded(pixels: NDArray[Any]) -> bytes:
    """Encode a mask: PNG, or TIFF for numbers of 32 bits."""
    file, picture = io.BytesIO(), Image.fromarray(pixels)
    if pixels.dtype == np.int32:
        picture.save(file, "TIFF", compression="tiff_adobe_deflate")
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
