"""Each seeded defect is found with its place, alone and among others; what is sound is not blamed, nor changed."""

import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from eomt.cli import main
from eomt.cli.data_validate import run
from eomt.data.validate import Report, validate
from eomt.errors import ConfigError, DataError
from layouts import (
    ade20k,
    cityscapes,
    coco,
    coco_panoptic,
    cvat,
    folder,
    instance_folder,
    label_studio,
    labelme,
    saved_dataset,
    voc,
    yolo,
)
from test_detect import IN_ARCHIVES, LAYOUTS

ONE, TWO, THREE = "street_000001", "street_000002", "street_000003"
Mutation = Callable[[Path], None]


def in_json(file: str, change: Callable[[Any], Any]) -> Mutation:
    """Change what stands in a JSON file. 1e999, which JSON allows, is infinite; NaN is no JSON."""

    def mutate(root: Path) -> None:
        values = json.loads((root / file).read_text())
        change(values)
        (root / file).write_text(json.dumps(values).replace("Infinity", "1e999"))

    return mutate


def in_list(file: str, list: str, place: int, **fields: Any) -> Mutation:
    """Change fields of one entry of a COCO file."""
    return in_json(file, lambda values: values[list][place].update(fields))


def copied(file: str, list: str, place: int, **fields: Any) -> Mutation:
    """Add a copy of one entry of a COCO file, with other fields."""
    return in_json(file, lambda values: values[list].append(values[list][place] | fields))


def removed(file: str) -> Mutation:
    return lambda root: (root / file).unlink()


def cut(file: str, share: float = 0.6) -> Mutation:
    """Truncate a file."""

    def mutate(root: Path) -> None:
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: int(len(data) * share)])

    return mutate


def copy(file: str, to: str) -> Mutation:
    def mutate(root: Path) -> None:
        shutil.copy(root / file, root / to)

    return mutate


def painted(file: str, value: Any, window: tuple[slice, slice] = (slice(0, 2), slice(0, 3))) -> Mutation:
    """Paint a corner of a mask with a value, palette and all."""

    def mutate(root: Path) -> None:
        picture = Image.open(root / file)
        pixels, palette = np.array(picture), picture.getpalette()
        pixels[window] = value
        changed = Image.fromarray(pixels)
        if palette:
            changed.putpalette(palette)
        changed.save(root / file)

    return mutate


def resized(file: str, size: tuple[int, int] = (40, 30)) -> Mutation:
    return lambda root: Image.open(root / file).resize(size, Image.Resampling.NEAREST).save(root / file)


