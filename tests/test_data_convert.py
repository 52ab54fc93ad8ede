"""What is written in another layout is read again to the bit, where that one can hold it; the rest is said."""

import base64
import csv
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from eomt.cli import main
from eomt.data.besides import IMAGES, SEGMENTS, read_besides
from eomt.data.convert import View, all_of, convert, views
from eomt.data.detect import find_format
from eomt.data.writers import _outline
from eomt.errors import ConfigError, DataError
from eomt.masks import RleMasks, decode_rle, rle_of_polygons, trace_polygons
from eomt.types import Segments
from layouts import coco, coco_panoptic, folder, labelme, voc
from scenes import SCENES
from test_detect import LAYOUTS

TARGETS = ("coco", "coco-panoptic", "yolo", "masks")


class Piece(NamedTuple):
    """A segment: the id of its class and its pixels."""

    category: int
    mask: NDArray[np.bool_]
    is_crowd: bool = False


class Shot(NamedTuple):
    """An image of a split."""

    name: str
    data: bytes
    pieces: tuple[Piece, ...]


class Made(NamedTuple):
    """A data set."""

    categories: tuple[dict[str, Any], ...]
    splits: dict[str, tuple[Shot, ...]]


def picture(size: tuple[int, int], seed: int = 0, turned: bool = False) -> bytes:
    """Encode noise: a PNG, or a JPEG that its EXIF orientation turns to this size."""
    file = io.BytesIO()
    height, width = size[::-1] if turned else size
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(file, "JPEG", exif=exif) if turned else noise.save(file, "PNG")
    return file.getvalue()


MORE: dict[str, dict[str, Any]] = {}
"""No other fields."""
FIELDS: dict[str, dict[str, Any]] = {
    "head": {
        "info": {"year": 2024, "contributor": "Å"},
        "licenses": [{"id": 4, "name": "BY"}],
        "type": "instances",
    },
    "images": {"license": 4, "coco_url": "http://x/1.jpg"},
    "categories": {"supercategory": "animal", "skeleton": [[1, 2]]},
    "annotations": {"num_keypoints": 1, "keypoints": [1, 2, 2]},
}


def said_besides(view: View) -> Any:
    """Give ids and other fields, of each image by its number."""
    split, others = view.split, read_besides(view.split)
    assert split.origin is not None
    ids = {item.number: sorted(split.origin.ids(item, None)) for item in split.items}
    return others, ids


def write_coco(root: Path, made: Made, more: Mapping[str, dict[str, Any]] = MORE) -> Path:
    """Write a data set in COCO's layout, by COCO's own tools; with other fields of the file and its lists."""
    for split, shots in made.splits.items():
        images, annotations = [], []
        for number, shot in enumerate(shots, 1):
            path = root / split / shot.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(shot.data)
            images.append({"id": 7 * number, "file_name": shot.name, **more.get("images", {})})
            for piece in shot.pieces:
                rle = coco_mask.encode(np.asfortranarray(piece.mask.astype(np.uint8)))
                annotations.append(
                    {
                        **more.get("annotations", {}),
                        "id": 3 * len(annotations) + 11,
                        "image_id": 7 * number,
                        "category_id": piece.category,
                        "iscrowd": int(piece.is_crowd),
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    }
                )
        categories = [{**category, **more.get("categories", {})} for category in made.categories]
        content = {**more.get("head", {}), "images": images, "annotations": annotations, "categories": categories}
        coco.save(root / "annotations" / f"instances_{split}.json", content)
    return root


Row = tuple[int, bool, bytes]


def rows(view: View) -> dict[str, tuple[bytes, list[Row]]]:
    """Map the names of images below their split's folder to their bytes and their segments, as a set."""
    found = {}
    for place, item in enumerate(view.split.items):
        segments = view.segments(place)
        ids = [view.seen.categories[label].id for label in segments.labels.tolist()]
        encoded = [segments.masks.rle(index)["counts"] for index in range(len(segments))]
        name = item.image.removeprefix("images/").removeprefix(f"{view.name}/")
        found[name] = (
            view.split.image_bytes(place),
            sorted(zip(ids, segments.is_crowd.tolist(), encoded, strict=True)),
        )
    return found


def read(root: Path) -> dict[str, View]:
    return views(find_format(root))


