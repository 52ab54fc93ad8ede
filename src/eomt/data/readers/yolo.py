"""Read YOLO-seg: `data.yaml` with the names and the places of the splits, and a text file of polygons an image.

Places are folders, lists of folders, or text files that list images, as Ultralytics takes them: relative to
`path` or, where that is not there, to the YAML file (exports often carry a path of another machine);
`../train/images` stands for `train/images` where there is nothing above (Roboflow). All must lie in the data set.

The labels of `.../images/NAME.jpg` lie in `.../labels/NAME.txt`. A line is one object: a class and the corners of
a polygon, as shares of the width and height. An image without a file of labels is a negative. Coordinates up to a
tenth of the image outside of it are moved to its border. Boxes are left out and counted, as are lines that repeat,
images without labels and labels without an image.
"""

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import yaml

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES
from eomt.data.problems import each, of_file, strict, tell
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.shapes import union
from eomt.data.shallow_yaml import ShallowLoader
from eomt.errors import DataError
from eomt.masks import RleMasks
from eomt.types import Segments

__all__ = ["FORMAT"]

_SPLITS = ("train", "val", "valid", "validation", "test")
_KEYS = (*_SPLITS, "path", "names", "nc", "kpt_shape")
_MAX_YAML = 1 << 18  # bytes: reading YAML is slow, and a thousand names take 20 kB
_MARGIN = 0.1  # of the image's width or height, that a coordinate may lie outside
_BOX = 5  # numbers: class, centre, width and height

_Value = str | None | list[str | None] | dict[str, str | None]


class _Entry(NamedTuple):
    """What stands under a key of the YAML file, and in which line. Words stay text: a class may be called no."""

    value: _Value
    line: int


class _Config(NamedTuple):
    """What the YAML file says."""

    file: str
    entries: dict[str, _Entry]

    def where(self, archive: Archive, key: str) -> str:
        """Name a line for messages."""
        return f"{archive.where(self.file)}: line {self.entries[key].line}: {key}"


def _splits(archive: Archive) -> tuple[str, ...]:
    config = _read_config(archive)
    files = archive.names()
    return tuple(split for split in _declared(config) if split != "test" or _is_there(archive, config, files))


def _declared(config: _Config) -> list[str]:
    return [split for split in _SPLITS if split in config.entries and config.entries[split].value]


def _is_there(archive: Archive, config: _Config, files: list[str]) -> bool:
    """Tell whether there are images to test on: exports name that split even when it was left out."""
    try:
        return bool(_images(archive, config, "test", files))
    except DataError:
        return False


def _open(archive: Archive, split: str) -> Split:
    config = _read_config(archive)
    if split not in _declared(config):
        known = ", ".join(_declared(config))
        raise DataError(f"{archive.where(config.file)}: no split {split!r}; it has {known}")
    if "kpt_shape" in config.entries:
        words = f"{config.where(archive, 'kpt_shape')}: labels of key points; export polygons instead"
        raise DataError(words, file=config.file)
    files = archive.names()
    known_files = set(files)
    with of_file(config.file):
        categories = _categories(archive, config)
        images = _images(archive, config, split, files)
    label_of = {category.id: label for label, category in enumerate(categories)}
    items = tuple(
        Item(image_id, image, label := _label_file(image), label in known_files)
        for image_id, image in _by_id(archive, images).items()
    )
    left_out = _look_through(archive, split, items, label_of)
    strangers = _strangers(archive, items, known_files)
    if strangers and not strict():
        left_out += (f"{strangers} label files of no image",)
    return Split(archive, categories, items, partial(_read_segments, label_of), left_out)


