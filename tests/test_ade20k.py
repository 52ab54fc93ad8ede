"""ADE20K is read by classes, by objects from its instance maps, and as Mask2Former prepares it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.categories import class_table
from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.ade20k import FORMATS
from eomt.errors import DataError
from layouts import ade20k as layout
from scenes import STUFF, THINGS, assert_read

PANOPTIC, SEMANTIC = FORMATS
SCENE = "street_000001"


def zipped(root: Path) -> Path:
    return Path(shutil.make_archive(str(root.parent / "packed"), "zip", root.parent, root.name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layout.write(tmp_path / "ADEChallengeData2016")
    return tmp_path / "ADEChallengeData2016"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    layout.write_prepared(tmp_path / "ADEChallengeData2016")
    return tmp_path / "ADEChallengeData2016"


@pytest.mark.parametrize(
    "pack", [lambda root: root, lambda root: root.parent, zipped], ids=["folder", "above", "zip"]
)
@pytest.mark.parametrize("write", [layout.write, layout.write_prepared])
def test_scenes(tmp_path: Path, pack: Callable[[Path], Path], write: Callable[[Path], None]):
    write(tmp_path / "ADEChallengeData2016")
    archive = Archive(pack(tmp_path / "ADEChallengeData2016"))
    for format, merged in ((PANOPTIC, STUFF), (SEMANTIC, THINGS + STUFF)):
        assert format.missing(archive) is None
        assert format.splits(archive) == ("train", "val")
        for split in ("train", "val"):
            opened = format.open(archive, split)
            assert opened.left_out == ()
            assert_read(pickle.loads(pickle.dumps(opened)), split, merged=merged)


def test_categories(root: Path, tmp_path: Path):
    archive = Archive(root)
    assert PANOPTIC.open(archive, "val").categories == class_table("ade20k_panoptic")
    semantic = SEMANTIC.open(archive, "val").categories
    assert [(c.name, c.id) for c in semantic] == [(c.name, c.id) for c in class_table("ade20k_semantic")]
    assert not any(category.is_thing for category in semantic)  # its masks tell no object from another
    layout.write_prepared(tmp_path / "prepared")
    numbered = PANOPTIC.open(Archive(tmp_path / "prepared"), "val").categories
    assert [category.id for category in numbered] == list(range(150))  # as its JSON has them


def test_classes_of_instance_maps_are_the_things_in_their_order():
    # Rows of the data set's own table, from class of an object to class of a scene.
    things = [category.id for category in class_table("ade20k_panoptic") if category.is_thing]
    assert {k: things[k - 1] for k in (1, 4, 9, 23, 50, 77, 93, 100)} == {
        1: 8, 4: 13, 9: 21, 23: 42, 50: 81, 77: 121, 93: 140, 100: 150
    }  # fmt: skip


def test_things_lie_over_stuff_and_things_without_object_are_void(root: Path):
    classes = np.full((24, 32), layout.IDS["sky"], np.uint8)
    classes[:, 16:] = layout.IDS["person"]
    objects = np.zeros((24, 32, 3), np.uint8)
    objects[:4] = (layout.THINGS["car"], 200, 0)
    Image.fromarray(classes).save(root / f"annotations/training/{SCENE}.png")
    Image.fromarray(objects).save(root / f"annotations_instance/training/{SCENE}.png")
    sample = PANOPTIC.open(Archive(root), "train")[0]
    names = [class_table("ade20k_panoptic")[label].name for label in sample.segments.labels]
    assert names == ["sky", "car"]
    assert sample.segments.masks.areas().tolist() == [20 * 16, 4 * 32]


def test_instance_maps_may_lie_beside_the_folder(root: Path):
    (root / "annotations_instance").rename(root.parent / "annotations_instance")
    assert_read(PANOPTIC.open(Archive(root.parent), "train"), "train")


def test_scenes_in_the_two_archives_as_they_are_downloaded(root: Path, tmp_path_factory: pytest.TempPathFactory):
    downloads = tmp_path_factory.mktemp("downloads")
    shutil.make_archive(str(downloads / "annotations_instance"), "tar", root, "annotations_instance")
    shutil.rmtree(root / "annotations_instance")
    shutil.make_archive(str(downloads / "ADEChallengeData2016"), "zip", root.parent, root.name)
    assert_read(PANOPTIC.open(Archive(downloads), "train"), "train")


def test_images_named_as_ade20k_names_them_need_no_list_of_classes(root: Path):
    (root / "objectInfo150.txt").unlink()
    assert "ADE_*.jpg" in str(SEMANTIC.missing(Archive(root)))
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        folder = root / kind / "training"
        (folder / f"{SCENE}.{suffix}").rename(folder / f"ADE_train_00000001.{suffix}")
    assert SEMANTIC.missing(Archive(root)) is None


@pytest.mark.parametrize(
    ("absent", "semantic", "panoptic"),
    [
        ("annotations_instance", None, "annotations_instance/training"),
        ("annotations", "annotations/training", "annotations_instance/training"),
        ("images", "images/training", "images/training"),
    ],
)
def test_what_is_missing_is_named(root: Path, absent: str, semantic: str | None, panoptic: str):
    shutil.rmtree(root / absent)
    archive = Archive(root)
    assert (SEMANTIC.missing(archive) or "").startswith(semantic or "")
    assert (SEMANTIC.missing(archive) is None) == (semantic is None)
    assert str(PANOPTIC.missing(archive)).startswith(panoptic)
    assert PANOPTIC.splits(archive) == ()


def test_masks_without_an_image_are_counted(root: Path):
    (root / f"images/training/{SCENE}.jpg").unlink()
    assert SEMANTIC.open(Archive(root), "train").left_out == ("1 masks without an image",)
    assert PANOPTIC.open(Archive(root), "train").left_out == ("1 masks without an image",)


def test_images_without_an_entry_are_counted(prepared: Path):
    edit(prepared, lambda content: content["annotations"].pop())
    opened = PANOPTIC.open(Archive(prepared), "train")
    assert len(opened) == 1
    assert opened.left_out == ("1 images without an entry in ade20k_panoptic_train.json",)


def grey(value: int, dtype: type = np.uint8, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.full(size, value, dtype)


def color(*value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, np.uint8)


TWO_CLASSES = np.hstack([color(1, 5, 0)[:, :16], color(2, 5, 0)[:, 16:]])


@pytest.mark.parametrize(
    ("file", "pixels", "words"),
    [
        ("annotations", grey(151), "street_000001.png: .*at x 0, y 0: value 151 is no class"),
        ("annotations", grey(1, np.uint16), "16 bits a pixel"),
        ("annotations", grey(1, size=(24, 31)), "the mask is 31 x 24, its image upright 32 x 24"),
        ("annotations", color(1, 1, 0), "mode RGB"),
        ("annotations_instance", grey(1), "training/street_000001.png: .*mode L, not colours"),
        ("annotations_instance", color(101, 1, 0), r"object 1 \(green\) has class 101 \(red\)"),
        ("annotations_instance", color(0, 1, 0), r"object 1 \(green\) has class 0 \(red\)"),
        ("annotations_instance", color(1, 1, 0)[:, :9], "instance map annotations_instance/.*.png is 9 x 24"),
        ("annotations_instance", TWO_CLASSES, r"object 5 \(green\) has two classes \(red\), 2 and 1"),
    ],
)  # fmt: skip
def test_masks_that_are_wrong(root: Path, file: str, pixels: np.ndarray, words: str):
    Image.fromarray(pixels).save(root / file / f"training/{SCENE}.png")
    opened = PANOPTIC.open(Archive(root), "train")
    with pytest.raises(DataError, match=words):
        opened[0]


@pytest.mark.parametrize(
    ("format", "file", "words"),
    [
        (SEMANTIC, "annotations", "1 of 2 images have no mask in annotations/training: street_000001.png"),
        (PANOPTIC, "annotations_instance", "1 of 2 images have no mask in annotations_instance/training"),
    ],
)
def test_masks_that_are_absent(root: Path, format: object, file: str, words: str):
    (root / file / f"training/{SCENE}.png").unlink()
    with pytest.raises(DataError, match=words):
        format.open(Archive(root), "train")


def test_unknown_split(root: Path):
    with pytest.raises(DataError, match="no split 'training'; it has train, val"):
        SEMANTIC.open(Archive(root), "training")


def edit(root: Path, change: Callable[[dict], object]) -> None:
    path = root / "ade20k_panoptic_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def segment(**fields: object) -> Callable[[dict], object]:
    return lambda content: content["annotations"][0]["segments_info"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (segment(id=0), r'annotations\[0\].segments_info\[0\]: "id" is 0'),
        (segment(id="5"), "\"id\" is '5'; a colour says whole numbers"),
        (segment(id=float("nan")), "NaN is no number"),
        (segment(category_id=150), '"category_id" is 150'),
        (segment(iscrowd="no"), "\"iscrowd\" is 'no'"),
        (segment(id=7 + 65536 + 256), r"segments_info\[1\]: a second segment with id 65799"),
        (lambda c: c["categories"].pop(), "not ADE20K's 150"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "a second one of image street_000001"),
        (lambda c: c["annotations"][0].update(file_name="lost.png"), "images/training/lost.jpg is absent"),
        (lambda c: c["annotations"][0].pop("segments_info"), r'annotations\[0\]: "segments_info" is None'),
        (lambda c: c.pop("annotations"), 'no list "annotations"'),
    ],
)
def test_prepared_files_that_are_wrong(prepared: Path, change: Callable[[dict], object], words: str):
    edit(prepared, change)
    with pytest.raises(DataError, match=words):
        PANOPTIC.open(Archive(prepared), "train")


def test_a_segment_that_the_prepared_file_does_not_know(prepared: Path):
    edit(prepared, lambda content: content["annotations"][0]["segments_info"].pop(0))
    opened: Split = PANOPTIC.open(Archive(prepared), "train")
    with pytest.raises(DataError, match=r"street_000001.png: .*at x 0, y 0: segment 65543 "):
        opened[0]
