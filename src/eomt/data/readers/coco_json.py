"""What COCO's JSON files have in common: entries by the hundred thousand, pictures, categories. Free of masks.

The files may have hundreds of megabytes, so one entry at a time becomes objects; readers keep what they need, as
text.
"""

import json
import re
from collections import Counter
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeGuard

from eomt.categories import Category, class_table, distinct_color
from eomt.data.archive import Archive
from eomt.data.files import Images
from eomt.data.finite_json import decode, tell_not_finite
from eomt.data.problems import at_once, each, strict, tell
from eomt.errors import DataError

__all__ = [
    "Entry",
    "Picture",
    "add_picture",
    "entries",
    "find_images",
    "flag",
    "image_folders",
    "is_id",
    "named_images",
    "read_categories",
    "results",
    "some",
]

_SPACE = re.compile(r"[ \t\r\n]*")
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_LISTS = ("images", "annotations", "categories")
_CHECKED = ("id", "image_id", "category_id", "iscrowd", "isthing", "height", "width")
"""Fields of which readers say what is wrong with them, as they do with every entry."""


class Entry(NamedTuple):
    """One object of the lists in a file."""

    list: str
    """`images`, `annotations` or `categories`; `results` in a file of these."""
    values: dict[str, Any]
    text: str
    """The same as it stands in the file."""
    place: str
    """For messages: `annotations[17]`."""


