"""Read a folder or zip of images and masks: `images/SPLIT/*`, `masks/SPLIT/*` (same stem) and the categories.

Splits have any names. Masks are PNG (or TIFF) of exactly the upright image's size. A mask without any object is a
negative and kept; an image without a mask is an error. Other files are ignored.

**Categories** stand in `classes.txt` (one name a line, all stuff, numbered from 0) or in `categories.json`: a list
of objects with `name`, `is_thing` (COCO's `isthing` too) and, optionally, `id` (default: the place in the list),
`color` ([r, g, b]) and `pixel_value`; or an object that holds this list as `categories` beside the options below.

**Masks of up to 8 bits are label maps** (grey or palette indices). A value is a category's `pixel_value`, else its
`id`; 255 is void; any other value is an error. Each category that is present is one segment.

**Masks of 16 or 32 bits are instance maps.** A value that is some category's `pixel_value` is one segment of that
category; 0 is void otherwise. Any other value is

- one object of the only category of things; or
- with `label_divisor`, `id * label_divisor + k`: the k-th object of a category of things, or a piece of the one
  segment of a category of stuff (Cityscapes' convention). Several categories of things need it.

Options of the object form: `"masks": "semantic"` or `"instance"` overrules the number of bits, `"void": [0, 255]`
lists the void values in place of the above, `"label_divisor": 1000`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, LabelMap, read_label_map
from eomt.data.reader import Item, Split
from eomt.errors import DataError
from eomt.masks import IdMap
from eomt.types import Segments

__all__ = ["MaskCode", "open_folder", "splits"]

_LAYOUT = "expected images/SPLIT/*, masks/SPLIT/*.png and categories.json or classes.txt"
_OPTIONS = ("categories", "masks", "void", "label_divisor")
_FIELDS = ("name", "is_thing", "isthing", "id", "color", "pixel_value", "supercategory")


@dataclass(frozen=True)
class MaskCode:
    """What the numbers in the masks of a data set mean."""

    categories: tuple[Category, ...]
    pixel_values: tuple[int | None, ...]
    """Of each category, where it declares one."""
    masks: Literal["semantic", "instance"] | None = None
    """None: up to 8 bits semantic, more bits instance."""
    void: tuple[int, ...] | None = None
    """None: 255 in a semantic mask, 0 in an instance mask."""
    label_divisor: int | None = None

    def segments(self, mask: LabelMap) -> Segments:
        """Turn a mask into segments. Raises ValueError for a value that means nothing; its message says which."""
        semantic = self.masks == "semantic" if self.masks else mask.bits <= 8
        label_of = self._semantic() if semantic else self._instance()
        values, positions = _distinct(mask.values)
        ids = np.zeros(len(values), dtype=np.int32)
        labels: list[int] = []
        stuff: dict[int, int] = {}  # label -> its one segment
        for index, value in enumerate(values.tolist()):
            label = label_of(value)
            if label is None:
                continue
            if label in stuff:
                ids[index] = stuff[label]
                continue
            labels.append(label)
            ids[index] = len(labels)
            if not self.categories[label].is_thing:
                stuff[label] = len(labels)
        is_crowd = torch.zeros(len(labels), dtype=torch.bool)
        return Segments(IdMap(ids[positions], len(labels)), torch.tensor(labels, dtype=torch.int64), is_crowd)

    def _semantic(self) -> Callable[[int], int | None]:
        table: dict[int, int | None] = dict.fromkeys((255,) if self.void is None else self.void)
        for label, (category, value) in enumerate(zip(self.categories, self.pixel_values, strict=True)):
            value = category.id if value is None else value
            other = table.get(value)
            if other is not None:
                raise ValueError(
                    f"in a semantic mask, value {value} would be both {self.categories[other].name} and "
                    f'{category.name}; give each its own "pixel_value" in categories.json. A mask of 8 bits is '
                    'read as semantic: if it numbers objects, save it in 16 bits, or set "masks": "instance"'
                )
            table[value] = label

        def label_of(value: int) -> int | None:
            if value not in table:
                raise ValueError(
                    f'value {value} belongs to no category; declare one with "pixel_value": {value} in '
                    'categories.json, list it under "void", or paint it with 255 (void)'
                )
            return table[value]

        return label_of

    def _instance(self) -> Callable[[int], int | None]:
        table: dict[int, int | None] = dict.fromkeys((0,) if self.void is None else self.void)
        table |= {value: label for label, value in enumerate(self.pixel_values) if value is not None}
        by_id = {category.id: label for label, category in enumerate(self.categories)}
        things = [label for label, category in enumerate(self.categories) if category.is_thing]

        def label_of(value: int) -> int | None:
            if value in table:
                return table[value]
            if self.label_divisor is not None:
                id, number = divmod(value, self.label_divisor)
                if id in by_id:
                    return by_id[id]
                raise ValueError(
                    f"value {value} is object {number} of category id {id} by label_divisor {self.label_divisor}, "
                    'but categories.json has no such id; add it, or list the value under "void"'
                )
            if len(things) == 1:
                return things[0]
            if not things:
                raise ValueError(
                    'it is an instance map, but no category is a thing; set "is_thing": true in categories.json, '
                    'or "masks": "semantic" when the values are classes'
                )
            raise ValueError(
                "it is an instance map, and several categories are things; write categories.json as "
                '{"categories": [...], "label_divisor": 1000} and values as id * 1000 + number of the object, '
                'or set "masks": "semantic" when the values are classes'
            )

        return label_of


def _read_segments(code: MaskCode, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    mask = read_label_map(archive.read(item.annotation), archive.where(item.annotation))
    if mask.values.shape != size:
        (mask_height, mask_width), (height, width) = mask.values.shape, size
        raise ValueError(
            f"the mask is {mask_width} x {mask_height}, its image upright {width} x {height}; "
            "export the mask at the image's size (and turn it as the image's EXIF orientation says)"
        )
    return code.segments(mask)


def splits(root: Path | str) -> tuple[str, ...]:
    """List the splits of a folder or zip: the folders below `images/`."""
    return _splits(Archive(root))


def open_folder(root: Path | str, split: str) -> Split:
    """Open a split of a folder or zip. Raises DataError when the layout or the categories are not usable."""
    archive = Archive(root)
    known = _splits(archive)
    if not known:
        raise DataError(f"{archive.path}: no images in a split; {_LAYOUT}")
    if split not in known:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(known)}")
    code = _read_code(archive)
    return Split(archive, code.categories, _pair(archive, split), partial(_read_segments, code))


def _splits(archive: Archive) -> tuple[str, ...]:
    names = (PurePosixPath(name) for name in archive.names("images"))
    return tuple(sorted({name.parts[1] for name in names if len(name.parts) > 2 and _is_image(name)}))


def _is_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _by_stem(archive: Archive, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Map stems (with subfolders) to files. Raises DataError where two files have one stem."""
    found: dict[str, str] = {}
    for name in archive.names(folder):
        path = PurePosixPath(name).relative_to(folder)
        if path.suffix.lower() not in suffixes:
            continue
        stem = str(path.with_suffix(""))
        if stem in found:
            raise DataError(
                f"{archive.path}: {found[stem]} and {name} have one stem; rename or remove one of them"
            )
        found[stem] = name
    return found


