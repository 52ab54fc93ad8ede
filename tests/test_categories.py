"""Categories, their colours, and the tables of public data sets."""

import colorsys
import subprocess
import sys
from itertools import pairwise

import pytest

from eomt.categories import CLASS_TABLES, Category, class_table, distinct_color
from eomt.errors import ConfigError

# COCO's category ids leave these out, by the mapping that the published models were trained with.
COCO_THING_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_STUFF_IDS = [
    *[92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151],
    *[154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)],
]
# The stuff labels in the published ADE20K panoptic configurations.
ADE20K_STUFF = [
    *[0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68],
    *[77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145],
]


def test_a_category_is_read_by_name() -> None:
    category = Category("cell", is_thing=True, id=7, color=(1, 2, 3))
    assert (category.name, category.is_thing, category.id, category.color) == ("cell", True, 7, (1, 2, 3))


@pytest.mark.parametrize("count", [2, 20, 150])
def test_colors_are_distinct_and_in_range(count) -> None:
    colors = [distinct_color(index) for index in range(count)]
    assert len(set(colors)) == count
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_neighbours_are_far_apart_in_hue() -> None:
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in distinct_color(index)))[0] for index in range(50)]
    turns = [abs(a - b) for a, b in pairwise(hues)]
    assert min(min(turn, 1 - turn) for turn in turns) > 0.3


@pytest.mark.parametrize(
    ("name", "things", "stuff"),
    [
        ("coco_panoptic", 80, 53),
        ("coco_instance", 80, 0),
        ("ade20k_panoptic", 100, 50),
        ("ade20k_semantic", 100, 50),
        ("cityscapes_semantic", 8, 11),
    ],
)
def test_tables_have_as_many_classes_as_the_data_set(name, things, stuff) -> None:
    table = class_table(name)
    assert [sum(category.is_thing is kind for category in table) for kind in (True, False)] == [things, stuff]
    assert len({category.id for category in table}) == len({category.name for category in table}) == len(table)


def test_every_table_is_named_once_and_can_be_read() -> None:
    assert len(set(CLASS_TABLES)) == len(CLASS_TABLES) == 5
    assert all(class_table(name) for name in CLASS_TABLES)


@pytest.mark.parametrize("name", CLASS_TABLES)
def test_rows_are_clean(name) -> None:
    for category in class_table(name):
        assert category.name == category.name.strip().lower() != ""
        assert isinstance(category.id, int)
        assert len(category.color) == 3
        assert all(isinstance(channel, int) and 0 <= channel <= 255 for channel in category.color)