def in_text(file: str, old: str, new: str) -> Mutation:
    """Replace one piece of a text file."""

    def mutate(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return mutate


def added(file: str, text: str) -> Mutation:
    def mutate(root: Path) -> None:
        (root / file).write_text((root / file).read_text() + text)

    return mutate


def saved_as(file: str, **options: Any) -> Mutation:
    return lambda root: Image.open(root / file).convert("L").save(root / file, **options)


def parquet_rows(file: str, change: Callable[[list[dict[str, Any]]], Any]) -> Mutation:
    def mutate(root: Path) -> None:
        table = parquet.read_table(root / file)
        rows = table.to_pylist()
        change(rows)
        parquet.write_table(pa.Table.from_pylist(rows, table.schema), root / file, row_group_size=1)

    return mutate


class Defect(NamedTuple):
    """What is wrong, and how it must be told."""

    write: Callable[[Path], None]
    mutate: Mutation
    file: str
    """That the problem names as its place; empty for one of the whole data set."""
    words: str
    """That must stand in its message: the entry, the field or the file."""
    together: int = 1
    """Defects of one layout that do not touch the same entries have one number; 0: it ends the reading."""


T, V = "annotations/instances_train2017.json", "annotations/instances_val2017.json"
P, PNG = "annotations/panoptic_train2017.json", "annotations/panoptic_train2017"
M = "masks/train"
CORNER = slice(-2, None), slice(-3, None)
VOC = "VOCdevkit/VOC2012"
LISTS = f"{VOC}/ImageSets/Segmentation"
ROBOFLOW = "valid/_annotations.coco.json"
FAR = [[0.0, 0.0, 60.0, 0.0, 60.0, 9.0, 0.0, 9.0]]
"""Its image is 32 wide."""


def segment(place: int, index: int, **fields: Any) -> Mutation:
    """Change a segment of COCO's panoptic file."""
    return in_json(P, lambda values: values["annotations"][place]["segments_info"][index].update(fields))


def shape(file: str, index: int, **fields: Any) -> Mutation:
    """Change a shape of LabelMe."""
    return in_json(file, lambda values: values["shapes"][index].update(fields))


def region(task: int, index: int, value: dict[str, Any], **fields: Any) -> Mutation:
    """Change a region of Label Studio."""

    def change(tasks: Any) -> None:
        found = tasks[task]["annotations"][0]["result"][index]
        found.update(fields)
        found["value"].update(value)

    return in_json("train.json", change)


def item(index: int, annotation: int, **fields: Any) -> Mutation:
    """Change an annotation of Datumaro."""
    return in_json(
        "annotations/train.json", lambda values: values["items"][index]["annotations"][annotation].update(fields)
    )


DEFECTS = (
    # COCO: annotations 5000, 5003, 5006 are of image 1000 (polygon, two polygons, RLE), 5009 of 1007 (compressed).
    Defect(
        coco.write,
        in_list(T, "annotations", 0, segmentation=[[1, 1, 9, 1, 9, 1e999]]),
        T,
        r"5000: segmentation.0..5. is Infinity",
    ),
    Defect(coco.write, in_list(T, "annotations", 1, segmentation=FAR), T, "5003: .*x 60, y .*outside"),
    Defect(
        coco.write,
        in_json(T, lambda c: c["annotations"][2]["segmentation"]["counts"].append(5)),
        T,
        "5006: .*pixels",
    ),
    Defect(
        coco.write,
        in_json(T, lambda c: c["annotations"][3]["segmentation"].update(counts="0123")),
        T,
        "annotation 5009: a run-length code",
    ),
    Defect(coco.write, copied(V, "annotations", 0), V, r"annotations\[1\]: \"id\" is 5000: two annotations"),
    Defect(coco.write, copied(T, "images", 0, file_name="x.jpg"), T, r"images\[2\]: two images have the id 1000"),
    Defect(coco.write, copied(T, "categories", 0, name="who"), T, "two categories have the id 1, person and who"),
    Defect(coco.write, copied(V, "categories", 0, id=9), V, "two categories have the name 'person'"),
    Defect(coco.write, cut("val2017/street_000003.jpg"), "val2017/street_000003.jpg", "cannot be decoded"),
    Defect(coco.write, in_list(T, "annotations", 0, category_id=99), T, "annotation 5000: category_id 99", 2),
    Defect(coco.write, in_list(T, "annotations", 1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), T, "5003: .*7 num", 2),
    Defect(
        coco.write,
        in_json(T, lambda c: c["annotations"][2]["segmentation"].update(counts=[24 * 32])),
        T,
        "annotation 5006: its mask has no pixels",
        2,
    ),
    Defect(coco.write, in_list(T, "annotations", 3, image_id=4), T, 'annotation 5009: "image_id" is 4', 2),
    Defect(coco.write, removed("train2017/street_000002.jpg"), T, "not there: street_000002.jpg", 2),
    Defect(coco.write, resized("val2017/street_000003.jpg"), V, "image street_000003: it is 40 x 30", 2),
    Defect(coco.write, in_list(T, "categories", 2, name=" "), T, r"categories\[2\]: \"name\"", 2),
    Defect(coco.write, in_list(T, "annotations", 0, iscrowd=7), T, 'annotation 5000: "iscrowd" is 7', 3),
    Defect(coco.write, in_list(T, "annotations", 1, segmentation="?"), T, 'annotation 5003: "segmentation"', 3),
    Defect(coco.write, in_list(T, "images", 1, file_name=7), T, r'images\[1\]: "file_name" is 7', 3),
    Defect(
        coco.write,
        copy("train2017/street_000001.jpg", "val2017/street_000003.jpg"),
        "val2017/street_000003.jpg",
        "image street_000003 of val2017 has the same content as street_000001 of train2017",
        3,
    ),
    Defect(
        coco.write,
        in_list(V, "annotations", 0, category_id=13),
        V,
        "class 'stop sign' is in val2017 .*image street_000003.*not in train2017: it cannot be learnt",
        6,
    ),
    Defect(coco.write, cut(T), T, "not valid JSON.*what comes after this place was not checked", 0),
    Defect(coco.write, in_text(V, "[3.0, 3.0", "[NaN, 3.0"), V, r"5000: segmentation\[0\]\[0\] is NaN", 4),
    Defect(coco.write, in_json(T, lambda c: c.update(info={"year": math.nan})), T, "info: year is NaN", 4),
    Defect(coco.write, in_text(T, '"bbox": [2', '"bbox": [NaN'), T, r"5000: bbox\[0\] is NaN", 4),
    Defect(coco.write, in_list(T, "images", 1, license=math.nan), T, r"images\[1\]: license is NaN", 4),
    Defect(coco.write, in_list(T, "annotations", 3, segmentation=[[1, 2, 3, 4]]), T, "5009: seg.*: no poly", 4),
    Defect(coco.write, in_json(T, lambda c: c.update(annotations=7)), T, '"annotations" is 7, not a list', 5),
    Defect(coco.write, cut("train2017/street_000002.jpg"), "train2017/street_000002.jpg", "cannot be decoded", 5),
    Defect(
        coco.write_roboflow, copied(ROBOFLOW, "images", 0, id=3), ROBOFLOW, "two images are the file valid/str"
    ),
    # COCO panoptic
    Defect(coco_panoptic.write, segment(1, 0, category_id=5), f"{PNG}/{TWO}.png", "category_id 5 is not among"),
    Defect(coco_panoptic.write, segment(0, 0, id=77), f"{PNG}/{ONE}.png", "lists segments 77, which the PNG"),
    Defect(coco_panoptic.write, painted(f"{PNG}/{ONE}.png", 9), f"{PNG}/{ONE}.png", "PNG has segment 592137"),
    Defect(coco_panoptic.write, copy(f"{PNG}/{ONE}.png", f"{PNG}/x.png"), f"{PNG}/x.png", "no annotation"),
    Defect(
        coco_panoptic.write,
        in_json(P, lambda c: c["annotations"].append(c["annotations"][1])),
        P,
        r"annotations\[2\] of image 1007: the image has two annotations",
    ),
    Defect(coco_panoptic.write, in_list(P, "categories", 0, isthing=2), P, r'categories\[0\], person: "isthing"'),
    Defect(coco_panoptic.write, segment(0, 1, id=25600), P, r"annotations\[0\] of image 1000: two .* id 25600", 2),
    Defect(coco_panoptic.write, removed(f"{PNG}/{TWO}.png"), P, f"PNGs are not there: {PNG}/{TWO}.png", 2),
    Defect(coco_panoptic.write, segment(0, 2, id=2**24), P, 'segment\'s "id" is 16777216', 2),
    Defect(coco_panoptic.write, resized(f"{PNG}/{ONE}.png"), f"{PNG}/{ONE}.png", "the PNG is 40 x 30", 2),
    # images beside masks
    Defect(folder.write, painted(f"{M}/{ONE}.png", 9001), f"{M}/{ONE}.png", f"{ONE}: at x 0, y 0: value 9001"),
    Defect(folder.write, resized(f"{M}/{TWO}.png"), f"{M}/{TWO}.png", f"{TWO}: the mask is 40 x 30"),
    Defect(folder.write, copy(f"{M}/{ONE}.png", f"{M}/x.png"), f"{M}/x.png", "no image of its name"),
    Defect(folder.write, cut("images/val/street_000003.png"), "images/val/street_000003.png", "cannot be dec"),
    Defect(
        folder.write,
        removed(f"{M}/{TWO}.png"),
        f"images/train/{TWO}.png",
        f"have no mask: images/train/{TWO}.png",
        2,
    ),
    Defect(folder.write, cut(f"{M}/{ONE}.png"), f"{M}/{ONE}.png", "cannot be decoded", 2),
    Defect(
        folder.write,
        saved_as("masks/val/street_000003.png", format="JPEG"),
        "masks/val/street_000003.png",
        "lossy",
        2,
    ),
    Defect(
        folder.write,
        in_json("categories.json", lambda c: c["categories"][1].update(id=1)),
        "categories.json",
        "two categories have the id 1",
        2,
    ),
    Defect(
        folder.write,
        in_json("categories.json", lambda c: c["categories"][0].update(is_thing="no")),
        "categories.json",
        "category 0, sky: \"is_thing\" is 'no'",
        2,
    ),
    Defect(
        folder.write,
        copy(f"images/train/{ONE}.png", "images/val/other.png"),
        "images/val/other.png",
        "have no mask: images/val/other.png",
        2,
    ),
    Defect(
        folder.write_semantic,
        painted(f"train/labels/{ONE}_label.png", 4),
        f"train/labels/{ONE}_label.png",
        "value 4",
    ),
    Defect(
        folder.write_colored,
        painted(f"annotations/train/{ONE}_L.png", 9),
        f"annotations/train/{ONE}_L.png",
        r"\[9, 9, 9\]",
    ),
    Defect(folder.write_colored, added("class_dict.csv", "tree,1\n"), "class_dict.csv", "line 7 is 'tree,1'"),
    # ADE20K, Cityscapes, Pascal VOC
    Defect(
        ade20k.write,
        painted(f"annotations/training/{ONE}.png", 151),
        f"annotations/training/{ONE}.png",
        "value 151",
    ),
    Defect(
        ade20k.write,
        painted(f"annotations_instance/training/{ONE}.png", (101, 9, 0), CORNER),
        f"annotations_instance/training/{ONE}.png",
        r"object 9 \(green\) has class 101",
    ),
    Defect(
        ade20k.write,
        removed(f"annotations/training/{TWO}.png"),
        f"images/training/{TWO}.jpg",
        f"no mask in annotations/training: {TWO}.png",
    ),
    Defect(
        ade20k.write_prepared,
        in_json(
            "ade20k_panoptic_train.json", lambda c: c["annotations"][0]["segments_info"][0].update(category_id=150)
        ),
        "ade20k_panoptic_train.json",
        r"annotations\[0\].segments_info\[0\]: \"category_id\" is 150",
    ),
    Defect(
        cityscapes.write,
        painted(f"gtFine/train/street/{ONE}_gtFine_instanceIds.png", 40000),
        f"gtFine/train/street/{ONE}_gtFine_instanceIds.png",
        "value 40000 has label id 40",
    ),
    Defect(
        cityscapes.write,
        removed(f"leftImg8bit/train/street/{TWO}_leftImg8bit.png"),
        f"gtFine/train/street/{TWO}_gtFine_instanceIds.png",
        f"image leftImg8bit/train/street/{TWO}_leftImg8bit.png is not there",
    ),
    Defect(voc.write, added(f"{LISTS}/train.txt", f"{ONE}\n"), f"{LISTS}/train.txt", f"lists {ONE} twice"),
    Defect(voc.write, added(f"{LISTS}/val.txt", "nowhere\n"), f"{LISTS}/val.txt", "JPEGImages: nowhere"),
    Defect(
        voc.write,
        painted(f"{VOC}/SegmentationClass/{TWO}.png", 99),
        f"{VOC}/SegmentationClass/{TWO}.png",
        "index 99",
    ),
    Defect(
        voc.write,
        resized(f"{VOC}/SegmentationObject/{ONE}.png"),
        f"{VOC}/SegmentationClass/{ONE}.png",
        "SegmentationObject.*is 40 x 30",
    ),
    Defect(voc.write_cvat, added("labelmap.txt", "tree:1,2::\n"), "labelmap.txt", "line 7 is 'tree:1,2::'"),
    Defect(
        voc.write_cvat,
        painted(f"SegmentationClass/{ONE}.png", 7),
        f"SegmentationClass/{ONE}.png",
        r"colour \(7, 7, 7\)",
    ),
    # YOLO
    Defect(
        yolo.write,
        added(f"labels/train/{ONE}.txt", "7 0 0 1 0 1 1\n"),
        f"labels/train/{ONE}.txt",
        "line 4: class 7",
    ),
    Defect(
        yolo.write,
        added(f"labels/train/{TWO}.txt", "0 0 0 30 0 1 1\n"),
        f"labels/train/{TWO}.txt",
        "line 2: the coordinate 30",
    ),
    Defect(
        yolo.write,
        added(f"labels/train/{TWO}.txt", "0 0 0 nan 0 1 1\n"),
        f"labels/train/{TWO}.txt",
        r"line \d: .*not numbers|line \d: .*nan",
    ),
    Defect(
        yolo.write,
        added(f"labels/train/{TWO}.txt", "0 0 0 1 0 1\n"),
        f"labels/train/{TWO}.txt",
        r"line \d: 6 numbers",
    ),
    Defect(yolo.write, removed(f"images/train/{ONE}.png"), f"labels/train/{ONE}.txt", "no image of this name", 2),
    Defect(
        yolo.write,
        added(f"labels/train/{TWO}.txt", "0 .5 .5 .5 .5 .5 .5\n"),
        f"labels/train/{TWO}.txt",
        "line 2: its mask has no pixels",
        2,
    ),
    # a mask an object
    Defect(
        instance_folder.write,
        painted(f"{M}/{ONE}/person/2.png", 0, (slice(None), slice(None))),
        f"{M}/{ONE}/person/2.png",
        "no pixels",
    ),
    Defect(instance_folder.write, resized(f"{M}/{ONE}/car/4.png"), f"{M}/{ONE}/car/4.png", "the mask is 40 x 30"),
    Defect(
        instance_folder.write,
        removed(f"images/train/{TWO}.png"),
        f"{M}/{TWO}/car/1.png",
        f"image {TWO}, which is not there",
    ),
    # LabelMe, Label Studio, CVAT
    Defect(labelme.write, shape(f"train/{ONE}.json", 2, label=""), f"train/{ONE}.json", r'shapes\[2\]: "label"'),
    Defect(
        labelme.write,
        shape(f"train/{ONE}.json", 3, points=[[0, 0], [99, 0], [9, 9]]),
        f"train/{ONE}.json",
        r"shapes\[3\] \(person\): .*x 99",
    ),
    Defect(
        labelme.write,
        shape(f"train/{ONE}.json", 4, shape_type="blob"),
        f"train/{ONE}.json",
        r'shapes\[4\] \(car\): "shape_type"',
    ),
    Defect(
        labelme.write,
        in_json(f"train/{TWO}.json", lambda c: c.update(imageData=None)),
        f"train/{TWO}.json",
        '"imagePath"',
    ),
    Defect(
        labelme.write,
        in_json("val/street_000003.json", lambda c: c.update(imageHeight=7)),
        "val/street_000003.json",
        '"imageHeight"',
    ),
    Defect(label_studio.write, region(0, 0, {"rle": [1, 2, 3]}), "train.json", 'region r0 .*"rle" is cut short'),
    Defect(
        label_studio.write, region(0, 2, {"points": [[0, 0], [400, 0], [9, 9]]}), "train.json", "region r2 .*x 128"
    ),
    Defect(
        label_studio.write,
        region(0, 3, {"polygonlabels": ["a", "b"]}),
        "train.json",
        "task 1: region r3 .*labels a, b",
    ),
    Defect(
        label_studio.write,
        removed(f"images/{TWO}.png"),
        "train.json",
        f"task 2: its image .*{TWO}.png' is not there",
    ),
    Defect(
        label_studio.write,
        in_json("val.json", lambda tasks: tasks.append(tasks[0])),
        "val.json",
        'place 1: "id" is 1',
    ),
    Defect(
        cvat.write,
        in_text("annotations.xml", 'polygon label="person"', 'polygon label="nobody"'),
        "annotations.xml",
        "shape 3, a polygon: its label 'nobody'",
    ),
    Defect(
        cvat.write,
        in_text("annotations.xml", 'rle="0, 288"', 'rle="0, 280"'),
        "annotations.xml",
        f'{ONE}: shape 1, a mask .*"rle"',
    ),
    Defect(
        cvat.write, removed("images/val/street_000003.png"), "annotations.xml", "not there: 'street_000003.png'"
    ),
    Defect(cvat.write, cut("annotations.xml"), "annotations.xml", "not well-formed XML", 0),
    Defect(
        cvat.write_datumaro,
        item(0, 2, label_id=9),
        "annotations/train.json",
        r'annotations\[2\] has the "label_id" 9',
    ),
    Defect(
        cvat.write_datumaro,
        item(0, 3, points=[1, 2, 3]),
        "annotations/train.json",
        f"{ONE}: polygon with id 3: .*3 numbers",
    ),
    Defect(
        cvat.write_datumaro,
        item(1, 0, rle={"size": [2, 2], "counts": [4]}),
        "annotations/train.json",
        rf"{TWO}: mask with id 0: .*size \[2, 2\]",
    ),
    # datasets
    Defect(
        saved_dataset.write_parquet,
        parquet_rows(
            "data/train-00000-of-00001-0123456789abcdef.parquet",
            lambda rows: rows[0]["objects"]["category"].__setitem__(1, 9),
        ),
        "data/train-00000-of-00001-0123456789abcdef.parquet",
        "row 0, object 1: category 9",
    ),
    Defect(
        saved_dataset.write_parquet,
        parquet_rows(
            "data/val-00000-of-00001-0123456789abcdef.parquet",
            lambda rows: rows[0]["image"].update(bytes=rows[0]["image"]["bytes"][:70]),
        ),
        "data/val-00000-of-00001-0123456789abcdef.parquet",
        "cannot be decoded",
    ),
)


def found(report: Report, defect: Defect) -> bool:
    return any(
        problem.file == defect.file and re.search(defect.words, problem.message) for problem in report.problems
    )


def listed(report: Report) -> str:
    return "\n".join(map(str, report.problems))


def test_defects_are_many_and_in_all_formats() -> None:
    assert len(DEFECTS) >= 60
    writers = {defect.write.__module__.removeprefix("layouts.") for defect in DEFECTS}
    assert writers == {path.stem for path in (Path(__file__).parent / "layouts").glob("[a-z]*.py")}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: f"{defect.write.__module__}: {defect.words}")