def assert_equal(one: dict[str, View], other: dict[str, View]) -> None:
    assert list(one) == list(other)
    for name, view in one.items():
        assert sorted(view.seen.categories, key=lambda each: each.id) == sorted(
            other[name].seen.categories, key=lambda each: each.id
        )
        assert rows(view) == rows(other[name])


NAMES = ("a", "b c", "ü/日本 1", "sub/a", "sub/x.y", "deep/er/o'1", "000000000139")
SPLITS = ("train", "val", "train2017", "my split")
WORDS = st.text("a B0.,:#-_'\"{}[]ü日\u200b😀", min_size=1, max_size=8).filter(lambda name: name.strip())


@st.composite
def data_sets(
    draw: st.DrawFn,
    disjoint: bool = False,
    crowds: bool = True,
    stuff: bool = True,
    plain: bool = False,
    splits: tuple[str, ...] = SPLITS,
    ids: Any = None,
) -> Made:
    """Make a data set; a plain one has no two segments of one class of stuff in an image."""
    count = draw(st.integers(1, 4))
    numbers = draw(
        ids(count) if ids else st.lists(st.integers(0, 3000), min_size=count, max_size=count, unique=True)
    )
    names = draw(st.lists(WORDS, min_size=count, max_size=count, unique=True))
    color = st.lists(st.integers(0, 255), min_size=3, max_size=3)
    categories = tuple(
        {"id": id, "name": name, "isthing": int(draw(st.booleans()) if stuff else True), "color": draw(color)}
        for id, name in zip(numbers, names, strict=True)
    )
    is_thing = {category["id"]: category["isthing"] for category in categories}

    def shot(name: str) -> Shot:
        size = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        turned, rng = draw(st.booleans()), np.random.default_rng(draw(st.integers(0, 999)))
        free, used, pieces = np.ones(size, dtype=np.bool_), set(), []
        for category in draw(st.lists(st.sampled_from(numbers), max_size=5)):
            mask = rng.random(size) < draw(st.sampled_from([0.1, 0.5, 0.9]))
            if rng.random() < 0.5:
                mask = np.zeros(size, dtype=np.bool_)
                mask[rng.integers(0, size[0]) :, rng.integers(0, size[1]) :] = True
            if disjoint:
                mask &= free
            if not mask.any() or (plain and not is_thing[category] and category in used):
                continue
            free &= ~mask
            used.add(category)
            pieces.append(Piece(category, mask, crowds and draw(st.booleans())))
        return Shot(name + (".jpg" if turned else ".png"), picture(size, 1, turned), tuple(pieces))

    chosen = draw(st.lists(st.sampled_from(splits), min_size=1, max_size=2, unique=True))
    files = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
    return Made(categories, {split: tuple(shot(name) for name in draw(files)) for split in sorted(chosen)})


ANY = data_sets()
DISJOINT = data_sets(disjoint=True)
PLAIN = data_sets(disjoint=True, crowds=False, plain=True)

PAIRS = {
    "coco -> coco": (ANY, "coco", "coco"),  # overlaps, crowds
    "coco -> coco-panoptic -> coco": (DISJOINT, "coco", "coco-panoptic"),
    "coco-panoptic -> coco -> coco-panoptic": (DISJOINT, "coco-panoptic", "coco"),
    "coco-panoptic -> coco-panoptic": (DISJOINT, "coco-panoptic", "coco-panoptic"),
    "masks -> coco -> masks": (PLAIN, "masks", "coco"),
    "coco -> masks -> coco": (PLAIN, "coco", "masks"),
    "masks -> coco-panoptic -> masks": (PLAIN, "masks", "coco-panoptic"),
    "coco-panoptic -> masks -> coco-panoptic": (PLAIN, "coco-panoptic", "masks"),
    "masks -> masks": (PLAIN, "masks", "masks"),
}
EXAMPLES = int(os.environ.get("EOMT_EXAMPLES", "4"))
"""Of each property; more of them for a thorough run."""
QUICK = settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # making a failure smaller takes minutes
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize(("made", "first", "second"), PAIRS.values(), ids=PAIRS)
def test_lossless_pairs(made, first, second):
    @QUICK
    @given(made, st.just("masks" not in (first, second)))
    def there_and_back(made: Made, fields: bool) -> None:
        root = Path(tempfile.mkdtemp())
        try:
            source = read(write_coco(root / "source", made, FIELDS if fields else MORE))
            reports = [convert(all_of(source), first, root / "a")]
            reports += [convert(all_of(read(root / "a")), second, root / "b")]
            reports += [convert(all_of(read(root / "b")), first, root / "c")]
            there, back = read(root / "a"), read(root / "c")
            for each in (there, read(root / "b"), back):
                assert_equal(source, each)
            for name, view in there.items():  # the layout of masks lists images by their names
                assert sorted(view.split.image_ids) == sorted(back[name].split.image_ids)
            lost = {what for report in reports for what in report.lost}
            through_masks = {IMAGES, SEGMENTS} if "masks" in (first, second) else set()
            assert not lost - {"classes in another order: by their ids", *through_masks}
            for name, view in there.items():
                assert through_masks or said_besides(view) == said_besides(back[name])
            for report in reports:
                assert report.read == report.written
        finally:
            shutil.rmtree(root)

    there_and_back()


