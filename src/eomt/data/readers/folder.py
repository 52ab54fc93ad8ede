"""Read a folder or zip of images and masks of the same names, and the categories.

Four layouts are known, with splits of any names:

- `images/SPLIT/*` beside `masks/SPLIT/*`;
- `SPLIT/images/*` beside `SPLIT/masks/*`;
- `images/*` beside `masks/*`: one split, called train;
- `SPLIT/NAME.jpg` beside `SPLIT/NAME_mask.png` and `SPLIT/_classes.csv`, as Roboflow exports them.

`masks` may be called `labels` or `annotations`. Masks are PNG (or TIFF) of exactly the upright image's size. A
mask has the stem of its image, or where none has it, that stem and `_mask`, `_label`, `_seg` or the like. A mask
without any object is a negative and kept; an image without a mask is an error. Other files are ignored.

**Categories** stand in `classes.txt` (one name a line, all stuff, numbered from 0), in `classes.csv` or
`class_dict.csv` (name, r, g, b: all stuff, told by colour), or in `categories.json`: a list of objects with
`name`, `is_thing` (COCO's `isthing` too) and, optionally, `id` (default: the place in the list), `color`
([r, g, b]) and `pixel_value`; or an object that holds this list as `categories` beside the options below.

Without any of these files, masks of 16 or 32 bits number the objects of one category, "object"; what other masks
mean is for the user to say. With one name in `classes.txt`, they number the objects of that one. A split without
any mask is not seen, if others have some; masks of no image are counted.

**Masks of up to 8 bits are label maps** (grey or palette indices). A value is a category's `pixel_value`, else its
`id`; 255 is void; any other value is an error. Each category that is present is one segment: as no objects are
told apart, all categories are stuff, whatever they are declared to be.

**Masks of 16 or 32 bits are instance maps.** A value that is some category's `pixel_value` is one segment of that
category; 0 is void otherwise. Any other value is

- one object of the only category of things; or
- with `label_divisor`, `id * label_divisor + k`: the k-th object of a category of things, or a piece of the one
  segment of a category of stuff (Cityscapes' convention). Several categories of things need it.

Options of the object form: `"masks": "semantic"` or `"instance"` overrules the number of bits, `"masks": "color"`
tells categories by their `color`; `"void": [0, 255]` (or `[[0, 0, 0]]`, of colours) lists the void values in place
of the above, `"label_divisor": 1000`. `mask_code` reads all of this.
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.files import image_ids
from eomt.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, LabelMap, mask_kind, read_color_map, read_label_map
from eomt.data.problems import Remark, at_once, each, of_file, strict, tell
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.mask_code import MaskCode, category_file, parse_code, read_categories, read_code
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMAT", "MaskCode", "open_folder", "open_maps", "read_categories", "splits"]

_LAYOUT = "expected images/SPLIT/*, masks/SPLIT/*.png and categories.json or classes.txt"
_MASK_FOLDERS = ("masks", "labels", "annotations")
_MASK_ENDINGS = tuple(
    joint + word
    for word in ("mask", "masks", "label", "labels", "seg", "segmentation", "gt", "L")  # the last is CamVid's
    for joint in "_-"
)
_LOOKED_AT = 8  # masks, to tell what a data set holds ...
_LOOKED_AT_AGAIN = 100  # ... and where they seem to hold little
_NO_OBJECTS = (
    "which classes are things, as masks of up to 8 bits (or colours) tell no objects apart: all are stuff (masks "
    'of 16 bits number objects, and so do others with "masks": "instance" in categories.json)'
)


class _Place(NamedTuple):
    """Where the files of a split lie."""

    images: str
    masks: str
    classes: str | None = None
    """Its own list of classes."""


def splits(root: Path | str) -> tuple[str, ...]:
    """List the splits of a folder or zip."""
    return _splits(Archive(root))


def open_folder(root: Path | str, split: str) -> Split:
    """Open a split of a folder or zip. Raises DataError when the layout or the categories are not usable."""
    return _open(Archive(root), split)


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(sorted(_places(archive)))


def _open(archive: Archive, split: str) -> Split:
    places = _places(archive)
    if not places:
        raise DataError(f"{archive.path}: no images in a split; {_LAYOUT}")
    if split not in places:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(sorted(places))}")
    place = places[split]
    if strict() and place.images == f"images/{split}":
        _tell_halves(archive, places)
    if place.classes:
        file: str | None = place.classes
        with of_file(place.classes):
            code: MaskCode | None = parse_code(archive.read(place.classes), archive.where(place.classes), ".csv")
    else:
        file, code = category_file(archive), read_code(archive)
    items, strangers = _pair(archive, split, place)
    left_out = [f"{strangers} masks of no image"] if strangers and not strict() else []
    if code is None:
        code = _code_by_masks(archive, items)
    elif file is not None:
        with of_file(file):
            code = _checked_by_masks(archive, items, code, file)
        if any(category.is_thing for category in code.categories) and _is_semantic(archive, items, code):
            left_out.append(_NO_OBJECTS)
            code = _without_things(code)
    return Split(archive, code.categories, items, partial(_read_segments, code), tuple(left_out))


def open_maps(archive: Archive, code: MaskCode | None, ending: str = "") -> tuple[Split, bool]:
    """Open label maps without their images, and tell whether they show classes and no objects. Raises DataError.

    They are all masks of the archive, or those whose stems have this ending; each stands for the image that is
    called like it without the ending. `code` says what they mean where no file among them does.
    """
    names = [name for name in archive.names() if name.lower().endswith(tuple(ending + s for s in MASK_SUFFIXES))]
    stems = [name[: name.rfind(".")].removesuffix(ending) for name in names]
    items = tuple(
        Item(image_id, name, name)
        for image_id, name in zip(image_ids(f"{s}.png" for s in stems), names, strict=True)
    )
    if not items:
        raise DataError(f"{archive.path}: no label maps (PNG or TIFF); check the path")
    code = code or _code_by_masks(archive, items)
    semantic = _is_semantic(archive, items, code)
    if semantic:
        code = _without_things(code)
    return Split(archive, code.categories, items, partial(_read_segments, code)), semantic


def _without_things(code: MaskCode) -> MaskCode:
    return replace(code, categories=tuple(category._replace(is_thing=False) for category in code.categories))


def _read_segments(code: MaskCode, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    return code.read(archive.read(item.annotation), archive.where(item.annotation), size)


def _places(archive: Archive) -> dict[str, _Place]:
    """Find the splits: of the layouts that have images, the first that has masks too, else the first.

    Where there are masks, a split without any is none.
    """
    inner, outer, flat, beside = set(), set(), False, {}
    masked: set[tuple[str, ...]] = set()
    for name in archive.names():  # 100,000 and more: no paths are made of them
        first, slash, rest = name.partition("/")
        if not slash:
            continue
        second, deeper, _ = rest.partition("/")
        suffix = _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            if first == "images":
                flat = flat or not deeper
                if deeper:
                    inner.add(second)
            if second == "images" and deeper:
                outer.add(first)
        elif rest == "_classes.csv":
            beside[first] = name
        if suffix in MASK_SUFFIXES:
            masked |= {(first,), (first, second)}

    def masks(parent: tuple[str, ...], child: tuple[str, ...]) -> str:
        """Name the folder of masks of a split, whether there is one or not."""
        named = [(*parent, folder, *child) for folder in _MASK_FOLDERS]
        return "/".join(next((parts for parts in named if parts in masked), named[0]))

    layouts = [
        {split: _Place(f"images/{split}", masks((), (split,))) for split in inner},
        {"train": _Place("images", masks((), ()))} if flat else {},
        {split: _Place(f"{split}/images", masks((split,), ())) for split in outer},
        {split: _Place(split, split, classes) for split, classes in beside.items()},
    ]
    for places in layouts:
        full = {split: place for split, place in places.items() if tuple(place.masks.split("/")) in masked}
        if full:
            return full
    return next(filter(None, layouts), {})


def _tell_halves(archive: Archive, places: Container[str]) -> None:
    """Tell of folders of masks without images, and of images without masks, which make no split."""
    halves: dict[tuple[str, str], list[str]] = {}
    for name in archive.names():
        first, _, rest = name.partition("/")
        second, deeper, _ = rest.partition("/")
        if deeper and second not in places and _suffix(name) in IMAGE_SUFFIXES:
            halves.setdefault((first, second), []).append(name)
    for (first, second), names in halves.items():
        where = f"{archive.where(f'{first}/{second}')}: "
        if first in _MASK_FOLDERS:
            words = f"{where}masks ({len(names)}), but images/{second} has no images; add them, or remove these"
            tell(DataError(words, file=names[0]))
        elif first == "images":
            words = f"{where}images ({len(names)}) without masks in masks/{second}: no split"
            tell(Remark(words, file=names[0]))


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _by_stem(archive: Archive, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Map stems (with subfolders) to files. Raises DataError where two files have one stem."""
    found: dict[str, str] = {}
    for name in archive.names(folder):
        if _suffix(name) not in suffixes:
            continue
        stem = name[len(folder) + 1 : name.rfind(".")]
        with each():
            if stem in found:
                words = f"{archive.path}: {found[stem]} and {name} have one stem; rename or remove one of them"
                raise DataError(words, file=name)
            found[stem] = name
    return found


