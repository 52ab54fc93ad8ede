"""What a segment can be: named categories, things and stuff, with a colour each; and those of public data sets.

Free of torch. The tables are data (classes/*.csv), read when first asked for. They follow what the data sets' own
tools publish: panopticapi, sceneparsing (the first of each class's synonyms) and cityscapesScripts.
"""

import colorsys
import csv
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from eomt.errors import ConfigError

__all__ = ["CLASS_TABLES", "Category", "class_table", "distinct_color"]

_FILES = {
    "coco_panoptic": "coco",
    "coco_instance": "coco",
    "ade20k_panoptic": "ade20k",
    "ade20k_semantic": "ade20k",
    "cityscapes_semantic": "cityscapes",
}

CLASS_TABLES: tuple[str, ...] = tuple(_FILES)
"""The names that `class_table` knows: one for each data set and task of the published models."""


def distinct_color(index: int) -> tuple[int, int, int]:
    """Give the colour (RGB, 0-255) of the `index`-th category: neighbours in number are far apart in hue."""
    hue = (index * 0.618034) % 1.0  # golden ratio: any prefix of the sequence is spread evenly
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (index % 2), 0.95 - 0.2 * (index // 2 % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


class Category(NamedTuple):
    """A class of segments. Its index in the tuple of categories is its label.

    `id` is the number that the data set's own files use (COCO skips some); `color` is RGB, 0-255.
    """

    name: str
    is_thing: bool
    id: int
    color: tuple[int, int, int]


def class_table(name: str) -> tuple[Category, ...]:
    """Give the categories of a public data set, in the order of the published models' labels.

    The name is one of `CLASS_TABLES`; hyphens may stand for underscores. Ids are COCO's category ids (1-200, with
    gaps), the pixel values of ADE20K's annotations (1-150; 0 is void) and Cityscapes' label ids (7-33, with gaps),
    of which Cityscapes' train ids are the labels. Colours are the data sets' own; in ADE20K's, road and skyscraper
    share one.

    A semantic table tells things from stuff as its data set does, though semantic segmentation treats them alike.

    Raises ConfigError for a name that is not known.
    """
    table = name.replace("-", "_")
    if table not in _FILES:
        near = get_close_matches(table.lower(), CLASS_TABLES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f'no class table is named "{name}": {hint}known are {", ".join(CLASS_TABLES)}')
    categories = _read(_FILES[table])
    if table == "coco_instance":
        return tuple(category for category in categories if category.is_thing)
    return categories


@cache
def _read(file: str) -> tuple[Category, ...]:
    text = (files("eomt") / "classes" / f"{file}.csv").read_text(encoding="utf-8")
    return tuple(
        Category(row["name"], row["kind"] == "thing", int(row["id"]), _rgb(row["color"]))
        for row in csv.DictReader(text.splitlines())
    )


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