@QUICK
@given(data_sets(crowds=False, stuff=False, splits=("train", "val"), ids=lambda n: st.just(list(range(n)))))
def test_yolo_holds_things_to_the_pixel(made: Made) -> None:
    """Parts, holes and corners that touch; all but colours and segments that are equal."""
    root = Path(tempfile.mkdtemp())
    try:
        source = read(write_coco(root / "source", made))
        report = convert(all_of(source), "yolo", root / "yolo")
        back = read(root / "yolo")
        repeated = 0
        for name, view in source.items():
            for file, (data, segments) in rows(view).items():
                repeated += len(segments) - len(set(segments))
                assert rows(back[name])[file] == (data, sorted(set(segments)))
        assert [each.name for each in back[next(iter(back))].seen.categories] == [
            category["name"] for category in made.categories
        ]
        assert report.lost.pop(WORDING["REPEATED"], 0) == repeated
        assert set(report.lost) <= {"colours of classes", IMAGES, SEGMENTS}
    finally:
        shutil.rmtree(root)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@QUICK
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 10_000))
def test_outlines_give_back_every_pixel(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    if mask.any():
        ring = _outline(trace_polygons(mask)).ravel().tolist()
        assert np.array_equal(decode_rle(rle_of_polygons([ring], mask.shape)), mask)
        theirs = coco_mask.decode(coco_mask.frPyObjects([list(map(float, ring))], height, width))[..., 0]
        assert np.array_equal(theirs.astype(bool), mask)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("write", "name"), LAYOUTS)
def test_any_layout_in_any_other(write, name, target, tmp_path):
    write(tmp_path / "source")
    source = views(find_format(tmp_path / "source", name))
    report = convert(all_of(source), target, tmp_path / "target")
    written = read(tmp_path / "target")
    assert len(written) == len(source)
    for (old, before), (new, after) in zip(report.read.items(), report.written.items(), strict=True):
        assert before == after
        assert by_name(source[old]) == by_name(written[new])


def by_name(view: View) -> Counter[tuple[bytes, tuple[tuple[str, bytes], ...]]]:
    """Give the images of a split with their segments by the names of classes."""
    found: Counter[Any] = Counter()
    for place in range(len(view.split)):
        segments = view.segments(place)
        names = [view.seen.categories[label].name for label in segments.labels.tolist()]
        encoded = [segments.masks.rle(index)["counts"] for index in range(len(segments))]
        found[view.split.image_bytes(place), tuple(sorted(zip(names, encoded, strict=True)))] += 1
    return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@QUICK
@given(ANY, st.booleans())
def test_coco_is_what_its_own_tools_read(made: Made, polygons: bool) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        source = read(write_coco(root / "source", made))
        report = convert(all_of(source), "coco", root / "coco", polygons=polygons)
        assert "outlines that do not give back every pixel" not in report.lost
        for split, shots in made.splits.items():
            tool = COCO(root / "coco" / "annotations" / f"instances_{split}.json")
            assert {entry["file_name"] for entry in tool.imgs.values()} == {shot.name for shot in shots}
            for number, shot in enumerate(shots, 1):
                assert tool.imgs[7 * number]["file_name"] == shot.name
                found = tool.loadAnns(tool.getAnnIds(imgIds=[7 * number]))
                assert len(found) == len(shot.pieces)
                for entry, piece in zip(found, shot.pieces, strict=True):
                    assert (entry["category_id"], entry["iscrowd"]) == (piece.category, piece.is_crowd)
                    assert entry["area"] == piece.mask.sum()
                    assert np.array_equal(tool.annToMask(entry).astype(bool), piece.mask)
                    assert entry["bbox"] == coco_mask.toBbox(tool.annToRLE(entry)).tolist()
                    outlined = polygons and not piece.is_crowd
                    assert isinstance(entry["segmentation"], list) == outlined
    finally:
        shutil.rmtree(root)