class Picture(NamedTuple):
    """An entry of `images`."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None
    """Height and width that the file tells, if it does."""


def entries(
    archive: Archive, name: str, needed: Sequence[str] = _LISTS, head: dict[str, Any] | None = None
) -> Iterator[Entry]:
    """Go through the images, annotations and categories of a file, in its own order.

    `head` takes what stands beside these lists. Raises DataError with the place for what is no JSON (NaN and
    Infinity are none) and where a needed list is missing.
    """
    where = archive.where(name)
    found: set[str] = set()
    try:
        yield from _members(_text(archive, name), where, found, {} if head is None else head)
    except DataError as error:
        if strict():
            error = DataError(f"{error}; what comes after this place was not checked")
        if not (strict() and {"images", "categories"} <= found):
            raise error from None
        tell(error)
        return
    for wanted in needed:
        if wanted not in found:
            _refuse(wanted, DataError(f'{where}: no list "{wanted}"; a COCO file has {", ".join(needed)}'))


def results(archive: Archive, name: str) -> Iterator[Entry]:
    """Go through a file of results, which is one list of objects. Raises DataError for what is none."""
    where, text = archive.where(name), _text(archive, name)
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        raise _no_list("results", _value(text, start, "results", where)[0], where)
    end = yield from _elements(text, start, "results", where)
    if end < len(text):
        raise DataError(f"{where}: not valid JSON ({text[end]!r} after the list); correct it")


def _text(archive: Archive, name: str) -> str:
    data = archive.read(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        with each():
            raise DataError(f"{archive.where(name)}: not UTF-8 text ({error}); save it as UTF-8") from error
    return data.decode("utf-8-sig", "replace")


def _refuse(member: str, fault: DataError) -> None:
    """Raise what is wrong with a list. Where faults are collected, images are checked without annotations, too."""
    if not strict() or member != "annotations":
        raise fault
    tell(fault)


def _no_list(member: str, value: Any, where: str) -> DataError:
    return DataError(f'{where}: "{member}" is {json.dumps(value):.60}, not a list; export the file again')


def _members(text: str, where: str, found: set[str], head: dict[str, Any]) -> Iterator[Entry]:
    """Go through the lists, and note which of them were read to their ends, and what stands beside them."""
    here = _skip(text, 0)
    if text[here : here + 2] == "{}":
        return
    if text[here : here + 1] != "{":
        begins = f"starts with {text[here]!r}, not with '{{'" if here < len(text) else "is empty"
        raise DataError(f"{where}: it {begins}; a COCO file is one object of images, annotations, categories")
    sign, here = ",", here + 1
    while sign == ",":
        member, here = _value(text, _skip(text, here), "the outermost object", where)
        _expect(text, here, ":", f"after {member!r}", where)
        here = _skip(text, here + 1)
        if member in _LISTS and text[here : here + 1] == "[":
            with each():
                if member in found:
                    raise DataError(f'{where}: two lists "{member}"; join them')
            here = yield from _elements(text, here, member, where)
            found.add(member)
        else:
            value, here = _value(text, here, f"{member}", where)
            tell_not_finite(value, f"{where}: {member}")
            if member in _LISTS:
                _refuse(member, _no_list(member, value, where))
                found.add(member)
            else:
                head[member] = value
        sign = _expect(text, here, ",}", f"after {member!r}", where)
        here += 1


def _elements(text: str, here: int, name: str, where: str) -> Generator[Entry, None, int]:
    """Go through a list of objects; give where the next sign after it stands."""
    after = _skip(text, here + 1)
    if text[after : after + 1] == "]":
        return _skip(text, after + 1)
    sign, index = ",", 0
    while sign == ",":
        start = _skip(text, here + 1)
        place = f"{name}[{index}]"
        values, here = _value(text, start, place, where)
        with each():
            if not isinstance(values, dict):
                raise DataError(f"{where}: {place} is {values!r:.60}; expected an object")
        if isinstance(values, dict):
            id = values.get("id")
            told = f"annotation {id}" if name == "annotations" and is_id(id) else place
            tell_not_finite(values, f"{where}: {told}", _CHECKED)
            yield Entry(name, values, text[start:here], place)
        sign = _expect(text, here, ",]", place, where)
        index += 1
    return _skip(text, here + 1)


def _value(text: str, start: int, place: str, where: str) -> tuple[Any, int]:
    """Parse one value; give it and where the next sign after it stands."""
    try:
        value, end = decode(text, start)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {place}: not valid JSON ({error}); correct it") from error
    return value, _skip(text, end)


def _skip(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start


def _expect(text: str, start: int, signs: str, place: str, where: str) -> str:
    """Give the sign that stands here, which must be one of these."""
    sign = text[start : start + 1]
    if not sign or sign not in signs:
        found = repr(sign) if sign else "the end of the file"
        due = " or ".join(map(repr, signs))
        raise DataError(f"{where}: {place}: not valid JSON ({found} in place of {due}); correct it")
    return sign


def is_id(value: object) -> TypeGuard[int | str]:
    """Tell whether a value can be the id of an image or annotation."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def flag(values: Mapping[str, Any], field: str, default: bool | None, place: str) -> bool:
    """Read a field that is 0 or 1. Raises DataError, also where it is absent and has no default."""
    value = values.get(field)
    value = default if value is None else value
    if value not in (0, 1):
        found = "absent" if field not in values else f"{value!r:.60}"
        raise DataError(f'{place}: "{field}" is {found}; use 0 or 1')
    return bool(value)


def some(values: Iterable[object]) -> str:
    """Name the first few, for messages."""
    shown = [str(value) for value in values]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def add_picture(pictures: dict[int | str, Picture], entry: Entry, where: str) -> None:
    """Check an entry of `images` and add it to those that came before. Raises DataError."""
    picture = _picture(entry, where)
    if picture.id in pictures:
        other = pictures[picture.id].file_name
        words = f"{where}: {entry.place}: two images have the id {picture.id!r}"
        if other == picture.file_name:
            raise DataError(f"{words}, both {other}; list it once")
        raise DataError(f"{words}, {other} and {picture.file_name}; number them anew")
    pictures[picture.id] = picture


def _picture(entry: Entry, where: str) -> Picture:
    place = f"{where}: {entry.place}"
    id, name = entry.values.get("id"), entry.values.get("file_name")
    if not is_id(id):
        raise DataError(f'{place}: "id" is {id!r:.60}; every image needs one')
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f'{place}: "file_name" is {name!r:.60}; every image needs one')
    height, width = entry.values.get("height"), entry.values.get("width")
    if height is None and width is None:
        return Picture(id, name, None)
    if not (_is_length(height) and _is_length(width)):
        raise DataError(f"{place}, {name}: height and width are {height!r:.60} and {width!r:.60}; use pixels")
    return Picture(id, name, (int(height), int(width)))


