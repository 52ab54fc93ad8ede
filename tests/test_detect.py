"""Each layout is recognised as it is and no other; decoys are refused with what they lack."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eomt
from eomt.data.detect import FORMATS, find_format, open_data
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
from scenes import of

LAYOUTS: tuple[tuple[Callable[[Path], None], str], ...] = (
    (ade20k.write, "ade20k-panoptic"),
    (ade20k.write_prepared, "ade20k-panoptic"),
    (lambda root: ade20k.write(root, objects=False), "ade20k-semantic"),
    (cityscapes.write, "cityscapes"),
    (coco.write, "coco-instance"),
    (coco.write_roboflow, "coco-instance"),
    (coco.write_single, "coco-instance"),
    (coco_panoptic.write, "coco-panoptic"),
    (cvat.write, "cvat"),
    (cvat.write_datumaro, "datumaro"),
    (folder.write, "folder"),
    (folder.write_semantic, "folder"),
    (folder.write_colored, "folder"),
    (folder.write_beside, "folder"),
    (instance_folder.write, "instance-folder"),
    (instance_folder.write_bowl, "instance-folder"),
    (label_studio.write, "label-studio"),
    (labelme.write, "labelme"),
    (saved_dataset.write, "datasets"),
    (saved_dataset.write_parquet, "datasets"),
    (voc.write, "voc"),
    (voc.write_cvat, "voc"),
    (yolo.write, "yolo"),
    (yolo.write_roboflow, "yolo"),
)
IN_ARCHIVES = [row for row in LAYOUTS if row[1] != "datasets"]  # Arrow files are mapped from a folder


@pytest.mark.parametrize(("write", "name"), LAYOUTS)
def test_each_layout_is_recognised(write, name, tmp_path):
    write(tmp_path / "data")
    for root in (tmp_path / "data", tmp_path):  # or the folder above it
        found = find_format(root)
        assert found.format.name == name
        assert len(found.open("train")) in (len(of("train")), 3)  # 3: a layout without splits


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(("write", "name"), IN_ARCHIVES)
def test_each_layout_is_recognised_in_an_archive(write, name, kind, tmp_path):
    write(tmp_path / "data")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "data"))
    found = find_format(packed)
    assert found.format.name == name
    first, second = find_format(tmp_path / "data").open("train"), found.open("train")
    assert first.categories == second.categories
    for index in range(len(first)):
        assert np.array_equal(first[index].image, second[index].image)
        assert np.array_equal(first[index].segments.masks.areas(), second[index].segments.masks.areas())


def test_every_row_is_tried() -> None:
    assert {name for _, name in LAYOUTS} == {each.name for each in FORMATS}


def test_a_panoptic_file_wins_over_one_of_objects(tmp_path: Path) -> None:
    coco.write(tmp_path)
    coco_panoptic.write(tmp_path)
    assert find_format(tmp_path).format.name == "coco-panoptic"
    assert find_format(tmp_path, "coco-instance").format.name == "coco-instance"


def test_two_layouts_are_asked_about(tmp_path: Path) -> None:
    coco.write(tmp_path)
    yolo.write(tmp_path)
    with pytest.raises(
        DataError, match="may be read as coco-instance or as yolo; say which: --format coco-instance"
    ):
        find_format(tmp_path)
    assert find_format(tmp_path, "yolo").format.name == "yolo"


def photos(root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(root / name)


def boxes(root: Path) -> None:
    """YOLO's labels for detection."""
    yolo.write(root)
    for path in root.rglob("labels/**/*.txt"):
        path.write_text("0 0.5 0.5 0.2 0.2\n")


def masks_without_images(root: Path) -> None:
    folder.write(root)
    shutil.rmtree(root / "images")


def images_without_masks(root: Path) -> None:
    folder.write(root)
    shutil.rmtree(root / "masks")


def coco_results(root: Path) -> None:
    """What a detector writes: a list, without images and categories."""
    photos(root)
    (root / "results.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}])
    )


