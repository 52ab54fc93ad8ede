"""Read Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_*.png`.

The two official zips in one folder serve as well; where a split has no gtFine, gtCoarse is read. Of the id maps,
the first of these that is there is read, one kind for the whole data set:

- `instanceIds`: 19 classes, 8 of them things. A value from 1000 on is id * 1000 + number of the object; below, it
  is the id of stuff, or of a group of things that nobody could tell apart: a crowd.
- `labelIds`, or else `labelTrainIds`: the same classes, but no objects, so that all of them are stuff here.

Label ids without a class of the benchmark (ego vehicle, parking, caravan, ...) are void. The split test has dummy
labels, without any class: it is not listed then, and its images are there to be predicted, not to be judged on.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from eomt.categories import Category, class_table
from eomt.data.archive import Archive
from eomt.data.images import read_label_map
from eomt.data.parts import Part, distinct, require_size, segments_of
from eomt.data.problems import at_once, each, strict, tell
from eomt.data.reader import Format, Item, Split
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMAT"]

_TOPS = ("", "cityscapes/")
_IMAGE = "_leftImg8bit.png"
_Kind = Literal["instanceIds", "labelIds", "labelTrainIds"]
_KINDS: tuple[_Kind, ...] = ("instanceIds", "labelIds", "labelTrainIds")
_VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Label ids that the benchmark does not count."""
_HINT = (
    "take those of gtFine_trainvaltest.zip, or draw each with cityscapesScripts: python -m "
    "cityscapesscripts.preparation.json2instanceImg X_gtFine_polygons.json X_gtFine_instanceIds.png"
)


class _Tree(NamedTuple):
    """What there is of Cityscapes in an archive."""

    top: str
    images: tuple[str, ...]
    """Of all splits."""
    annotations: dict[str, str]
    """Split to folder of annotations, where it has any."""
    kind: _Kind | None


def _tree(archive: Archive) -> _Tree | None:
    """Look what there is; None without images that are named as Cityscapes names them."""
    for top in _TOPS:
        images = tuple(name for name in archive.names(f"{top}leftImg8bit") if name.endswith(_IMAGE))
        depth = f"{top}leftImg8bit/SPLIT/CITY/X".count("/")
        if images := tuple(name for name in images if name.count("/") == depth):
            break
    else:
        return None
    annotations: dict[str, str] = {}
    endings: set[str] = set()
    for folder in ("gtFine", "gtCoarse"):
        names = [name for name in archive.names(f"{top}{folder}") if name.count("/") == depth]
        endings |= {name.rsplit("_", 1)[-1] for name in names}
        for split in sorted({name.removeprefix(f"{top}{folder}/").split("/", 1)[0] for name in names}):
            annotations.setdefault(split, folder)
    kind = next((kind for kind in _KINDS if f"{kind}.png" in endings), None)
    return _Tree(top, images, annotations, kind)


def _missing(archive: Archive) -> str | None:
    tree = _tree(archive)
    if tree is None:
        return f"leftImg8bit/SPLIT/CITY/*{_IMAGE}"
    if tree.kind is None:
        found = " (only other files are there, such as *_polygons.json: " + _HINT + ")" if tree.annotations else ""
        return f"{tree.top}gtFine/SPLIT/CITY/*_gtFine_instanceIds.png{found}"
    return None


def _splits(archive: Archive) -> tuple[str, ...]:
    """List the splits that have both images and annotations; test only where it is truly annotated."""
    tree = _tree(archive)
    if tree is None or tree.kind is None:
        return ()
    known = dict.fromkeys(name.removeprefix(tree.top).split("/")[1] for name in tree.images)
    return tuple(
        split for split in known if split in tree.annotations and not _has_dummy_labels(archive, tree, split)
    )


def _has_dummy_labels(archive: Archive, tree: _Tree, split: str) -> bool:
    """Tell whether the first map of the split test shows no class at all."""
    if split != "test":
        return False
    folder = f"{tree.top}{tree.annotations[split]}/{split}"
    first = next((name for name in archive.names(folder) if name.endswith(f"_{tree.kind}.png")), None)
    if first is None or tree.kind is None:
        return True
    try:
        values = distinct(read_label_map(archive.read(first), archive.where(first)).values)[0]
        part_of = _meaning(tree.kind)
        return all(part_of(value) is None for value in values.tolist())
    except ValueError:  # told where the split is opened and read
        return False


