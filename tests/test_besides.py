"""What COCO's files say besides segments goes from one to another; where it does not, that is counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eomt.cli import main
from eomt.data.besides import AREAS, CLASHING_IMAGES, CLASHING_SEGMENTS, IMAGES, SEGMENTS
from eomt.data.convert import all_of, convert, views
from eomt.data.detect import find_format
from eomt.data.subsets import split, survey
from eomt.data.writers import NO_COLORS
from layouts import coco
from test_data_convert import CAT, FIELDS, SKY, Made, Piece, Shot, box, made, picture, read, write_coco

SMALL, BELOW = Piece(4, box(2, 2, 4, 4)), Piece(4, box(6, 0, 8, 9))
OURS = {"segmentation", "bbox", "height", "width", "isthing", "color"}


def content(root: Path, name: str = "instances_train") -> dict[str, Any]:
    """Give what a file says, without what is written anew; in the order of ids."""
    read: dict[str, Any] = json.loads((root / "annotations" / f"{name}.json").read_text())
    for kind in ("images", "annotations", "categories"):
        entries = [{key: value for key, value in entry.items() if key not in OURS} for entry in read[kind]]
        read[kind] = sorted(entries, key=lambda entry: entry["id"])
    return read


@pytest.mark.parametrize("way", [["coco"], ["coco-panoptic", "coco"]])
def test_a_file_of_coco_says_the_same(way, tmp_path):
    told = {**FIELDS, "annotations": FIELDS["annotations"] | ({"area": 4.5} if way == ["coco"] else {})}
    write_coco(tmp_path / "0", made(SMALL, BELOW), told)
    for step, target in enumerate(way):
        assert not convert(all_of(read(tmp_path / str(step))), target, tmp_path / str(step + 1)).lost
    written, source = content(tmp_path / str(len(way))), content(tmp_path / "0")
    if way != ["coco"]:
        assert [entry.pop("area") for entry in written["annotations"]] == [4, 18]
    assert written == source
    assert [entry["id"] for entry in written["annotations"]] == [11, 14]
    assert written["annotations"][0]["keypoints"] == [1, 2, 2]


def test_cocos_own_layout(tmp_path: Path) -> None:
    coco.write(tmp_path / "source")
    assert not convert(all_of(read(tmp_path / "source")), "coco", tmp_path / "coco").lost
    for name in ("instances_train2017", "instances_val2017"):
        assert content(tmp_path / "coco", name) == content(tmp_path / "source", name)


def test_ids_follow_their_segments(tmp_path: Path) -> None:
    """One is wholly hidden, and colours are ids."""
    source = write_coco(tmp_path / "source", made(SMALL, SMALL, BELOW))
    convert(all_of(read(source)), "coco-panoptic", tmp_path / "panoptic")
    file = tmp_path / "panoptic" / "annotations" / "panoptic_train.json"
    colors = np.array(Image.open(file.with_suffix("") / "a.png"))[..., 0]
    assert colors[7, 0] == 17
    assert {segment["id"] for segment in json.loads(file.read_text())["annotations"][0]["segments_info"]} == set(
        np.unique(colors).tolist()
    ) - {0}


@pytest.mark.parametrize(("id", "kept"), [(2**24 - 1, True), (2**24, False), ("a", False)])
def test_ids_that_are_no_colours(id, kept, tmp_path):
    source = write_coco(tmp_path / "source", made(SMALL))
    file = source / "annotations" / "instances_train.json"
    values = json.loads(file.read_text())
    values["annotations"][0]["id"] = id
    coco.save(file, values)
    report = convert(all_of(read(source)), "coco-panoptic", tmp_path / "panoptic")
    assert report.lost == ({} if kept else {NO_COLORS: 1})
    assert report.read == report.written


@pytest.mark.parametrize("target", ["coco-panoptic", "masks", "yolo"])
def test_areas_that_are_no_pixels(target, tmp_path):
    source = write_coco(tmp_path / "source", made(SMALL, BELOW), {"annotations": {"area": 4}})
    assert convert(all_of(read(source)), target, tmp_path / "target").lost[AREAS] == 1  # the other has four


@pytest.mark.parametrize("target", ["masks", "yolo"])
def test_what_other_layouts_do_not_hold(target, tmp_path):
    source = read(write_coco(tmp_path / "source", made(SMALL, BELOW), FIELDS))
    lost = convert(all_of(source), target, tmp_path / "target").lost
    expected = {IMAGES: 1, SEGMENTS: 2}
    expected |= {f'"{name}" of COCO\'s files': 1 for name in FIELDS["head"]}
    expected |= {f'"{name}" of images in COCO\'s files': 1 for name in FIELDS["images"]}
    expected |= {f'"{name}" of classes in COCO\'s files': 2 for name in FIELDS["categories"]}
    expected |= {f'"{name}" of segments in COCO\'s files': 2 for name in FIELDS["annotations"]}
    assert {what: count for what, count in lost.items() if "COCO" in what} == expected


def test_splits_that_become_one(tmp_path: Path) -> None:
    """Both number from 7 and 11; licences differ, so that no image can point at one."""
    shots = {
        name: tuple(Shot(f"{name}{n}.png", picture((8, 10), 9 * seed + n), (SMALL,)) for n in range(3))
        for seed, name in enumerate(("train", "val"))
    }
    source = write_coco(tmp_path / "source", Made((CAT, SKY), shots), FIELDS)
    file = source / "annotations" / "instances_val.json"
    coco.save(file, json.loads(file.read_text()) | {"licenses": [{"id": 4, "name": "CC0"}]})
    opened = read(source)
    plan = {"all": [chosen for some in all_of(opened).values() for chosen in some]}
    lost = convert(plan, "coco", tmp_path / "coco").lost
    assert lost == {
        CLASHING_IMAGES: 6,
        CLASHING_SEGMENTS: 6,
        '"licenses" of COCO\'s files': 1,
        '"license" of images in COCO\'s files': 6,
    }
    written = content(tmp_path / "coco", "instances_all")
    assert [entry["id"] for entry in written["images"]] == [1, 2, 3, 4, 5, 6]
    assert [entry["id"] for entry in written["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert written["info"] == FIELDS["head"]["info"]
    assert {entry["supercategory"] for entry in written["categories"]} == {"animal"}


def test_new_splits_say_that_ids_clash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shots = {
        name: tuple(Shot(f"{name}{n}.png", picture((8, 10), 9 * seed + n), (SMALL,)) for n in range(6))
        for seed, name in enumerate(("train", "val"))
    }
    source = write_coco(tmp_path / "source", Made((CAT,), shots))
    assert main(["data", "split", str(source), str(tmp_path / "split"), "--val", "0.3"]) == 0
    said = capsys.readouterr().err
    assert f"{CLASHING_IMAGES}\n" in said
    assert f"{CLASHING_SEGMENTS}\n" in said


def test_one_split_in_new_splits_keeps_its_ids(tmp_path: Path) -> None:
    shots = tuple(Shot(f"{n}.png", picture((8, 10), n), (SMALL,)) for n in range(6))
    fields = {**FIELDS, "annotations": FIELDS["annotations"] | {"area": 4.5}}
    source = write_coco(tmp_path / "source", Made((CAT,), {"train": shots}), fields)
    plan = split(survey(read(source)), {"val": 0.3})
    assert not convert(plan, "coco", tmp_path / "split").lost
    before = content(source)["annotations"]
    after = [entry for name in plan for entry in content(tmp_path / "split", f"instances_{name}")["annotations"]]
    assert sorted(after, key=lambda entry: entry["id"]) == before


def test_through_a_class_map(tmp_path: Path) -> None:
    """Segments may be joined: their ids are left out. A class keeps its fields while it keeps its name."""
    source = write_coco(tmp_path / "source", made(SMALL, BELOW), FIELDS)
    (tmp_path / "map.yaml").write_text("rename: {cat: tom}\n")
    opened = views(find_format(source), class_map=tmp_path / "map.yaml")
    lost = convert(all_of(opened), "coco", tmp_path / "coco").lost
    assert lost == {
        SEGMENTS: 2,
        **{f'"{name}" of classes in COCO\'s files': 1 for name in FIELDS["categories"]},
        **{f'"{name}" of segments in COCO\'s files': 2 for name in FIELDS["annotations"]},
    }
    assert ["supercategory" in entry for entry in content(tmp_path / "coco")["categories"]] == [False, True]


def test_no_class_becomes_the_root_of_others(tmp_path: Path) -> None:
    """A root with annotations is a class; where a part of the data shows none of them, it stays one."""
    shots = (
        Shot("a.png", picture((8, 10), 0), (Piece(9, box(0, 0, 2, 2)),)),
        Shot("b.png", picture((8, 10), 1), (SMALL,)),
    )
    source = write_coco(tmp_path / "source", Made((CAT, SKY), {"train": shots}))
    file = source / "annotations" / "instances_train.json"
    values = json.loads(file.read_text())
    for entry, above in zip(values["categories"], ("sky", "none"), strict=True):
        entry["supercategory"] = above
    coco.save(file, values)
    opened = read(source)
    report = convert({"train": all_of(opened)["train"][1:]}, "coco", tmp_path / "coco")
    assert report.lost == {'"supercategory" of classes in COCO\'s files': 1}
    assert [each.name for each in read(tmp_path / "coco")["train"].seen.categories] == ["cat", "sky"]