def _pair(archive: Archive, split: str) -> tuple[Item, ...]:
    images = _by_stem(archive, f"images/{split}", IMAGE_SUFFIXES)
    masks = _by_stem(archive, f"masks/{split}", MASK_SUFFIXES)
    lonely = [name for stem, name in images.items() if stem not in masks]
    if lonely:
        raise DataError(
            f"{archive.path}: {len(lonely)} of {len(images)} images of {split} have no mask: "
            f"{', '.join(lonely[:3])}{', ...' if len(lonely) > 3 else ''}; put a PNG of the same stem into "
            f"masks/{split} (an empty mask where there is nothing to see), or take the image out"
        )
    return tuple(Item(stem, name, masks[stem]) for stem, name in images.items())


def read_categories(path: Path | str) -> tuple[Category, ...]:
    """Read the classes of a `categories.json` or a `classes.txt` (any name with that suffix). Raises DataError."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".json":
        return _code_from_json_file(content, str(path)).categories
    return _code_from_names(content, str(path)).categories


def _read_code(archive: Archive) -> MaskCode:
    if archive.exists("categories.json"):
        return _code_from_json_file(archive.read("categories.json"), archive.where("categories.json"))
    if archive.exists("classes.txt"):
        return _code_from_names(archive.read("classes.txt"), archive.where("classes.txt"))
    raise DataError(f"{archive.path}: neither categories.json nor classes.txt; {_LAYOUT}")


def _code_from_json_file(content: bytes, where: str) -> MaskCode:
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); correct it") from error
    return _checked(_code_from_json(values, where), where)


def _code_from_names(content: bytes, where: str) -> MaskCode:
    try:
        names = content.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from error
    entries = [{"name": name.strip(), "is_thing": False} for name in names]
    return _checked(_code_from_json(entries, where), where)


def _code_from_json(content: Any, where: str) -> MaskCode:
    options = content if isinstance(content, dict) else {"categories": content}
    _refuse_unknown(options, _OPTIONS, where)
    entries = options.get("categories")
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{where}: no categories; write a list like [{{"name": "cell", "is_thing": true}}]')
    masks, void, divisor = options.get("masks"), options.get("void"), options.get("label_divisor")
    if masks not in (None, "semantic", "instance"):
        raise DataError(f'{where}: "masks" is {masks!r}; use "semantic" or "instance", or leave it out')
    if void is not None and not (isinstance(void, list) and all(map(_is_number, void))):
        raise DataError(f'{where}: "void" is {void!r}; use a list of whole numbers like [0, 255]')
    if divisor is not None and not (_is_number(divisor) and divisor > 1):
        raise DataError(f'{where}: "label_divisor" is {divisor!r}; use a whole number like 1000')
    categories = tuple(_category(entry, index, where) for index, entry in enumerate(entries))
    pixel_values = tuple(_number(entry, "pixel_value", None, where) for entry in entries)
    return MaskCode(categories, pixel_values, masks, None if void is None else tuple(void), divisor)


def _category(entry: Any, index: int, where: str) -> Category:
    where = f"{where}: category {index}"
    if not isinstance(entry, dict):
        raise DataError(f'{where} is {entry!r:.60}; write it like {{"name": "cell", "is_thing": true}}')
    _refuse_unknown(entry, _FIELDS, where)
    name, is_thing, color = entry.get("name"), entry.get("is_thing", entry.get("isthing")), entry.get("color")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where} has no name; every category (every line of classes.txt) needs one")
    if is_thing not in (True, False):
        raise DataError(
            f'{where}, {name}: "is_thing" is {is_thing!r}; use true (countable objects) or false (stuff)'
        )
    if color is None:
        color = distinct_color(index)
    if (
        not isinstance(color, list | tuple)
        or len(color) != 3
        or not all(_is_number(part) and part <= 255 for part in color)
    ):
        raise DataError(f'{where}, {name}: "color" is {color!r}; use [r, g, b], each from 0 to 255')
    id = _number(entry, "id", index, where)
    assert id is not None  # it has a default
    return Category(name, bool(is_thing), id, (color[0], color[1], color[2]))


def _number(entry: Mapping[str, Any], field: str, default: int | None, where: str) -> int | None:
    value: int | None = entry.get(field, default)
    if value is not None and not _is_number(value):
        raise DataError(f'{where}: "{field}" is {value!r}; use a whole number from 0')
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")


def _checked(code: MaskCode, where: str) -> MaskCode:
    """Refuse names, ids and values that two categories share."""
    for what, given in (
        ("name", [category.name for category in code.categories]),
        ("id", [category.id for category in code.categories]),
        ("pixel_value", [value for value in code.pixel_values if value is not None]),
    ):
        twice = [value for value, count in Counter(given).items() if count > 1]
        if twice:
            raise DataError(f"{where}: two categories have the {what} {twice[0]!r}; give each its own")
    return code


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Give the values that occur, rising, and for each pixel the place of its value among them."""
    if values.dtype.itemsize > 2:
        distinct, positions = np.unique(values, return_inverse=True)
        return distinct, positions.reshape(values.shape).astype(np.int32)
    distinct = np.flatnonzero(np.bincount(values.ravel()))  # many times faster than sorting the pixels
    table = np.zeros(distinct[-1] + 1, dtype=np.int32)
    table[distinct] = np.arange(len(distinct), dtype=np.int32)
    return distinct, table[values]
