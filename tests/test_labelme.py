"""What LabelMe saves is read to the pixel, from a folder and from a zip; what is wrong is named with its shape."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.labelme import FORMAT
from eomt.errors import DataError
from layouts import labelme
from layouts.labelme import base64_png, file, mask_shape, png, shape
from scenes import SIZE, assert_read

SQUARE = [[2.0, 3.0], [6.0, 3.0], [6.0, 8.0], [2.0, 8.0]]
BLANK = np.zeros((*SIZE, 3), np.uint8)


def save(root: Path, files: dict[str, Any]) -> Archive:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        path.write_bytes(content)
    return Archive(root)


def one(root: Path, shapes: list[dict[str, Any]], **more: Any) -> Split:
    """A data set of one image with these shapes."""
    files = {"a.json": file(shapes, "a.png"), "a.png": png(BLANK)} | more
    return FORMAT.open(save(root, files), "train")


def box(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("zipped", [False, True])
def test_scenes(tmp_path: Path, zipped: bool) -> None:
    root = tmp_path / "streets"
    labelme.write(root)
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path, "streets"))
    archive = Archive(root)
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train", "val")
    for split in ("train", "val"):
        dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
        assert [(category.name, category.id) for category in dataset.categories] == [
            ("car", 1),
            ("person", 2),
            ("road", 3),
            ("sky", 4),
        ]
        assert all(category.is_thing for category in dataset.categories)
        assert dataset.left_out == ()
        assert_read(dataset, split)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.json", "a.png"], ("train",)),
        (["annotations/a.json", "images/a.png"], ("train",)),
        (["annotations/val/a.json", "images/val/a.png", "images/train/a.png"], ("val",)),
        (["test/labels/a.json", "test/images/a.png"], ("test",)),
    ],
)
def test_folders(tmp_path: Path, names: list[str], splits: tuple[str, ...]) -> None:
    """Images are found beside the JSON, or by name in the folders of the same split."""
    files = {name: file([], "a.png") if name.endswith(".json") else png(BLANK) for name in names}
    archive = save(tmp_path, files)
    assert FORMAT.splits(archive) == splits
    dataset = FORMAT.open(archive, splits[0])
    assert dataset.items[0].image == names[1]
    assert dataset.image_ids == ("a",)
    assert len(dataset[0].segments) == 0


@pytest.mark.parametrize(
    "path", ["..\\pictures\\a.png", "/home/somebody/pictures/a.png", "../../a.png", "./a.png"]
)
def test_paths_of_other_machines(tmp_path: Path, path: str) -> None:
    archive = save(tmp_path, {"json/a.json": file([], path), "pictures/a.png": png(BLANK)})
    assert FORMAT.open(archive, "train").items[0].image == "pictures/a.png"


def test_kinds_of_shapes(tmp_path: Path) -> None:
    dataset = one(
        tmp_path,
        [
            shape("square", "polygon", SQUARE),
            shape("square", "rectangle", [[6.0, 8.0], [2.0, 3.0]]),  # any two corners
            shape("square", "oriented_rectangle", SQUARE),
            {"label": "square", "points": SQUARE},  # LabelMe 3
            mask_shape("square", box(3, 2, 8, 6)),
            shape("square", "rectangle", [[-5.0, -5.0], [4.0, 4.0]]),  # goes on outside
        ],
    )
    masks = dataset[0].segments.masks
    for index in range(5):
        np.testing.assert_array_equal(masks.mask(index), box(3, 2, 8, 6))
    np.testing.assert_array_equal(masks.mask(5), box(0, 0, 4, 4))


def test_circle(tmp_path: Path) -> None:
    """A centre and a point on the edge: the pixels whose middles lie inside, but for those on the edge."""
    mask = one(tmp_path, [shape("ball", "circle", [[12.0, 10.0], [12.0, 17.0]])])[0].segments.masks.mask(0)
    y, x = np.indices(SIZE) + 0.5
    distance = np.hypot(x - 12, y - 10)
    assert mask[distance < 6.2].all()
    assert not mask[distance > 7.8].any()


def test_masks_may_stick_out(tmp_path: Path) -> None:
    patch = base64_png(np.full((4, 4), 255, np.uint8))
    masks = one(
        tmp_path,
        [
            shape("a", "mask", [[-2.0, -1.0], [1.0, 2.0]], mask=patch),
            shape("a", "mask", [[30.0, 22.0], [33.0, 25.0]], mask=patch),
            shape("a", "mask", [[90.0, 90.0], [93.0, 93.0]], mask=patch),
        ],
    )[0].segments.masks
    assert [masks.mask(index).tobytes() for index in range(len(masks))] == [
        box(0, 0, 3, 2).tobytes(),
        box(22, 30, 24, 32).tobytes(),  # of the third one nothing is left
    ]


def test_groups(tmp_path: Path) -> None:
    """Shapes of one label and group are one segment; group 0 is a group."""
    dataset = one(
        tmp_path,
        [
            shape("cow", "rectangle", [[0.0, 0.0], [2.0, 2.0]], group_id=0),
            shape("cow", "rectangle", [[8.0, 0.0], [10.0, 2.0]]),
            mask_shape("cow", box(0, 4, 2, 6)) | {"group_id": 0},
            shape("dog", "rectangle", [[0.0, 0.0], [2.0, 2.0]], group_id=0),
            shape("cow", "rectangle", [[12.0, 0.0], [14.0, 2.0]]),
        ],
    )
    segments = dataset[0].segments
    assert segments.labels.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(segments.masks.mask(0), box(0, 0, 2, 2) | box(0, 4, 2, 6))
    np.testing.assert_array_equal(segments.masks.mask(1), box(0, 8, 2, 10))


def test_ignored_and_background_become_void(tmp_path: Path) -> None:
    """They take pixels from what was drawn before them only."""
    shapes = [
        shape("cow", "rectangle", [[0.0, 0.0], [10.0, 10.0]]),
        shape("__ignore__", "rectangle", [[0.0, 0.0], [10.0, 2.0]]),
        shape("_background_", "rectangle", [[0.0, 8.0], [10.0, 10.0]]),
        shape("dog", "rectangle", [[0.0, 0.0], [5.0, 5.0]]),
    ]
    dataset = one(tmp_path, shapes, **{"labels.txt": "__ignore__\n_background_\ndog\ncow\nhen\n"})
    assert [(category.name, category.id) for category in dataset.categories] == [
        ("dog", 1),
        ("cow", 2),
        ("hen", 3),
    ]
    segments = dataset[0].segments
    assert segments.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(segments.masks.mask(0), box(2, 0, 8, 10))
    np.testing.assert_array_equal(segments.masks.mask(1), box(0, 0, 5, 5))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    dataset = one(
        tmp_path,
        [
            shape("eye", "point", [[1.0, 1.0]]),
            shape("wire", "linestrip", SQUARE),
            shape("wire", "line", SQUARE[:2]),
            shape("cow", "polygon", SQUARE[:2]),
            shape("cow", "polygon", SQUARE),
        ],
        **{"b.png": png(BLANK), "notes.json": [1, 2], "other/c.png": png(BLANK)},
    )
    assert len(dataset[0].segments) == 1
    assert [category.name for category in dataset.categories] == ["cow"]
    assert set(dataset.left_out) == {
        "1 shapes without pixels (points)",
        "2 shapes without pixels (lines)",
        "1 polygons of fewer than three points",
        "1 JSON files without shapes, which are not LabelMe's",
        "1 images without a JSON file",
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("cow", "polygon", "here"), r"shapes\[0\] \(cow\): \"points\" is 'here'"),
        (shape("cow", "polygon", [[1, 2], [3], [4, 5]]), r"shapes\[0\].*expected a list of \[x, y\]"),
        (shape("cow", "polygon", [[1, 2], ["3", 3], [4, 5]]), r"shapes\[0\].*\"points\" is '3'"),
        (shape("cow", "polygon", [[1, 2], [True, 3], [4, 5]]), r"shapes\[0\].*\"points\" is True"),
        (shape("cow", "polygon", [[1, 2], [1e300, 3], [4, 5]]), r"shapes\[0\].*\"points\" is 1e\+300"),
        (shape("cow", "polygon", [[1, 2], [10**400, 3], [4, 5]]), r"shapes\[0\].*\"points\" is 1000"),
        (shape("cow", "polygon", [[1, 2], [90000, 3], [4, 5]]), r"shapes\[0\] \(cow\).*coordinate 90000"),
        (shape("cow", "circle", [[1, 2]]), r"shapes\[0\].*\"points\" has 1 of them; a circle has 2"),
        (shape("cow", "blob", [[1, 2]]), r"shapes\[0\].*\"shape_type\" is 'blob'"),
        (shape("cow", "mask", [[1, 2], [3, 4]]), r"shapes\[0\]: mask: .*not base64"),
        (shape("cow", "mask", [[1, 2], [3, 4]], mask="!"), r"shapes\[0\]: mask: .*not base64"),
        (shape("cow", "mask", [[1, 2], [3, 4]], mask="aGVsbG8="), r"shapes\[0\]: mask: starts with b'hello'"),
        (mask_shape("cow", box(0, 0, 9, 9)) | {"points": [[0, 0], [3, 3]]}, r"\"mask\" has 9 x 9 pixels"),
        (shape("cow", "polygon", SQUARE, group_id=[1]), r"shapes\[0\].*\"group_id\" is \[1\]"),
    ],
)
def test_malformed_shapes_are_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    dataset = one(tmp_path, [bad])
    with pytest.raises(DataError, match=message) as caught:
        dataset[0]
    assert "a.json" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.json": '{"shapes": [], "imagePath": NaN}'}, "not valid JSON .NaN is no number"),
        ({"a.json": '{"shapes": [' + "[" * 100_000 + '"imagePath"'}, "not valid JSON"),
        ({"a.json": {"shapes": {}, "imagePath": "a.png"}}, '"shapes" is not a list'),
        ({"a.json": file([3], "a.png")}, r"a.json: shapes\[0\] is 3"),  # type: ignore[list-item]
        ({"a.json": file([shape(" ", "polygon", SQUARE)], "a.png")}, r"shapes\[0\]: \"label\" is ' '"),
        ({"a.json": file([], "")}, "\"imagePath\" is ''"),
        ({"a.json": file([], "b.png")}, "\"imagePath\" is 'b.png', but there is no such image"),
        ({"a.json": file([], "../../../etc/passwd")}, "there is no such image"),
        (
            {"a.json": file([], "c.png"), "x/c.png": png(BLANK), "y/c.png": png(BLANK)},
            "'c.png' may be x/c.png or y/c.png",
        ),
        (
            {"a.json": file([], "a.png"), "b.json": file([], "a.png"), "a.png": png(BLANK)},
            "b.json: of the image a.png like a.json",
        ),
        (
            {"a.json": file([shape("cow", "polygon", SQUARE)], "a.png"), "labels.txt": "dog"},
            r"shapes\[0\]: the label 'cow' is not in labels.txt",
        ),
        ({"a.json": file([], "a.png"), "labels.txt": "dog\ndog"}, "labels.txt: 'dog' stands there twice"),
        ({"a.json": file([], "a.png"), "labels.txt": b"\xff"}, "labels.txt: not UTF-8"),
        ({"a.json": file([], "a.png"), "labels.txt": "\n"}, "labels.txt: no classes"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    archive = save(tmp_path, files)
    with pytest.raises(DataError, match=message):
        FORMAT.open(archive, "train")


def test_sizes_must_agree(tmp_path: Path) -> None:
    dataset = FORMAT.open(
        save(tmp_path, {"a.json": file([], "a.png", imageWidth=24, imageHeight=32), "a.png": png(BLANK)}), "train"
    )
    with pytest.raises(DataError, match=r"a.json: image a: .imageWidth. and .imageHeight. are 24 and 32"):
        dataset[0]


def test_damaged_image_inside(tmp_path: Path) -> None:
    dataset = FORMAT.open(save(tmp_path, {"a.json": file([], "a.png", imageData="aGVsbG8=")}), "train")
    with pytest.raises(DataError, match=r"a.json: starts with b'hello'"):
        dataset[0]


def test_unknown_split(tmp_path: Path) -> None:
    labelme.write(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        FORMAT.open(Archive(tmp_path), "test")


@pytest.mark.parametrize(
    "files",
    [
        {"a.png": png(BLANK)},
        {"annotations/instances_train.json": {"images": [], "annotations": [], "categories": []}},
        {"annotations/default.json": {"info": {}, "categories": {"label": {"labels": []}}, "items": []}},
        {"categories.json": [{"name": "a", "is_thing": True}]},
        {"export.json": [{"id": 1, "annotations": [{"result": []}], "data": {"image": "a.png"}}]},
        {"a.json": b"\xff\xfe\x00"},
        {"a.json": ""},
    ],
)
def test_decoys(tmp_path: Path, files: dict[str, Any]) -> None:
    assert FORMAT.missing(save(tmp_path, files)) is not None


@pytest.mark.parametrize(
    "names",
    [
        ["train/0.json", "val/0.json", "val/0.png"],  # a folder of the other split
        ["labels/train/0.json", "labels/val/0.json", "pictures/0.png"],  # both may mean it
    ],
)
def test_no_image_of_another_split_stands_in_for_one_that_is_lost(tmp_path: Path, names: list[str]) -> None:
    files = {name: file([], "0.png") if name.endswith(".json") else png(BLANK) for name in names}
    with pytest.raises(DataError, match=r"train/0.json: \"imagePath\" is '0.png', but there is no such image"):
        FORMAT.open(save(tmp_path, files), "train")


@pytest.mark.parametrize("length", [5, 60, -3])
def test_a_json_that_was_cut_short_is_told(tmp_path: Path, length: int) -> None:
    files = {f"{name}.json": json.dumps(file([shape("cow", "polygon", SQUARE)], f"{name}.png")) for name in "ab"}
    files["b.json"] = files["b.json"][:length]
    archive = save(tmp_path, files | {"a.png": png(BLANK), "b.png": png(BLANK)})
    with pytest.raises(DataError, match=r"b.json: not valid JSON"):
        FORMAT.open(archive, "train")


def test_shapes_without_a_pixel_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = one(
        tmp_path,
        [
            shape("cow", "polygon", SQUARE),
            shape("cow", "polygon", [[5.1, 5.1], [5.2, 5.1], [5.2, 5.2]]),
            shape("cow", "rectangle", [[5.0, 5.0], [5.0, 9.0]]),
        ],
    )
    assert dataset.left_out == ("2 shapes so small that they have no pixels",)
    assert len(dataset[0].segments) == 1
