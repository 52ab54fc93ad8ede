"""Read CVAT's own exports, "CVAT for images 1.1" and "Datumaro". Its COCO, VOC and YOLO are read as those formats.

**CVAT for images**: `annotations.xml` and `images/`. An image's `subset` is its split, else the task's, else
`train`. The XML is untrusted: a document type or an entity is refused as soon as it is declared.

**Datumaro**: `annotations/SPLIT.json` and `images/SPLIT/`.

Polygons, masks and (in XML) ellipses are segments; those of one label and group are one. They lie on each other by
their z-order, then as listed. Boxes, points, lines, skeletons and tags have no pixels: they are left out and
counted. All classes are things, with the place in CVAT's list of labels as id (from 1; Datumaro's own from 0) and
CVAT's colours. Attributes are ignored; `occluded` too: what is drawn is what is to be seen.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids
from eomt.data.finite_json import parse_json, require_finite
from eomt.data.images import IMAGE_SUFFIXES
from eomt.data.problems import at_once, each, of_file
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.shapes import (
    COCO_FILES,
    Drawn,
    check_size,
    ellipse,
    group_key,
    joined,
    looked_at,
    numbers,
    pasted,
    require_pixels,
    run_lengths,
    union,
)
from eomt.errors import DataError
from eomt.masks import Rle
from eomt.types import Segments

__all__ = ["FORMATS"]

_XML = "annotations.xml"
_XML_KINDS = ("polygon", "mask", "ellipse")
_MAX_DEPTH = 32  # of elements; CVAT nests eight
_MAX_TEXT = 10_000  # characters of a label's name
_IMAGES_ADVICE = "export again with the images ('Save images'), or put them into images/"


class _Shape(NamedTuple):
    """One shape as it stands in the XML."""

    number: int
    """Its place among the shapes of its image, from 1."""
    kind: str
    fields: dict[str, str]


class _Image(NamedTuple):
    fields: dict[str, str]
    shapes: list[_Shape]


class _Stop(Exception):
    """Enough of the XML was seen."""


class _Document:
    """What a CVAT XML says. Raises DataError for XML that is malformed, hostile or of another kind."""

    def __init__(self, content: bytes, where: str, only_begin: bool = False):
        self.images: list[_Image] = []
        self.labels: list[dict[str, str]] = []
        self.subset = ""
        self._where, self._only_begin = where, only_begin
        self._open: list[str] = []
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(content, True)
        except _Stop:
            return
        except DataError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise DataError(f"{where}: not well-formed XML ({error}); export it again") from error

    def _refuse(self, *_: Any) -> None:
        raise DataError(f"{self._where}: declares a document type or entities, which CVAT never does; not read")

    def _start(self, tag: str, fields: dict[str, str]) -> None:
        parents, depth = self._open, len(self._open)
        if depth == 0 and tag != "annotations":
            raise DataError(f"{self._where}: begins with <{tag:.40}>; expected <annotations>, as CVAT exports it")
        if depth >= _MAX_DEPTH:
            raise DataError(f"{self._where}: elements in more than {_MAX_DEPTH} levels, which CVAT never writes")
        if depth == 1 and tag == "track":
            raise DataError(
                f"{self._where}: tracks of a video; export the task from CVAT as 'CVAT for images 1.1' instead"
            )
        if depth == 1 and tag == "image":
            self.images.append(_Image(fields, []))
            if self._only_begin:
                raise _Stop
        elif depth == 2 and parents[1] == "image":
            shapes = self.images[-1].shapes
            shapes.append(_Shape(len(shapes) + 1, tag, fields))
        elif tag == "label" and parents[1:2] == ["meta"] and parents[-1] == "labels":
            self.labels.append({})
        parents.append(tag)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open[1:2] != ["meta"]:
            return
        if self._open[-1] == "subset" and len(self._open) == 4:
            self.subset += text.strip()[:_MAX_TEXT]
        elif self._open[-2] == "label" and self._open[-1] in ("name", "color", "parent"):
            label = self.labels[-1]
            label[self._open[-1]] = (label.get(self._open[-1], "") + text)[:_MAX_TEXT]

    def split_of(self, image: _Image) -> str:
        task = self.subset if self.subset != "default" else ""
        return image.fields.get("subset") or task or "train"


def _xml_missing(archive: Archive) -> str | None:
    if not archive.exists(_XML):
        return _XML
    try:
        document = _Document(archive.read(_XML), _XML, only_begin=True)
    except DataError as error:
        return f"<image> elements of CVAT ({error})"
    return None if document.images else f"<image> elements in {_XML} (export it as 'CVAT for images 1.1')"


def _xml_splits(archive: Archive) -> tuple[str, ...]:
    with of_file(_XML):
        document = _Document(archive.read(_XML), archive.where(_XML))
    return tuple(sorted({document.split_of(image) for image in document.images}))


def _xml_open(archive: Archive, split: str) -> Split:
    with of_file(_XML):
        return _xml_open_file(archive, split)


def _xml_open_file(archive: Archive, split: str) -> Split:
    where = archive.where(_XML)
    document = _Document(archive.read(_XML), where)
    chosen = [image for image in document.images if document.split_of(image) == split]
    if not chosen:
        known = sorted({document.split_of(image) for image in document.images})
        raise DataError(f"{where}: no images in a split {split!r}; it has {', '.join(known) or 'none'}")
    categories = _xml_categories(document, where)
    labels = {category.name: index for index, category in enumerate(categories)}
    left_out: Counter[str] = Counter()
    for image in document.images:
        for shape in image.shapes:
            with each():
                label = shape.fields.get("label")
                if shape.kind in _XML_KINDS and label not in labels:
                    name = image.fields.get("name")
                    raise DataError(
                        f"{where}: image {name!r:.80}: shape {shape.number}, a {shape.kind}: its label "
                        f"{label!r:.80} is not in the list of labels at the top; add it there, or correct the "
                        "shape"
                    )
    for image in chosen:
        left_out.update(shape.kind for shape in image.shapes if shape.kind not in _XML_KINDS)
    names = [image.fields.get("name", "") for image in chosen]
    others = {document.split_of(image) for image in document.images} - {split}
    claims = [image.fields.get("name", "") for image in document.images if document.split_of(image) in others]
    files = _find_images(Images(archive, split, others, lambda: claims), names, split, where)
    items = tuple(
        Item(id, file, _XML, (chosen[n].fields, tuple(s for s in chosen[n].shapes if s.kind in _XML_KINDS)))
        for id, (file, n) in zip(image_ids(list(files)), files.items(), strict=True)
    )
    return Split(archive, categories, items, partial(_xml_segments, labels), _told(left_out))


def _told(kinds: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} shapes without a mask ({kind:.40})" for kind, count in sorted(kinds.items()))


def _xml_categories(document: _Document, where: str) -> tuple[Category, ...]:
    """Give the labels of the header (parts of skeletons are none), or of the shapes where it lists none."""
    colors: dict[str, str] = {}
    for label in document.labels:
        if not label.get("parent", "").strip():
            colors.setdefault(label.get("name", "").strip(), label.get("color", "").strip())
    if not colors:
        shapes = [shape for image in document.images for shape in image.shapes if shape.kind in _XML_KINDS]
        colors = dict.fromkeys(sorted({shape.fields.get("label", "") for shape in shapes}), "")
    if "" in colors:
        raise DataError(f"{where}: a label without a name; give every label and every shape its name")
    if not colors:
        raise DataError(f"{where}: neither labels nor shapes; label something in CVAT, and export again")
    return tuple(
        Category(name, True, index + 1, _rgb(color) or distinct_color(index))
        for index, (name, color) in enumerate(colors.items())
    )


def _rgb(color: str) -> tuple[int, int, int] | None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", color):
        return None
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _find_images(images: Images, names: Sequence[str], split: str, where: str) -> dict[str, int]:
    """Find the files of images by name; give the place of each one's name in the list.

    Raises DataError where some are not there, or one is meant twice.
    """
    folders = (f"images/{split}", "images", "")
    found: dict[str, int] = {}
    missing = []
    for place, name in enumerate(names):
        with each():
            try:
                file = images.find(name, folders)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
            if file is None:
                missing.append(name)
            elif file in found:
                other = names[found[file]]
                raise DataError(
                    f"{where}: the images {other!r:.80} and {name!r:.80} are both {file}; remove one of them"
                )
            else:
                found[file] = place
    for some in at_once(missing):
        with each():
            listed = ", ".join(f"{name!r:.80}" for name in some[:3]) + (", ..." if len(some) > 3 else "")
            raise DataError(
                f"{where}: {len(missing)} of {len(names)} images of {split} are not there: {listed}; "
                f"{_IMAGES_ADVICE}"
            )
    return found


def _xml_segments(labels: Mapping[str, int], archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    fields, shapes = item.content
    check_size((_whole(fields, "width", None), _whole(fields, "height", None)), size, "width and height")
    drawn = []
    for shape in shapes:
        label = shape.fields.get("label", "")
        if label not in labels:  # told when the split was opened
            continue
        with each():
            try:
                group = _whole(shape.fields, "group_id", 0) or None
                mask = Drawn(labels[label], group, _xml_mask(shape, size))
                drawn.append((_whole(shape.fields, "z_order", 0) or 0, mask))
            except ValueError as error:
                raise ValueError(f"shape {shape.number}, a {shape.kind} ({label}): {error}") from error
    return _stacked(drawn, size)


def _stacked(drawn: Iterable[tuple[int, Drawn]], size: tuple[int, int]) -> Segments:
    """Join shapes after putting them in their z-order; equal ones stay as listed."""
    return joined((mask for _, mask in sorted(drawn, key=lambda entry: entry[0])), size)


def _xml_mask(shape: _Shape, size: tuple[int, int]) -> Rle:
    fields = shape.fields
    if shape.kind == "polygon":
        points = [numbers(point, "points") for point in _field(fields, "points").split(";")]
        if any(len(point) != 2 for point in points):
            raise ValueError(f'"points" is {fields["points"]!r:.60}; expected x,y;x,y;...')
        return union([[value for point in points for value in point]], size)
    if shape.kind == "ellipse":
        x, y, rx, ry = (_one(fields, name) for name in ("cx", "cy", "rx", "ry"))
        return union([ellipse((x, y), (rx, ry), _one(fields, "rotation", "0"))], size)
    return _row_lengths(fields, size)


def _row_lengths(fields: Mapping[str, str], size: tuple[int, int]) -> Rle:
    """Read CVAT's own run lengths: row by row within a box, zeros first."""
    left, top, width, height = (_required(fields, name) for name in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"its box (left {left}, top {top}, width {width}, height {height}) does not lie in the image of "
            f"{size[1]} x {size[0]}; export it again"
        )
    runs = numbers(_field(fields, "rle"), "rle")
    if any(run < 0 or not run.is_integer() for run in runs) or sum(runs) != width * height:
        raise ValueError(
            f'"rle" has runs of {sum(runs):g} pixels, but its box {width} x {height} = {width * height}; it is '
            "damaged or cut short: export it again"
        )
    counts = np.array(runs, dtype=np.int64)
    patch = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    rle = pasted(patch, left, top, size)
    require_pixels(rle)
    return rle