@pytest.mark.parametrize(
    ("name", "label", "row"),
    [
        ("coco_panoptic", 0, Category("person", True, 1, (220, 20, 60))),
        ("coco_panoptic", 7, Category("truck", True, 8, (0, 0, 70))),
        ("coco_panoptic", 11, Category("stop sign", True, 13, (220, 220, 0))),  # id 12 is not in use
        ("coco_panoptic", 24, Category("backpack", True, 27, (255, 179, 240))),
        ("coco_panoptic", 40, Category("wine glass", True, 46, (171, 134, 1))),
        ("coco_panoptic", 60, Category("dining table", True, 67, (0, 182, 199))),
        ("coco_panoptic", 79, Category("toothbrush", True, 90, (191, 162, 208))),  # the last thing
        ("coco_panoptic", 80, Category("banner", False, 92, (255, 255, 128))),  # the first stuff
        ("coco_panoptic", 86, Category("door-stuff", False, 112, (92, 136, 89))),
        ("coco_panoptic", 105, Category("snow", False, 159, (255, 255, 255))),
        ("coco_panoptic", 119, Category("sky-other-merged", False, 187, (70, 130, 180))),
        ("coco_panoptic", 132, Category("rug-merged", False, 200, (250, 141, 255))),
        ("ade20k_panoptic", 0, Category("wall", False, 1, (120, 120, 120))),
        ("ade20k_panoptic", 2, Category("sky", False, 3, (6, 230, 230))),
        ("ade20k_panoptic", 6, Category("road", False, 7, (140, 140, 140))),
        ("ade20k_panoptic", 7, Category("bed", True, 8, (204, 5, 255))),  # the first thing
        ("ade20k_panoptic", 8, Category("windowpane", True, 9, (230, 230, 230))),
        ("ade20k_panoptic", 12, Category("person", True, 13, (150, 5, 61))),
        ("ade20k_panoptic", 32, Category("fence", True, 33, (255, 184, 6))),
        ("ade20k_panoptic", 44, Category("chest of drawers", True, 45, (6, 51, 255))),
        ("ade20k_panoptic", 48, Category("skyscraper", False, 49, (140, 140, 140))),
        ("ade20k_panoptic", 89, Category("television", True, 90, (0, 255, 194))),
        ("ade20k_panoptic", 109, Category("swimming pool", False, 110, (0, 184, 255))),
        ("ade20k_panoptic", 149, Category("flag", True, 150, (92, 0, 255))),
        ("cityscapes_semantic", 0, Category("road", False, 7, (128, 64, 128))),
        ("cityscapes_semantic", 1, Category("sidewalk", False, 8, (244, 35, 232))),
        ("cityscapes_semantic", 2, Category("building", False, 11, (70, 70, 70))),
        ("cityscapes_semantic", 3, Category("wall", False, 12, (102, 102, 156))),
        ("cityscapes_semantic", 5, Category("pole", False, 17, (153, 153, 153))),
        ("cityscapes_semantic", 6, Category("traffic light", False, 19, (250, 170, 30))),
        ("cityscapes_semantic", 8, Category("vegetation", False, 21, (107, 142, 35))),
        ("cityscapes_semantic", 10, Category("sky", False, 23, (70, 130, 180))),  # the last stuff
        ("cityscapes_semantic", 11, Category("person", True, 24, (220, 20, 60))),
        ("cityscapes_semantic", 12, Category("rider", True, 25, (255, 0, 0))),
        ("cityscapes_semantic", 15, Category("bus", True, 28, (0, 60, 100))),
        ("cityscapes_semantic", 16, Category("train", True, 31, (0, 80, 100))),  # no caravan, no trailer
        ("cityscapes_semantic", 18, Category("bicycle", True, 33, (119, 11, 32))),
    ],
)
def test_rows_are_the_data_set_s(name, label, row) -> None:
    assert class_table(name)[label] == row


def test_coco_s_ids_are_those_of_the_published_mapping() -> None:
    ids = [category.id for category in class_table("coco_panoptic")]
    assert ids == [*sorted(set(range(1, 91)) - COCO_THING_GAPS), *COCO_STUFF_IDS]


def test_coco_s_instances_are_the_things_of_its_panoptic_classes() -> None:
    assert class_table("coco_instance") == class_table("coco_panoptic")[:80]


def test_ade20k_s_stuff_is_that_of_the_published_configurations() -> None:
    table = class_table("ade20k_panoptic")
    assert [label for label, category in enumerate(table) if not category.is_thing] == ADE20K_STUFF
    assert [category.id for category in table] == list(range(1, 151))


def test_ade20k_s_semantic_and_panoptic_labels_are_the_same() -> None:
    assert class_table("ade20k_semantic") == class_table("ade20k_panoptic")


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("coco_panoptic", set()),
        ("ade20k_semantic", {"road", "skyscraper"}),  # so in the published palette
        ("cityscapes_semantic", set()),
    ],
)
def test_colors_tell_classes_apart(name, alike) -> None:
    table = class_table(name)
    colors = [category.color for category in table]
    assert {category.name for category in table if colors.count(category.color) > 1} == alike


def test_hyphens_are_accepted() -> None:
    assert class_table("coco-panoptic") == class_table("coco_panoptic")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "coco_panoptik",
            r'named "coco_panoptik": did you mean coco_panoptic\? known are coco_panoptic, coco_inst',
        ),
        ("Cityscapes", r'named "Cityscapes": did you mean cityscapes_semantic\? known are'),
        ("ade-semantic", r'named "ade-semantic": did you mean ade20k_semantic\? known are'),
        ("pascal", r'named "pascal": known are coco_panoptic, .*, cityscapes_semantic$'),
        ("../bundled/config", r'named "../bundled/config": known are'),
        ("", r'named "": known are'),
    ],
)
def test_an_unknown_table_is_refused_with_the_known_ones(name, message) -> None:
    with pytest.raises(ConfigError, match=message):
        class_table(name)


def test_tables_are_read_without_torch() -> None:
    code = (
        "import sys; from eomt.categories import class_table; class_table('coco_panoptic'); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