@QUICK
@given(DISJOINT)
def test_panoptic_files_pixel_by_pixel(made: Made) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        convert(all_of(read(write_coco(root / "source", made))), "coco-panoptic", root / "panoptic")
        for split, shots in made.splits.items():
            file = root / "panoptic" / "annotations" / f"panoptic_{split}.json"
            content = json.loads(file.read_text(encoding="utf-8"))
            names = {entry["id"]: entry["file_name"] for entry in content["images"]}
            entries = {names[entry["image_id"]]: entry for entry in content["annotations"]}
            for shot in shots:
                entry = entries[shot.name]
                colors = np.array(Image.open(file.with_suffix("") / entry["file_name"])).astype(int)
                ids = colors @ [1, 256, 65536]
                found = []
                for info in entry["segments_info"]:
                    mask = ids == info["id"]
                    y, x = np.nonzero(mask)
                    assert info["area"] == mask.sum()
                    assert info["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
                    found.append((info["category_id"], bool(info["iscrowd"]), mask.tobytes()))
                assert sorted(found) == sorted((p.category, p.is_crowd, p.mask.tobytes()) for p in shot.pieces)
                assert set(np.unique(ids)) - {0} == {info["id"] for info in entry["segments_info"]}
    finally:
        shutil.rmtree(root)


def box(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((8, 10), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


CAT, SKY = (
    {"id": 4, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
    {"id": 9, "name": "sky", "isthing": 0, "color": [4, 5, 6]},
)
LARGE, SMALL = Piece(4, box(0, 0, 6, 6)), Piece(4, box(2, 2, 4, 4))
LOSSES = [
    # what lies on each other: the smaller one keeps its four pixels
    ((LARGE, SMALL), "coco", {}, 2),
    ((LARGE, SMALL), "yolo", {}, 2),
    ((LARGE, SMALL), "masks", {"COVERED": 1, "PIXELS": 4}, 2),
    ((SMALL, LARGE), "coco-panoptic", {"COVERED": 1, "PIXELS": 4}, 2),
    ((SMALL, SMALL), "coco-panoptic", {"HIDDEN": 1, "PIXELS": 4}, 1),
    ((SMALL, SMALL), "yolo", {"REPEATED": 1}, 1),
    # things lie over stuff, crowds under all
    ((Piece(9, box(2, 2, 3, 3)), LARGE), "coco-panoptic", {"HIDDEN": 1, "PIXELS": 1}, 1),
    ((LARGE._replace(is_crowd=True), SMALL), "coco-panoptic", {"COVERED": 1, "PIXELS": 4}, 2),
    ((LARGE._replace(is_crowd=True), SMALL), "masks", {"CROWDS": 1}, 1),
    ((LARGE._replace(is_crowd=True), SMALL), "yolo", {"CROWDS": 1}, 1),
    # two segments of one class of stuff
    ((Piece(9, box(0, 0, 1, 1)), Piece(9, box(1, 1, 2, 2))), "masks", {"JOINED": 1}, 1),
    ((Piece(9, box(0, 0, 1, 1)), Piece(9, box(1, 1, 2, 2))), "coco-panoptic", {}, 2),
]
WORDING = {
    "COVERED": "segments that gave pixels to another that has them too: a thing, or the smaller one",
    "PIXELS": "pixels given to another segment",
    "HIDDEN": "segments wholly under others: left out",
    "REPEATED": "segments of the same class and pixels as another in the image: left out",
    "CROWDS": "crowds, which this layout does not know: left out",
    "EMPTY": "segments without pixels: left out",
    "JOINED": "segments of stuff joined with another of their class in the image",
}
OF_CLASSES = {  # two classes, ids 4 and 9, and one image, number 7
    "coco": {},
    "coco-panoptic": {},
    "masks": {"ids of images in COCO's files": 1},
    "yolo": {
        "classes of stuff, which are things in this layout": 1,
        "colours of classes": 2,
        "ids of classes, numbered from 0": 2,
        "ids of images in COCO's files": 1,
    },
}


def made(*pieces: Piece, splits: tuple[str, ...] = ("train",), name: str = "a.png") -> Made:
    return Made((CAT, SKY), {split: (Shot(name, picture((8, 10)), pieces),) for split in splits})


@pytest.mark.parametrize(("pieces", "target", "lost", "left"), LOSSES)
def test_losses_are_counted(pieces, target, lost, left, tmp_path):
    source = read(write_coco(tmp_path / "source", made(*pieces)))
    report = convert(all_of(source), target, tmp_path / "target")
    ids = {} if target.startswith("coco") else {SEGMENTS: len(pieces)}
    assert report.lost == {**OF_CLASSES[target], **ids, **{WORDING[what]: count for what, count in lost.items()}}
    assert report.read["train"]["segments"] == len(pieces)
    assert report.written["train"]["segments"] == left
    view = read(tmp_path / "target")["train"]
    assert len(view.segments(0)) == left
    assert int(view.segments(0).masks.areas().sum()) == report.written["train"]["pixels"]


@pytest.mark.parametrize("target", TARGETS)
def test_segments_without_pixels_are_counted(target, tmp_path):
    opened = read(write_coco(tmp_path / "source", made(SMALL)))["train"]
    masks = RleMasks.encode([box(0, 0, 0, 0), SMALL.mask], (8, 10))
    segments = Segments(masks, torch.tensor([1, 0]), torch.tensor([False, False]))
    split = replace(opened.split, read_segments=lambda archive, item, size: segments, origin=None)
    report = convert(all_of({"train": View("train", split, split)}), target, tmp_path / "target")
    assert report.lost[WORDING["EMPTY"]] == 1
    assert (report.read["train"]["segments"], report.written["train"]["segments"]) == (2, 1)
    assert rows(read(tmp_path / "target")["train"])["a.png"][1][0][2] == masks.rle(1)["counts"]


@pytest.mark.parametrize("target", TARGETS)
def test_ignored_regions_are_counted(target, tmp_path):
    write_coco(tmp_path / "source", made(SMALL, Piece(9, box(6, 0, 8, 10))))
    (tmp_path / "map.yaml").write_text("ignore: [sky]\n")
    source = views(find_format(tmp_path / "source"), class_map=tmp_path / "map.yaml")
    report = convert(all_of(source), target, tmp_path / "target")
    assert report.lost["ignored regions of no class: left out"] == 1
    assert report.read["train"]["ignored_regions"] == 1
    assert report.left_out == ("1 class ignored: sky",)
    assert [each.name for each in read(tmp_path / "target")["train"].seen.categories] == ["cat"]


MASKS = [
    # ids of classes, which of them are things, objects of the first -> kind of file, values
    ((1, 2), (True, False), 3, ".png", {1, 2, 3, 4}),  # one thing: objects behind the stuff
    ((1, 64), (True, True), 3, ".png", {1001, 1002, 1003, 64001}),
    ((1, 90), (True, True), 3, ".png", {721, 722, 723, 64801}),  # 720 = 65536 // 91
    ((1, 3000), (True, True), 3, ".png", {22, 23, 24, 63001}),  # 21 = 65536 // 3001
    ((1, 3000), (True, True), 30, ".tif", {*range(1001, 1031), 3_000_001}),
    ((0, 5), (False, False), 1, ".png", {0, 5}),
    ((300, 5), (False, False), 1, ".png", {0, 1}),  # 8 bits do not hold 300
]


@pytest.mark.parametrize(("ids", "things", "objects", "suffix", "values"), MASKS)
def test_numbers_of_masks(ids, things, objects, suffix, values, tmp_path):
    categories = tuple(
        {"id": id, "name": f"class {id}", "isthing": int(thing), "color": [0, 0, 9]}
        for id, thing in zip(ids, things, strict=True)
    )
    pieces = [Piece(ids[0], box(0, 0, 1, 1) if objects == 1 else spot(number)) for number in range(objects)]
    pieces.append(Piece(ids[1], box(6, 0, 8, 10)))
    source = Made(categories, {"train": (Shot("a.png", picture((8, 10)), tuple(pieces)),)})
    convert(all_of(read(write_coco(tmp_path / "source", source))), "masks", tmp_path / "masks")
    found = np.array(Image.open(tmp_path / "masks" / "masks" / "train" / f"a{suffix}"))
    void = 0 if any(things) else 255
    assert set(np.unique(found).tolist()) - {void} == values
    assert rows(read(tmp_path / "masks")["train"]) == rows(read(tmp_path / "source")["train"])


def spot(number: int) -> NDArray[np.bool_]:
    mask = np.zeros((8, 10), dtype=np.bool_)
    mask.flat[number] = True
    return mask


def test_an_id_too_large_for_masks_is_said(tmp_path: Path) -> None:
    categories = (CAT, CAT | {"id": 2**31 - 1, "name": "dog"})
    source = Made(categories, {"train": (Shot("a.png", picture((8, 10)), (SMALL,)),)})
    opened = read(write_coco(tmp_path / "source", source))
    with pytest.raises(DataError, match=r"the class id 2147483647 with 1 objects .* convert to coco"):
        convert(all_of(opened), "masks", tmp_path / "masks")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    folder.write(tmp_path / "source")
    damaged = tmp_path / "source" / "masks" / "val" / "street_000003.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(DataError, match=r"street_000003\.png"):
            convert(all_of(read(tmp_path / "source")), "coco", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "source"]
    assert not list((tmp_path / "empty").iterdir())


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    folder.write(tmp_path / "source")
    opened = read(tmp_path / "source")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ConfigError, match="is there already and not an empty folder"):
            convert(all_of(opened), "coco", place)
    with pytest.raises(ConfigError, match="lies in the data set that is read"):
        convert(all_of(opened), "coco", tmp_path / "source" / "coco")
    (tmp_path / "empty").mkdir()
    convert(all_of(opened), "coco", tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["annotations", "train", "val"]


def test_numbers_of_images(tmp_path: Path) -> None:
    """COCO's are kept, through masks too where names are numbers, as in COCO itself."""
    write_coco(tmp_path / "source", made(SMALL, splits=("train", "val"), name="000000000139.png"))
    first = convert(all_of(read(tmp_path / "source")), "coco-panoptic", tmp_path / "a")
    second = convert(all_of(read(tmp_path / "a")), "masks", tmp_path / "b")
    convert(all_of(read(tmp_path / "b")), "coco", tmp_path / "c")
    assert not first.lost
    assert second.lost == {IMAGES: 2, SEGMENTS: 2}  # 7 is not 139
    numbers = [
        json.loads((tmp_path / place).read_text())["images"][0]["id"]
        for place in ("a/annotations/panoptic_val.json", "c/annotations/instances_val.json")
    ]
    assert numbers == [7, 139]


def test_names_that_two_images_share(tmp_path: Path) -> None:
    shots = tuple(Shot(name, picture((8, 10), seed), (SMALL,)) for seed, name in enumerate(("a.png", "a.bmp")))
    source = read(write_coco(tmp_path / "source", Made((CAT,), {"train": shots})))
    report = convert(all_of(source), "masks", tmp_path / "masks")
    assert report.lost["images under another name, as another has their stem"] == 1
    names = sorted(path.name for path in (tmp_path / "masks" / "images" / "train").iterdir())
    assert names == ["a.png", "a_2.bmp"]


def test_images_inside_other_files(tmp_path: Path) -> None:
    """One of LabelMe's JSON files holds its image: written as it is, with its suffix."""
    labelme.write(tmp_path / "source")
    convert(all_of(read(tmp_path / "source")), "masks", tmp_path / "masks")
    inside = json.loads((tmp_path / "source" / "train" / "street_000002.json").read_text())["imageData"]
    images = tmp_path / "masks" / "images"
    assert (images / "train" / "street_000002.png").read_bytes() == base64.b64decode(inside)
    assert len([*images.rglob("*.png")]) == len(SCENES)


def test_splits_that_repeat_others(tmp_path: Path) -> None:
    voc.write(tmp_path / "source")
    found = find_format(tmp_path / "source")
    assert set(found.splits) == {"train", "val", "trainval"}
    assert set(views(found)) == {"train", "val"}
    assert set(views(found, ["trainval"])) == {"trainval"}


def test_classes_of_splits_are_joined(tmp_path: Path) -> None:
    write_coco(tmp_path / "source", made(SMALL, splits=("train", "val")))
    file = tmp_path / "source" / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    dog = {"id": 2, "name": "dog", "isthing": 1, "color": [7, 7, 7]}
    coco.save(file, content | {"categories": [dog, CAT]})
    convert(all_of(read(tmp_path / "source")), "masks", tmp_path / "masks")
    back = read(tmp_path / "masks")
    assert [each.id for each in back["val"].seen.categories] == [2, 4, 9]
    assert rows(back["val"]) == rows(read(tmp_path / "source")["val"])
    coco.save(file, content | {"categories": [dog, CAT | {"name": "lion"}]})
    with pytest.raises(
        DataError, match=r"class id 4 is 'lion' \(thing\) in split val and 'cat' \(thing\) in another"
    ):
        convert(all_of(read(tmp_path / "source")), "masks", tmp_path / "again")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train2017", "val2017"), ["train", "val"]),
        (("valid",), ["val"]),
        (("all",), ["train"]),
        (("fold 1", "fold 2"), None),
    ],
)
def test_splits_of_yolo(splits, expected, tmp_path):
    source = read(write_coco(tmp_path / "source", made(SMALL, splits=splits)))
    if expected is None:
        with pytest.raises(DataError, match=r"'fold 1': YOLO's data.yaml knows train, val and test only"):
            convert(all_of(source), "yolo", tmp_path / "yolo")
    else:
        report = convert(all_of(source), "yolo", tmp_path / "yolo")
        assert report.lost["splits under another name"] == len(splits)
        assert list(read(tmp_path / "yolo")) == expected


def test_the_table_of_images_comes_along(tmp_path: Path) -> None:
    folder.write(tmp_path / "source")
    table = "image_id,split,camera\nstreet_000001,train,left\nstreet_000003,val,right\n"
    (tmp_path / "source" / "images.csv").write_text(table)
    convert(all_of(read(tmp_path / "source")), "coco", tmp_path / "coco")
    assert (tmp_path / "coco" / "images.csv").read_text() == table


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco_panoptic.write(tmp_path / "source")
    asked = ["data", "convert", str(tmp_path / "source"), str(tmp_path / "masks"), "--to", "masks"]
    assert main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["format"] == "coco-panoptic"
    assert said["written"]["train2017"] == said["read"]["train2017"]
    assert main(asked) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*asked[:3], str(tmp_path / "yolo"), "--to", "yolo", "--splits", "val2017"]) == 0
    captured = capsys.readouterr()
    assert "not kept: 2 classes of stuff, which are things in this layout" in captured.err
    assert captured.out.endswith("yolo: 1 image\n")
    assert main([*asked[:3], str(tmp_path / "x"), "--to", "yolo", "--polygons"]) == 2
    assert main(["data", "convert", str(tmp_path / "nothing"), str(tmp_path / "x"), "--to", "coco"]) == 3


@pytest.mark.parametrize(
    ("table", "kept", "unclear"),
    [
        ("image_id,split,site\nf0,train,A\nf0,val,B\n", {("train", "f0"): "A", ("val", "f0"): "B"}, 0),
        ("image_id,site\nf0,A\nf0,B\nf1,C\n", {("", "f1"): "C"}, 2),
    ],
)
def test_rows_of_images_that_share_a_name(tmp_path: Path, table, kept, unclear) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "source" / kind / split).mkdir(parents=True)
        for name in ("f0", "f1") if split == "train" else ("f0",):
            Image.new("RGB", (8, 8), "red" if split == "val" else "blue").save(
                tmp_path / f"source/images/{split}/{name}.png"
            )
            Image.fromarray(np.ones((8, 8), np.uint16)).save(tmp_path / f"source/masks/{split}/{name}.png")
    (tmp_path / "source" / "images.csv").write_text(table)
    report = convert(all_of(read(tmp_path / "source")), "masks", tmp_path / "out")
    with (tmp_path / "out" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row.get("split", ""), row["image_id"]): row["site"] for row in rows} == kept
    assert report.lost.get("rows of images.csv whose image is not clear", 0) == unclear
