"""Read what LabelMe saves: one JSON beside each image, with the image inside of it where the file is not there.

Splits are the folders that the JSON files lie in: `train/*.json`, `annotations/train/*.json`. Folders that only
keep kinds of files apart (`annotations`, `images`, `labels`, ...) are no splits; without others all is `train`.

**Shapes.** Polygons, rectangles (oriented ones too), circles and masks are segments; those of one label and
`group_id` are one. Shapes lie on each other in the order of the file. Points, lines and polygons of fewer than
three points have no pixels: they are left out and counted. Flags and descriptions are ignored.

**Classes**, all things, are the labels of all files, sorted, or the lines of `labels.txt`, with ids from 1. As in
LabelMe's own examples, shapes labelled `__ignore__` or `_background_` are no class: their pixels become void.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, NamedTuple

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids
from eomt.data.finite_json import parse_json
from eomt.data.images import read_label_map
from eomt.data.problems import each, of_file, strict
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.shapes import (
    COCO_FILES,
    VOID,
    Drawn,
    check_size,
    ellipse,
    group_key,
    is_speck,
    joined,
    looked_at,
    number,
    pasted,
    require_pixels,
    union,
)
from eomt.errors import DataError
from eomt.masks import Rle
from eomt.types import Segments

__all__ = ["FORMAT"]

_EXPECTED = "*.json by LabelMe beside the images, in SPLIT/ or not"
_NO_CLASS = ("__ignore__", "_background_")
_NO_SPLIT = frozenset(
    [
        "annotation",
        "annotations",
        "ann",
        "json",
        "jsons",
        "label",
        "labels",
        "labelme",
        "data_annotated",
        "image",
        "images",
        "img",
        "imgs",
    ]
)
_NO_PIXELS = {
    "point": "points",
    "points": "points",
    "line": "lines",
    "linestrip": "lines",
}
_MAX_OTHER = 1 << 20  # bytes of a file that is not LabelMe's but parsed
_POINTS = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "polygon": 3}  # polygons: at least


def _missing(archive: Archive) -> str | None:
    files = [name for name in _json_files(archive) if not name.rsplit("/", 1)[-1].startswith(COCO_FILES)]
    if not files:
        return "*.json beside the images"
    if any(map(_is_labelme, looked_at(archive, files))):
        return None
    return f'"shapes" and "imagePath" in {files[0]}'


def _json_files(archive: Archive) -> list[str]:
    return [name for name in archive.names() if name.lower().endswith(".json")]


def _is_labelme(content: bytes) -> bool:
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and all(
        key in content for key in (b'"shapes"', b'"imagePath"')
    )


def _refuse_broken(content: bytes, where: str) -> None:
    """Raise DataError for what is no JSON: a file that was cut short ends before it tells that it is LabelMe's."""
    if len(content) <= _MAX_OTHER or b'"shapes"' in content:
        parse_json(content, where)


def _splits(archive: Archive) -> tuple[str, ...]:
    by_split: dict[str, list[str]] = {}
    for name in _json_files(archive):
        by_split.setdefault(_split_of(name), []).append(name)
    return tuple(
        split
        for split, names in sorted(by_split.items())
        if any(_is_labelme(archive.read(name)) for name in names)
    )


def _split_of(name: str) -> str:
    folders = PurePosixPath(name).parts[:-1]
    return next((folder for folder in folders if folder.lower() not in _NO_SPLIT), "train")