def test_a_defect_is_found_with_its_place(defect, tmp_path):
    defect.write(tmp_path / "data")
    defect.mutate(tmp_path / "data")
    report = validate(tmp_path / "data")
    assert found(report, defect), listed(report)


TOGETHER = sorted({(d.write.__module__, d.write.__name__, d.together) for d in DEFECTS if d.together})


@pytest.mark.parametrize(("module", "name", "number"), TOGETHER)
def test_all_defects_are_found_in_one_pass(module, name, number, tmp_path):
    defects = [d for d in DEFECTS if (d.write.__module__, d.write.__name__, d.together) == (module, name, number)]
    defects[0].write(tmp_path / "data")
    for defect in defects:
        defect.mutate(tmp_path / "data")
    report = validate(tmp_path / "data")
    for defect in defects:
        assert found(report, defect), f"{defect.words} is not in\n{listed(report)}"


@pytest.mark.parametrize(("write", "name"), LAYOUTS)
def test_what_is_sound_is_not_blamed(write, name, tmp_path):
    write(tmp_path / "data")
    report = validate(tmp_path / "data")
    assert report.format == name
    assert not report.problems, listed(report)
    assert sum(split.images for split in report.splits) >= 3


@pytest.mark.parametrize(("write", "name"), IN_ARCHIVES[::5])
def test_what_is_sound_is_not_blamed_in_an_archive(write, name, tmp_path):
    write(tmp_path / "data")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "data"))
    assert not validate(packed).problems