class _Pairs(NamedTuple):
    """What lies in the folders of a split."""

    images: dict[str, str]
    """Files by their stems."""
    masks: dict[str, list[str]]
    """Of each image, by its stem, the masks that may be its own."""
    strangers: list[str]
    """Masks of no image."""


def _find(archive: Archive, place: _Place) -> _Pairs:
    images = _by_stem(archive, place.images, IMAGE_SUFFIXES)
    masks = _by_stem(archive, place.masks, MASK_SUFFIXES)
    if place.images == place.masks:
        masks = {stem: name for stem, name in masks.items() if stem.endswith(_MASK_ENDINGS)}
        images = {stem: name for stem, name in images.items() if stem not in masks}
    taken = {
        stem: [masks[stem]]
        if stem in masks
        else [masks[stem + ending] for ending in _MASK_ENDINGS if stem + ending in masks]
        for stem in images
    }
    strangers = sorted(set(masks.values()) - {name for names in taken.values() for name in names})
    return _Pairs(images, taken, strangers)


def _pair(archive: Archive, split: str, place: _Place) -> tuple[tuple[Item, ...], int]:
    """Give the images with their masks, and how many masks are of no image."""
    images, masks, strangers = _find(archive, place)
    for mask in strangers:
        words = f"{archive.where(mask)}: a mask, but there is no image of its name; add it, or remove the mask"
        tell(DataError(words, file=mask))
    lonely = [name for stem, name in images.items() if not masks[stem]]
    for names in at_once(lonely):
        with each():
            raise DataError(
                f"{archive.path}: {len(lonely)} of {len(images)} images of {split} have no mask: "
                f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; put a PNG of the same stem into "
                f"{place.masks} (an empty mask where there is nothing to see), or take the image out",
                file=names[0],
            )
    for stem, name in images.items():
        with each():
            if len(masks[stem]) > 1:
                raise DataError(
                    f"{archive.path}: {name} has several masks: {', '.join(masks[stem])}; keep one of them, or "
                    "give it the stem of its image",
                    file=name,
                )
    items = tuple(Item(stem, name, masks[stem][0]) for stem, name in images.items() if masks[stem])
    return items, len(strangers)