def keypoints(root: Path) -> None:
    coco.write(root)
    for path in (root / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
            annotation["keypoints"] = [1, 1, 2]
        path.with_name(path.name.replace("instances", "person_keypoints")).write_text(json.dumps(content))
        path.unlink()


def panoptic_without_pngs(root: Path) -> None:
    coco_panoptic.write(root)
    for path in (root / "annotations").iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def empty(root: Path) -> None:
    root.mkdir(parents=True)


def code(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (root / "data.json").write_text("{}")


def voc_boxes(root: Path) -> None:
    voc.write(root)
    for path in root.rglob("Segmentation*"):
        if path.is_dir():
            shutil.rmtree(path)


def label_studio_min(root: Path) -> None:
    photos(root)
    (root / "export.json").write_text(
        json.dumps([{"image": "a.jpg", "id": 1, "label": [{"rectanglelabels": ["x"]}]}])
    )


DECOYS = (
    (photos, "it holds 2 pictures and no annotations"),
    (boxes, "are boxes: 2 of them in 2 files, and no polygon"),
    (masks_without_images, "folder           no images"),
    (images_without_masks, "lacks first:\nfolder           no masks/SPLIT/*.png"),
    (coco_results, "coco-instance    no annotations/instances_SPLIT.json or another COCO file with masks"),
    (keypoints, "coco-instance    no annotations/instances_SPLIT.json or another COCO file with masks"),
    (panoptic_without_pngs, "lacks first:\ncoco-panoptic    no annotations/panoptic_train2017/*.png"),
    (empty, "it is empty"),
    (code, "no data set in a layout that is known"),
    (voc_boxes, "voc              no "),
    (label_studio_min, 'label-studio     no tasks with "annotations"'),
)


@pytest.mark.parametrize(("write", "words"), DECOYS)
def test_decoys_are_refused_with_what_they_lack(write, words, tmp_path):
    write(tmp_path / "decoy")
    with pytest.raises(DataError) as error:
        open_data(tmp_path / "decoy", "train")  # some are seen through only where labels are read
    assert str(tmp_path / "decoy") in str(error.value)
    assert words in str(error.value)


def test_no_layout_lists_what_each_lacks(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    with pytest.raises(DataError) as error:
        find_format(tmp_path / "photos")
    lines = str(error.value).splitlines()
    assert "; it holds 2 pictures and no annotations." in lines[0]
    for each in FORMATS:
        assert any(line.startswith(each.name) and "  no " in line for line in lines), each.name


def test_a_named_layout_says_what_it_lacks(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    with pytest.raises(DataError, match=r"cannot be read as yolo: no .*; expected data\.yaml"):
        find_format(tmp_path / "photos", "yolo")
    with pytest.raises(ConfigError, match="no data format 'coco-panoptik'; did you mean coco-panoptic"):
        find_format(tmp_path / "photos", "coco-panoptik")


@pytest.mark.parametrize(
    ("write", "asked", "name"),
    [
        (coco.write, "val", "val2017"),
        (coco.write_roboflow, "val", "valid"),
        (coco.write_single, "train", "all"),
        (instance_folder.write_bowl, "train", "stage1_train"),
        (voc.write, "train", "train"),  # and not trainval
        (coco.write_single, "val", None),
        (yolo.write, "test", None),
    ],
)
def test_splits_by_other_names(write, asked, name, tmp_path):
    write(tmp_path)
    found = find_format(tmp_path)
    assert found.name_of(asked) == name
    if name is None:
        with pytest.raises(DataError, match=f"no split '{asked}'.*it has {', '.join(found.splits)}"):
            found.open(asked)


def test_a_class_map_is_seen_through(tmp_path: Path) -> None:
    folder.write(tmp_path / "data")
    (tmp_path / "map.yaml").write_text("merge: {object: [person, car]}\ndrop: [sky]\n")
    data = eomt.open_data(tmp_path / "data", "train", class_map=tmp_path / "map.yaml")
    assert [category.name for category in data.categories] == ["road", "object"]
    assert data.image_ids == open_data(tmp_path / "data", "train").image_ids


def test_one_split_is_never_two(tmp_path: Path) -> None:
    """trainval is neither train nor val; a set of which only val is there is not trained on by chance."""
    voc.write(tmp_path / "voc")
    for name in ("train", "val"):
        for path in (tmp_path / "voc").rglob(f"{name}.txt"):
            path.unlink()
    found = find_format(tmp_path / "voc")
    assert found.splits == ("trainval",)
    assert (found.name_of("train"), found.name_of("val")) == ("trainval", None)
    coco.write(tmp_path / "coco")
    (tmp_path / "coco/annotations/instances_train2017.json").unlink()
    found = find_format(tmp_path / "coco")
    assert (found.name_of("train"), found.name_of("val")) == (None, "val2017")


def test_a_panoptic_file_of_other_splits_does_not_win(tmp_path: Path) -> None:
    coco.write(tmp_path)
    coco_panoptic.write(tmp_path)
    (tmp_path / "annotations/panoptic_train2017.json").unlink()
    with pytest.raises(DataError, match="may be read as coco-panoptic or as coco-instance"):
        find_format(tmp_path)


@pytest.mark.parametrize("name", ["data/tracks.parquet", "train.parquet"])
def test_a_table_beside_a_data_set_is_none(name, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    coco.write(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table({"time": [1, 2], "image": ["a.jpg", "b.jpg"]}), tmp_path / name)
    assert find_format(tmp_path).format.name == "coco-instance"
    (tmp_path / name).write_bytes(b"junk")
    assert find_format(tmp_path).format.name == "coco-instance"


@pytest.mark.parametrize(
    ("write", "name"),
    [(labelme.write, "labelme"), (label_studio.write, "label-studio"), (cvat.write_datumaro, "datumaro")],
)
def test_files_of_another_kind_may_come_first(write, name, tmp_path):
    write(tmp_path / "data")
    for number in range(9):
        for folder_name in ("", "annotations"):
            if (tmp_path / "data" / folder_name).is_dir():
                (tmp_path / "data" / folder_name / f"0{number}.json").write_text('{"version": 1}')
    assert find_format(tmp_path / "data").format.name == name
