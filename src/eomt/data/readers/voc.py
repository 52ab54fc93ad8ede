"""Read Pascal VOC and what is laid out like it: CVAT's "Segmentation mask 1.1" and Datumaro's VOC.

`ImageSets/Segmentation/SPLIT.txt` lists the images of a split, `JPEGImages/ID.jpg` (or another suffix) has them,
`SegmentationClass/ID.png` their classes and `SegmentationObject/ID.png` their objects; up to two folders may lie
above (`VOCdevkit/VOC2012`).

**Classes** are VOC's 20 and background, a class of stuff that counts in VOC's own mean IoU; or those of a
`labelmap.txt` with lines like `cell:250,50,83::`. Masks are read

- by index where they have a palette: 0 is background, 255 void; grey masks likewise;
- by colour where they are RGB, or where labelmap.txt is there and they are not grey. The cream (224, 224, 192) of
  VOC's borders is void. Colours must be exact.

**Objects**: with `SegmentationObject`, every class but background is a thing. Each index or colour there, but 0
(black) and 255 (cream), is an object; its class is the one that most of its pixels have, background aside. Pixels
of a thing that belong to no object are a crowd of that class. Without `SegmentationObject`, all classes are stuff.

Where masks are not in SegmentationClass, those of `SegmentationClassAug` are read (VOC with the borders of SBD).
They have no objects: things in them are crowds, good for semantic training only.
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES, mask_kind, read_color_map, read_label_map
from eomt.data.parts import Part, distinct, require_size, segments_of
from eomt.data.problems import at_once, each, of_file, strict, tell
from eomt.data.reader import Format, Item, Split
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMAT"]

_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_BACKGROUND = ("background", "_background_", "__background__")
_SET = re.compile(r"((?:[^/]+/){0,2})ImageSets/Segmentation/([^/]+)\.txt")
_LINE = re.compile(r"(?P<name>[^:].*?):\s*(?P<color>\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})\s*(?::[^:]*){0,2}")
_VOID = 255


def _palette_color(index: int) -> tuple[int, int, int]:
    """Give VOC's colour of an index: its bits, lowest first, are dealt out to red, green and blue from the top."""
    red, green, blue = (
        sum((index >> 3 * place + channel & 1) << 7 - place for place in range(3)) for channel in range(3)
    )
    return red, green, blue


def _number(color: tuple[int, int, int]) -> int:
    """Give a colour as `read_color_map` has it."""
    return color[0] + 256 * color[1] + 65536 * color[2]


_BORDER = _number(_palette_color(_VOID))


@dataclass(frozen=True)
class _Code:
    """What indices and colours in the masks of a data set mean."""

    categories: tuple[Category, ...]
    is_own: bool
    """From labelmap.txt."""

    def labels(self, archive: Archive, name: str, size: tuple[int, int]) -> NDArray[np.int64]:
        """Read the class of each pixel, -1 for void. Raises DataError or ValueError."""
        data, where = archive.read(name), archive.where(name)
        kind = mask_kind(data, where)
        by_color = kind == "color" or (kind == "palette" and self.is_own)
        values = read_color_map(data, where) if by_color else read_label_map(data, where).values
        require_size(values, size)
        numbers, positions = distinct(values)
        label_of = self._colors() if by_color else {index: index for index in range(len(self.categories))}
        label_of.setdefault(_BORDER if by_color else _VOID, -1)
        for index, number in enumerate(numbers.tolist()):
            with each():
                if number not in label_of:
                    y, x = np.argwhere(positions == index)[0]
                    raise ValueError(f"at x {x}, y {y}: {self._unknown(number, by_color)}")
        return np.array([label_of.get(number, -1) for number in numbers.tolist()], dtype=np.int64)[positions]

    def _colors(self) -> dict[int, int]:
        return {_number(category.color): label for label, category in enumerate(self.categories)}

    def _unknown(self, number: int, by_color: bool) -> str:
        value = f"index {number}"
        if by_color:
            value = f"colour ({number & 255}, {number >> 8 & 255}, {number >> 16})"
        if self.is_own:
            return f"{value} is not in labelmap.txt; add its line, or export masks and labelmap.txt together"
        return (
            f"{value} is no class of VOC; for other classes, write labelmap.txt beside ImageSets, with lines "
            "like cell:250,50,83::"
        )


class _Tree(NamedTuple):
    """What there is of a data set in an archive."""

    top: str
    """The folder that holds ImageSets, with a slash at its end; or nothing."""
    sets: dict[str, str]
    """Names of splits to their lists."""


def _trees(archive: Archive) -> list[_Tree]:
    """Look what lists of images there are."""
    found: dict[str, dict[str, str]] = {}
    for name in archive.names():
        match = _SET.fullmatch(name)
        if match:
            found.setdefault(match[1], {})[match[2]] = name
    return [_Tree(top, sets) for top, sets in found.items()]