def _field(fields: Mapping[str, str], name: str, default: str | None = None) -> str:
    text = fields.get(name, default)
    if text is None:
        raise ValueError(f'"{name}" is missing; export it again')
    return text


def _one(fields: Mapping[str, str], name: str, default: str | None = None) -> float:
    text = _field(fields, name, default)
    values = numbers(text, name)
    if len(values) != 1:
        raise ValueError(f'"{name}" is {text!r:.60}; expected one number')
    return values[0]


def _whole(fields: Mapping[str, str], name: str, default: int | None) -> int | None:
    if name not in fields:
        return default
    value = _one(fields, name)
    if not value.is_integer():
        raise ValueError(f'"{name}" is {fields[name]!r:.60}; expected a whole number')
    return int(value)


def _required(fields: Mapping[str, str], name: str) -> int:
    _field(fields, name)
    return _whole(fields, name, 0) or 0


def _datumaro_files(archive: Archive) -> dict[str, str]:
    """Map splits to the JSON files that may be theirs."""
    paths = (PurePosixPath(name) for name in archive.names("annotations") if name.endswith(".json"))
    return {
        path.stem: str(path)
        for path in paths
        if len(path.parts) == 2 and path.suffix == ".json" and not path.name.startswith(COCO_FILES)
    }


def _is_datumaro(content: bytes) -> bool:
    return bool(re.search(rb'"categories"\s*:\s*\{', content) and re.search(rb'"items"\s*:\s*\[', content))


