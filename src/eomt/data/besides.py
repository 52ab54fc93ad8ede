"""What files of COCO's say besides images, classes and masks: it is kept in other files of COCO's.

Ids of annotations, licences, supercategories, key points: nothing here asks for them, but other tools may. They
are read once more from the file when a data set is converted; opening one for training does not keep them. Where
several files become one, it holds what no two of them say differently.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from eomt.data.reader import Split
from eomt.data.readers.coco_json import entries

__all__ = [
    "AREAS",
    "CLASHING_IMAGES",
    "CLASHING_SEGMENTS",
    "IMAGES",
    "SEGMENTS",
    "Besides",
    "Remarks",
    "read_besides",
]

IMAGES = "ids of images in COCO's files"
CLASHING_IMAGES = f"{IMAGES} that clash: numbered anew"
SEGMENTS = "ids of segments in COCO's files"
AREAS = "areas that COCO's files tell: pixels are counted instead"
CLASHING_SEGMENTS = f"{SEGMENTS} that clash: numbered anew"
_CLASSES = "classes in COCO's files"

_OWN = {
    "images": {"id", "file_name", "height", "width"},
    "categories": {"id", "name", "isthing", "color"},
    "annotations": {"id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation"},
}
"""Fields that are written of what was read."""


class Besides(NamedTuple):
    """The other fields of a file, where there are any."""

    head: dict[str, Any]
    """Members beside the lists: `info`, `licenses`."""
    categories: dict[tuple[int, str], dict[str, Any]]
    """By id and name."""
    images: dict[int | str | None, dict[str, Any]]
    """By id."""
    segments: dict[tuple[int | str, int | str | None], dict[str, Any]]
    """By the ids of the image and of the segment."""


def read_besides(split: Split) -> Besides:
    """Read what the file of a split says besides; nothing where it is none of COCO's. Raises DataError."""
    found = Besides({}, {}, {}, {})
    if split.origin is None:
        return found
    for entry in entries(split.archive, split.origin.file, head=found.head):
        values = entry.values
        if entry.list == "categories":
            found.categories[values["id"], values["name"]] = _others(values, "categories")
        elif entry.list == "images" and (others := _others(values, "images")):
            found.images[values["id"]] = others
        elif entry.list == "annotations":
            for segment in values.get("segments_info", [values]):
                if others := _others(segment, "annotations"):
                    found.segments[values["image_id"], segment.get("id")] = others
    return found


def _others(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OWN[kind]}


class Remarks:
    """What a file that is written says besides of its images; what it does not is counted in `lost`."""

    def __init__(
        self,
        images: Sequence[tuple[Split, int]],
        known: Mapping[int, Besides],
        lost: Counter[str],
        *,
        classes: Collection[tuple[int, str]],
        held: bool,
        same: bool,
        unique: bool,
    ):
        """`known` goes by the `id()` of each split, `classes` are the ids and names of those that are written.

        `held`: the file is one of COCO's. `same`: its segments are those that were read. `unique`: no two of them
        may have one id.
        """
        self.held, self._known, self._lost, self._same = held, known, lost, same
        sources = [known[key] for key in dict.fromkeys(id(split) for split, _ in images)]
        self.head = self._agreed([source.head for source in sources], "COCO's files")
        self.categories: dict[tuple[int, str], dict[str, Any]] = {}
        for key in dict.fromkeys(key for source in sources for key in source.categories):
            fields = self._agreed([source.categories.get(key, {}) for source in sources], _CLASSES, key in classes)
            self.categories[key] = fields
        self._drop_roots()
        listed = [each for image in images for each in _ids(*image)] if held and same and unique else []
        self._clash = None in listed or len(set(listed)) < len(listed)

    def of_image(self, split: Split, place: int) -> dict[str, Any]:
        """Give the other fields of an image."""
        fields = self._known[id(split)].images.get(split.items[place].number, {})
        dangling = () if "licenses" in self.head else ("license",)
        kept = {name: value for name, value in fields.items() if self.held and name not in dangling}
        self._count({name: fields[name] for name in fields.keys() - kept.keys()}, "images in COCO's files")
        return kept

    def of_segments(self, split: Split, place: int, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Give the ids and other fields of the segments of an image of this size; nothing where none is kept."""
        number, segments = split.items[place].number, self._known[id(split)].segments
        found = []
        for each in _ids(split, place, size):
            own = {} if each is None else {"id": each}
            others = {} if number is None else segments.get((number, each), {})
            if not (self.held and self._same):
                self._lost[SEGMENTS] += len(own)
                self._count(others, "segments in COCO's files")
            elif self._clash and own:
                self._lost[CLASHING_SEGMENTS] += 1
                own = {}
            found.append(own | others)
        return found if self.held and self._same else []

    def _agreed(self, sources: Sequence[Mapping[str, Any]], where: str, is_there: bool = True) -> dict[str, Any]:
        """Keep the fields in which no two sources differ, if what has them is there."""
        told: dict[str, list[Any]] = {}
        for source in sources:
            for name, value in source.items():
                told.setdefault(name, []).append(value)
        held = self.held and is_there
        kept = {
            name: values[0] for name, values in told.items() if held and values.count(values[0]) == len(values)
        }
        self._count({name: max(told[name], key=bool) for name in told.keys() - kept.keys()}, where)
        return kept

    def _drop_roots(self) -> None:
        """Let no class look like the root of others, which readers of COCO's files leave out."""
        groups = {fields.get("supercategory") for fields in self.categories.values()}
        for (_, name), fields in self.categories.items():
            if fields.get("supercategory") == "none" and name in groups:
                self._count({"supercategory": fields.pop("supercategory")}, _CLASSES)

    def _count(self, fields: Mapping[str, Any], where: str) -> None:
        """Count what is lost, where it says anything."""
        for name, value in fields.items():
            self._lost[f'"{name}" of {where}'] += value not in (None, "", [], {})


def _ids(split: Split, place: int, size: tuple[int, int] | None = None) -> Sequence[int | str | None]:
    return () if split.origin is None else split.origin.ids(split.items[place], size)
