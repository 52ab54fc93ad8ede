"""Tables of class changes: what becomes of each class, and what is refused."""

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.data.classes import ClassChanges, change_classes, read_changes
from eomt.errors import DataError
from eomt.masks import EncodedMasks, IdMap, RleMasks
from eomt.types import ANY_CLASS, Sample, Segments

CATEGORIES = (
    Category("car", True, 3, (1, 1, 1)),
    Category("truck", True, 8, (2, 2, 2)),
    Category("sky", False, 11, (3, 3, 3)),
    Category("road", False, 12, (4, 4, 4)),
)


class OneImage:
    """Five pixels in a row: car, truck, sky, road and a second car, which is a crowd."""

    categories = CATEGORIES
    image_ids = ("x",)

    def __init__(self, overlapping: bool = False) -> None:
        ids = np.arange(1, 6, dtype=np.int32)[None]
        masks: EncodedMasks = IdMap(ids, 5)
        if overlapping:
            masks = RleMasks.encode((masks.mask(index) for index in range(5)), (1, 5))
        crowd = torch.tensor([False] * 4 + [True])
        self.sample = Sample(
            torch.zeros(3, 1, 5, dtype=torch.uint8), Segments(masks, torch.tensor([0, 1, 2, 3, 0]), crowd), "x"
        )

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.sample


def seen(changes: ClassChanges, overlapping: bool = False) -> tuple[list[str], list[tuple[str, str, bool]]]:
    """Give the classes, and of each segment its class, its pixels and whether it is a crowd."""
    data = change_classes(OneImage(overlapping), changes)
    segments = data[0].segments
    names = [category.name for category in data.categories]
    return names, [
        (
            "any" if label == ANY_CLASS else names[label],
            "".join(".#"[int(pixel)] for pixel in segments.masks.mask(index)[0]),
            crowd,
        )
        for index, (label, crowd) in enumerate(
            zip(segments.labels.tolist(), segments.is_crowd.tolist(), strict=True)
        )
    ]


CAR, TRUCK, SKY, ROAD, CROWD = ("#....", ".#...", "..#..", "...#.", "....#")


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(
    ("changes", "names", "segments"),
    [
        (
            ClassChanges(),
            ["car", "truck", "sky", "road"],
            [
                ("car", CAR, False),
                ("truck", TRUCK, False),
                ("sky", SKY, False),
                ("road", ROAD, False),
                ("car", CROWD, True),
            ],
        ),
        (
            ClassChanges(merge={"vehicle": ("car", "truck")}, drop=("sky", "road")),
            ["vehicle"],
            [("vehicle", CAR, False), ("vehicle", TRUCK, False), ("vehicle", CROWD, True)],
        ),
        (
            ClassChanges(merge={"ground": ("sky", "road")}, drop=("car", "truck")),  # stuff: one segment a class
            ["ground"],
            [("ground", "..##.", False)],
        ),
        (
            ClassChanges(rename={"car": "auto"}, ignore=("truck", "sky")),
            ["auto", "road"],
            [
                ("auto", CAR, False),
                ("any", TRUCK, True),
                ("any", SKY, True),
                ("road", ROAD, False),
                ("auto", CROWD, True),
            ],
        ),
        (
            ClassChanges(merge={"car": ("car", "truck")}, stuff=("car",)),
            ["car", "sky", "road"],
            [("car", "##...", False), ("sky", SKY, False), ("road", ROAD, False), ("car", CROWD, True)],
        ),
    ],
)
def test_changes(changes, names, segments, overlapping):
    assert seen(changes, overlapping) == (names, segments)


def test_ids_and_colours_stay() -> None:
    data = change_classes(OneImage(), ClassChanges(merge={"truck": ("car", "truck"), "ground": ("sky", "road")}))
    assert [(c.name, c.id, c.color) for c in data.categories] == [
        ("truck", 8, (2, 2, 2)),
        ("ground", 11, (3, 3, 3)),
    ]
    assert data.image_ids == ("x",)


def test_what_is_left_out_is_said() -> None:
    data = change_classes(OneImage(), ClassChanges(drop=("sky",), ignore=("car", "road")))
    assert data.left_out == ("1 class dropped: sky", "2 classes ignored: car, road")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (ClassChanges(drop=("cat",)), "no class 'cat'; did you mean 'car'"),
        (ClassChanges(drop=("zebra",)), "no class 'zebra'; it has car, truck, sky, road"),
        (ClassChanges(things=("bus",)), "no class 'bus'"),
        (ClassChanges(drop=("car",), rename={"car": "auto"}), "'car' is named more than once"),
        (ClassChanges(merge={"a": ("car",), "b": ("car",)}), "'car' is named more than once"),
        (
            ClassChanges(rename={"truck": "car"}),
            r"rename 'truck' to 'car', which is a class already; say merge: \{car:",
        ),
        (ClassChanges(merge={"all": ("car", "sky")}), r"joins things and stuff \(car, sky\); say what it is"),
        (ClassChanges(things=("car",), stuff=("car",)), "under things and under stuff"),
        (ClassChanges(drop=("car", "truck", "sky", "road")), "leaves no class"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        change_classes(OneImage(), changes)


@pytest.mark.parametrize("name", ["map.yaml", "map.yml", "map.json"])
def test_tables_are_read(name, tmp_path):
    as_json = (
        '{"merge": {"vehicle": ["car", "truck"]}, "rename": {"sky": "air"}, "drop": ["road"], "things": null}'
    )
    as_yaml = "merge: {vehicle: [car, truck]}\nrename:\n  sky: air\ndrop:\n- road\nthings:\n"
    (tmp_path / name).write_text(as_json if name.endswith("json") else as_yaml)
    assert read_changes(tmp_path / name) == ClassChanges({"vehicle": ("car", "truck")}, {"sky": "air"}, ("road",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("merge: [car]", "merge is .*; write merge: {new: "),
        ("rename: {car: 3}", "rename is"),
        ("drop: sky", r"drop is 'sky'; write drop: \[name, name\]"),
        ("drop: [1]", "drop is"),
        ("erase: [sky]", "expected one or more of merge, rename, drop, ignore, things, stuff"),
        ("- car", "expected one or more of"),
        ("", "expected one or more of"),
        ("drop: [&a0 [x], " + ", ".join(f"&a{n + 1} [*a{n}, *a{n}]" for n in range(60)) + "]", "drop is"),  # 2^60
        ("a: b: c", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON"),
        ("a: " + "[" * 5000, "neither YAML nor JSON.*more than 20 deep"),
        ("x" * (1 << 21), "larger than"),
    ],
)
def test_tables_that_are_none(content, message, tmp_path):
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_changes(tmp_path / "map.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        read_changes(tmp_path / "absent.yaml")
