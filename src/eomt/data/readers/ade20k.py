"""Read ADE20K as published for scene parsing (ADEChallengeData2016.zip), by classes or by objects too.

The folder (or one that holds it) has `images/{training,validation}/*.jpg`; the splits are called train and val.

**ade20k-semantic** reads `annotations/{training,validation}/*.png`: 0 is void, 1 to 150 are the classes. They tell
no object from another, so that all classes are stuff here.

**ade20k-panoptic** has 100 classes of things and 50 of stuff. It reads what there is for all splits:

- `ade20k_panoptic_{train,val}.json` with a folder of PNGs of the same name, as Mask2Former's preparation has them;
- else `annotations_instance/{training,validation}/*.png` (of annotations_instance.tar) with `annotations`, put
  together as the published panoptic scores have it: things lie over stuff, and pixels of a thing's class that
  belong to no object are void. There, red is the number of a thing's class from 1 to 100, in the order of the
  table, and green the number of the object, whatever its class.
"""

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category, class_table
from eomt.data.archive import Archive
from eomt.data.images import IMAGE_SUFFIXES, read_color_map, read_label_map
from eomt.data.parts import Part, distinct, require_size, segments_of
from eomt.data.problems import at_once, each, of_file, strict, tell
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.coco_json import entries, flag
from eomt.errors import DataError
from eomt.types import Segments

__all__ = ["FORMATS"]

_FOLDERS = {"train": "training", "val": "validation"}
_TOPS = ("", "ADEChallengeData2016/")


class _Tree(NamedTuple):
    """What there is of ADE20K in an archive."""

    top: str
    """The folder that holds `images`, with a slash at its end; or nothing."""
    semantic: tuple[str, ...]
    """Splits with masks of classes."""
    objects: dict[str, str]
    """Folders of instance maps of these splits."""
    prepared: tuple[str, ...]
    """Splits with a panoptic JSON."""

    @property
    def uses_prepared(self) -> bool:
        """Which panoptic form is read: one for all splits, for the two number the classes differently."""
        return len(self.prepared) >= len(self.objects)

    @property
    def panoptic(self) -> tuple[str, ...]:
        """Splits with objects."""
        return self.prepared if self.uses_prepared else tuple(self.objects)


def _tree(archive: Archive) -> _Tree | None:
    """Look what there is; None where these are not ADE20K's files."""
    for top in _TOPS:
        images = {split: archive.names(f"{top}images/{folder}") for split, folder in _FOLDERS.items()}
        splits = [split for split, names in images.items() if names]
        if splits and (archive.exists(f"{top}objectInfo150.txt") or "/ADE_" in images[splits[0]][0]):
            break
    else:
        return None
    semantic = tuple(split for split in splits if archive.names(f"{top}annotations/{_FOLDERS[split]}"))
    objects: dict[str, str] = {}
    for split in semantic:
        for beside in dict.fromkeys((top, "")):  # a tar of their own: it may lie beside the folder of the rest
            folder = f"{beside}annotations_instance/{_FOLDERS[split]}"
            if split not in objects and archive.names(folder):
                objects[split] = folder
    stems = {split: f"{top}ade20k_panoptic_{split}" for split in splits}
    prepared = tuple(
        split for split, stem in stems.items() if archive.exists(f"{stem}.json") and archive.names(stem)
    )
    return _Tree(top, semantic, objects, prepared)


def _missing_semantic(archive: Archive) -> str | None:
    tree = _tree(archive)
    if tree is None:
        return "images/training/ADE_*.jpg (or images of other names with objectInfo150.txt)"
    return None if tree.semantic else f"{tree.top}annotations/training/*.png"


def _missing_panoptic(archive: Archive) -> str | None:
    tree = _tree(archive)
    if tree is None:
        return _missing_semantic(archive)
    if tree.panoptic:
        return None
    return (
        f"{tree.top}annotations_instance/training/*.png beside annotations, or ade20k_panoptic_train.json with "
        "its PNGs"
    )


def _semantic_splits(archive: Archive) -> tuple[str, ...]:
    tree = _tree(archive)
    return tree.semantic if tree else ()


def _panoptic_splits(archive: Archive) -> tuple[str, ...]:
    tree = _tree(archive)
    return tree.panoptic if tree else ()


def _require(archive: Archive, split: str, splits: Callable[[_Tree], tuple[str, ...]]) -> _Tree:
    """Look what there is. Raises DataError where this split is not part of it."""
    tree = _tree(archive)
    known = splits(tree) if tree else ()
    if tree is None or split not in known:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(known) or 'none of ADE20K'}")
    return tree