def _open(archive: Archive, split: str) -> Split:
    tree = _tree(archive)
    known = _splits(archive)
    if tree is None or tree.kind is None or split not in known:
        if tree is not None and tree.kind is None and tree.annotations:
            raise DataError(f"{archive.path}: no id maps in {', '.join(set(tree.annotations.values()))}; {_HINT}")
        dummy = tree is not None and split == "test" and split in tree.annotations
        why = " (the labels of test are withheld by Cityscapes: its id maps show no class)" if dummy else ""
        raise DataError(f"{archive.path}: no annotated split {split!r}{why}; it has {', '.join(known) or 'none'}")
    folder = tree.annotations[split]
    inside = f"{tree.top}leftImg8bit/{split}/"
    images = {name[len(inside) : -len(_IMAGE)]: name for name in tree.images if name.startswith(inside)}
    start, end = f"{tree.top}{folder}/{split}/", f"_{folder}_{tree.kind}.png"
    maps = {name[len(start) : -len(end)]: name for name in archive.names(start) if name.endswith(end)}
    lonely = [f"{start}{stem}{end}" for stem in images if stem not in maps]
    for names in at_once(lonely):
        with each():
            raise DataError(
                f"{archive.path}: {len(lonely)} of {len(images)} images of {split} have no id map: "
                f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; {_HINT}; or take the images out",
                file=images[names[0][len(start) : -len(end)]],
            )
    for stem in sorted(maps.keys() - images.keys()):
        words = f"{archive.where(maps[stem])}: its image {inside}{stem}{_IMAGE} is not there; add it"
        tell(DataError(words, file=maps[stem]))
    count = len(maps.keys() - images.keys())
    items = tuple(Item(stem, image, maps[stem]) for stem, image in images.items() if stem in maps)
    left_out = (f"{count} id maps without an image",) if count and not strict() else ()
    return Split(archive, _categories(tree.kind), items, partial(_read, tree.kind), left_out)


def _categories(kind: _Kind) -> tuple[Category, ...]:
    table = class_table("cityscapes_semantic")
    if kind == "instanceIds":
        return table
    return tuple(category._replace(is_thing=False) for category in table)


def _read(kind: _Kind, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    mask = read_label_map(archive.read(item.annotation), archive.where(item.annotation))
    require_size(mask.values, size, "the id map")
    return segments_of(mask.values, _meaning(kind))


def _meaning(kind: _Kind) -> Callable[[int], Part | None]:
    """Give what a value of such a map means."""
    categories = _categories(kind)
    if kind == "labelTrainIds":
        return partial(_of_train_id, len(categories))
    label_of: dict[int, int | None] = dict.fromkeys(_VOID)
    label_of |= {category.id: label for label, category in enumerate(categories)}
    return partial(_of_id, categories, label_of)


def _of_train_id(num_classes: int, value: int) -> Part | None:
    if value < num_classes:
        return Part(value)
    if value == 255:
        return None
    raise ValueError(f"train id {value} is none of Cityscapes' (0 to {num_classes - 1}, 255 for void)")


def _of_id(categories: tuple[Category, ...], label_of: dict[int, int | None], value: int) -> Part | None:
    id, number = divmod(value, 1000) if value >= 1000 else (value, None)
    if id not in label_of:
        raise ValueError(
            f"value {value} has label id {id}, but Cityscapes' go from 0 to 33; give maps of other classes as "
            "images/SPLIT/*, masks/SPLIT/* of the same names, and categories.json"
        )
    label = label_of[id]
    if label is None:
        return None
    if not categories[label].is_thing:
        return Part(label)
    return Part(label, is_crowd=True) if number is None else Part(label, number=number + 1)


FORMAT = Format(
    "cityscapes",
    f"leftImg8bit/SPLIT/CITY/*{_IMAGE} with gtFine/SPLIT/CITY/*_gtFine_instanceIds.png (or labelIds.png)",
    _missing,
    _splits,
    _open,
)