def test_a_damaged_file_in_an_archive(tmp_path):
    folder.write(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:  # stored, so that its bytes can be found
        for path in sorted((tmp_path / "data").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    data = bytearray((tmp_path / "data.zip").read_bytes())
    image = (tmp_path / f"data/images/train/{ONE}.png").read_bytes()
    data[data.index(image) + len(image) // 2] ^= 255
    (tmp_path / "data.zip").write_bytes(data)
    report = validate(tmp_path / "data.zip")
    (problem,) = report.problems
    assert (problem.kind, problem.file, problem.image_id) == ("images", f"images/train/{ONE}.png", ONE)
    (tmp_path / "data.zip").write_bytes(data[: len(data) // 2])
    (problem,) = validate(tmp_path / "data.zip").problems
    assert problem.kind == "layout"


def test_a_truncated_image_does_not_hide_its_mask(tmp_path):
    folder.write(tmp_path)
    cut(f"images/train/{ONE}.png")(tmp_path)
    painted(f"{M}/{ONE}.png", 9001)(tmp_path)
    painted(f"{M}/{ONE}.png", 9002, (slice(4, 6), slice(4, 6)))(tmp_path)
    problems = validate(tmp_path).problems
    assert [(problem.kind, problem.split, problem.image_id) for problem in problems] == [
        ("images", "train", ONE),
        ("segments", "train", ONE),
        ("segments", "train", ONE),
    ]


def test_a_fault_of_all_splits_is_told_once(tmp_path):
    folder.write(tmp_path)
    in_json("categories.json", lambda c: c["categories"][0].update(is_thing="no"))(tmp_path)
    (problem,) = validate(tmp_path).problems
    assert (problem.split, problem.file) == ("", "categories.json")


def test_names_are_no_contents(tmp_path):
    folder.write(tmp_path)
    for part in ("images", "masks"):  # another picture of a name that train has
        (tmp_path / f"{part}/val/street_000003.png").rename(tmp_path / f"{part}/val/{ONE}.png")
    assert not validate(tmp_path).problems
    copy(f"images/train/{ONE}.png", "images/train/copy.png")(tmp_path)
    copy(f"{M}/{ONE}.png", f"{M}/copy.png")(tmp_path)
    report = validate(tmp_path)
    assert not report.problems
    assert [(notice.kind, notice.image_id) for notice in report.notices] == [
        ("same image", ONE)
    ]  # copy comes first


def kinds(report: Report, words: str) -> list[tuple[str, str, str]]:
    """Severity, kind and file of what is told with these words."""
    return [(f.severity, f.kind, f.file) for f in report.findings if re.search(words, f.message)]


def test_a_split_that_cannot_be_opened_is_listed_and_what_was_not_compared_is_said(tmp_path, capsys):
    coco.write(tmp_path)
    cut(T)(tmp_path)
    report = validate(tmp_path)
    train, val = report.splits
    assert (train.name, train.images) == ("train2017", 0)
    assert "not valid JSON" in train.unopened
    assert (val.name, val.images, val.unopened) == ("val2017", 1, "")
    (words,) = [finding.message for finding in report.notices if finding.kind == "not checked"]
    assert "train2017 cannot be opened" in words
    assert "nor whether it shares images with val2017, or lists the same classes" in words
    assert "nor whether it shows every class that is there to be learnt" in words
    assert not [finding for finding in report.findings if finding.kind == "left out"]  # of train
    assert main(["data", "validate", str(tmp_path)]) == 3
    assert "train2017: cannot be opened: annotations/instances_train2017.json: " in capsys.readouterr().out


def test_splits_that_can_be_opened_are_compared(tmp_path):
    voc.write(tmp_path)
    names = [split.name for split in validate(tmp_path).splits]
    assert names == ["train", "trainval", "val"]
    (tmp_path / f"{LISTS}/val.txt").write_bytes(b"\xff\n")
    report = validate(tmp_path)
    assert [split.name for split in report.splits if split.unopened] == ["val"]
    assert not [p for p in report.problems if p.kind == "same image"]  # trainval may be made of train and val
    folder.write(tmp_path / "folder")
    for part in ("images", "masks"):
        shutil.copytree(tmp_path / f"folder/{part}/train", tmp_path / f"folder/{part}/again")
        (tmp_path / f"folder/{part}/val/street_000003.png").rename(tmp_path / f"folder/{part}/val/{part}.png")
    report = validate(tmp_path / "folder")
    assert [p.split for p in report.problems if p.kind == "same image"] == ["train", "train"]


@pytest.mark.parametrize(
    ("write", "mutate", "words"),
    [
        (folder.write, removed(f"{M}/{TWO}.png"), TWO),  # not a spare picture besides
        (folder.write, copy(f"{M}/{ONE}.png", f"{M}/x.png"), "masks? of no image|x.png"),
        (coco.write, in_list(T, "annotations", 3, image_id=4), "images that the file does not list|5009"),
        (coco.write, in_list(T, "annotations", 0, segmentation=[[1, 2, 3, 4]]), "three points|5000"),
        (yolo.write, removed(f"images/train/{ONE}.png"), "label files of no image|labels/train"),
        (instance_folder.write, removed(f"images/train/{TWO}.png"), "are not there|is not there"),
        (
            cityscapes.write,
            removed(f"leftImg8bit/train/street/{TWO}_leftImg8bit.png"),
            "id maps without|not there",
        ),
        (labelme.write, shape(f"train/{ONE}.json", 0, points=[[math.nan, 0], [9, 0], [9, 9]]), "NaN|nan"),
    ],
)
def test_a_defect_is_told_once(write, mutate, words, tmp_path):
    write(tmp_path)
    mutate(tmp_path)
    told = kinds(validate(tmp_path), words)
    assert [severity for severity, _, _ in told] == ["problem"], told


def test_what_is_no_number_ends_only_its_file(tmp_path):
    label_studio.write(tmp_path)
    cut("val.json", 0.95)(tmp_path)
    region(0, 2, {"points": [[0, 0], [400, 0], [9, 9]]})(tmp_path)
    report = validate(tmp_path)
    assert {problem.file for problem in report.problems} >= {"val.json", "train.json"}


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path):
    coco.write(tmp_path)
    values = json.loads((tmp_path / T).read_text())
    ordered = {key: values[key] for key in ("images", "categories", "annotations")}
    ordered["annotations"][0]["category_id"] = 99
    (tmp_path / T).write_text(json.dumps(ordered)[:-60])
    cut("train2017/street_000002.jpg")(tmp_path)
    report = validate(tmp_path)
    assert kinds(report, "what comes after this place was not checked") == [("problem", "entries", T)]
    assert kinds(report, "annotation 5000: category_id 99") == [("problem", "segments", T)]
    assert kinds(report, "cannot be decoded") == [("problem", "images", "train2017/street_000002.jpg")]
    (tmp_path / T).write_bytes((tmp_path / T).read_bytes().replace(b"person", b"pers\xffn"))
    assert kinds(validate(tmp_path), "not UTF-8")
    assert kinds(validate(tmp_path), "annotation 5000: category_id 99")


def test_a_class_may_be_in_what_cannot_be_read(tmp_path):
    coco.write(tmp_path)
    in_list(V, "annotations", 0, category_id=13)(tmp_path)
    in_list(T, "annotations", 0, segmentation="?")(tmp_path)
    report = validate(tmp_path)
    assert kinds(report, "'stop sign' is in val2017") == [("notice", "classes", V)]
    assert kinds(report, r"in nothing of train2017 that can be read; mend its problems \(1\)")


def test_a_class_that_is_a_thing_in_one_split_only(tmp_path):
    coco_panoptic.write(tmp_path)
    in_list(P.replace("train", "val"), "categories", 2, isthing=1)(tmp_path)
    words = "classes of val2017 are not those of train2017: road; list the same names, ids and kinds"
    assert kinds(validate(tmp_path), words) == [("problem", "classes", "")]


def test_areas_boxes_and_polygons_without_area_are_noticed_with_their_place(tmp_path):
    coco.write(tmp_path / "coco")
    in_list(T, "annotations", 0, area=500)(tmp_path / "coco")
    in_list(T, "annotations", 2, bbox=[18, 14, 30, 22])(tmp_path / "coco")
    ring = [[7.0, 10.0, 11.0, 10.0, 11.0, 20.0, 7.0, 20.0]]
    in_list(T, "annotations", 1, segmentation=[*ring, [8, 11, 9, 12], [8, 11, 9, 12, 10, 13]])(tmp_path / "coco")
    report = validate(tmp_path / "coco")
    assert not report.problems, listed(report)
    assert kinds(report, "5000: area is 500, but its mask has 50 pixels") == [("notice", "segments", T)]
    assert kinds(report, r"annotation 5006: bbox is .*its mask lies in \[18, 14, 12, 8\] \(width and height come")
    assert kinds(report, r"5003: segmentation\[1\] has no area \(2 points") == [("notice", "entries", T)]
    assert kinds(report, r"annotation 5003: segmentation\[2\] has no area \(its points lie on a line")
    coco_panoptic.write(tmp_path / "panoptic")
    segment(0, 0, area=7)(tmp_path / "panoptic")
    segment(0, 1, bbox=[0, 0, 1, 1])(tmp_path / "panoptic")
    in_list(P, "images", 1, height=999)(tmp_path / "panoptic")
    report = validate(tmp_path / "panoptic")
    assert not report.problems, listed(report)
    assert kinds(report, "segment .*: area is 7") == [("notice", "segments", f"{PNG}/{ONE}.png")]
    assert len(kinds(report, "segment .*: bbox is")) == 1
    assert kinds(report, "its image is 32 x 24, not 32 x 999") == [("notice", "segments", f"{PNG}/{TWO}.png")]


def test_files_are_named_from_the_folder_that_was_given(tmp_path):
    folder.write(tmp_path / "outer/inner")
    painted(f"{M}/{ONE}.png", 9001)(tmp_path / "outer/inner")
    assert {problem.file for problem in validate(tmp_path / "outer").problems} == {f"inner/{M}/{ONE}.png"}


def test_processes_find_the_same_in_the_same_order(tmp_path):
    folder.write(tmp_path)
    painted(f"{M}/{ONE}.png", 9001)(tmp_path)
    cut("images/val/street_000003.png")(tmp_path)
    seen: list[tuple[int, int]] = []
    alone = validate(tmp_path, workers=0, progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(alone.problems) == 2
    assert validate(tmp_path, workers=2) == alone


def test_half_a_split_is_told_once_with_its_folder(tmp_path):
    folder.write(tmp_path)
    for half, other in (("masks/val", "masks/more"), ("images/train", "images/unmarked")):
        shutil.copytree(tmp_path / half, tmp_path / other)
    report = validate(tmp_path)
    assert kinds(report, r"masks/more: masks \(1\), but images/more has no images") == [
        ("problem", "entries", "masks/more/street_000003.png")
    ]
    assert [(severity, kind) for severity, kind, _ in kinds(report, r"images/unmarked: images \(2\) without")] == [
        ("notice", "entries")
    ]
    assert len(report.problems) == 1


def test_what_no_layout_fits_is_a_list_to_read(tmp_path, capsys):
    assert main(["data", "validate", str(tmp_path)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("it is empty. What each of them lacks first:")
    assert "    instance-folder  no folder of masks for each image, masks/SPLIT/ID/*.png" in lines


def test_what_is_no_data_set(tmp_path):
    assert [problem.kind for problem in validate(tmp_path).problems] == ["layout"]
    with pytest.raises(DataError, match="nowhere: no such folder"):
        validate(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no data format 'foldr'; did you mean folder"):
        validate(tmp_path, format="foldr")


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Time of the last change, and content, of all files and folders."""
    return {
        str(path): (path.stat().st_mtime_ns, sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in (root, *root.rglob("*"))
    }


@pytest.mark.parametrize(("write", "name"), LAYOUTS[::3])
def test_nothing_is_written(write, name, tmp_path, monkeypatch):
    write(tmp_path / "data")
    folders = [path for path in (tmp_path / "data", *tmp_path.rglob("data/**/")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    validate(tmp_path / "data")
    assert tree(tmp_path) == before
    for path in folders:
        path.chmod(0o755)


def test_command(tmp_path, capsys):
    yolo.write(tmp_path)
    assert main(["data", "validate", str(tmp_path)]) == 0
    assert "no problems, 0 notices" in capsys.readouterr().err
    added(f"labels/train/{ONE}.txt", "7 0 0 1 0 1 1\n" * 3 + "".join(f"{n} 0 0 1 0 1 1\n" for n in range(8, 30)))(
        tmp_path
    )
    assert main(["data", "validate", str(tmp_path), "--show", "3"]) == 3
    lines = capsys.readouterr()
    assert (
        "train, segments: 23 problems\n  labels/train/street_000001.txt: image street_000001: line 4: class 7"
        in lines.out
    )
    assert "  ... and 20 more (--show, --json)" in lines.out
    assert "23 problems in 1 file, 1 notice\n" in lines.err
    assert main(["data", "validate", str(tmp_path), "--json"]) == 3
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (values["clean"], values["counts"]) == (False, {"problems": 23, "notices": 1})
    assert values["splits"][0] == {
        "name": "train",
        "images": 2,
        "segments": 4,
        "negatives": 0,
        "unopened": None,
    }
    assert len(values["findings"]) == 24
    assert values["findings"][-1]["image_id"] == ONE or values["findings"][0]["kind"] == "left out"
    with pytest.raises(ConfigError, match="needs a PATH"):
        run([])


@pytest.mark.skipif("EOMT_REAL_DATA" not in os.environ, reason="set EOMT_REAL_DATA to a folder")
@pytest.mark.parametrize("name", ["dsb2018.zip", "camvid11.zip", "coco-panoptic-sample.zip"])
def test_real_data_are_sound(name):
    report = validate(Path(os.environ["EOMT_REAL_DATA"]) / name, workers=2)
    assert not report.problems, listed(report)