def _absent(archive: Archive, tree: _Tree) -> str | None:
    if not archive.names(f"{tree.top}SegmentationClass"):
        return f"{tree.top}SegmentationClass/*.png"
    if not archive.names(f"{tree.top}JPEGImages"):
        return f"{tree.top}JPEGImages/*.jpg (in CVAT, export with images; or put them there)"
    return None


def _missing(archive: Archive) -> str | None:
    trees = _trees(archive)
    if not trees:
        return "ImageSets/Segmentation/SPLIT.txt"
    absent = [_absent(archive, tree) for tree in trees]
    return None if None in absent else absent[0]


def _tree(archive: Archive) -> _Tree | None:
    """Find the data set. Raises DataError where there are several: VOC2007 beside VOC2012."""
    trees = [tree for tree in _trees(archive) if _absent(archive, tree) is None]
    if len(trees) > 1:
        tops = " and ".join(tree.top.rstrip("/") or "." for tree in trees)
        raise DataError(f"{archive.path}: holds several data sets of this layout, {tops}; give the path of one")
    return trees[0] if trees else None


def _splits(archive: Archive) -> tuple[str, ...]:
    """List the splits of which some image has a mask (VOC's own test has none)."""
    tree = _tree(archive)
    if tree is None:
        return ()
    masks = _files(archive, f"{tree.top}SegmentationClass") | _files(archive, f"{tree.top}SegmentationClassAug")
    return tuple(split for split, name in sorted(tree.sets.items()) if _has_masks(archive, name, masks))


def _has_masks(archive: Archive, name: str, masks: Container[str]) -> bool:
    """Tell whether a list names an image with a mask; one that cannot be read is told when it is opened."""
    try:
        return any(id in masks for id in _listed(archive, name, twice=True))
    except DataError:
        return True


def _files(archive: Archive, folder: str, suffixes: tuple[str, ...] = (".png",)) -> dict[str, str]:
    """Map ids (stems, with subfolders) to files. Raises DataError where two files have one."""
    found: dict[str, str] = {}
    for name in archive.names(folder):
        path = PurePosixPath(name).relative_to(folder)
        if path.suffix.lower() in suffixes:
            id = str(path.with_suffix(""))
            with each():
                if id in found:
                    words = f"{archive.path}: {found[id]} and {name} have one stem; rename or remove one"
                    raise DataError(words, file=name)
                found[id] = name
    return found


def _listed(archive: Archive, name: str, twice: bool = False) -> tuple[str, ...]:
    """Read the ids of a split. Raises DataError, for one that is listed twice too unless that is to be passed."""
    where = archive.where(name)
    with of_file(name):
        lines = [line.strip() for line in _text(archive.read(name), where).splitlines()]
    ids = [line.strip('"') if line.count('"') == 2 else line for line in lines if line]  # Datumaro quotes spaces
    for id, count in Counter(ids).items():
        with each():
            if count > 1 and not twice:
                raise DataError(f"{where}: lists {id} twice; remove one of the lines", file=name)
    return tuple(dict.fromkeys(ids))


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from error


def _open(archive: Archive, split: str) -> Split:
    tree = _tree(archive)
    known = _splits(archive)
    if tree is None or split not in known:
        raise DataError(
            f"{archive.path}: no split {split!r} with masks in ImageSets/Segmentation; it has "
            f"{', '.join(known) or 'none'}"
        )
    with of_file(tree.sets[split]):
        return _open_list(archive, tree, split)


def _open_list(archive: Archive, tree: _Tree, split: str) -> Split:
    ids = _listed(archive, tree.sets[split])
    where = archive.where(tree.sets[split])
    images = _files(archive, f"{tree.top}JPEGImages", IMAGE_SUFFIXES)
    _require(ids, images, f"{tree.top}JPEGImages", where)
    ids = tuple(id for id in ids if id in images)
    masks, augmented = _files(archive, f"{tree.top}SegmentationClass"), False
    if any(id not in masks for id in ids):
        more = _files(archive, f"{tree.top}SegmentationClassAug")
        augmented = all(id in more for id in ids)
        masks = more if augmented else masks
    _require(ids, masks, f"{tree.top}SegmentationClass", where)
    ids = tuple(id for id in ids if id in masks)
    objects = _files(archive, f"{tree.top}SegmentationObject")
    code = _code(archive, tree.top, bool(objects))
    left_out: tuple[str, ...] = ()
    if augmented and objects:
        left_out = (f"the objects of {len(ids)} images (SegmentationClassAug does not tell them apart)",)
    elif objects:
        _require(ids, objects, f"{tree.top}SegmentationObject", where)
    items = tuple(Item(id, images[id], masks[id], None if augmented else objects.get(id)) for id in ids)
    if strict():
        with each():  # where a list cannot be read, it is not known which masks are of no list
            _tell_strangers(archive, tree, (*masks.items(), *objects.items()))
    return Split(archive, code.categories, items, partial(_read, code), left_out)