def _open(archive: Archive, split: str) -> Split:
    """Read all files once: the classes are those of all splits."""
    with of_file("labels.txt"):
        known = _listed_classes(archive)
    told: dict[str, _Named] = {}  # JSON -> its image
    labels: set[str] = set()
    left_out: Counter[str] = Counter()
    for name in _json_files(archive):
        content, where = archive.read(name), archive.where(name)
        if not _is_labelme(content):
            with of_file(name), each():
                _refuse_broken(content, where)
            left_out["JSON files without shapes, which are not LabelMe's"] += _split_of(name) == split
            continue
        with of_file(name), each():
            file = _object(parse_json(content, where), where)
            for shape, shape_name in _shapes(file, where):
                with each():
                    label = _label(shape, f"{where}: {shape_name}", known)
                    reason = _without_pixels(shape)
                    if reason is None and label not in _NO_CLASS:
                        labels.add(label)
                    if reason is not None and _split_of(name) == split:
                        left_out[reason] += 1
            told[name] = _named(file, where)
    found, lonely = _find_images(archive, split, told)
    left_out["images without a JSON file"] += lonely
    categories = tuple(
        Category(label, True, index + 1, distinct_color(index))
        for index, label in enumerate(sorted(labels) if known is None else known)
    )
    items = tuple(
        Item(id, image, annotation)
        for id, (image, annotation) in zip(image_ids(list(found)), found.items(), strict=True)
    )
    numbers = {category.name: label for label, category in enumerate(categories)}
    counts = tuple(f"{count} {what}" for what, count in left_out.items() if count)
    return Split(archive, categories, items, partial(_read_segments, numbers), counts, _read_bytes)


