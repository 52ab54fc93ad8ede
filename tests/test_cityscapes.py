"""Cityscapes is read by objects where there are instance ids, else by classes; groups of things are crowds."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.categories import class_table
from eomt.data.archive import Archive
from eomt.data.readers.cityscapes import FORMAT
from eomt.errors import DataError
from layouts import cityscapes as layout
from scenes import STUFF, THINGS, assert_read

SCENE = "train/street/street_000001"
TABLE = class_table("cityscapes_semantic")
KINDS = ("instanceIds", "labelIds", "labelTrainIds")


def zipped(root: Path) -> Path:
    return Path(shutil.make_archive(str(root.parent / "packed"), "zip", root.parent, root.name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layout.write(tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


@pytest.mark.parametrize(
    "pack", [lambda root: root, lambda root: root.parent, zipped], ids=["folder", "above", "zip"]
)
@pytest.mark.parametrize(
    ("kinds", "merged"),
    [
        (KINDS, STUFF),
        (KINDS[:1], STUFF),  # instance ids say all
        (KINDS[1:2], THINGS + STUFF),
        (KINDS[2:], THINGS + STUFF),
    ],
)
def test_scenes(tmp_path: Path, pack: Callable[[Path], Path], kinds: tuple[str, ...], merged: tuple[str, ...]):
    layout.write(tmp_path / "cityscapes", kinds)
    archive = Archive(pack(tmp_path / "cityscapes"))
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train", "val")
    for split in ("train", "val"):
        opened = FORMAT.open(archive, split)
        assert opened.left_out == ()
        assert [category.is_thing for category in opened.categories] == [
            category.is_thing and merged == STUFF for category in TABLE
        ]
        assert_read(pickle.loads(pickle.dumps(opened)), split, merged=merged)


def test_scenes_in_the_two_zips_as_they_are_downloaded(tmp_path: Path):
    layout.write_zips(tmp_path)
    archive = Archive(tmp_path)
    assert FORMAT.splits(archive) == ("train", "val")
    assert_read(pickle.loads(pickle.dumps(FORMAT.open(archive, "train"))), "train")


def test_names_of_images_hold_the_city(root: Path):
    assert FORMAT.open(Archive(root), "val").image_ids == ("street/street_000003",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, 7, 11, 7], [("road", False, 3), ("building", False, 1)]),
        ([24, 24000, 24001, 24000], [("person", True, 1), ("person", False, 2), ("person", False, 1)]),  # a group
        ([0, 1, 4, 18], []),  # unlabelled, ego vehicle, static, group of poles
        ([29, 29000, 30003, 33018], [("bicycle", False, 1)]),  # caravan and trailer are no classes
        ([11000, 11, 11004, 0], [("building", False, 3)]),  # stuff is one segment, numbered or not
    ],
)
def test_what_instance_ids_mean(root: Path, values: list[int], expected: list[tuple[str, bool, int]]):
    pixels = np.zeros((24, 32), np.uint16)
    pixels[0, :4] = values
    Image.fromarray(pixels).save(root / f"gtFine/{SCENE}_gtFine_instanceIds.png")
    segments = FORMAT.open(Archive(root), "train")[0].segments
    found = zip(segments.labels.tolist(), segments.is_crowd.tolist(), segments.masks.areas().tolist(), strict=True)
    assert [(TABLE[label].name, crowd, area) for label, crowd, area in found] == expected


def test_every_raw_label_id_is_a_class_or_void(root: Path):
    pixels = np.zeros((24, 32), np.uint16)
    pixels[0], pixels[1, :2] = np.arange(32), [32, 33]
    Image.fromarray(pixels).save(root / f"gtFine/{SCENE}_gtFine_instanceIds.png")
    segments = FORMAT.open(Archive(root), "train")[0].segments
    assert segments.labels.tolist() == list(range(19))  # in the order of train ids
    assert segments.is_crowd.tolist() == [category.is_thing for category in TABLE]


def test_a_test_split_with_real_labels_is_listed(root: Path):
    for file in (root / "gtFine/val/street").iterdir():
        shutil.copy(file, root / "gtFine/test/street" / file.name.replace("000003", "000009"))
    archive = Archive(root)
    assert FORMAT.splits(archive) == ("test", "train", "val")
    assert len(FORMAT.open(archive, "test")[0].segments) == 2


@pytest.mark.parametrize("split", ["test", "demo"])
def test_splits_without_labels(root: Path, split: str):
    words = "withheld by Cityscapes.*it has train, val" if split == "test" else "no annotated split 'demo'; it has"
    with pytest.raises(DataError, match=words):
        FORMAT.open(Archive(root), split)


def test_coarse_labels_where_there_are_no_fine_ones(root: Path):
    shutil.copytree(root / "leftImg8bit/train", root / "leftImg8bit/train_extra")
    for file in (root / "gtFine/train/street").iterdir():
        coarse = root / "gtCoarse/train_extra/street" / file.name.replace("gtFine", "gtCoarse")
        coarse.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, coarse)
    archive = Archive(root)
    assert FORMAT.splits(archive) == ("train", "train_extra", "val")
    assert_read(FORMAT.open(archive, "train_extra"), "train")


def test_polygons_only(tmp_path: Path):
    layout.write(tmp_path, kinds=())
    archive = Archive(tmp_path)
    assert "json2instanceImg" in str(FORMAT.missing(archive))
    assert FORMAT.splits(archive) == ()
    with pytest.raises(DataError, match=r"no id maps in gtFine.*json2instanceImg X_gtFine_polygons.json"):
        FORMAT.open(archive, "train")


@pytest.mark.parametrize(
    ("absent", "words"),
    [("leftImg8bit", "leftImg8bit/SPLIT/CITY"), ("gtFine", "gtFine/SPLIT/CITY/.*_gtFine_instanceIds.png")],
)
def test_what_is_missing_is_named(root: Path, absent: str, words: str):
    shutil.rmtree(root / absent)
    archive = Archive(root)
    assert str(FORMAT.missing(archive)).startswith(words.split("/.*")[0])
    assert FORMAT.splits(archive) == ()
    with pytest.raises(DataError, match="no annotated split 'train'; it has none"):
        FORMAT.open(archive, "train")


def test_maps_without_an_image_are_counted(root: Path):
    (root / f"leftImg8bit/{SCENE}_leftImg8bit.png").unlink()
    assert FORMAT.open(Archive(root), "train").left_out == ("1 id maps without an image",)


def test_images_without_a_map_are_refused(root: Path):
    (root / f"gtFine/{SCENE}_gtFine_instanceIds.png").unlink()
    with pytest.raises(
        DataError, match="1 of 2 images of train have no id map: gtFine/train/street/street_000001_"
    ):
        FORMAT.open(Archive(root), "train")


@pytest.mark.parametrize(
    ("kind", "pixels", "words"),
    [
        ("instanceIds", np.full((24, 32), 34, np.uint16), "at x 0, y 0: value 34 has label id 34"),
        ("instanceIds", np.full((24, 32), 34001, np.uint16), "value 34001 has label id 34"),
        ("instanceIds", np.full((24, 9), 7, np.uint16), "the id map is 9 x 24, its image upright 32 x 24"),
        ("instanceIds", np.full((24, 32, 3), (1, 2, 3), np.uint8), "mode RGB"),
        ("labelIds", np.full((24, 32), 255, np.uint8), "value 255 has label id 255"),
        ("labelTrainIds", np.full((24, 32), 19, np.uint8), "train id 19 is none of Cityscapes'"),
    ],
)
def test_maps_that_are_wrong(tmp_path: Path, kind: str, pixels: np.ndarray, words: str):
    layout.write(tmp_path, (kind,))
    Image.fromarray(pixels).save(tmp_path / f"gtFine/{SCENE}_gtFine_{kind}.png")
    opened = FORMAT.open(Archive(tmp_path), "train")
    with pytest.raises(DataError, match=rf"street_000001_gtFine_{kind}.png: .*{words}"):
        opened[0]
