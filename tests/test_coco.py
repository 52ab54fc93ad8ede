"""COCO's instance annotations in the layouts they come in; what does not fit is told, or counted."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.coco import FORMAT
from eomt.errors import DataError
from layouts import coco
from scenes import SCENES, SIZE, THINGS, assert_read, of


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root.parent / "packed"), "zip", root.parent, root.name))


@pytest.mark.parametrize("pack", [Path, packed])
@pytest.mark.parametrize(
    ("write", "train", "val"), [(coco.write, "train2017", "val2017"), (coco.write_roboflow, "train", "valid")]
)
def test_scenes_come_back(write, train, val, pack, tmp_path):
    write(tmp_path / "data")
    archive = Archive(pack(tmp_path / "data"))
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == (train, val)
    for split, name in (("train", train), ("val", val)):
        dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, name)))
        assert_read(dataset, split, THINGS, merged=())
        assert all(category.is_thing for category in dataset.categories)


def test_classes_keep_their_ids_and_colours(tmp_path):
    coco.write(tmp_path)
    split = FORMAT.open(Archive(tmp_path), "train2017")
    assert [(category.id, category.name) for category in split.categories] == [
        (1, "person"), (3, "car"), (13, "stop sign")
    ]  # fmt: skip
    assert split.categories[0].color == (220, 20, 60)  # COCO's own
    assert split.left_out == ()


def test_the_root_of_roboflow_s_classes_is_no_class(tmp_path):
    coco.write_roboflow(tmp_path)
    split = FORMAT.open(Archive(tmp_path), "train")
    assert [category.name for category in split.categories] == ["car", "person"]
    assert split.left_out == ("1 category that only groups others and has no annotations (id 0)",)


def test_a_class_without_a_name_is_no_root(tmp_path):
    def change(values: dict[str, Any]) -> None:
        values["categories"] += [{"id": 90, "supercategory": "none"}, {"id": 91, "name": "cat"}]

    with pytest.raises(DataError, match=r'"name" is None; every category needs one'):
        one_image(tmp_path, change)


def test_a_root_that_some_split_uses_is_a_class_in_all(tmp_path):
    coco.write_roboflow(tmp_path)
    path = tmp_path / "valid/_annotations.coco.json"
    values = json.loads(path.read_text())
    values["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(values))
    names = [category.name for category in FORMAT.open(Archive(tmp_path), "train").categories]
    assert names == ["streets", "car", "person"]


def test_one_file_beside_its_images(tmp_path):
    coco.write_single(tmp_path)
    archive = Archive(tmp_path)
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("all",)
    split = FORMAT.open(archive, "all")
    assert split.image_ids == tuple(scene.image_id for scene in SCENES)
    assert split[1].segments.masks.mask(0).sum() == 16 * 16


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/train.json", "images", "train"),
        ("annotations/train.json", "images/train", "train"),
        ("train_annotations.coco.json", "train", "train"),
        ("train/annotations.json", "train", "train"),
        ("train/labels/coco.json", "train/images", "all"),
        ("result.json", "images", "all"),  # Label Studio
        ("annotations/instances_default.json", "images/default", "default"),  # CVAT
        ("instances_val.json", "val", "val"),
        ("2024/annotations/instances_val.json", "2024/val", "val"),
        ("a/b/my-export.json", "somewhere/else", "my-export"),
    ],
)
def test_plausible_places(file, images, split, tmp_path):
    coco.save(tmp_path / file, coco.content(of("train"), coco.CATEGORIES))
    coco.save_images(tmp_path / images, of("train"))
    (tmp_path / "readme.md").touch()  # nothing is the only folder
    archive = Archive(tmp_path)
    assert FORMAT.splits(archive) == (split,)
    assert_read(FORMAT.open(archive, split), "train", THINGS, merged=())


def one_image(root: Path, change: Callable[[dict[str, Any]], Any]) -> Split:
    """A data set of one scene, its JSON file changed."""
    values = copy.deepcopy(coco.content(of("val"), coco.CATEGORIES))
    text = change(values)
    path = root / "annotations/instances_val.json"
    coco.save(path, values)
    if isinstance(text, str):
        path.write_text(text)
    coco.save_images(root / "val", of("val"))
    return FORMAT.open(Archive(root), "val")


def another(values: dict[str, Any], **fields: Any) -> None:
    values["annotations"].append({**values["annotations"][0], "id": 1, **fields})


@pytest.mark.parametrize(
    ("fields", "left_out"),
    [
        ({"segmentation": []}, ("1 annotations without a mask (boxes only)",)),
        ({"segmentation": None}, ("1 annotations without a mask (boxes only)",)),
        ({"image_id": 17}, ("1 annotations of images that the file does not list",)),
        (
            {"segmentation": [[1, 2, 3, 4]]},
            (
                "1 polygons of fewer than three points",
                "1 annotations without a mask (no polygon of three points)",
            ),
        ),
    ],
)
def test_what_is_passed_over_is_counted(fields, left_out, tmp_path):
    split = one_image(tmp_path, lambda values: another(values, **fields))
    assert split.left_out == left_out
    assert len(split[0].segments) == 1


def test_crowds_stuff_and_negatives(tmp_path):
    def change(values: dict[str, Any]) -> None:
        another(values, iscrowd=1, segmentation=coco.plain_rle(SCENES[0].things[0]))
        values["categories"][2]["isthing"] = 0
        values["images"].append({"id": "x", "file_name": "x.png"})
        Image.new("L", (3, 2)).save(tmp_path / "val/x.png")

    (tmp_path / "val").mkdir()
    split = one_image(tmp_path, change)
    assert split[0].segments.is_crowd.tolist() == [False, True]
    assert [category.is_thing for category in split.categories] == [True, True, False]
    assert len(split[1].segments) == 0
    assert split[1].segments.masks.size == (2, 3)


def test_polygons_are_those_of_coco_s_tools(tmp_path):
    rng = np.random.default_rng(0)
    rings = [(rng.random(14) * 30 - 2).tolist() for _ in range(3)]
    split = one_image(tmp_path, lambda values: values["annotations"][0].update(segmentation=rings))
    rle = reference.merge(reference.frPyObjects(rings, *SIZE))
    assert split[0].segments.masks.rle(0) == rle


def first(list: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values[list][0].update(fields)


def rle(size: list[int], *counts: int) -> dict[str, object]:
    return {"size": size, "counts": counts}


def twice(list: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values[list].append(values[list][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: json.dumps(values)[:-40], "categories[2]: not valid JSON"),
        (lambda values: json.dumps(values).replace("5000", "NaN"), "annotations[0]: not valid JSON (NaN is"),
        (lambda values: json.dumps(values).replace("5000", "9" * 5000), "annotations[0]: not valid JSON (Exc"),
        (lambda values: json.dumps(values).replace("[{", "[{}, {"), "images[0]: \"id\" is None"),
        (lambda values: json.dumps(values).replace("5000", "[" * 99999), "annotations[0]: not valid JSON (m"),
        (lambda values: "[" * 99999, "it starts with '[', not with '{'; a COCO file is one object"),
        (lambda values: '{"images": ' + "[" * 99999, "images[0]"),
        (lambda values: '{"images": []}', 'no list "annotations"'),
        (lambda values: "{}", 'no list "images"'),
        (lambda values: "", "it is empty; a COCO file is one object"),
        (lambda values: values.update(annotations={}), '"annotations" is {}, not a list'),
        (lambda values: values.update(annotations=None), '"annotations" is null, not a list'),
        (lambda values: values["images"].append(3), "images[1] is 3; expected an object"),
        (lambda values: '{"images": [], "images": []}', 'two lists "images"'),
        (first("images", id=None), 'images[0]: "id" is None'),
        (first("images", file_name=7), 'images[0]: "file_name" is 7'),
        (first("images", file_name="lost.jpg"), "1 of 1 images are not there: lost.jpg; put them into val/"),
        (first("images", file_name="../../../etc/passwd"), "1 of 1 images are not there"),
        (first("images", height=-1), "street_000003.jpg: height and width are -1 and 32"),
        (twice("images"), "images[1]: two images have the id 1000"),
        (lambda v: v["images"].append({**v["images"][0], "id": 2}), "two images are the file val/street"),
        (first("annotations", id=[]), 'annotations[0]: "id" is []: no id'),
        (twice("annotations"), 'annotations[1]: "id" is 5000: two annotations have this id'),
        (first("annotations", image_id={}), 'annotation 5000: "image_id" is {}'),
        (first("annotations", image_id=4), "no annotation's \"image_id\" is the id of an image"),
        (first("annotations", category_id=7), "annotation 5000: category_id 7 is not among the categories (1, 3"),
        (first("annotations", category_id=True), 'annotation 5000: "category_id" is True'),
        (first("annotations", iscrowd=2), 'annotation 5000: "iscrowd" is 2; use 0 or 1'),
        (first("annotations", segmentation="x"), "annotation 5000: \"segmentation\" is 'x'; expected a list"),
        (first("annotations", segmentation={"size": []}), "annotation 5000: \"segmentation\" is {'size': []}"),
        (first("annotations", segmentation=[]), "has a mask: 1 annotations without a mask (boxes only); export"),
        (lambda values: values["categories"].clear(), "no categories"),
        (first("categories", id="1"), "categories[0]: \"id\" is '1'"),
        (first("categories", name=""), "categories[0]: \"name\" is ''"),
        (first("categories", color=[1, 2]), 'person: "color" is [1, 2]'),
        (first("categories", isthing=2), 'person: "isthing" is 2'),
        (first("categories", id=3), "two categories have the id 3, person and car"),
        (first("categories", name="car"), "two categories have the name 'car'"),
    ],
)  # fmt: skip
def test_unusable_files_are_refused_when_they_are_opened(change, message, tmp_path):
    with pytest.raises(DataError) as caught:
        one_image(tmp_path, change)
    assert message in str(caught.value)
    assert str(tmp_path / "annotations/instances_val.json") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("annotations", segmentation=[[0, 0, 1, 1, 1e999, 2]]), "annotation 5000: a polygon has the coord"),
        (first("annotations", segmentation=[[0, 0, 1, 1, 1, 2, 3]]), "annotation 5000: polygon 1 of 1 has 7"),
        (first("annotations", segmentation=[7]), "annotation 5000: polygon 1 of 1 is 7"),
        (first("annotations", segmentation=rle([24, 32], 1)), "annotation 5000: a run-length code with 1 pixels"),
        (first("annotations", segmentation=rle([32, 24], 768)), "annotation 5000: a run-length code with size"),
        (first("images", height=32, width=24), "it is 32 x 24 upright, but 24 x 32 by the file"),
    ],
)  # fmt: skip
def test_unusable_masks_are_refused_when_they_are_read(change, message, tmp_path):

    def with_infinity(values: dict[str, Any]) -> str:
        change(values)
        return json.dumps(values).replace("Infinity", "1e999")

    split = one_image(tmp_path, with_infinity)
    with pytest.raises(DataError) as caught:
        split[0]
    assert message in str(caught.value)
    assert "annotations/instances_val.json: image street_000003: " in str(caught.value)


def test_an_unknown_split(tmp_path):
    coco.write(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; it has train2017, val2017"):
        FORMAT.open(Archive(tmp_path), "test")


def test_images_of_one_stem_go_by_their_folders(tmp_path):
    values = coco.content(of("train"), coco.CATEGORIES)
    for scene, image in zip(of("train"), values["images"], strict=True):
        coco.save_images(tmp_path / "images" / scene.image_id, (scene,))
        (tmp_path / f"images/{scene.image_id}/{scene.image_id}.jpg").rename(
            tmp_path / f"images/{scene.image_id}/0.jpg"
        )
        image["file_name"] = f"{scene.image_id}/0.jpg"
    coco.save(tmp_path / "train.json", values)
    split = FORMAT.open(Archive(tmp_path), "train")
    assert split.image_ids == ("images/street_000001/0", "images/street_000002/0")


def test_a_bare_name_that_two_files_have_is_refused(tmp_path):
    coco.save(tmp_path / "x/val.json", coco.content(of("val"), coco.CATEGORIES))
    for folder in ("first", "second"):
        coco.save_images(tmp_path / folder, of("val"))
    with pytest.raises(DataError, match=r"'street_000003.jpg' may be first/street_000003.jpg or second/"):
        FORMAT.open(Archive(tmp_path), "val")


@pytest.mark.parametrize(
    "files",
    [
        {"categories.json": [{"name": "cell"}]},
        {"annotations/captions_val.json": {"images": [], "annotations": [{"caption": ""}]}},
        {
            "annotations/panoptic_val.json": {
                "images": [],
                "annotations": [{"segments_info": []}],
                "categories": [],
            }
        },
        {"detections.json": {"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}], "categories": []}},
        {
            f"labels/{n}.json": {"images": 0, "annotations": 0, "categories": 0, "segmentation": 0}
            for n in range(30)
        },
        {"ade20k_instance_train.json": coco.content(of("train"), coco.CATEGORIES)},
        {"x.json": {"shapes": [], "imagePath": "x.png"}},
    ],
)
def test_other_formats_are_not_taken_for_it(files, tmp_path):
    for name, values in files.items():
        coco.save(tmp_path / name, values)
    assert FORMAT.missing(Archive(tmp_path)) == "annotations/instances_SPLIT.json or another COCO file with masks"
    assert FORMAT.splits(Archive(tmp_path)) == ()


def two_splits(root: Path, train: str, val: str) -> Archive:
    """The scenes, their images called 0.jpg, 1.jpg, ... in each split; the first one to train on is lost."""
    for split, folder in (("train", train), ("val", val)):
        values = coco.content(of(split), coco.CATEGORIES)
        for number, entry in enumerate(values["images"]):
            entry["file_name"] = f"{number}.jpg"
        coco.save(root / f"annotations/instances_{split}.json", values)
        coco.save_images(root / folder, of(split))
        for number, scene in enumerate(of(split)):
            (root / folder / f"{scene.image_id}.jpg").rename(root / folder / f"{number}.jpg")
    (root / train / "0.jpg").unlink()
    return Archive(root)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("images/train", "images/val"),
        ("photos/training", "photos/validation"),  # folders of that kind
        ("part1", "part2"),  # the other annotation names it too
    ],
)
def test_no_image_of_another_split_stands_in_for_one_that_is_lost(train, val, tmp_path):
    archive = two_splits(tmp_path, train, val)
    with pytest.raises(
        DataError, match=r"instances_train.json: 1 of 2 images are not there: 0.jpg; put them into"
    ):
        FORMAT.open(archive, "train")


def test_polygons_without_a_pixel_are_left_out_and_counted(tmp_path):
    split = one_image(tmp_path, lambda values: another(values, segmentation=[[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]))
    assert split.left_out == ("1 annotations whose outline has no pixels",)
    assert len(split[0].segments) == 1


def test_shares_of_the_width_and_height_are_refused(tmp_path):
    def change(values: dict[str, Any]) -> None:
        for annotation in values["annotations"]:
            annotation["segmentation"] = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9]]

    with pytest.raises(DataError, match=r"shares of the width and height; multiply them, as COCO's are pixels"):
        one_image(tmp_path, change)


def test_annotations_lie_in_arrays(tmp_path):
    """Workers share them with the process that opened the split; objects are copied when they are counted."""
    coco.write(tmp_path)
    split = FORMAT.open(Archive(tmp_path), "train2017")
    assert [item.content for item in split.items] == [0, 1]
    assert split.read_segments.text.dtype == np.uint8


def test_annotations_come_in_any_order(tmp_path):
    values = coco.content(of("train"), coco.CATEGORIES)
    expected = FORMAT.open(write_train(tmp_path / "a", values), "train")
    values["annotations"].reverse()
    for found, wanted in zip(FORMAT.open(write_train(tmp_path / "b", values), "train"), expected, strict=True):
        assert found.segments.labels.tolist() == wanted.segments.labels.tolist()[::-1]


def write_train(root: Path, values: dict[str, Any]) -> Archive:
    coco.save(root / "annotations/instances_train.json", values)
    coco.save_images(root / "train", of("train"))
    return Archive(root)