def _listed_classes(archive: Archive) -> tuple[str, ...] | None:
    """Read `labels.txt`, where there is one: one name a line."""
    if not archive.exists("labels.txt"):
        return None
    where = archive.where("labels.txt")
    try:
        lines = [line.strip() for line in archive.read("labels.txt").decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from error
    names = tuple(line for line in lines if line and line not in _NO_CLASS)
    for name, count in Counter(names).items():
        with each():
            if count > 1:
                raise DataError(f"{where}: {name!r} stands there twice; remove one of the lines")
    if not names:
        raise DataError(f"{where}: no classes; write one name a line, or remove the file to use all labels")
    return names


def _object(file: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(file, dict) or not isinstance(file.get("shapes"), list):
        raise DataError(f'{where}: "shapes" is not a list; open and save it with LabelMe, or remove the file')
    return file


def _shapes(file: Mapping[str, Any], where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    for index, shape in enumerate(file["shapes"]):
        with each():
            if not isinstance(shape, dict):
                raise DataError(
                    f"{where}: shapes[{index}] is {shape!r:.60}; expected an object with label and points"
                )
        if isinstance(shape, dict):
            yield shape, f"shapes[{index}]"


def _label(shape: Mapping[str, Any], where: str, known: tuple[str, ...] | None) -> str:
    label = shape.get("label")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f'{where}: "label" is {label!r:.60}; give the shape a label in LabelMe, or delete it')
    if known is not None and label not in known and label not in _NO_CLASS:
        raise DataError(
            f"{where}: the label {label!r:.80} is not in labels.txt; add it there, or correct the shape"
        )
    return label


def _kind(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")  # LabelMe 3 had only polygons and did not say so


def _without_pixels(shape: Mapping[str, Any]) -> str | None:
    """Tell why a shape is no segment."""
    kind, points = _kind(shape), shape.get("points")
    if kind in _NO_PIXELS:
        return f"shapes without pixels ({_NO_PIXELS[kind]})"
    if kind == "polygon" and isinstance(points, list) and len(points) < 3:
        return "polygons of fewer than three points"
    if kind in ("polygon", "rectangle") and not strict():  # else it is told when its image is read
        with suppress(ValueError):
            if is_speck(_ring(_points(points, kind), kind)):
                return "shapes so small that they have no pixels"
    return None


class _Named(NamedTuple):
    """What a JSON file says of its image."""

    path: str
    is_inside: bool
    """Whether the JSON holds its content."""


def _named(file: Mapping[str, Any], where: str) -> _Named:
    path = file.get("imagePath")
    if not isinstance(path, str) or not path:
        raise DataError(f'{where}: "imagePath" is {path!r:.60}; write the name of its image')
    return _Named(path, bool(file.get("imageData")))


def _find_images(archive: Archive, split: str, told: Mapping[str, _Named]) -> tuple[dict[str, str], int]:
    """Map the images of a split, or the JSON files that hold them, to JSON files; and count those without one."""
    strangers = {name: image.path for name, image in told.items() if _split_of(name) != split}
    images = Images(archive, split, {_split_of(name) for name in strangers}, lambda: strangers.values())
    found: dict[str, str] = {}
    for name in [name for name in told if name not in strangers]:
        where = archive.where(name)
        with of_file(name), each():
            image = _image_of(told[name], name, images, where)
            if image in found:
                raise DataError(f"{where}: of the image {image} like {found[image]}; remove one of the two")
            found[image] = name
    if not found:
        others = ", ".join(_splits(archive)) or "none"
        raise DataError(f"{archive.path}: no split {split!r}; it has {others}")
    used = {normpath(f"{name.rpartition('/')[0]}/{path}".lstrip("/")) for name, path in strangers.items()}
    lonely = sum(_split_of(image) == split and image not in found and image not in used for image in images.names)
    return found, lonely


def _image_of(named: _Named, name: str, images: Images, where: str) -> str:
    """Find the image of a JSON file: the file that it names, or else the JSON itself, which then holds it."""
    try:
        image = images.find(named.path, (name.rpartition("/")[0],))
    except ValueError as error:
        if not named.is_inside:
            raise DataError(f'{where}: "imagePath": {error}') from error
        image = None
    if image is not None and named.is_inside and _split_of(image) != _split_of(name):
        image = None  # one of the same name in another split
    if image is None and not named.is_inside:
        raise DataError(
            f'{where}: "imagePath" is {named.path!r:.80}, but there is no such image, nor "imageData" with its '
            "content; put the image beside the JSON file"
        )
    return image or name


def _read_bytes(archive: Archive, item: Item) -> bytes:
    """Read an image, from inside the JSON where it is there."""
    if item.image != item.annotation:
        return archive.read(item.image)
    where = archive.where(item.annotation)
    return _base64(_object(parse_json(archive.read(item.annotation), where), where).get("imageData"), where)


def _base64(text: object, where: str) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"{where}: an image or mask inside is not base64 text ({error}); save it again") from error


def _read_segments(labels: Mapping[str, int], archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    where = archive.where(item.annotation)
    file = _object(parse_json(archive.read(item.annotation), where), where)
    check_size((file.get("imageWidth"), file.get("imageHeight")), size, '"imageWidth" and "imageHeight"')
    drawn = []
    for shape, shape_name in _shapes(file, where):
        if _without_pixels(shape) is not None:
            continue
        with each():
            try:
                group = group_key(shape.get("group_id"), "group_id")
                label = labels.get(str(shape.get("label")), VOID)
                drawn.append(Drawn(label, group, _mask(shape, size, f"{where}: {shape_name}: mask")))
            except DataError:
                raise
            except ValueError as error:
                raise DataError(f"{where}: {shape_name} ({shape.get('label')}): {error}") from error
    return joined(drawn, size)


def _mask(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> Rle:
    """Make the pixels of one shape. Raises ValueError for a shape that is malformed or of an unknown kind."""
    kind = _kind(shape)
    if kind not in _POINTS:
        raise ValueError(f'"shape_type" is {kind!r:.60}; known are {", ".join([*_POINTS, *_NO_PIXELS])}')
    points = _points(shape.get("points"), kind)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
        return union([ellipse((x, y), (radius, radius))], size)
    if kind == "mask":
        patch = read_label_map(_base64(shape.get("mask"), where), where).values > 0
        left, top = round(points[0][0]), round(points[0][1])
        if abs(points[1][0] - left + 1 - patch.shape[1]) > 2 or abs(points[1][1] - top + 1 - patch.shape[0]) > 2:
            raise ValueError(
                f'"mask" has {patch.shape[1]} x {patch.shape[0]} pixels, but "points" are its first and last one, '
                f"{points[0]} and {points[1]}; draw it again in LabelMe"
            )
        rle = pasted(patch, left, top, size)
        require_pixels(rle)
        return rle
    return union([_ring(points, kind)], size)


def _ring(points: Sequence[tuple[float, float]], kind: str) -> list[float]:
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return [left, top, right, top, right, bottom, left, bottom]
    return [value for point in points for value in point]


def _points(points: object, kind: str) -> list[tuple[float, float]]:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f'"points" is {points!r:.60}; expected a list of [x, y]')
    wanted = _POINTS[kind]
    if len(points) != wanted and (kind != "polygon" or len(points) < wanted):
        raise ValueError(f'"points" has {len(points)} of them; a {kind} has {wanted}')
    return [(number(x, "points"), number(y, "points")) for x, y in points]


FORMAT = Format("labelme", _EXPECTED, _missing, _splits, _open)
