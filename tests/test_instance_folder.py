"""Folders of binary masks are read in each of their layouts; masks may overlap."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from eomt.data.archive import Archive
from eomt.data.readers.instance_folder import FORMAT
from eomt.errors import DataError
from layouts import instance_folder as layout
from layouts.folder import save
from scenes import THINGS, assert_read

PICTURE = np.zeros((2, 3, 3), np.uint8)
LEFT = np.array([[255, 0, 0]] * 2, np.uint8)
WIDE = np.array([[1, 1, 0]] * 2, np.uint8)
EMPTY = np.zeros((2, 3), np.uint8)


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), "zip", root.parent, root.name))


def test_the_scenes(tmp_path):
    layout.write(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        assert FORMAT.splits(archive) == ("train", "val")
        for split in ("train", "val"):
            dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
            assert [category.name for category in dataset.categories] == sorted(THINGS)
            assert_read(dataset, split, names=THINGS)


def test_the_scenes_as_in_the_bowl(tmp_path):
    layout.write_bowl(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        assert FORMAT.splits(archive) == ("stage1_train", "stage1_val")
        dataset = FORMAT.open(archive, "stage1_train")
        assert dataset.categories[0].name == "object"
        assert dataset.left_out == ("masks of 1 images, as there are none: they count as images without objects",)
        (place / "classes.txt").write_text("person") if place.is_dir() else None
    for split in ("train", "val"):
        assert_read(FORMAT.open(Archive(tmp_path / "data"), f"stage1_{split}"), split, names=("person",))


def write(root: Path, files: dict[str, object]) -> Archive:
    for name, content in files.items():
        if isinstance(content, np.ndarray):
            save(root / name, content)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return Archive(root)


@pytest.mark.parametrize(
    ("image", "masks", "split"),
    [
        ("images/a/x.png", "masks/a/x", "a"),
        ("images/x.jpg", "masks/x", "train"),
        ("a/images/x.png", "a/masks/x", "a"),
        ("a/x/images/y.png", "a/x/masks", "a"),
        ("x/images/x.png", "x/masks", "train"),
    ],
)
def test_layouts(tmp_path, image, masks, split):
    archive = write(
        tmp_path, {image: PICTURE, f"{masks}/0.png": LEFT, f"{masks}/1.png": WIDE, f"{masks}/2.png": EMPTY}
    )
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == (split,)
    dataset = FORMAT.open(archive, split)
    assert dataset.image_ids == ("x",)
    segments = dataset[0].segments
    assert segments.masks.areas().tolist() == [2, 4]  # they overlap; the empty one says nothing
    assert segments.labels.tolist() == [0, 0]


@pytest.mark.parametrize("mask", [LEFT, LEFT.astype(np.uint16) * 9, np.dstack([EMPTY, EMPTY, LEFT]), LEFT > 0])
def test_whatever_is_not_zero_counts(tmp_path, mask):
    archive = write(tmp_path, {"images/a/x.png": PICTURE, "masks/a/x/0.png": mask})
    assert FORMAT.open(archive, "a")[0].segments.masks.areas().tolist() == [2]


def test_stuff_is_one_segment(tmp_path):
    classes = [{"name": "cell", "is_thing": True, "id": 4}, {"name": "glass", "is_thing": False}]
    files = {"categories.json": classes, "images/a/x.png": PICTURE, "masks/a/x/cell/0.png": LEFT}
    archive = write(tmp_path, files | {"masks/a/x/glass/0.png": LEFT, "masks/a/x/glass/1.png": WIDE})
    dataset = FORMAT.open(archive, "a")
    assert [category.id for category in dataset.categories] == [4, 1]
    assert dataset[0].segments.labels.tolist() == [0, 1]
    assert dataset[0].segments.masks.areas().tolist() == [2, 4]


def test_the_only_thing_is_meant(tmp_path):
    classes = [{"name": "glass", "is_thing": False}, {"name": "cell", "is_thing": True}]
    archive = write(tmp_path, {"categories.json": classes, "images/a/x.png": PICTURE, "masks/a/x/0.png": LEFT})
    assert FORMAT.open(archive, "a")[0].segments.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"masks/a/x/cat/0.png": LEFT, "masks/a/x/1.png": LEFT}, r"class \(cat\), but masks/a/x/1\.png does not"),
        ({"masks/a/x/cat/0.png": LEFT, "classes.txt": "dog"}, "no class is called 'cat'"),
        ({"masks/a/x/0.png": LEFT, "classes.txt": "dog\ncat"}, "2 classes, .* its name: masks/a/x/dog/"),
        (
            {"masks/a/x/0.png": LEFT, "images/a/x.tif": PICTURE},
            r"x has several images: images/a/x\.png, images/a/x\.tif",
        ),
        ({"masks/b/x/0.png": LEFT, "images/b/x.png": PICTURE}, "no split 'a' with masks; it has b"),
        ({}, "no split 'a' with masks; expected SPLIT/ID"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_door(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        FORMAT.open(write(tmp_path, {"images/a/x.png": PICTURE} | files), "a")


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        (
            "0.png",
            np.zeros((3, 3), np.uint8),
            r"masks/a/x/0\.png: the mask is 3 x 3, its image upright 3 x 2",
        ),
        ("0.jpg", LEFT, r"masks/a/x/0\.jpg: in a lossy format"),
        ("0.png", "", r"masks/a/x/0\.png: is empty"),
    ],
)
def test_a_mask_that_is_wrong_is_named(tmp_path, name, mask, words):
    dataset = FORMAT.open(write(tmp_path, {"images/a/x.png": PICTURE, f"masks/a/x/{name}": mask}), "a")
    with pytest.raises(DataError, match=words):
        dataset[0]


@pytest.mark.parametrize(
    "files",
    [
        {"images/a/x.png": PICTURE, "masks/a/x.png": EMPTY},  # maps of all objects
        {"a/images/x.png": PICTURE, "a/masks/x.png": EMPTY},
        {"a/images/x.png": PICTURE, "a/masks/x_mask.png": EMPTY},
        {"images/a/x.png": PICTURE, "masks/a/y/0.png": EMPTY},
        {"x.png": PICTURE},
    ],
)
def test_what_is_another_layout(tmp_path, files):
    assert FORMAT.missing(write(tmp_path, files)) is not None


def test_masks_of_no_image_and_empty_ones_are_counted(tmp_path):
    files = {"images/a/x.png": PICTURE, "masks/a/x/0.png": LEFT, "masks/a/x/1.png": EMPTY, "masks/a/y/0.png": LEFT}
    assert FORMAT.open(write(tmp_path, files), "a").left_out == (
        "masks of 1 images that are not there",
        "masks without pixels, like 1 of the 2 that were looked at",
    )
