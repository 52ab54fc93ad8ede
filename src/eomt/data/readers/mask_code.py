"""What the numbers or colours of masks mean: the files that list the categories, and segments by them.

Where the masks lie is left to the readers.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from numpy.typing import NDArray

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import LabelMap, read_color_map, read_label_map
from eomt.data.parts import Part, require_size, segments_of
from eomt.data.problems import each, of_file
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["CATEGORY_FILES", "MaskCode", "category_file", "parse_code", "read_categories", "read_code"]

CATEGORY_FILES = ("categories.json", "classes.txt", "classes.csv", "class_dict.csv")
"""The files that may list the categories; the first that is there counts."""

_OPTIONS = ("categories", "masks", "void", "label_divisor")
_FIELDS = ("name", "is_thing", "isthing", "id", "color", "pixel_value", "supercategory")


@dataclass(frozen=True)
class MaskCode:
    """What the numbers in the masks of a data set mean."""

    categories: tuple[Category, ...]
    pixel_values: tuple[int | None, ...]
    """Of each category, where it declares one."""
    masks: Literal["semantic", "instance", "color"] | None = None
    """None: up to 8 bits semantic, more bits instance."""
    void: tuple[int, ...] | None = None
    """None: 255 in a semantic mask, 0 in an instance mask, no colour. Colours as `images.read_color_map` gives."""
    label_divisor: int | None = None

    def value(self, label: int) -> int:
        """Give the value of a category in a semantic mask: the one declared, else its id."""
        declared = self.pixel_values[label]
        return self.categories[label].id if declared is None else declared

    def read(self, data: bytes, name: str, size: tuple[int, int]) -> Segments:
        """Read a mask for an image of this height and width. Raises DataError or ValueError."""
        if self.masks == "color":
            colors = read_color_map(data, name)
            require_size(colors, size)
            return self._segments(colors, self._colors())
        mask = read_label_map(data, name)
        require_size(mask.values, size)
        return self.segments(mask)

    def segments(self, mask: LabelMap) -> Segments:
        """Turn a mask into segments. Raises ValueError for a value that means nothing; its message says which."""
        semantic = self.masks == "semantic" if self.masks else mask.bits <= 8
        return self._segments(mask.values, self._semantic() if semantic else self._instance())

    def _segments(self, values: NDArray[Any], label_of: Callable[[int], int | None]) -> Segments:
        def part_of(value: int) -> Part | None:
            label = label_of(value)
            if label is None:
                return None
            return Part(label, value if self.categories[label].is_thing else 0)

        return segments_of(values, part_of)

    def _colors(self) -> Callable[[int], int | None]:
        table: dict[int, int | None] = dict.fromkeys(self.void or ())
        table |= {_color_value(category.color): label for label, category in enumerate(self.categories)}

        def label_of(value: int) -> int | None:
            if value not in table:
                raise ValueError(
                    f"the colour {_color(value)} belongs to no category; add it to the classes, or list it "
                    'under "void" in categories.json (where it is at edges only, the mask was scaled or saved '
                    "lossily: export it again)"
                )
            return table[value]

        return label_of

    def _semantic(self) -> Callable[[int], int | None]:
        table: dict[int, int | None] = dict.fromkeys((255,) if self.void is None else self.void)
        for label, category in enumerate(self.categories):
            value = self.value(label)
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


def read_categories(path: Path | str) -> tuple[Category, ...]:
    """Read the classes of a `categories.json`, a table or a `classes.txt` (by its suffix). Raises DataError."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_code(content, str(path), path.suffix).categories


def category_file(archive: Archive) -> str | None:
    """Name the file that lists the categories of a data set, if there is one."""
    return next((name for name in CATEGORY_FILES if archive.exists(name)), None)


def read_code(archive: Archive) -> MaskCode | None:
    """Read what the masks of a data set mean; None when no file says it. Raises DataError."""
    name = category_file(archive)
    if name is None:
        return None
    with of_file(name):
        return parse_code(archive.read(name), archive.where(name), PurePosixPath(name).suffix)


def parse_code(content: bytes, where: str, suffix: str) -> MaskCode:
    """Read a file of categories of this kind: `.json`, `.csv`, or names line by line. Raises DataError."""
    if suffix == ".json":
        return _code_from_json_file(content, where)
    return _code_from_table(content, where) if suffix == ".csv" else _code_from_names(content, where)


def _code_from_json_file(content: bytes, where: str) -> MaskCode:
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); correct it") from error
    return _checked(_code_from_json(values, where), where)


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from error


def _code_from_names(content: bytes, where: str) -> MaskCode:
    names = _text(content, where).rstrip().splitlines()
    entries = [{"name": name.strip(), "is_thing": False} for name in names]
    return _checked(_code_from_json(entries, where), where)


