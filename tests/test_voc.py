"""Pascal VOC and CVAT's masks are read by index or by exact colour, with objects where there are some."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.categories import Category
from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.voc import FORMAT
from eomt.errors import DataError
from eomt.types import Sample, Segments
from layouts import voc as layout
from scenes import SIZE, STUFF, THINGS, assert_read

SCENE = "street_000001"
BORDER = (224, 224, 192)


class WithoutBackground:
    """A data set of which nobody sees the background: no shape of the scenes."""

    def __init__(self, whole: Split):
        self.whole, self.categories = whole, whole.categories

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        image, segments, image_id = vars(self.whole[index]).values()
        kept = [i for i, label in enumerate(segments.labels) if self.categories[label].name != "background"]
        seen = Segments(segments.masks.select(kept), segments.labels[kept], segments.is_crowd[kept])
        return Sample(image, seen, image_id)


def packed(format: str) -> Callable[[Path], Path]:
    return lambda root: Path(shutil.make_archive(str(root.parent / "packed"), format, root))


WAYS = [lambda root: root, lambda root: root / layout.TOP, packed("zip"), packed("tar")]


@pytest.mark.parametrize("pack", WAYS, ids=["above", "folder", "zip", "tar"])
@pytest.mark.parametrize("objects", [True, False])
def test_scenes(tmp_path: Path, pack: Callable[[Path], Path], objects: bool):
    layout.write(tmp_path / "voc", objects)
    archive = Archive(pack(tmp_path / "voc"))
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train", "trainval", "val")  # nothing of test has a mask
    assert len(FORMAT.open(archive, "trainval")) == 3
    for split in ("train", "val"):
        opened = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
        assert opened.left_out == ()
        assert_read(WithoutBackground(opened), split, names=THINGS, merged=() if objects else THINGS)


@pytest.mark.parametrize("pack", [WAYS[0], *WAYS[2:]], ids=["folder", "zip", "tar"])
@pytest.mark.parametrize("objects", [True, False])
def test_scenes_from_cvat(tmp_path: Path, pack: Callable[[Path], Path], objects: bool):
    layout.write_cvat(tmp_path / "task", objects)
    archive = Archive(pack(tmp_path / "task"))
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train", "val")
    for split in ("train", "val"):
        opened = FORMAT.open(archive, split)
        assert_read(WithoutBackground(opened), split, merged=STUFF if objects else THINGS + STUFF)


def test_categories(tmp_path: Path):
    layout.write(tmp_path / "voc")
    categories = FORMAT.open(Archive(tmp_path / "voc"), "val").categories
    assert len(categories) == 21
    assert categories[0] == Category("background", False, 0, (0, 0, 0))
    assert categories[20] == Category("tvmonitor", True, 20, (0, 64, 128))
    assert [category.color for category in categories] == [tuple(row) for row in layout.colormap(21).tolist()]
    layout.write_cvat(tmp_path / "objects")
    layout.write_cvat(tmp_path / "classes", objects=False)
    for name, things in (("objects", True), ("classes", False)):
        categories = FORMAT.open(Archive(tmp_path / name), "val").categories
        assert [(c.name, c.id, c.color) for c in categories] == [
            (name, id, color) for id, (name, color) in enumerate(layout.COLORS.items())
        ]
        assert [category.is_thing for category in categories] == [False, things, things, things, things]


def read(tmp_path: Path, classes: object, objects: object = None) -> list[tuple[str, bool, int]]:
    """Give name, crowd and area of the segments of one image whose first row has these values: of 4 pixels."""
    layout.write(tmp_path, objects is not None)
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        if values is not None:
            save(tmp_path / layout.TOP / folder / f"{SCENE}.png", values)
    opened = FORMAT.open(Archive(tmp_path), "train")
    segments = opened[0].segments
    return [
        (opened.categories[label].name, crowd, area)
        for label, crowd, area in zip(
            segments.labels.tolist(), segments.is_crowd.tolist(), segments.masks.areas().tolist(), strict=True
        )
    ]


def save(path: Path, values: object) -> None:
    """Save a mask, void but for its first row: indices, or colours."""
    row = np.array(values, dtype=np.uint8)
    pixels = np.full((*SIZE, *row.shape[1:]), BORDER if row.ndim == 2 else 255, np.uint8)
    pixels[0, : len(row)] = row
    (layout.palette(pixels) if row.ndim == 1 else Image.fromarray(pixels)).save(path)


@pytest.mark.parametrize(
    ("classes", "objects", "expected"),
    [
        ([0, 7, 255, 7], None, [("background", False, 1), ("car", False, 2)]),  # no objects anywhere
        ([0, 7, 7, 15], [0, 3, 4, 1],
            [("background", False, 1), ("person", False, 1), ("car", False, 1), ("car", False, 1)]),
        ([7, 7, 255, 15], [2, 255, 255, 0], [("person", True, 1), ("car", False, 1)]),  # of no object: a crowd
        ([7, 7, 15, 0], [2, 2, 2, 2], [("car", False, 4)]),  # the class of most pixels; the object's outline
        ([255, 255, 0, 0], [2, 2, 0, 0], [("background", False, 2)]),  # an object of which no class is known
        ([[0, 0, 0], [128, 128, 128], BORDER], [[0, 0, 0], [9, 8, 7], BORDER], [("background", False, 1),
            ("car", False, 1)]),  # saved as RGB
    ],
)  # fmt: skip
def test_what_masks_mean(tmp_path: Path, classes: object, objects: object, expected: object):
    assert read(tmp_path, classes, objects) == expected


@pytest.mark.parametrize(
    ("classes", "objects", "words"),
    [
        ([0, 21], None, "at x 1, y 0: index 21 is no class of VOC; for other classes, write labelmap.txt"),
        ([[0, 0, 0], [0, 0, 0], [1, 2, 3]], None, r"at x 2, y 0: colour \(1, 2, 3\) is no class of VOC"),
        ([0, 7], [5, 7], "at x 0, y 0: an object of .*SegmentationObject/street_000001.png is background in the"),
    ],
)
def test_masks_that_are_wrong(tmp_path: Path, classes: object, objects: object, words: str):
    with pytest.raises(DataError, match=rf"SegmentationClass/street_000001.png: .*{words}"):
        read(tmp_path, classes, objects)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("SegmentationClass", "the mask is 9 x 24, its image upright 32 x 24"),
        ("SegmentationObject", "the mask of objects .*SegmentationObject/street_000001.png is 9 x 24"),
    ],
)
def test_sizes_must_agree(tmp_path: Path, folder: str, words: str):
    layout.write(tmp_path)
    layout.palette(np.zeros((24, 9), np.uint8)).save(tmp_path / layout.TOP / folder / f"{SCENE}.png")
    with pytest.raises(DataError, match=words):
        FORMAT.open(Archive(tmp_path), "train")[0]


def test_a_color_that_labelmap_does_not_know(tmp_path: Path):
    layout.write_cvat(tmp_path)
    path = tmp_path / f"SegmentationClass/{SCENE}.png"
    pixels = np.array(Image.open(path))
    pixels[3, 5] = (250, 50, 84)
    Image.fromarray(pixels).save(path)
    with pytest.raises(DataError, match=r"at x 5, y 3: colour \(250, 50, 84\) is not in labelmap.txt"):
        FORMAT.open(Archive(tmp_path), "train")[0]


@pytest.mark.parametrize("mode", ["P", "L"])
def test_masks_of_labelmap_with_palette_or_grey(tmp_path: Path, mode: str):
    layout.write_cvat(tmp_path, objects=False)
    colors = list(layout.COLORS.values())
    for path in (tmp_path / "SegmentationClass").iterdir():
        pixels = np.array(Image.open(path))
        image = Image.fromarray(
            np.stack([(pixels == color).all(2) for color in colors]).argmax(0).astype(np.uint8)
        )
        if mode == "P":  # as an optimiser of PNGs has them: indices of its own, the same colours
            image = Image.fromarray(4 - np.array(image))
            image.putpalette(np.array(colors[::-1], np.uint8).tobytes())
        image.save(path)
    assert_read(WithoutBackground(FORMAT.open(Archive(tmp_path), "train")), "train", merged=THINGS + STUFF)


def test_names_with_folders_and_spaces(tmp_path: Path):
    layout.write_cvat(tmp_path, objects=False)
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder / "new york").mkdir()
        (tmp_path / folder / "street_000003.png").rename(tmp_path / folder / "new york" / "street_000003.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text('"new york/street_000003"\r\n')
    opened = FORMAT.open(Archive(tmp_path), "val")
    assert opened.image_ids == ("new york/street_000003",)
    assert_read(WithoutBackground(opened), "val", merged=THINGS + STUFF)


def test_augmented_masks_have_classes_only(tmp_path: Path):
    layout.write(tmp_path)
    top = tmp_path / layout.TOP
    shutil.copytree(top / "SegmentationClass", top / "SegmentationClassAug")
    (top / f"SegmentationClass/{SCENE}.png").unlink()
    opened = FORMAT.open(Archive(tmp_path), "train")
    assert opened.left_out == ("the objects of 2 images (SegmentationClassAug does not tell them apart)",)
    segments = opened[0].segments
    found = [(opened.categories[label].name, bool(crowd)) for label, crowd in zip(
        segments.labels, segments.is_crowd, strict=True)]  # fmt: skip
    assert found == [("background", False), ("car", True), ("person", True)]


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("ImageSets", "ImageSets/Segmentation"),
        ("JPEGImages", "VOCdevkit/VOC2012/JPEGImages/*.jpg (in CVAT, export with images"),
        ("SegmentationClass", "VOCdevkit/VOC2012/SegmentationClass/*.png"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, absent: str, words: str):
    layout.write(tmp_path)
    shutil.rmtree(tmp_path / layout.TOP / absent)
    archive = Archive(tmp_path)
    assert str(FORMAT.missing(archive)).startswith(words)
    assert FORMAT.splits(archive) == ()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (f"JPEGImages/{SCENE}.jpg", "train.txt: 1 of 2 images are not in .*/JPEGImages: street_000001; add"),
        (f"SegmentationClass/{SCENE}.png", "1 of 2 images are not in .*/SegmentationClass: street_000001"),
        (f"SegmentationObject/{SCENE}.png", "1 of 2 images are not in .*/SegmentationObject: street_000001"),
    ],
)
def test_files_that_are_absent(tmp_path: Path, file: str, words: str):
    layout.write(tmp_path)
    (tmp_path / layout.TOP / file).unlink()
    with pytest.raises(DataError, match=words):
        FORMAT.open(Archive(tmp_path), "train")


def test_an_image_that_is_listed_twice(tmp_path: Path):
    layout.write(tmp_path)
    (tmp_path / layout.TOP / "ImageSets/Segmentation/val.txt").write_text("street_000003\nstreet_000003\n")
    with pytest.raises(DataError, match=r"val.txt: lists street_000003 twice"):
        FORMAT.open(Archive(tmp_path), "val")


def test_two_images_of_one_name(tmp_path: Path):
    layout.write(tmp_path)
    folder = tmp_path / layout.TOP / "JPEGImages"
    shutil.copy(folder / f"{SCENE}.jpg", folder / f"{SCENE}.jpeg")
    with pytest.raises(DataError, match="have one stem"):
        FORMAT.open(Archive(tmp_path), "train")


def test_several_years(tmp_path: Path):
    layout.write(tmp_path)
    shutil.copytree(tmp_path / layout.TOP, tmp_path / "VOCdevkit/VOC2007")
    assert FORMAT.missing(Archive(tmp_path)) is None
    with pytest.raises(
        DataError, match="several data sets of this layout, VOCdevkit/VOC2007 and VOCdevkit/VOC2012"
    ):
        FORMAT.splits(Archive(tmp_path))


@pytest.mark.parametrize("split", ["test", "default"])
def test_unknown_split(tmp_path: Path, split: str):
    layout.write(tmp_path)
    with pytest.raises(DataError, match=f"no split '{split}' with masks .*; it has train, trainval, val"):
        FORMAT.open(Archive(tmp_path), split)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no labels"),
        (b"cell:1,2," + b"3" * 5000 + b"::\n", "line 1 is 'cell:1,2,333"),
        (b"# label:color_rgb\n\ncell\n", "line 3 is 'cell'; write it like cell:250,50,83::"),
        (b"cell:::\n", "line 1"),
        (b"cell:1,2::\n", "line 1"),
        (b"cell:1,2,256::\n", "line 1"),
        (b"a:1,2,3::\nb:1,2,3::\n", "line 2: a and b have one name or colour"),
        (b"a:1,2,3::\na:1,2,4::\n", "line 2: a and a have one name or colour"),
        (b"\xff:1,2,3::", "not UTF-8"),
    ],
)
def test_labelmaps_that_are_wrong(tmp_path: Path, text: bytes, words: str):
    layout.write_cvat(tmp_path)
    (tmp_path / "labelmap.txt").write_bytes(text)
    with pytest.raises(DataError, match=rf"labelmap.txt: .*{words}"):
        FORMAT.open(Archive(tmp_path), "train")
