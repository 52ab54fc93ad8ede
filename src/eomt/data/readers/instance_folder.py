"""Read folders of binary masks, one mask an object: whatever is not zero belongs to it. Masks may overlap.

Five layouts are known, with splits of any names; without a split level all is one split, train:

- `SPLIT/ID/images/*` beside `SPLIT/ID/masks/*` (Data Science Bowl 2018), and the same without `SPLIT`;
- `images/SPLIT/ID.*` beside `masks/SPLIT/ID/*`, and the same without `SPLIT`; `SPLIT/images/ID.*` likewise.

With several classes, the masks lie one folder deeper, which is called like their class: `masks/SPLIT/ID/CLASS/*`.
The classes are those of `categories.json`, `classes.txt` or `classes.csv`, else those of the folders, all things;
without such folders it is one thing, the one of the file, else "object". All masks of a class of stuff are one
segment. A mask without any pixel says nothing. An image without masks is a negative; a split without any is not
seen. Masks of images that are not there are counted.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES, mask_kind, read_color_map, read_label_map
from eomt.data.parts import require_size
from eomt.data.problems import each, of_file, strict, tell, within
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.mask_code import category_file, read_code
from eomt.errors import DataError
from eomt.masks import Rle, RleMasks, decode_rle, encode_rle
from eomt.types import Segments

__all__ = ["FORMAT"]

_LAYOUTS = (  # of images, and of the folder of their masks
    ("images/SPLIT/ID", "masks/SPLIT/ID"),
    ("images/ID", "masks/ID"),
    ("SPLIT/images/ID", "SPLIT/masks/ID"),
    ("SPLIT/ID/images/*", "SPLIT/ID/masks"),
    ("ID/images/*", "ID/masks"),
)
_WORDS = ("images", "masks")
_LOOKED_AT = 32  # masks of a split, for empty ones


class _Mask(NamedTuple):
    """A file that shows one object."""

    file: str
    kind: str | None
    """The folder of its class."""


class _Found(NamedTuple):
    """The images of a split by their names, and the masks of each."""

    images: dict[str, list[str]]
    masks: dict[str, list[_Mask]]


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(sorted(_find(archive)))


def _open(archive: Archive, split: str) -> Split:
    splits = _find(archive)
    if split not in splits:
        known = f"it has {', '.join(sorted(splits))}" if splits else f"expected {FORMAT.expected}"
        raise DataError(f"{archive.path}: no split {split!r} with masks; {known}")
    masks = [mask for found in splits.values() for some in found.masks.values() for mask in some]
    categories = _categories(archive, masks)
    label_of = {category.name: label for label, category in enumerate(categories)}
    single = next((label for label, category in enumerate(categories) if category.is_thing), 0)
    items = []
    for image_id, masks in splits[split].masks.items():
        if image_id not in splits[split].images:
            words = f"{archive.where(masks[0].file)}: a mask of image {image_id}, which is not there; add it"
            tell(DataError(words, file=masks[0].file))
    for image_id, images in splits[split].images.items():
        with each():
            if len(images) > 1:
                raise DataError(
                    f"{archive.path}: {image_id} has several images: {', '.join(images[:3])}; keep one of them",
                    file=images[0],
                )
        shown = [
            (label_of[mask.kind] if mask.kind else single, mask.file)
            for mask in splits[split].masks.get(image_id, [])
            if mask.kind is None or mask.kind in label_of  # others were told
        ]
        where = str(PurePosixPath(shown[0][1]).parent) if shown else images[0]
        items.append(Item(image_id, images[0], where, tuple(shown)))
    counts = {
        "masks of {} images, as there are none: they count as images without objects": sum(
            not item.content for item in items
        ),
    }
    if not strict():  # else each is told
        counts["masks of {} images that are not there"] = len(
            splits[split].masks.keys() - splits[split].images.keys()
        )
    left_out = [text.format(count) for text, count in counts.items() if count]
    left_out += [] if strict() else _empty_masks(archive, items)
    is_thing = tuple(category.is_thing for category in categories)
    return Split(archive, categories, tuple(items), partial(_read_segments, is_thing), tuple(left_out))


def _read_segments(is_thing: tuple[bool, ...], archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    rles: list[Rle] = []
    labels: list[int] = []
    for label, file in item.content:
        with of_file(file), each():
            mask = _read_mask(archive, file, size)
            if not mask.any():
                tell(DataError(f"{archive.where(file)}: the mask has no pixels; remove it, or draw it again"))
                continue
            if not is_thing[label] and label in labels:
                place = labels.index(label)
                rles[place] = encode_rle(decode_rle(rles[place]) | mask)
                continue
            rles.append(encode_rle(mask))
            labels.append(label)
    is_crowd = torch.zeros(len(labels), dtype=torch.bool)
    return Segments(RleMasks(size, tuple(rles)), torch.tensor(labels, dtype=torch.int64), is_crowd)


def _empty_masks(archive: Archive, items: list[Item]) -> list[str]:
    """Look at some masks, from the first to the last, and tell how many have no pixels."""
    files = [file for item in items for _, file in item.content]
    looked_at = files[:: -(-len(files) // _LOOKED_AT) or 1]
    count = 0
    for file in looked_at:
        with suppress(DataError):  # told when its image is read
            count += not _values(archive.read(file), archive.where(file)).any()
    return [f"masks without pixels, like {count} of the {len(looked_at)} that were looked at"] if count else []


def _values(data: bytes, where: str) -> NDArray[np.integer[Any]]:
    """Read a mask: nothing is 0, or black."""
    colored = mask_kind(data, where) == "color"
    return read_color_map(data, where) if colored else read_label_map(data, where).values


def _read_mask(archive: Archive, file: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    where = archive.where(file)
    values = _values(archive.read(file), where)
    with within(lambda: where):
        require_size(values, size)
    mask: NDArray[np.bool_] = values != 0
    return mask


def _categories(archive: Archive, masks: list[_Mask]) -> tuple[Category, ...]:
    """Give the classes of the file that lists them, else those of the folders."""
    kinds = sorted({mask.kind for mask in masks if mask.kind})
    loose = next((mask.file for mask in masks if not mask.kind), None)
    with each():
        if kinds and loose:
            raise DataError(
                f"{archive.path}: some masks lie in folders of their class ({', '.join(kinds[:5])}), but {loose} "
                "does not; move it into one",
                file=loose,
            )
    code = read_code(archive)
    if code is None:
        return tuple(
            Category(name, True, id, distinct_color(id - 1)) for id, name in enumerate(kinds or ["object"], 1)
        )
    file = category_file(archive) or ""
    listed = code.categories
    if not file.endswith(".json"):  # where lists of names do not tell, single masks do
        listed = tuple(category._replace(is_thing=True) for category in listed)
    unknown = [kind for kind in kinds if kind not in {category.name for category in listed}]
    for kind in unknown:
        with each():
            raise DataError(
                f"{archive.where(file)}: no class is called {kind!r}, as a folder of masks is; add it, or rename "
                "the folder",
                file=file,
            )
    if not kinds and len(listed) > 1 and sum(category.is_thing for category in listed) != 1:
        raise DataError(
            f"{archive.where(file)}: {len(listed)} classes, but the masks do not say which they show; put those "
            f"of each class into a folder of its name: {PurePosixPath(loose or 'x').parent}/{listed[0].name}/",
            file=file,
        )
    return listed


def _find(archive: Archive) -> dict[str, _Found]:
    """Find the splits that have masks, by the first layout that has any."""
    shapes: dict[tuple[str, ...], list[list[str]]] = {}
    for name in archive.names():  # 100,000 and more: no paths are made of them
        if name[name.rfind(".") :].lower() in IMAGE_SUFFIXES:
            parts = name.split("/")
            shapes.setdefault(tuple(part if part in _WORDS else "" for part in parts), []).append(parts)
    for images, masks in _LAYOUTS:
        splits = _laid_out(shapes, images.split("/"), masks.split("/"))
        if splits:
            return splits
    return {}


def _laid_out(
    shapes: Mapping[tuple[str, ...], list[list[str]]], images: list[str], masks: list[str]
) -> dict[str, _Found]:
    """Sort pictures into images and masks, as one layout has them; nothing where no image has masks.

    Pictures are given by where the words of the layouts stand in their paths.
    """
    found: dict[str, _Found] = defaultdict(lambda: _Found(defaultdict(list), defaultdict(list)))
    depth = len(masks)
    ours = [pictures for shape, pictures in shapes.items() if len(shape) == len(images) and _fits(images, shape)]
    shown = [
        pictures
        for shape, pictures in shapes.items()
        if len(shape) in (depth + 1, depth + 2) and _fits(masks, shape[:depth])
    ]
    if not ours or not shown:
        return {}
    for parts in (parts for pictures in ours for parts in pictures):
        split, name = _said(images, [*parts[:-1], parts[-1].rpartition(".")[0]])
        found[split].images[name].append("/".join(parts))
    for parts in (parts for pictures in shown for parts in pictures):
        split, name = _said(masks, parts[:depth])
        kind = parts[depth] if len(parts) == depth + 2 else None
        found[split].masks[name].append(_Mask("/".join(parts), kind))
    return {split: some for split, some in found.items() if any(_belongs(some, name) for name in some.images)}


def _fits(layout: list[str], shape: tuple[str, ...]) -> bool:
    return all(wanted in ("SPLIT", "ID", "*", part) for wanted, part in zip(layout, shape, strict=True))


def _said(layout: list[str], parts: list[str]) -> tuple[str, str]:
    """Give the split and the name of an image that a path says by a layout."""
    said = dict(zip(layout, parts, strict=True))
    return said.get("SPLIT", "train"), said["ID"]


def _belongs(found: _Found, name: str) -> bool:
    """Tell whether an image has masks of single objects. One of its own name is a mask of all, for `folder`."""
    stems = [PurePosixPath(image).stem for image in found.images[name]]
    masks = [PurePosixPath(mask.file).stem for mask in found.masks.get(name, [])]
    return bool(masks) and (name in stems or not any(mask.startswith(stems[0]) for mask in masks))


def _missing(archive: Archive) -> str | None:
    return None if _find(archive) else "folder of masks for each image, masks/SPLIT/ID/*.png"


FORMAT = Format(
    "instance-folder",
    "SPLIT/ID/images/* beside SPLIT/ID/masks/*.png (or images/SPLIT/ID.* and masks/SPLIT/ID/*.png), one an object",
    _missing,
    _splits,
    _open,
)
"""A folder of binary masks an image, one for each object."""