def _datumaro_missing(archive: Archive) -> str | None:
    files = list(_datumaro_files(archive).values())
    if not files:
        return "annotations/SPLIT.json"
    if any(map(_is_datumaro, looked_at(archive, files))):
        return None
    return f'"categories" and "items" in {files[0]}'


def _datumaro_splits(archive: Archive) -> tuple[str, ...]:
    files = sorted(_datumaro_files(archive).items())
    return tuple(split for split, name in files if _is_datumaro(archive.read(name)))


def _datumaro_open(archive: Archive, split: str) -> Split:
    files = _datumaro_files(archive)
    if split not in files:
        known = ", ".join(_datumaro_splits(archive)) or "none"
        raise DataError(f"{archive.path}: no split {split!r} (annotations/{split}.json); it has {known}")
    with of_file(files[split]):
        return _datumaro_open_file(archive, split, files)


def _datumaro_open_file(archive: Archive, split: str, files: Mapping[str, str]) -> Split:
    where = archive.where(files[split])
    document = parse_json(archive.read(files[split]), where)
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise DataError(f'{where}: "items" is not a list; export it again from CVAT as Datumaro')
    categories = _datumaro_categories(document.get("categories"), where)
    left_out: Counter[str] = Counter()
    contents = []
    names = []
    for index, entry in enumerate(document["items"]):
        with each():
            name = _datumaro_name(archive, entry, split, f"{where}: items[{index}]")
            kept, others = _datumaro_annotations(entry, len(categories), f"{where}: item {entry['id']!r:.80}")
            left_out.update(others)
            contents.append(json.dumps([(entry.get("image") or {}).get("size"), kept]).encode())
            names.append(name)
    if not names:
        raise DataError(f'{where}: no "items"; the split has no images')
    strangers = [file for other, file in files.items() if other != split]
    images = Images(archive, split, files, partial(_datumaro_named, archive, strangers))
    found = _find_images(images, names, split, where)
    items = tuple(
        Item(id, file, files[split], contents[place])
        for id, (file, place) in zip(image_ids(list(found)), found.items(), strict=True)
    )
    return Split(archive, categories, items, _datumaro_segments, _told(left_out))


