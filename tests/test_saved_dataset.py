"""What Hugging Face's `datasets` saved is read without it: label maps and objects, Arrow and Parquet."""

import contextlib
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eomt.data.archive import Archive
from eomt.data.readers.saved_dataset import FORMAT
from eomt.errors import DataError
from eomt.masks import encode_rle
from layouts.folder import NAMES
from scenes import THINGS, assert_read, of

pa = pytest.importorskip("pyarrow")
layout = pytest.importorskip("layouts.saved_dataset")

IMAGE = layout.picture(np.zeros((4, 5, 3), np.uint8))
MASK = np.array([[0, 1, 1, 0, 0]] * 4, np.uint8)
SQUARE = [1.0, 0.0, 3.0, 0.0, 3.0, 4.0, 1.0, 4.0]
NOTE = {"_type": "Image"}


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), "zip", root.parent, root.name))


@pytest.mark.parametrize(
    ("write", "names", "merged"),
    [
        (layout.write, NAMES, NAMES),
        (layout.write_objects, THINGS, ()),
        (layout.write_parquet, THINGS, ()),
    ],
)
def test_the_scenes(tmp_path, write, names, merged):
    write(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        assert FORMAT.splits(archive) == ("train", "val")
        for split in ("train", "val"):
            dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
            assert dataset.left_out == ()
            assert_read(dataset, split, names=names, merged=merged)


def test_what_the_library_itself_saves(tmp_path):
    """Against `datasets`, where it is installed: both forms of objects, and both kinds of files."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    label, number = datasets.ClassLabel(names=list(THINGS)), datasets.Value("float32")
    outlines = datasets.List(datasets.List(number))
    kinds = {
        "lists": {"category": datasets.List(label), "segmentation": datasets.List(outlines)},
        "records": [{"category": label, "segmentation": outlines}],
    }
    rows = layout.objects_table(of("train")).to_pylist()
    for name, kind in kinds.items():
        features = datasets.Features({"image": datasets.Image(), "objects": kind})
        objects = [{key: row["objects"][key] for key in ("category", "segmentation")} for row in rows]
        if name == "records":
            objects = [
                [dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=True)]
                for each in objects
            ]
        columns = {"image": [row["image"] for row in rows], "objects": objects}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / name / "saved")
        dataset.save_to_disk(tmp_path / name / "single")
        dataset.to_parquet(tmp_path / name / "hub" / "train.parquet")
        for place in ("saved", "single", "hub"):
            archive = Archive(tmp_path / name / place)
            assert FORMAT.splits(archive) == ("train",)
            assert_read(FORMAT.open(archive, "train"), "train", names=THINGS)


def one(root: Path, columns: dict[str, tuple[Any, Any, Any]], files: dict[str, Any] | None = None) -> Archive:
    """A data set of one row, whose image has 4 rows and 5 columns."""
    columns = {"image": (layout.PICTURE, IMAGE, NOTE)} | columns
    layout.save(layout.table({name: (kind, [value], note) for name, (kind, value, note) in columns.items()}), root)
    for name, content in (files or {}).items():
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return Archive(root)


def objects(outline: Any, kind: Any, **fields: Any) -> dict[str, tuple[Any, Any, Any]]:
    """A list of records, one of them."""
    record = pa.list_(pa.struct([("category", pa.int64()), ("segmentation", kind), ("iscrowd", pa.int64())]))
    value = [{"category": 1, "segmentation": outline, "iscrowd": 1} | fields]
    return {"objects": (record, value, {"feature": {"category": {"names": ["a", "b"], "_type": "ClassLabel"}}})}


RING = pa.list_(pa.float64())
COUNTS = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
RUNS = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.list_(pa.int64()))])


@pytest.mark.parametrize(
    ("outline", "kind"),
    [
        ([SQUARE], pa.list_(RING)),
        (SQUARE, RING),
        ({"size": [4, 5], "counts": encode_rle(MASK > 0)["counts"].decode()}, COUNTS),
        ({"size": [4, 5], "counts": [4, 8, 8]}, RUNS),
        (layout.picture(MASK * np.uint8(200)), layout.PICTURE),
    ],
)
def test_ways_to_draw_an_object(tmp_path, outline, kind):
    segments = FORMAT.open(one(tmp_path, objects(outline, kind)), "train")[0].segments
    np.testing.assert_array_equal(segments.masks.mask(0), MASK > 0)
    assert segments.labels.tolist() == [1]
    assert segments.is_crowd.tolist() == [True]


def test_boxes_are_counted(tmp_path):
    dataset = FORMAT.open(one(tmp_path, objects(None, RING)), "train")
    assert dataset.left_out == ("1 objects without segmentation",)
    assert len(dataset[0].segments) == 0


def label_map(mask: Any) -> dict[str, tuple[Any, Any, Any]]:
    return {"annotation": (layout.PICTURE, mask, NOTE)}


def shard(name: str) -> dict[str, Any]:
    """Name another file as the one that holds the rows."""
    return {"state.json": {"_split": "train", "_data_files": [{"filename": name}]}}


LISTED = {"classes": (pa.list_(pa.int64()), [0], {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}})}


@pytest.mark.parametrize(
    ("columns", "files", "names"),
    [
        ({}, {"id2label.json": {"1": "b", "0": "a"}}, ["a", "b"]),
        ({}, {"classes.txt": "a\nb"}, ["a", "b"]),
        (LISTED, {}, ["x", "y"]),
    ],
)
def test_classes_of_label_maps(tmp_path, columns, files, names):
    dataset = FORMAT.open(one(tmp_path, label_map(layout.picture(MASK)) | columns, files), "train")
    assert [category.name for category in dataset.categories] == names
    assert dataset[0].segments.labels.tolist() == [0, 1]
    assert dataset.image_ids == ("000000",)


@pytest.mark.parametrize(
    ("columns", "files", "words"),
    [
        ({}, {}, "no column of masks called label"),
        ({"label": (pa.int64(), 1, None)}, {}, "its columns are image, label"),
        ({"image": (pa.int64(), 1, None)}, {}, "no column of images called image"),
        (label_map(IMAGE), {}, "write id2label.json"),
        (label_map(IMAGE), {"id2label.json": "["}, r"id2label\.json: not a table"),
        (label_map(IMAGE), {"id2label.json": {"a": "b"}}, "not a table"),
        (label_map(IMAGE), {"id2label.json": {"0": "b", "1": "b"}}, "'b' stands twice"),
        (label_map(IMAGE), {"id2label.json": {"0": 1}}, "write numbers from 0 and names"),
        (label_map(IMAGE), {"state.json": "{}"}, "not as `datasets` writes it"),
        (label_map(IMAGE), {"state.json": {"_split": "train", "_data_files": []}}, "train has no files"),
        (label_map(IMAGE), shard("../" * 20 + "etc/passwd"), "does not lie inside"),
        (label_map(IMAGE), shard("a" * 5000), "no such file"),
        (label_map(IMAGE), {"data-00000-of-00001.arrow": "no Arrow"}, "cannot be read"),
        ({"objects": (*objects([0.0], RING)["objects"][:2], None)}, {}, r"classes of objects\.category"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_door(tmp_path, columns, files, words):
    with pytest.raises(DataError, match=words):
        FORMAT.open(one(tmp_path, columns, files), "train")


NAMED = {"id2label.json": {"0": "a", "1": "b"}}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (label_map({"bytes": None, "path": "/etc/x.png"}), "row 0: annotation holds only the path '/etc/x.png'"),
        (label_map(None), "row 0: annotation holds nothing"),
        (label_map(layout.picture(MASK * 7)), "value 7 belongs to no category"),
        (label_map(layout.picture(MASK[:3])), "mask is 5 x 3, its image upright 5 x 4"),
        (objects([SQUARE], pa.list_(RING), category=2), "row 0, object 0: category 2 is not among the classes"),
        (objects(SQUARE[:4], RING), "object 0: segmentation: polygon 1 of 1 has 4 numbers"),
        (objects([float("nan")] * 6, RING), "nan"),
        (objects({"size": [4, 5], "counts": [4, 8]}, RUNS), "12 pixels"),
        (label_map(layout.picture(MASK)) | {"image": (layout.PICTURE, {"bytes": b"?"}, NOTE)}, "give a PNG"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, columns, words):
    dataset = FORMAT.open(one(tmp_path, columns, NAMED), "train")
    with pytest.raises(DataError, match=words) as caught:
        dataset[0]
    assert "data-00000-of-00001.arrow" in str(caught.value)


def test_lists_of_different_lengths(tmp_path):
    kind = pa.struct([("category", pa.list_(pa.int64())), ("segmentation", pa.list_(RING))])
    archive = one(tmp_path, {"objects": (kind, {"category": [0, 1], "segmentation": [SQUARE]}, None)}, NAMED)
    with pytest.raises(DataError, match="differ in length: category 2, segmentation 1"):
        FORMAT.open(archive, "train")[0]


def test_every_byte_may_be_wrong(tmp_path):
    """Damage is told or harmless: it never ends the process, and no other error comes."""
    archive = one(tmp_path, objects([SQUARE], pa.list_(RING)), NAMED)
    file = next(tmp_path.glob("*.arrow"))
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        with contextlib.suppress(DataError):
            FORMAT.open(Archive(archive.path), "train")[0]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    layout.write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install eomt\[datasets\]"):
        FORMAT.open(Archive(tmp_path), "train")


@pytest.mark.parametrize("files", [{"x.png": ""}, {"data.arrow": ""}])
def test_what_is_another_layout(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert FORMAT.missing(Archive(tmp_path)) is not None