def _some_masks(archive: Archive, items: tuple[Item, ...], count: int = _LOOKED_AT) -> Iterator[LabelMap]:
    """Read some masks, from the first to the last. Those that cannot be read are told when their turn comes."""
    for item in items[:: -(-len(items) // count) or 1]:
        with suppress(DataError):
            yield read_label_map(archive.read(item.annotation), archive.where(item.annotation))


def _is_semantic(archive: Archive, items: tuple[Item, ...], code: MaskCode) -> bool:
    """Tell whether the masks show classes and no objects."""
    bits = [mask.bits for mask in _some_masks(archive, items)] if code.masks is None else []
    return code.masks in ("semantic", "color") or (len(bits) > 0 and max(bits) <= 8)


def _checked_by_masks(archive: Archive, items: tuple[Item, ...], code: MaskCode, file: str) -> MaskCode:
    """Compare what the categories say with some masks. A list of one name makes masks of objects show that one.

    Raises DataError, with what to write, where masks tell objects of no one class, and where those of one class
    would all be void.
    """
    if code.masks == "color":
        return code
    masks = list(_some_masks(archive, items))
    one_name = not file.endswith(".json") and len(code.categories) == 1
    if one_name and masks and all(mask.bits > 8 for mask in masks):
        return replace(code, categories=(code.categories[0]._replace(is_thing=True),), masks="instance")
    with each():
        if code.masks != "semantic":
            _require_one_thing(archive, masks, code, file)
        if code.masks is None and _hides_objects(masks, code):
            more = _some_masks(archive, items, _LOOKED_AT_AGAIN)
            if _hides_objects(more, code):
                raise DataError(
                    f"{archive.where(file)}: the masks hold the values 0 and 255 only, and 255 is void where "
                    f"nothing else is said: nothing would be learned. {_advice([0, 255])}; where 255 is void, "
                    'write {"categories": [...], "void": [255]}'
                )
    return code


def _hides_objects(masks: Iterable[LabelMap], code: MaskCode) -> bool:
    """Tell whether masks hold 0 and 255 only, and 255 is void but nobody said so."""
    if code.void is not None or 255 in (code.value(label) for label in range(len(code.categories))):
        return False
    values: set[int] = set()
    for mask in masks:
        values.update(np.unique(mask.values).tolist())
        if mask.bits > 8 or not values <= {0, 255}:
            return False
    return values == {0, 255}


def _require_one_thing(archive: Archive, masks: list[LabelMap], code: MaskCode, file: str) -> None:
    """Raise DataError where masks number objects, and it is not said of which class they are."""
    things = [category.name for category in code.categories if category.is_thing]
    numbered = [mask for mask in masks if mask.bits > 8 or code.masks == "instance"]
    if not numbered or len(things) == 1 or code.label_divisor is not None:
        return
    declared = {*(code.pixel_values), *((0,) if code.void is None else code.void)}
    values = np.unique(np.concatenate([np.unique(mask.values) for mask in numbered])).tolist()
    if declared.issuperset(values):
        return
    names = ", ".join(f'{{"name": "{category.name}", ...}}' for category in code.categories[:2])
    listed = f"[{names}{', ...' if len(code.categories) > 2 else ''}]"
    raise DataError(
        f"{archive.where(file)}: it lists {len(code.categories)} classes, {len(things) or 'none'} of them things, "
        f"but the masks of {numbered[0].bits} bits number objects (the values {_listed(values)}). Write "
        f'categories.json: {{"categories": {listed}, "masks": "semantic"}} where the values are classes; '
        '"is_thing": true for one class, and false for the others, where all objects are of that one; else '
        '"label_divisor": 1000, with values id * 1000 + number of the object'
    )


def _code_by_masks(archive: Archive, items: tuple[Item, ...]) -> MaskCode:
    """Take masks of more than 8 bits for maps of objects. Raises DataError, with what to write, for others."""
    looked_at = [item.annotation for item in items[:: -(-len(items) // _LOOKED_AT)]]
    unsaid = (
        f"{archive.path}: neither categories.json nor classes.txt says what the masks mean; {len(looked_at)} of "
        f"{len(items)} masks hold"
    )
    files = [(archive.read(name), archive.where(name)) for name in looked_at]
    colored = [np.unique(read_color_map(*file)) for file in files if mask_kind(*file) == "color"]
    if any((colors % 0x010101).any() for colors in colored):  # not grey
        colors = np.unique(np.concatenate(colored))
        rows = [f"CLASS{n},{color & 255},{color >> 8 & 255},{color >> 16}" for n, color in enumerate(colors[:30])]
        raise DataError(
            f"{unsaid} {len(colors)} colours. Write classes.csv with a name for each:\nname,r,g,b\n"
            + "\n".join(rows)
            + ("\n..." if len(colors) > len(rows) else "")
        )
    masks = [read_label_map(*file) for file in files]
    if all(mask.bits > 8 for mask in masks):
        return MaskCode((Category("object", True, 1, distinct_color(0)),), (None,), "instance")
    found = np.unique(np.concatenate([np.unique(mask.values) for mask in masks])).tolist()
    raise DataError(f"{unsaid} the values {_listed(found)}. {_advice(found)}")


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:20]))
    return f"{shown}, ... {values[-1]} ({len(values)} in all)" if len(values) > 20 else shown


def _advice(values: list[int]) -> str:
    objects = (
        'Where the values number objects, write categories.json: {"categories": [{"name": "NAME", "is_thing": '
        'true}], "masks": "instance"}'
    )
    if values == [0, 255]:
        return (
            'Write categories.json: [{"name": "background", "is_thing": false, "pixel_value": 0}, {"name": '
            '"NAME", "is_thing": false, "pixel_value": 255}]'
        )
    most = max((value for value in values if value != 255), default=0)
    void = " (255 is void)" if 255 in values else ""
    return (
        f"Where the values are classes, write classes.txt with {most + 1} lines, the names of the values 0 to "
        f"{most}{void}. {objects}"
    )


def _missing(archive: Archive) -> str | None:
    places = _places(archive)
    if not places:
        return "images/SPLIT/* (or SPLIT/images/*, images/*)"
    annotations = any(place.masks.split("/")[0] == "annotations" for place in places.values())
    if annotations and any(name.endswith(".json") for name in archive.names("annotations")):
        return "masks/SPLIT/*.png (annotations/*.json is of another format)"
    if annotations and set(places) <= {"training", "validation"} and read_code(archive) is None:
        return "categories.json or classes.txt (images/training beside annotations/training is ADE20K's layout)"
    for place in places.values():
        try:
            if archive.names(place.masks) and any(_find(archive, place).masks.values()):
                return None
        except DataError:  # two files of one stem: this layout, to be told when it is opened
            return None
    return "masks/SPLIT/*.png, named as the images are"


FORMAT = Format(
    "folder",
    "images/SPLIT/* beside masks/SPLIT/*.png of the same names, with categories.json, classes.txt or classes.csv",
    _missing,
    _splits,
    _open,
)
"""Images beside masks of the same names."""