def _tell_strangers(archive: Archive, tree: _Tree, masks: Iterable[tuple[str, str]]) -> None:
    """Tell the masks of images that are in no list."""
    listed = {id for name in tree.sets.values() for id in _listed(archive, name, twice=True)}
    for id, mask in masks:
        if id not in listed:
            words = f"{archive.where(mask)}: no list in ImageSets/Segmentation names its image {id}"
            tell(DataError(words, file=mask))


def _require(ids: tuple[str, ...], files: dict[str, str], folder: str, where: str) -> None:
    lonely = [id for id in ids if id not in files]
    for some in at_once(lonely):
        with each():
            raise DataError(
                f"{where}: {len(lonely)} of {len(ids)} images are not in {folder}: {', '.join(some[:3])}"
                f"{', ...' if len(some) > 3 else ''}; add their files, or remove them from the list"
            )


def _code(archive: Archive, top: str, objects: bool) -> _Code:
    """Read the classes: of labelmap.txt, or VOC's."""
    file = f"{top}labelmap.txt"
    is_own = archive.exists(file)
    entries = [(name, _palette_color(index)) for index, name in enumerate(_NAMES)]
    if is_own:
        with of_file(file):
            entries = _label_map(_text(archive.read(file), archive.where(file)), archive.where(file))
    categories = tuple(
        Category(name, objects and name.lower() not in _BACKGROUND, index, color)
        for index, (name, color) in enumerate(entries)
    )
    return _Code(categories, is_own)


def _label_map(text: str, where: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Read names and colours. Raises DataError naming the line."""
    entries: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        with each():
            match = _LINE.fullmatch(line.strip())
            red, green, blue = (int(part) for part in match["color"].split(",")) if match else (256, 0, 0)
            if match is None or max(red, green, blue) > 255:
                raise DataError(f"{where}: line {number} is {line!r:.60}; write it like cell:250,50,83::")
            name, color = match["name"].strip(), (red, green, blue)
            same = next((other for other, taken in entries.items() if other == name or taken == color), None)
            if same is not None:
                raise DataError(
                    f"{where}: line {number}: {same} and {name} have one name or colour, so that masks do not "
                    "tell them apart; give each its own, or remove a line that no mask needs"
                )
            entries[name] = color
    if not entries:
        raise DataError(f"{where}: no labels; write a line each like cell:250,50,83::")
    return list(entries.items())


def _read(code: _Code, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    labels = code.labels(archive, item.annotation, size)
    if item.content is None:
        return segments_of(labels, partial(_part_of_label, code.categories))
    numbers = _objects(archive, item.content, size)
    # Each object and each class in it: one number.
    width = len(code.categories) + 1
    combined = numbers * width + labels + 1
    part_of = _meaning(combined, code.categories, item.content)
    return segments_of(combined, part_of)


def _part_of_label(categories: tuple[Category, ...], label: int) -> Part | None:
    return None if label < 0 else Part(label, is_crowd=categories[label].is_thing)


def _objects(archive: Archive, name: str, size: tuple[int, int]) -> NDArray[np.int64]:
    """Number the objects from 2 on; 0 is none, 1 is void. Raises DataError or ValueError."""
    data, where = archive.read(name), archive.where(name)
    values: NDArray[Any]
    with of_file(name):
        if mask_kind(data, where) == "color":
            values, void = read_color_map(data, where), _BORDER
        else:
            values, bits = read_label_map(data, where)
            void = _VOID if bits <= 8 else -1
    require_size(values, size, f"the mask of objects {name}")
    found, positions = distinct(values)
    return np.where(found == 0, 0, np.where(found == void, 1, np.arange(2, len(found) + 2)))[positions]


def _meaning(
    combined: NDArray[np.int64], categories: tuple[Category, ...], name: str
) -> Callable[[int], Part | None]:
    """Give what the numbers of objects with their classes mean. Its pixels decide the class of an object."""
    width = len(categories) + 1
    numbers, positions = distinct(combined)
    pixels = np.bincount(positions.ravel())
    best: dict[int, tuple[int, int]] = {}  # object -> pixels and label of the class that most of them have
    for number, count in zip(numbers.tolist(), pixels.tolist(), strict=True):
        id, label = number // width, number % width - 1
        if label >= 0 and categories[label].is_thing:
            best[id] = max(best.get(id, (0, 0)), (count, label))

    def part_of(number: int) -> Part | None:
        id, label = number // width, number % width - 1
        if id == 0:
            return _part_of_label(categories, label)
        if id == 1 or (id not in best and label < 0):
            return None
        if id not in best:
            raise ValueError(f"an object of {name} is background in the mask of classes; export both together")
        return Part(best[id][1], number=id)

    return part_of


FORMAT = Format(
    "voc",
    "ImageSets/Segmentation/SPLIT.txt, JPEGImages/*.jpg, SegmentationClass/*.png and, for objects, "
    "SegmentationObject/*.png",
    _missing,
    _splits,
    _open,
)
