"""YOLO-seg data sets are read wherever their YAML file says that they lie; what is wrong is told with its line."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.data.archive import Archive
from eomt.data.detect import FORMATS, find_format
from eomt.data.reader import Split
from eomt.data.readers.yolo import FORMAT
from eomt.errors import DataError
from layouts import yolo as layout
from scenes import THINGS, assert_read

TRIANGLE = "0 0.1 0.1 0.9 0.1 0.5 0.9"
BOX = "0 0.5 0.5 0.2 0.2"
NAMES = "names: [cat, dog]\n"


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), "zip", root.parent, root.name))


@pytest.mark.parametrize(
    ("write", "splits"),
    [
        (layout.write, ("train", "val")),
        (layout.write_roboflow, ("train", "val")),  # test is named, but not there
        (layout.write_lists, ("train", "val")),
    ],
)
def test_the_scenes(tmp_path, write, splits):
    write(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        assert FORMAT.splits(archive) == splits
        for split in splits:
            dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
            assert dataset.left_out == ()
            assert_read(dataset, split, names=THINGS)


def save(root: Path, files: dict[str, str]) -> Archive:
    """Pictures are 10 pixels high and 20 wide."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path)
        else:
            path.write_text(content)
    return Archive(root)


def one(root: Path, labels: str, yaml: str = NAMES) -> Split:
    files = {"images/x.png": "", "labels/x.txt": labels, "data.yaml": yaml + "train: images\n"}
    return FORMAT.open(save(root, files), "train")


def test_names_with_gaps_keep_their_numbers(tmp_path):
    dataset = one(tmp_path, TRIANGLE.replace("0 ", "7 ", 1), "names: {3: yes, 7: no}\nnc: 8\n")
    assert [(category.name, category.id) for category in dataset.categories] == [("yes", 3), ("no", 7)]
    assert dataset[0].segments.labels.tolist() == [1]


def test_what_is_left_out_is_counted(tmp_path):
    lines = [BOX, TRIANGLE, "", "  " + TRIANGLE, "1.0 -0.05 0 1.05 0 1.05 1 -0.05 1"]
    dataset = one(tmp_path, "\n".join(lines))
    assert [text.split(" (")[0].split(",")[0] for text in dataset.left_out] == [
        "1 boxes",
        "1 lines that repeat another one of their file",
        "the parts of 1 polygons outside their image",
    ]
    segments = dataset[0].segments
    assert segments.labels.tolist() == [0, 1]
    assert segments.masks.areas()[1] == 200  # all of the picture