def _datumaro_named(archive: Archive, files: Iterable[str]) -> Iterator[str]:
    """List what other files call their images, as far as they can be read."""
    for file in files:
        with suppress(ValueError, RecursionError):
            document = json.loads(archive.read(file))
            entries = document.get("items") if isinstance(document, dict) else None
            for entry in entries if isinstance(entries, list) else ():
                with suppress(DataError):
                    yield _datumaro_name(archive, entry, PurePosixPath(file).stem, file)


def _datumaro_name(archive: Archive, entry: Any, split: str, where: str) -> str:
    """Give the path of an item's image below images/SPLIT: its own, or its id with a suffix that there is."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise DataError(f'{where}: no "id" of text; export it again from CVAT as Datumaro')
    image = entry.get("image")
    if image is not None and not isinstance(image, dict):
        raise DataError(f'{where}: "image" is {image!r:.60}; expected an object with path and size')
    path = image.get("path") if image else None
    if path is not None and not isinstance(path, str):
        raise DataError(f'{where}: "image" has the path {path!r:.60}; expected text')
    if path:
        return path
    tried = (entry["id"] + suffix for suffix in IMAGE_SUFFIXES)
    safe = "\0" not in entry["id"] and ".." not in PurePosixPath(entry["id"]).parts
    name: str = next((name for name in tried if safe and archive.exists(f"images/{split}/{name}")), entry["id"])
    return name


def _datumaro_annotations(
    entry: Mapping[str, Any], classes: int, where: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Give the annotations with pixels, and the kinds of the others."""
    annotations = entry.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f'{where}: "annotations" is {annotations!r:.60}; expected a list')
    kept, others = [], []
    for index, annotation in enumerate(annotations):
        with each():
            if not isinstance(annotation, dict) or not isinstance(annotation.get("type"), str):
                raise DataError(f'{where}: annotations[{index}] has no "type"; expected polygon, mask, bbox, ...')
            label = annotation.get("label_id")
            if annotation["type"] not in ("polygon", "mask"):
                others.append(annotation["type"])
            elif label is None:
                others.append(f"{annotation['type']} without a label")
            elif isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < classes:
                raise DataError(
                    f'{where}: annotations[{index}] has the "label_id" {label!r:.40}, but there are {classes} '
                    "labels, numbered from 0; correct it"
                )
            else:
                kept.append(annotation)
    return kept, others