def _images(archive: Archive, folder: str) -> dict[str, str]:
    """Map stems to images."""
    paths = (PurePosixPath(name) for name in archive.names(folder))
    return {path.stem: str(path) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


def _require_masks(archive: Archive, images: dict[str, str], folder: str) -> dict[str, str]:
    """Map stems to masks: one for each image. Raises DataError where one is absent."""
    masks = {PurePosixPath(name).stem: name for name in archive.names(folder) if name.lower().endswith(".png")}
    lonely = [stem for stem in images if stem not in masks]
    for stems in at_once(lonely):
        with each():
            raise DataError(
                f"{archive.path}: {len(lonely)} of {len(images)} images have no mask in {folder}: "
                f"{', '.join(f'{stem}.png' for stem in stems[:3])}{', ...' if len(stems) > 3 else ''}; unpack the "
                "data set again, or take the images out",
                file=images[stems[0]],
            )
    for stem in sorted(masks.keys() - images.keys()):
        words = f"{archive.where(masks[stem])}: there is no image of this name; remove it, or add the image"
        tell(DataError(words, file=masks[stem]))
    return masks


def _left_out(masks: dict[str, str], images: dict[str, str]) -> tuple[str, ...]:
    count = len(masks.keys() - images.keys())
    return (f"{count} masks without an image",) if count and not strict() else ()


def _open_semantic(archive: Archive, split: str) -> Split:
    top = _require(archive, split, lambda tree: tree.semantic).top
    images = _images(archive, f"{top}images/{_FOLDERS[split]}")
    masks = _require_masks(archive, images, f"{top}annotations/{_FOLDERS[split]}")
    items = tuple(Item(stem, image, masks[stem]) for stem, image in images.items() if stem in masks)
    categories = tuple(category._replace(is_thing=False) for category in class_table("ade20k_semantic"))
    return Split(archive, categories, items, _read_semantic, _left_out(masks, images))


def _open_panoptic(archive: Archive, split: str) -> Split:
    tree = _require(archive, split, lambda tree: tree.panoptic)
    top = tree.top
    if tree.uses_prepared:
        with of_file(f"{top}ade20k_panoptic_{split}.json"):
            return _open_prepared(archive, top, split)
    images = _images(archive, f"{top}images/{_FOLDERS[split]}")
    masks = _require_masks(archive, images, f"{top}annotations/{_FOLDERS[split]}")
    objects = _require_masks(archive, images, tree.objects[split])
    complete = [stem for stem in images if stem in masks and stem in objects]
    items = tuple(Item(stem, images[stem], masks[stem], objects[stem]) for stem in complete)
    categories = class_table("ade20k_panoptic")
    read = partial(_read_instances, categories)
    return Split(archive, categories, items, read, _left_out(masks, images))


def _class_map(archive: Archive, name: str, size: tuple[int, int]) -> NDArray[Any]:
    """Read the classes of the pixels. Raises DataError."""
    where = archive.where(name)
    mask = read_label_map(archive.read(name), where)
    if mask.bits > 8:
        raise DataError(f"{where}: {mask.bits} bits a pixel; ADE20K's class masks have 8: unpack them again")
    require_size(mask.values, size)
    return mask.values


def _class_part(value: int) -> Part | None:
    if value > 150:
        raise ValueError(f"value {value} is no class of ADE20K (1 to 150; 0 is void); unpack the masks again")
    return Part(value - 1) if value else None


def _read_semantic(archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    return segments_of(_class_map(archive, item.annotation, size), _class_part)


def _read_instances(
    categories: tuple[Category, ...], archive: Archive, item: Item, size: tuple[int, int]
) -> Segments:
    classes = _class_map(archive, item.annotation, size)
    where = archive.where(item.content)
    with of_file(item.content):
        red_green = (read_color_map(archive.read(item.content), where) & 0xFFFF).astype(np.uint16)
    require_size(red_green, size, f"the instance map {item.content}")
    with of_file(item.content):
        label_of = _labels_of_objects(red_green, categories, where)
    numbers = red_green >> 8
    # Objects get the numbers above those of the classes.
    combined = np.where(numbers > 0, 256 + numbers, classes)

    def part_of(value: int) -> Part | None:
        if value > 256:
            label = label_of.get(value - 256)  # none where its fault was collected
            return None if label is None else Part(label, number=value - 256)
        part = _class_part(value)
        return None if part is None or categories[part.label].is_thing else part

    return segments_of(combined, part_of)


def _labels_of_objects(
    red_green: NDArray[np.uint16], categories: tuple[Category, ...], where: str
) -> dict[int, int]:
    """Map the numbers of objects to labels. Raises DataError where an object has no class, or two."""
    things = [label for label, category in enumerate(categories) if category.is_thing]
    labels: dict[int, int] = {}
    for value in distinct(red_green)[0].tolist():
        number, kind = divmod(value, 256)
        if number == 0:
            continue
        with each():
            if not 1 <= kind <= len(things):
                raise DataError(
                    f"{where}: object {number} (green) has class {kind} (red); classes of things go from 1 to "
                    f"{len(things)}: unpack the instance maps again"
                )
            if labels.setdefault(number, things[kind - 1]) != things[kind - 1]:
                raise DataError(
                    f"{where}: object {number} (green) has two classes (red), {kind} and "
                    f"{things.index(labels[number]) + 1}; give each object a number of its own"
                )
    return labels


def _open_prepared(archive: Archive, top: str, split: str) -> Split:
    file = f"{top}ade20k_panoptic_{split}.json"
    where = archive.where(file)
    images = _images(archive, f"{top}images/{_FOLDERS[split]}")
    masks = set(archive.names(f"{top}ade20k_panoptic_{split}"))
    categories = tuple(c._replace(id=label) for label, c in enumerate(class_table("ade20k_panoptic")))
    ids: list[object] = []
    items: dict[str, Item] = {}
    for entry in entries(archive, file):
        with each():
            place = f"{where}: {entry.place}"
            if entry.list == "categories":
                ids.append(entry.values.get("id"))
            elif entry.list == "annotations":
                name = entry.values.get("file_name")
                if not isinstance(name, str):
                    raise DataError(f'{place}: "file_name" is {name!r:.60}; expected the name of a PNG')
                mask, stem = f"{top}ade20k_panoptic_{split}/{name}", PurePosixPath(name).stem
                if stem in items:
                    raise DataError(f"{place}: a second one of image {stem}; remove one of the two")
                if stem not in images or mask not in masks:
                    absent = mask if stem in images else f"{top}images/{_FOLDERS[split]}/{stem}.jpg"
                    raise DataError(f"{place}: {absent} is absent; unpack or prepare the data set again")
                rows = _rows(entry.values.get("segments_info"), len(categories), place)
                items[stem] = Item(stem, images[stem], mask, rows)
    with each():
        if ids != [category.id for category in categories]:
            raise DataError(
                f"{where}: its categories are not ADE20K's 150 with ids from 0 to 149; prepare the file again (for"
                " other classes, use COCO's layout: annotations/panoptic_SPLIT.json)"
            )
    for mask in sorted(masks - {item.annotation for item in items.values()}):
        tell(DataError(f"{archive.where(mask)}: no annotation of {file} is of this PNG; remove it", file=mask))
    count = len(images.keys() - items.keys())
    left_out = (f"{count} images without an entry in {file}",) if count else ()
    return Split(archive, categories, tuple(items.values()), partial(_read_prepared, categories), left_out)


def _rows(segments: object, num_classes: int, place: str) -> bytes:
    """Check the segments of an image, and pack them: rows of id, label and crowd, as bytes for small workers."""
    if not isinstance(segments, list):
        raise DataError(f'{place}: "segments_info" is {segments!r:.60}; expected a list, as panopticapi writes it')
    rows: dict[int, tuple[int, int, int]] = {}
    for index, segment in enumerate(segments):
        here = f"{place}.segments_info[{index}]"
        with each():
            if not isinstance(segment, dict):
                raise DataError(f"{here} is {segment!r:.60}; expected an object")
            id, label = segment.get("id"), segment.get("category_id")
            if type(id) is not int or not 0 < id < 1 << 24:
                raise DataError(
                    f'{here}: "id" is {id!r:.60}; a colour says whole numbers from 1 to {(1 << 24) - 1}'
                )
            if id in rows:
                raise DataError(f"{here}: a second segment with id {id}; give each its own")
            if type(label) is not int or not 0 <= label < num_classes:
                raise DataError(f'{here}: "category_id" is {label!r:.60}; ADE20K has 0 to {num_classes - 1}')
            rows[id] = (id, label, int(flag(segment, "iscrowd", False, here)))
    return np.array(list(rows.values()), dtype=np.int32).tobytes()


def _read_prepared(
    categories: tuple[Category, ...], archive: Archive, item: Item, size: tuple[int, int]
) -> Segments:
    ids = read_color_map(archive.read(item.annotation), archive.where(item.annotation))
    require_size(ids, size)
    rows = np.frombuffer(item.content, dtype=np.int32).reshape(-1, 3).tolist()
    known = {id: (label, bool(crowd)) for id, label, crowd in rows}

    def part_of(id: int) -> Part | None:
        if id == 0:
            return None
        if id not in known:
            raise ValueError(f"segment {id} (red + 256 green + 65536 blue) is not in the JSON; prepare both again")
        label, crowd = known[id]
        return Part(label, id if categories[label].is_thing else 0, crowd)

    # A segment of the JSON without a pixel is no error: the preparation lays things over it.
    return segments_of(ids, part_of)


FORMATS = (
    Format(
        "ade20k-panoptic",
        "ADEChallengeData2016/images/training/*.jpg with annotations and annotations_instance, or with "
        "ade20k_panoptic_train.json and its PNGs",
        _missing_panoptic,
        _panoptic_splits,
        _open_panoptic,
    ),
    Format(
        "ade20k-semantic",
        "ADEChallengeData2016/images/training/*.jpg with annotations/training/*.png",
        _missing_semantic,
        _semantic_splits,
        _open_semantic,
    ),
)