def test_an_image_without_labels_is_a_negative(tmp_path):
    archive = save(tmp_path, {"images/y.png": "", "images/z.png": "", "labels/z.txt": ""})
    one(tmp_path, TRIANGLE)
    dataset = FORMAT.open(archive, "train")
    assert [len(dataset[index].segments) for index in range(3)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cat 0 0 1 0 1 1", "'cat 0 0 1 0 1 1' are not numbers alone"),
        ("0 0 0 1 0 1 nan", "not numbers alone"),
        ("0 0 0 1 0 1 1_0", "not numbers alone"),
        ("0 0 0 1 0 1 1e999", "not numbers alone"),
        ("2 0 0 1 0 1 1", r"class 2 is not among the names of the YAML file \(0 to 1\)"),
        ("0.5 0 0 1 0 1 1", "class 0.5 is not"),
        ("-1 0 0 1 0 1 1", "class -1 is not"),
        ("0 0 0 1 0 1", "6 numbers; a polygon is"),
        ("0 0 0 1 0 1 1 0", "8 numbers"),
        ("0 0 0", "3 numbers"),
        ("0 0 0 1 0 1 1.2", "coordinate 1.2 lies far outside"),
        ("0 10 10 90 10 50 90", "not pixels"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
    dataset = one(tmp_path, f"{TRIANGLE}\n\n{line}\n")
    with pytest.raises(DataError, match=words) as caught:
        dataset[0]
    assert "labels/x.txt: image x: line 3: " in str(caught.value)


@pytest.mark.parametrize("place", ["images/train", "./images/train/", "{root}/images/train", "images\\train"])
def test_ways_to_write_a_place(tmp_path, place):
    files = {"images/train/a/x.png": "", "images/train/b/x.png": "", "labels/train/a/x.txt": TRIANGLE}
    files["data.yaml"] = NAMES + f"path: /elsewhere\ntrain: ['{place.format(root=tmp_path)}']\n"
    dataset = FORMAT.open(save(tmp_path, files), "train")
    assert dataset.image_ids == ("a/x", "b/x")
    assert dataset.items[0].annotation == "labels/train/a/x.txt"


def test_labels_beside_images(tmp_path):
    files = {"train/x.png": "", "train/x.txt": TRIANGLE, "data.yaml": NAMES + "train: train\n"}
    assert len(FORMAT.open(save(tmp_path, files), "train")[0].segments) == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data.yaml": NAMES + "train: imgs"}, r"line 2: train: 'imgs' has no images.* images in images\)"),
        ({"data.yaml": NAMES + "train: ../../x"}, "line 2: train: '../../x' lies outside of .* holds all of it"),
        ({"data.yaml": NAMES + "train: /etc"}, "line 2: train: '/etc' lies outside"),
        ({"data.yaml": NAMES + "train: 'C:\\x'"}, "lies outside"),
        ({"data.yaml": NAMES + "train: {a: b}"}, "line 2: train: give a folder"),
        (
            {"data.yaml": NAMES + "train: l.txt", "l.txt": "\nimages/y.png"},
            r"l\.txt: line 2: 'images/y\.png' is no",
        ),
        ({"data.yaml": NAMES + "train: l.txt", "l.txt": "/etc/passwd.png"}, r"l\.txt: line 1: "),
        ({"data.yaml": NAMES + "train: l.txt", "l.txt": "\n"}, "lists no images"),
        ({"data.yaml": NAMES + "val: images"}, "no split 'train'; it has val"),
        ({"data.yaml": "train: images"}, "no names of the classes"),
        ({"data.yaml": "names: cat\ntrain: images"}, "line 1: names: give a list"),
        ({"data.yaml": "names: [cat, cat]\ntrain: images"}, "two classes are named 'cat'"),
        ({"data.yaml": "names: [cat, ]\nnc: 3\ntrain: images"}, "line 2: nc: is '3', but there are 1 names"),
        ({"data.yaml": "names: {a: cat}\ntrain: images"}, "class 'a' has no whole number"),
        ({"data.yaml": "names: {0: cat, 0: dog}\ntrain: images"}, "line 1: '0' stands twice"),
        ({"data.yaml": "names: [cat, ~]\ntrain: images"}, "class 1 has no name"),
        ({"data.yaml": "names: [[cat]]\ntrain: images"}, "line 1: a list or table where"),
        ({"data.yaml": "names: &a [*a]\ntrain: images"}, "not usable as YAML"),
        ({"data.yaml": NAMES + NAMES + "train: images"}, "line 2: names stands twice"),
        ({"data.yaml": "{" * 5000}, "not usable as YAML.*more than 20 deep"),
        ({"data.yaml": "[1]: 2"}, "not usable as YAML"),
        ({"data.yaml": "- 1"}, "not usable as YAML"),
        ({"data.yaml": "names: [a\ntrain: images"}, "not usable as YAML"),
        ({"data.yaml": NAMES + "train: images\nkpt_shape: [17, 3]"}, "line 3: kpt_shape: labels of key points"),
        (
            {"data.yaml": NAMES + "train: images"},
            r"none of the 1 images of train .* images/x\.png would be labels/x",
        ),
        (
            {"data.yaml": NAMES + "train: images", "labels/x.txt": BOX},
            "labels of train are boxes: 1 of them in 1 files",
        ),
        ({"data.yaml": NAMES + "train: images", "images/x.jpg": ""}, "have one stem"),
        ({"a.yaml": NAMES + "train: images", "b.yaml": NAMES + "train: images"}, r"\(a\.yaml, b\.yaml\)"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_door(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        FORMAT.open(save(tmp_path, {"images/x.png": ""} | files), "train")


def test_the_yaml_file_makes_no_objects(tmp_path):
    trap = tmp_path / "trap"
    text = f"evil: !!python/object/apply:os.mkdir ['{trap}']\n" + NAMES
    assert len(one(tmp_path / "data", TRIANGLE, text)) == 1
    assert not trap.exists()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"images/x.png": "", "labels/x.txt": BOX}, "data.yaml"),
        ({"data.yaml": "title: something else"}, "names and train or val in data.yaml"),
    ],
)
def test_what_is_another_layout(tmp_path, files, missing):
    assert FORMAT.missing(save(tmp_path, files)) == missing


def test_what_is_wrong_with_the_yaml_file_is_told_where_no_layout_is_recognised(tmp_path):
    save(tmp_path, {"data.yaml": "train: images\nnames: [a, b\n", "images/x.png": "", "labels/x.txt": TRIANGLE})
    with pytest.raises(DataError, match=r"\nyolo +no data.yaml that can be read \(.*line 3, column 1.*\n") as told:
        find_format(tmp_path)
    assert len(str(told.value).splitlines()) == len(FORMATS) + 2


def test_images_without_labels_and_labels_without_an_image_are_counted(tmp_path):
    images = {f"images/{number}.png": "" for number in range(5)}
    labels = {"labels/0.txt": TRIANGLE, "labels/7.txt": TRIANGLE, "labels/8.txt": TRIANGLE}
    dataset = FORMAT.open(save(tmp_path, images | labels | {"data.yaml": f"{NAMES}train: images\n"}), "train")
    assert dataset.left_out == (
        "labels of 4 of 5 images, which have no label file: they count as images without objects",
        "2 label files of no image",
    )