def _read_segments(label_of: dict[int, int], archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    height, width = size
    rles, labels = [], []
    for number, line in _lines(archive.read(item.annotation) if item.content else b"").items():
        with each():
            try:
                label, shares = _object(line, label_of)
                if shares:
                    sides = (width, height) * (len(shares) // 2)
                    inside = [min(max(share, 0.0), 1.0) * side for share, side in zip(shares, sides, strict=True)]
                    rles.append(union([inside], size))
                    labels.append(label)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    is_crowd = torch.zeros(len(labels), dtype=torch.bool)
    return Segments(RleMasks(size, tuple(rles)), torch.tensor(labels, dtype=torch.int64), is_crowd)


def _lines(content: bytes) -> dict[int, bytes]:
    """Give the lines that say something, with their numbers; of lines that repeat, the first."""
    numbers: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        numbers.setdefault(b" ".join(line.split()), number)
    return {number: line for line, number in numbers.items() if line}


def _object(line: bytes, label_of: dict[int, int]) -> tuple[int, list[float]]:
    """Read the label and the corners of one object: no corners for a box. Raises ValueError."""
    words = line.split()
    try:
        values = [float(word) for word in words if b"_" not in word]  # which Python would take
    except ValueError:
        values = []
    if len(values) != len(words) or not all(map(math.isfinite, values)):
        raise ValueError(f"{_short(line)} are not numbers alone; write a class and x y x y ... from 0 to 1")
    number, *shares = values
    if number not in label_of:
        raise ValueError(
            f"class {words[0].decode()} is not among the names of the YAML file ({min(label_of)} to "
            f"{max(label_of)}); add its name there, or correct the label"
        )
    if len(values) == _BOX:
        shares = []
    elif len(values) < 7 or len(values) % 2 == 0:
        raise ValueError(
            f"{len(values)} numbers; a polygon is a class and x y of three corners or more (7, 9, 11, ... numbers)"
        )
    for share in shares:
        if not -_MARGIN <= share <= 1 + _MARGIN:
            raise ValueError(
                f"the coordinate {share:g} lies far outside the image; write shares of its width and height, from "
                "0 to 1, not pixels"
            )
    return label_of[int(number)], shares


def _short(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _strangers(archive: Archive, items: tuple[Item, ...], files: set[str]) -> int:
    """Count files of labels, beside those of the split, that are of no image."""
    folders = {posixpath.dirname(item.annotation) for item in items}
    known = {_label_file(name) for name in files if _is_image(name)}
    # Where labels lie among the images, other texts may be there, too: lists of images, a README.
    texts = [name for name in files - known if name.endswith(".txt") and posixpath.dirname(name) in folders]
    found = [name for name in sorted(texts) if "labels" in name.split("/")]
    for name in found:
        words = f"{archive.where(name)}: labels, but there is no image of this name; add it, or remove them"
        tell(DataError(words, file=name))
    return len(found)


def _look_through(
    archive: Archive, split: str, items: tuple[Item, ...], label_of: dict[int, int]
) -> tuple[str, ...]:
    """Count what is left out. Lines that are wrong are told when their image is read.

    Raises DataError where no image has labels, or all of them are boxes.
    """
    labelled = [item.annotation for item in items if item.content]
    if not labelled:
        raise DataError(
            f"{archive.path}: none of the {len(items)} images of {split} has a file of labels; that of "
            f"{items[0].image} would be {items[0].annotation}"
        )
    counts: Counter[str] = Counter()
    for name in labelled:
        content = archive.read(name)
        lines = _lines(content)
        counts["repeated"] += sum(1 for line in content.splitlines() if line.strip()) - len(lines)
        for line in lines.values():
            try:
                _, shares = _object(line, label_of)
            except ValueError:
                counts["wrong"] += 1
                continue
            counts["polygons" if shares else "boxes"] += 1
            counts["clipped"] += any(not 0 <= share <= 1 for share in shares)
    if counts["boxes"] and not counts["polygons"] + counts["wrong"]:
        raise DataError(
            f"{archive.path}: the labels of {split} are boxes: {counts['boxes']} of them in "
            f"{len(labelled)} files, and no polygon; export labels for segmentation (class x1 y1 x2 y2 x3 y3 ...)"
        )
    said = {
        "boxes": "{} boxes (a class and four numbers), which show no outline",
        "repeated": "{} lines that repeat another one of their file",
        "clipped": "the parts of {} polygons outside their image, whose corners were moved to its border",
    }
    left_out = tuple(words.format(counts[what]) for what, words in said.items() if counts[what])
    unlabelled = len(items) - len(labelled)
    if unlabelled:
        left_out += (
            f"labels of {unlabelled} of {len(items)} images, which have no label file: they count as images "
            "without objects",
        )
    return left_out


def _by_id(archive: Archive, images: list[str]) -> dict[str, str]:
    """Name the images by their paths below the folder that holds them all, without suffix."""
    top = posixpath.commonpath([posixpath.dirname(image) for image in images])
    found: dict[str, str] = {}
    for image in images:
        image_id = posixpath.splitext(posixpath.relpath(image, top or "."))[0]
        with each():
            if image_id in found:
                raise DataError(
                    f"{archive.path}: {found[image_id]} and {image} have one stem, and so one file of labels; "
                    "rename or remove one of them",
                    file=image,
                )
            found[image_id] = image
    return found


def _label_file(image: str) -> str:
    """Name the file of labels of an image: `labels` in place of the last folder called `images`."""
    *folders, name = f"{posixpath.splitext(image)[0]}.txt".split("/")
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return "/".join((*folders, name))


def _images(archive: Archive, config: _Config, split: str, files: list[str]) -> list[str]:
    """List the images of a split. Raises DataError naming the line of the YAML file, or of the list of images."""
    value = config.entries[split].value
    where = config.where(archive, split)
    if isinstance(value, dict) or value is None:
        raise DataError(f"{where}: give a folder, a list of folders, or a .txt file that lists the images")
    found: list[str] = []
    for place in value if isinstance(value, list) else [value]:
        found += _at(archive, config, str(place), where, files)
    return list(dict.fromkeys(found))


def _at(archive: Archive, config: _Config, place: str, where: str, files: list[str]) -> list[str]:
    """List the images of one place."""
    candidates = list(_candidates(archive, _root(config), place))
    for candidate in candidates:
        if candidate.endswith(".txt") and candidate in files:
            return _listed(archive, config, candidate, files)
        prefix = candidate + "/" if candidate else ""
        images = [name for name in files if name.startswith(prefix) and _is_image(name)]
        if images:
            return images
    if not candidates:
        raise DataError(
            f"{where}: {place!r} lies outside of {archive.path}, and nothing outside of it is read; "
            + ("give the folder that holds all of it" if archive.path.is_dir() else "pack all of it into the zip")
            + f", or correct the place{_folders(files)}"
        )
    tried = ", ".join(name or "the top folder" for name in candidates)
    raise DataError(
        f"{where}: {place!r} has no images: looked for {tried} in {archive.path}; correct it{_folders(files)}"
    )


def _folders(files: list[str]) -> str:
    """Say where there are images."""
    folders = sorted({posixpath.dirname(name) or "." for name in files if _is_image(name)})
    return (
        f" (there are images in {', '.join(folders[:5])}{', ...' if len(folders) > 5 else ''})" if folders else ""
    )


def _listed(archive: Archive, config: _Config, file: str, files: list[str]) -> list[str]:
    """Read a list of images. Raises DataError naming the line of one that is not there."""
    known = set(files)
    roots = (posixpath.dirname(file), *_root(config))
    found = []
    for number, line in enumerate(archive.read(file).decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        candidates = list(_candidates(archive, roots, line.strip()))
        image = next((name for name in candidates if name in known and _is_image(name)), None)
        with each():
            if image is None:
                raise DataError(
                    f"{archive.where(file)}: line {number}: {line.strip()!r:.200} is no image in {archive.path}; "
                    "write its path from the top folder, or take the line out",
                    file=file,
                )
            found.append(image)
    if not found:
        raise DataError(f"{archive.where(file)}: lists no images; write the path of one a line", file=file)
    return found


def _root(config: _Config) -> tuple[str, ...]:
    """Give the folder that places are relative to: that of `path`, then that of the YAML file."""
    path = config.entries["path"].value if "path" in config.entries else None
    return (path, "") if isinstance(path, str) else ("",)


def _candidates(archive: Archive, roots: tuple[str, ...], place: str) -> Iterator[str]:
    """Give the names inside the archive that a place may mean."""
    place = place.replace("\\", "/")
    shorter = place.removeprefix("../")
    places = [posixpath.join(root.replace("\\", "/"), name) for name in (place, shorter) for root in roots]
    for name in dict.fromkeys(places):
        inside = _inside(archive, name)
        if inside is not None:
            yield inside


def _inside(archive: Archive, place: str) -> str | None:
    """Give the name in the archive of a place on the disk; None where it lies outside."""
    if re.match("[A-Za-z]:/", place) or "\0" in place:
        return None
    if posixpath.isabs(place):
        if not archive.path.is_dir():
            return None
        place = os.path.relpath(posixpath.normpath(place), os.path.abspath(archive.path))
    place = posixpath.normpath(place)
    return None if place == ".." or place.startswith("../") else "" if place == "." else place


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _categories(archive: Archive, config: _Config) -> tuple[Category, ...]:
    """Read the names: a list, or a table from numbers to names."""
    if "names" not in config.entries:
        raise DataError(f"{archive.where(config.file)}: no names of the classes; add names: [NAME, NAME, ...]")
    where = config.where(archive, "names")
    value = config.entries["names"].value
    if not isinstance(value, list | dict) or not value:
        raise DataError(f"{where}: give a list like [cat, dog] or a table like 0: cat")
    pairs = list(value.items()) if isinstance(value, dict) else [(str(i), name) for i, name in enumerate(value)]
    names: dict[int, str] = {}
    for key, name in pairs:
        with each():
            if not re.fullmatch("[0-9]{1,9}", key):
                raise DataError(f"{where}: the class {key!r:.60} has no whole number; write a table like 0: cat")
            taken = name in names.values()
            names[int(key)] = name or f"class {key}"  # stays where faults are collected
            if name is None or not name.strip():
                raise DataError(f"{where}: class {key} has no name; give it one")
            if taken:
                raise DataError(f"{where}: two classes are named {name!r:.60}; give each its own name")
    with each():
        _check_count(archive, config, names)
    return tuple(Category(names[id], True, id, distinct_color(n)) for n, id in enumerate(sorted(names)))


def _check_count(archive: Archive, config: _Config, names: dict[int, str]) -> None:
    count = config.entries["nc"].value if "nc" in config.entries else None
    if count is not None and count not in (str(len(names)), str(max(names) + 1)):
        raise DataError(
            f"{config.where(archive, 'nc')}: is {count!r:.60}, but there are {len(names)} names; correct that"
        )


def _read_config(archive: Archive) -> _Config:
    """Read the YAML file. Raises DataError where there is none, or two might be meant."""
    files = _yaml_files(archive)
    if not files:
        raise DataError(f"{archive.path}: no data.yaml; write one with names, train and val")
    if "data.yaml" in files:
        return _parse(archive, "data.yaml")
    configs = [config for config in (_parse(archive, file) for file in files) if _is_config(config)]
    if len(configs) != 1:
        listed = ", ".join(config.file for config in configs) or ", ".join(files)
        raise DataError(
            f"{archive.path}: {len(configs)} of its YAML files name classes and places of images ({listed}); name "
            "the one that counts data.yaml"
        )
    return configs[0]


def _yaml_files(archive: Archive) -> list[str]:
    return [name for name in archive.names() if "/" not in name and name.lower().endswith((".yaml", ".yml"))]


def _is_config(config: _Config) -> bool:
    return "names" in config.entries and bool(_declared(config))


def _parse(archive: Archive, file: str) -> _Config:
    """Read the entries that are used here. No object is made of what the file says: it may come from anywhere."""
    content = archive.read(file)
    if len(content) > _MAX_YAML:
        raise DataError(
            f"{archive.where(file)}: {len(content) >> 10} KiB; names and places of images take far less",
            file=file,
        )
    try:
        top = yaml.compose(content.decode("utf-8-sig"), Loader=ShallowLoader)
        if not isinstance(top, yaml.MappingNode):
            raise ValueError("expected lines like train: images/train")
        entries: dict[str, _Entry] = {}
        for key, node in top.value:
            name, line = _text(key) or "", key.start_mark.line + 1
            if name in entries:
                raise ValueError(f"line {line}: {name} stands twice; remove one")
            if name in _KEYS:
                entries[name] = _Entry(_value(node), line)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{archive.where(file)}: not usable as YAML ({error}); correct it", file=file) from error
    return _Config(file, entries)


def _value(node: yaml.Node) -> _Value:
    """Give a text, a list of texts or a table of texts; empty values are None. Raises ValueError for more."""
    if isinstance(node, yaml.SequenceNode):
        return [_text(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        table: dict[str, str | None] = {}
        for key, item in node.value:
            name = _text(key) or ""
            if name in table:
                raise ValueError(f"line {key.start_mark.line + 1}: {name!r} stands twice; remove one")
            table[name] = _text(item)
        return table
    return _text(node)


def _text(node: yaml.Node) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"line {node.start_mark.line + 1}: a list or table where one word is expected")
    return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _missing(archive: Archive) -> str | None:
    try:
        files = _yaml_files(archive)
        if not files:
            return "data.yaml"
        configs = [_parse(archive, file) for file in files]
    except DataError as error:
        return f"data.yaml that can be read ({' '.join(str(error).split())})"
    return None if any(map(_is_config, configs)) else "names and train or val in data.yaml"


FORMAT = Format(
    "yolo",
    "data.yaml with names, train and val; images/SPLIT/* beside labels/SPLIT/*.txt with polygons",
    _missing,
    _splits,
    _open,
)
"""Ultralytics' labels for segmentation."""