def _datumaro_categories(categories: Any, where: str) -> tuple[Category, ...]:
    table = categories.get("label") if isinstance(categories, dict) else None
    labels = table.get("labels") if isinstance(table, dict) else None
    if not isinstance(labels, list) or not labels:
        raise DataError(f'{where}: "categories" has no label.labels; export it again from CVAT as Datumaro')
    names = [label.get("name") if isinstance(label, dict) else None for label in labels]
    for index, name in enumerate(names):
        with each():
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{where}: label {index} has the name {name!r:.60}; give it one")
    colors = _datumaro_colors(categories)
    return tuple(
        Category(str(name), True, index, colors.get(index, distinct_color(index)))
        for index, name in enumerate(names)
    )


def _datumaro_colors(categories: Mapping[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Give the colours of labels, where there are usable ones."""
    mask = categories.get("mask")
    colormap = mask.get("colormap") if isinstance(mask, dict) else None
    colors: dict[int, tuple[int, int, int]] = {}
    for entry in colormap if isinstance(colormap, list) else ():
        values = [entry.get(key) for key in ("label_id", "r", "g", "b")] if isinstance(entry, dict) else []
        whole = [value for value in values if type(value) is int]
        if len(whole) == 4 and all(0 <= value <= 255 for value in whole[1:]):
            label, red, green, blue = whole
            colors[label] = red, green, blue
    return colors


def _datumaro_segments(archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    written, annotations = json.loads(item.content)
    if written is not None and written != list(size):
        raise ValueError(
            f'"size" is {written!r:.40}, but the image is upright {size[1]} x {size[0]} (height first in "size"); '
            "put the image there that was annotated"
        )
    drawn = []
    for annotation in annotations:
        with each():
            try:
                order = annotation.get("z_order", 0)
                if isinstance(order, bool) or not isinstance(order, int):
                    raise ValueError(f'"z_order" is {order!r:.40}; expected a whole number')
                group = group_key(annotation.get("group"), "group") or None
                drawn.append((order, Drawn(annotation["label_id"], group, _datumaro_mask(annotation, size))))
            except ValueError as error:
                name = f"{annotation['type']} with id {annotation.get('id')!r:.40}"
                raise ValueError(f"{name}: {error}") from error
    return _stacked(drawn, size)


def _datumaro_mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> Rle:
    require_finite(annotation)
    if annotation["type"] == "polygon":
        return union([annotation.get("points")], size)
    rle = annotation.get("rle")
    if not isinstance(rle, dict):
        raise ValueError(f'"rle" is {rle!r:.60}; expected an object with counts and size')
    return run_lengths(rle.get("counts"), rle.get("size"), size)


FORMATS = (
    Format("cvat", f"{_XML} (CVAT for images 1.1) beside images/", _xml_missing, _xml_splits, _xml_open),
    Format(
        "datumaro",
        "annotations/SPLIT.json (Datumaro, from CVAT) beside images/SPLIT/*",
        _datumaro_missing,
        _datumaro_splits,
        _datumaro_open,
    ),
)