def _is_length(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and 0 < value < 2**31 and value == int(value)


def read_categories(
    given: Iterable[Entry], where: str, things: bool | None, ignored: Container[int] = ()
) -> tuple[Category, ...]:
    """Check the entries of `categories`, leave some ids out and sort by id. Raises DataError.

    `things` tells what a category is that does not say so in `isthing`; None: it must. Names and ids of COCO keep
    COCO's colours.
    """
    known = {(category.id, category.name): category.color for category in class_table("coco_panoptic")}
    found: dict[int, Category] = {}
    for entry in given:
        with each():
            place, values = f"{where}: {entry.place}", entry.values
            id, name, color = values.get("id"), values.get("name"), values.get("color")
            if type(id) is not int or not 0 <= id < 2**31:
                raise DataError(f'{place}: "id" is {id!r:.60}; every category needs a whole number from 0')
            if id in ignored:
                continue
            if id in found:
                other = found[id].name
                raise DataError(f"{where}: two categories have the id {id}, {other} and {name}; renumber one")
            default, word = distinct_color(len(found)), name if isinstance(name, str) else ""
            # Stays where faults are collected.
            found[id] = Category(word or f"id {id}", bool(values.get("isthing", things)), id, default)
            if not word.strip():
                raise DataError(f'{place}: "name" is {name!r:.60}; every category needs one')
            if color is None:
                color = known.get((id, word), default)
            elif not isinstance(color, list) or len(color) != 3 or any(part not in range(256) for part in color):
                raise DataError(f'{place}, {name}: "color" is {color!r:.60}; use [r, g, b], each from 0 to 255')
            found[id] = Category(word, flag(values, "isthing", things, f"{place}, {name}"), id, tuple(color))
    if not found:
        raise DataError(f"{where}: no categories; the list must name every class")
    for name, count in Counter(category.name for category in found.values()).items():
        with each():
            if count > 1:
                raise DataError(f"{where}: two categories have the name {name!r}; give each its own")
    return tuple(found[id] for id in sorted(found))


def image_folders(annotation: str, split: str) -> list[str]:
    """List the folders where the images of a split can lie, the likeliest first."""
    folder = PurePosixPath(annotation).parent
    above = folder.parent
    likely = [
        *(base / split for base in (above, above / "images", folder, folder / "images")),
        *(above / "images", folder / "images", folder, above),
    ]
    return list(dict.fromkeys("" if str(path) == "." else str(path) for path in likely))


def find_images(
    where: str, pictures: Iterable[Picture], images: Images, folders: Sequence[str]
) -> dict[int | str, str]:
    """Find the file of every picture in the first of these folders that has it, else as `Images` does.

    Gives the files by the ids of the pictures. Raises DataError naming pictures that are not there, and files that
    two pictures name.
    """
    pictures = list(pictures)
    found: dict[str, int | str] = {}
    lost = []
    for picture in pictures:
        with each():
            try:
                file = images.find(picture.file_name, folders)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
            if file is None:
                lost.append(picture.file_name)
            elif found.setdefault(file, picture.id) != picture.id:
                raise DataError(f"{where}: two images are the file {file}; remove one (id {picture.id!r:.60})")
    for names in at_once(lost):
        with each():
            raise DataError(
                f"{where}: {len(lost)} of {len(pictures)} images are not there: {some(names)}; put them into "
                f"{folders[0]}/, or take them out of the file"
            )
    return {id: file for file, id in found.items()}


def named_images(archive: Archive, files: Iterable[str]) -> list[str]:
    """List what annotation files call their images, without parsing all that they hold."""
    return [
        str(json.loads(name))
        for file in files
        for name in _FILE_NAME.findall(archive.read(file))
        if _is_text(name)
    ]


def _is_text(literal: bytes) -> bool:
    try:
        return isinstance(json.loads(literal), str)
    except ValueError:
        return False
