"""COCO's panoptic annotations: JSON and PNGs that agree become segments; what does not agree is told."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eomt.categories import class_table
from eomt.data.archive import Archive
from eomt.data.readers.coco_panoptic import FORMAT
from eomt.errors import DataError
from layouts import coco, coco_panoptic
from scenes import SIZE, assert_read


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root.parent / "packed"), "zip", root.parent, root.name))


@pytest.mark.parametrize("pack", [Path, packed])
@pytest.mark.parametrize("write", [coco_panoptic.write, coco_panoptic.write_zips])
def test_scenes_come_back(write, pack, tmp_path):
    write(tmp_path / "data")
    archive = Archive(pack(tmp_path / "data"))
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train2017", "val2017")
    for split in ("train", "val"):
        dataset = FORMAT.open(archive, f"{split}2017")
        assert dataset.left_out == ()
        assert_read(pickle.loads(pickle.dumps(dataset)), split, merged=())
    assert [(category.id, category.is_thing) for category in dataset.categories] == [
        (1, True), (3, True), (149, False), (187, False)
    ]  # fmt: skip
    known = {category.name: category.color for category in class_table("coco_panoptic")}
    assert dataset.categories[1].color == known["car"]


VAL = "annotations/panoptic_val2017.json"
Change = Callable[[dict[str, Any]], Any]


def changed(root: Path, change: Change) -> Archive:
    """The scenes, the JSON file of val changed."""
    coco_panoptic.write(root)
    values = json.loads((root / VAL).read_text())
    change(values)
    (root / VAL).write_text(json.dumps(values))
    return Archive(root)


def annotation(**fields: Any) -> Change:
    return lambda values: values["annotations"][0].update(fields)


def segment(**fields: Any) -> Change:
    return lambda values: values["annotations"][0]["segments_info"][1].update(fields)


def test_crowds_negatives_and_what_is_passed_over(tmp_path):
    def change(values: dict[str, Any]) -> None:
        segment(iscrowd=1)(values)
        values["images"] += [{"id": id, "file_name": f"{id}.png"} for id in ("none", "nothing")]
        values["annotations"] += [
            {"image_id": "none", "file_name": "none.png", "segments_info": []},
            {"image_id": "elsewhere", "file_name": "elsewhere.png", "segments_info": []},
        ]

    archive = changed(tmp_path, change)
    for folder in ("val2017", "annotations/panoptic_val2017"):
        Image.new("RGB", (3, 2)).save(tmp_path / folder / "none.png")
    split = FORMAT.open(archive, "val2017")
    assert split.image_ids == ("street_000003", "none")
    assert split[0].segments.is_crowd.tolist() == [False, True]
    assert len(split[1].segments) == 0
    assert split.left_out == (
        "1 images without an annotation",
        "1 annotations of images that the file does not list",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("images"), 'no list "images"'),
        (lambda values: values["images"].clear(), 'no annotation\'s "image_id" is the id of an image'),
        (
            lambda values: values["images"].append(values["images"][0]),
            "two images have the id 1000, both street_000003.jpg; list it once",
        ),
        (lambda values: values["annotations"].append(values["annotations"][0]), "the image has two annotations"),
        (annotation(image_id=None), 'annotations[0]: "image_id" is None'),
        (annotation(file_name="x.png"), "1 of 1 PNGs are not there: annotations/panoptic_val2017/x.png"),
        (annotation(file_name=3), 'annotations[0] of image 1000: "file_name" is 3'),
        (annotation(segments_info={}), '"segments_info" {}'),
        (annotation(segments_info=[1]), "annotations[0] of image 1000: segment 1; expected an object"),
        (segment(id=0), 'a segment\'s "id" is 0; use 1 to 16777215'),
        (segment(id=1 << 24), 'a segment\'s "id" is 16777216'),
        (segment(id=True), 'a segment\'s "id" is True'),
        (segment(id=25600), "annotations[0] of image 1000: two segments have the id 25600"),
        (segment(category_id=[]), 'segment 25857: "category_id" is []'),
        (
            segment(category_id=2),
            "annotations[0] of image 1000: category_id 2 is not among the categories (1, 3,",
        ),
        (segment(iscrowd="no"), "segment 25857: \"iscrowd\" is 'no'"),
        (
            lambda values: values["categories"][2].pop("isthing"),
            'categories[2], road: "isthing" is absent',
        ),
        (lambda values: values["images"][0].update(file_name="y.jpg"), "1 of 1 images are not there: y.jpg"),
    ],
)
def test_unusable_files_are_refused_when_they_are_opened(change, message, tmp_path):
    archive = changed(tmp_path, change)
    with pytest.raises(DataError) as caught:
        FORMAT.open(archive, "val2017")
    assert message in str(caught.value)
    assert str(tmp_path / VAL) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            segment(id=7),
            "at x 3, y 3: the PNG has segment 25857 (colour 1, 101, 0), which annotations/",
        ),
        (
            lambda values: values["annotations"][0]["segments_info"].append({"id": 9, "category_id": 1}),
            "annotations/panoptic_val2017.json lists segments 9, which the PNG does not have",
        ),
    ],
)
def test_both_files_name_the_same_segments(change, message, tmp_path):
    split = FORMAT.open(changed(tmp_path, change), "val2017")
    with pytest.raises(DataError) as caught:
        split[0]
    png = tmp_path / "annotations/panoptic_val2017/street_000003.png"
    assert str(caught.value).startswith(f"{png}: image street_000003: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (SIZE[1], SIZE[0] - 1)), "the PNG is 32 x 23, its image upright 32 x 24"),
        (Image.new("L", (SIZE[1], SIZE[0])), "not colours"),
    ],
)
def test_other_pictures_are_no_masks(picture, message, tmp_path):
    split = FORMAT.open(changed(tmp_path, lambda values: None), "val2017")
    picture.save(tmp_path / "annotations/panoptic_val2017/street_000003.png")
    with pytest.raises(DataError, match=message):
        split[0]


def test_the_first_thing_missing_is_named(tmp_path):
    coco.write(tmp_path)
    assert FORMAT.missing(Archive(tmp_path)) == "annotations/panoptic_SPLIT.json"
    coco.save(tmp_path / "annotations/panoptic_val.json", {})
    assert FORMAT.missing(Archive(tmp_path)) == "annotations/panoptic_val/*.png"
    assert FORMAT.splits(Archive(tmp_path)) == ()


def test_the_folder_of_annotations_may_be_anywhere(tmp_path):
    coco_panoptic.write(tmp_path / "coco")
    (tmp_path / "coco/annotations").rename(tmp_path / "coco/panoptic")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/readme.txt").touch()
    assert_read(FORMAT.open(Archive(tmp_path), "train2017"), "train", merged=())


REAL = Path(os.environ.get("EOMT_REAL_DATA", ""))


@pytest.mark.skipif("EOMT_REAL_DATA" not in os.environ, reason="set EOMT_REAL_DATA to a folder")
def test_real_annotations():
    archive = Archive(REAL / "coco-panoptic-sample.zip")
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("examples",)
    split = FORMAT.open(archive, "examples")
    assert split.image_ids == ("000000142238", "000000439180")
    assert split.left_out == ()
    table = class_table("coco_panoptic")
    assert [category[:3] for category in split.categories] == [category[:3] for category in table]
    for sample in (split[0], split[1]):
        name = "sample_data/panoptic_examples.json"
        listed = json.loads(archive.read(name))["annotations"]
        info = next(entry for entry in listed if entry["file_name"] == f"{sample.image_id}.png")["segments_info"]
        wanted = sorted((entry["category_id"], entry["area"], entry["iscrowd"]) for entry in info)
        areas = sample.segments.masks.areas().tolist()
        found = zip(sample.segments.labels.tolist(), areas, sample.segments.is_crowd.tolist(), strict=True)
        assert sorted((split.categories[label].id, area, int(crowd)) for label, area, crowd in found) == wanted
