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
mean is for the user to say.

**Masks of up to 8 bits are label maps** (grey or palette indices). A value is a category's `pixel_value`, else its
`id`; 255 is void; any other value is an error. Each category that is present is one segment.

**Masks of 16 or 32 bits are instance maps.** A value that is some category's `pixel_value` is one segment of that
category; 0 is void otherwise. Any other value is

- one object of the only category of things; or
- with `label_divisor`, `id * label_divisor + k`: the k-th object of a category of things, or a piece of the one
  segment of a category of stuff (Cityscapes' convention). Several categories of things need it.

Options of the object form: `"masks": "semantic"` or `"instance"` overrules the number of bits, `"masks": "color"`
tells categories by their `color`; `"void": [0, 255]` (or `[[0, 0, 0]]`, of colours) lists the void values in place
of the above, `"label_divisor": 1000`. `mask_code` reads all of this.
"""

from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, mask_kind, read_color_map, read_label_map
from eomt.data.problems import at_once, each, tell
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.mask_code import MaskCode, parse_code, read_categories, read_code
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMAT", "MaskCode", "open_folder", "read_categories", "splits"]

_LAYOUT = "expected images/SPLIT/*, masks/SPLIT/*.png and categories.json or classes.txt"
_MASK_FOLDERS = ("masks", "labels", "annotations")
_MASK_ENDINGS = tuple(
    joint + word
    for word in ("mask", "masks", "label", "labels", "seg", "segmentation", "gt", "L")  # the last is CamVid's
    for joint in "_-"
)
_LOOKED_AT = 8  # masks, to tell what a data set without categories holds


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
    if place.classes:
        code: MaskCode | None = parse_code(archive.read(place.classes), archive.where(place.classes), ".csv")
    else:
        code = read_code(archive)
    items = _pair(archive, split, place)
    code = code or _code_by_masks(archive, items)
    return Split(archive, code.categories, items, partial(_read_segments, code))


def _read_segments(code: MaskCode, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    return code.read(archive.read(item.annotation), archive.where(item.annotation), size)


def _places(archive: Archive) -> dict[str, _Place]:
    """Find the splits: of the layouts that have images, the first that has masks too, else the first."""
    paths = [PurePosixPath(name) for name in archive.names()]
    images = [path for path in paths if _is_image(path)]
    masked = {path.parts[:depth] for path in paths if path.suffix.lower() in MASK_SUFFIXES for depth in (1, 2)}

    def masks(parent: tuple[str, ...], child: tuple[str, ...]) -> str:
        """Name the folder of masks of a split, whether there is one or not."""
        named = [(*parent, folder, *child) for folder in _MASK_FOLDERS]
        return "/".join(next((parts for parts in named if parts in masked), named[0]))

    inner = {path.parts[1] for path in images if path.parts[0] == "images" and len(path.parts) > 2}
    outer = {path.parts[0] for path in images if path.parts[1:2] == ("images",) and len(path.parts) > 2}
    flat = {"train"} if any(path.parts[0] == "images" and len(path.parts) == 2 for path in images) else set()
    beside = {path.parts[0]: str(path) for path in paths if path.parts[1:] == ("_classes.csv",)}
    layouts = [
        {split: _Place(f"images/{split}", masks((), (split,))) for split in inner},
        {split: _Place("images", masks((), ())) for split in flat},
        {split: _Place(f"{split}/images", masks((split,), ())) for split in outer},
        {split: _Place(split, split, classes) for split, classes in beside.items()},
    ]
    full = (places for places in layouts if any(tuple(p.masks.split("/")) in masked for p in places.values()))
    return next(full, next(filter(None, layouts), {}))


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
        with each():
            if stem in found:
                raise DataError(
                    f"{archive.path}: {found[stem]} and {name} have one stem; rename or remove one of them"
                )
            found[stem] = name
    return found


def _find(archive: Archive, place: _Place) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Map the stems of images to their files, and to the masks that may be theirs."""
    images = _by_stem(archive, place.images, IMAGE_SUFFIXES)
    masks = _by_stem(archive, place.masks, MASK_SUFFIXES)
    if place.images == place.masks:
        masks = {stem: name for stem, name in masks.items() if stem.endswith(_MASK_ENDINGS)}
        images = {stem: name for stem, name in images.items() if stem not in masks}
    endings = {stem: [stem + ending for ending in _MASK_ENDINGS] for stem in images if stem not in masks}
    similar = {stem: [masks[name] for name in names if name in masks] for stem, names in endings.items()}
    taken = {stem: similar[stem] if stem in similar else [masks[stem]] for stem in images}
    for mask in sorted(set(masks.values()) - {name for names in taken.values() for name in names}):
        tell(
            DataError(
                f"{archive.where(mask)}: a mask, but there is no image of its name; add it, or remove the mask"
            )
        )
    return images, taken


def _pair(archive: Archive, split: str, place: _Place) -> tuple[Item, ...]:
    images, masks = _find(archive, place)
    lonely = [name for stem, name in images.items() if not masks[stem]]
    for names in at_once(lonely):
        with each():
            raise DataError(
                f"{archive.path}: {len(lonely)} of {len(images)} images of {split} have no mask: "
                f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; put a PNG of the same stem into "
                f"{place.masks} (an empty mask where there is nothing to see), or take the image out"
            )
    for stem, name in images.items():
        with each():
            if len(masks[stem]) > 1:
                raise DataError(
                    f"{archive.path}: {name} has several masks: {', '.join(masks[stem])}; keep one of them, or "
                    "give it the stem of its image"
                )
    return tuple(Item(stem, name, masks[stem][0]) for stem, name in images.items() if masks[stem])


def _code_by_masks(archive: Archive, items: tuple[Item, ...]) -> MaskCode:
    """Take masks of more than 8 bits for maps of objects. Raises DataError, with what to write, for others."""
    looked_at = [item.annotation for item in items[:: -(-len(items) // _LOOKED_AT)]]
    unsaid = (
        f"{archive.path}: neither categories.json nor classes.txt says what the masks mean; {len(looked_at)} of "
        f"{len(items)} masks hold"
    )
    files = [(archive.read(name), archive.where(name)) for name in looked_at]
    if any(mask_kind(*file) == "color" for file in files):
        colors = np.unique(np.concatenate([np.unique(read_color_map(*file)) for file in files]))
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
            if any(_find(archive, place)[1].values()):
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