def _code_from_table(content: bytes, where: str) -> MaskCode:
    """Read a table of classes, all stuff: name, r, g, b as CamVid's, or pixel value and class as Roboflow's."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(_text(content, where).splitlines())]
    except csv.Error as error:
        raise DataError(f"{where}: not a table ({error}); write lines like sky,128,128,128") from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    colored = {"name", "r", "g", "b"} <= set(header)
    if not colored and not {"pixel value", "class"} <= set(header):
        raise DataError(
            f"{where}: the first line is {','.join(header)!r:.80}; name the columns name,r,g,b (where masks hold "
            "numbers in place of colours, write classes.txt with one name a line)"
        )
    entries: list[dict[str, Any]] = []
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        cells = dict(zip(header, row, strict=False))
        with each():
            try:
                if colored:
                    entry: dict[str, Any] = {
                        "name": cells["name"],
                        "color": [int(cells[column]) for column in ("r", "g", "b")],
                    }
                else:
                    entry = {"name": cells["class"], "id": int(cells["pixel value"])}
            except (KeyError, ValueError) as error:
                example = "sky,128,128,128" if colored else "1,sky"
                raise DataError(
                    f"{where}: line {line} is {','.join(row)!r:.80}; write it like the others: {example}"
                ) from error
            entries.append(entry | {"is_thing": False})
    masks = {"masks": "color"} if colored else {}
    return _checked(_code_from_json({"categories": entries, **masks}, where), where)


def _code_from_json(content: Any, where: str) -> MaskCode:
    options = content if isinstance(content, dict) else {"categories": content}
    _refuse_unknown(options, _OPTIONS, where)
    entries = options.get("categories")
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{where}: no categories; write a list like [{{"name": "cell", "is_thing": true}}]')
    masks, void, divisor = options.get("masks"), options.get("void"), options.get("label_divisor")
    if masks not in (None, "semantic", "instance", "color"):
        raise DataError(f'{where}: "masks" is {masks!r}; use "semantic", "instance" or "color", or leave it out')
    usable, example = (
        (_is_color, "colours like [[0, 0, 0]]")
        if masks == "color"
        else (_is_number, "whole numbers like [0, 255]")
    )
    if void is not None and not (isinstance(void, list) and all(map(usable, void))):
        raise DataError(f'{where}: "void" is {void!r}; use a list of {example}')
    if divisor is not None and not (_is_number(divisor) and divisor > 1):
        raise DataError(f'{where}: "label_divisor" is {divisor!r}; use a whole number like 1000')
    categories: list[Category] = []
    pixel_values: list[int | None] = []
    for index, entry in enumerate(entries):
        category, value = _stand_in(entry, index)
        categories.append(category)
        pixel_values.append(value)
        with each():
            categories[index] = _category(entry, index, where)
            pixel_values[index] = _number(entry, "pixel_value", None, where)
            if masks == "color" and not isinstance(entry.get("color"), list):
                raise DataError(
                    f"{where}: category {index}, {categories[index].name}: the masks are colours, so every "
                    'category needs its "color": [r, g, b]'
                )
    if masks == "color":
        void = [_color_value(color) for color in void or ()]
    return MaskCode(tuple(categories), tuple(pixel_values), masks, None if void is None else tuple(void), divisor)


def _stand_in(entry: Any, index: int) -> tuple[Category, int | None]:
    """Make what can be made of a category and its pixel value, to read on with where faults are collected."""
    fields = entry if isinstance(entry, dict) else {}
    name, color = fields.get("name"), fields.get("color")
    id, value = (fields[field] if _is_number(fields.get(field)) else None for field in ("id", "pixel_value"))
    category = Category(
        name if isinstance(name, str) and name.strip() else f"category {index}",
        fields.get("is_thing", fields.get("isthing")) is True,
        index if id is None else id,
        tuple(color) if isinstance(color, list) and _is_color(color) else distinct_color(index),
    )
    return category, value


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
    if not _is_color(color):
        raise DataError(f'{where}, {name}: "color" is {color!r}; use [r, g, b], each from 0 to 255')
    id = _number(entry, "id", index, where)
    assert id is not None  # it has a default
    return Category(name, bool(is_thing), id, (color[0], color[1], color[2]))


def _number(entry: Mapping[str, Any], field: str, default: int | None, where: str) -> int | None:
    value: int | None = default if entry.get(field) is None else entry[field]
    if value is not None and not _is_number(value):
        raise DataError(f'{where}: "{field}" is {value!r}; use a whole number from 0')
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_color(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_number(p) and p <= 255 for p in value)


def _color_value(color: Sequence[int]) -> int:
    """Number a colour as `images.read_color_map` does."""
    red, green, blue = color
    return red + 256 * green + 65536 * blue


def _color(value: int) -> list[int]:
    return [value & 255, value >> 8 & 255, value >> 16]


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")


def _checked(code: MaskCode, where: str) -> MaskCode:
    """Refuse names, ids and values that two categories share."""
    colors = [list(category.color) for category in code.categories] if code.masks == "color" else []
    colors += [_color(value) for value in code.void or () if code.masks == "color"]
    for what, given in (
        ("color", [str(color) for color in colors]),
        ("name", [category.name for category in code.categories]),
        ("id", [category.id for category in code.categories]),
        ("pixel_value", [value for value in code.pixel_values if value is not None]),
    ):
        for value, count in Counter(given).items():
            with each():
                if count > 1:
                    raise DataError(f"{where}: two categories have the {what} {value!r}; give each its own")
    return code
