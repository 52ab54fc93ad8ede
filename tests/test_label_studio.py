"""Label Studio's JSON is read to the pixel; its brush code is checked bit by bit before it is believed."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.label_studio import FORMAT
from eomt.errors import DataError
from layouts import label_studio
from layouts.label_studio import annotation, brush_region, packed, png, polygon_region, region, task
from scenes import SIZE, assert_read

BLANK = png(np.zeros((*SIZE, 3), np.uint8))
BOX = (3, 2, 8, 6)


def save(root: Path, files: dict[str, Any]) -> Archive:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        path.write_bytes(content)
    return Archive(root)


def one(root: Path, result: Any, image: bytes = BLANK) -> Split:
    """An export of one task with these regions."""
    tasks = [task(5, "/data/upload/1/1a2b3c4d-a.png", [annotation(result)])]
    return FORMAT.open(save(root, {"project.json": tasks, "a.png": image}), "train")


def box(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("zipped", [False, True])
def test_scenes(tmp_path: Path, zipped: bool) -> None:
    root = tmp_path / "export"
    label_studio.write(root)
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", root))
    archive = Archive(root)
    assert FORMAT.missing(archive) is None
    assert FORMAT.splits(archive) == ("train", "val")
    for split in ("train", "val"):
        dataset = pickle.loads(pickle.dumps(FORMAT.open(archive, split)))
        names = [(category.name, category.id, category.is_thing) for category in dataset.categories]
        assert names == [("car", 1, True), ("person", 2, True), ("road", 3, True), ("sky", 4, True)]
        assert dataset.left_out == ()
        assert_read(dataset, split)


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/1/1a2b3c4d-a.png", "images/a.png"),
        ("/data/upload/1/1a2b3c4d-a.png", "images/1a2b3c4d-a.png"),
        ("upload/1/1a2b3c4d-a%20b.png", "a b.png"),
        ("/data/local-files/?d=photos/day%201/a.png", "photos/day 1/a.png"),
        ("s3://bucket/photos/a.png", "a.png"),
        ("https://example.com/photos/a.png?token=1", "a.png"),
        ("http://[broken/a.png", "a.png"),
        ("C:\\photos\\a.png", "photos/a.png"),
        ("../../../a.png", "a.png"),
    ],
)
def test_addresses(tmp_path: Path, address: str, file: str) -> None:
    archive = save(tmp_path, {"x.json": [task(1, address, [annotation([])])], file: BLANK})
    assert FORMAT.open(archive, "train").items[0].image == file


def test_longest_fitting_path(tmp_path: Path) -> None:
    tasks = [
        task(n, f"/data/local-files/?d=root/{folder}/a.png", [annotation([])]) for n, folder in enumerate("xy")
    ]
    archive = save(tmp_path, {"p.json": tasks, "root/x/a.png": BLANK, "root/y/a.png": BLANK})
    dataset = FORMAT.open(archive, "train")
    assert [item.image for item in dataset.items] == ["root/x/a.png", "root/y/a.png"]
    assert dataset.image_ids == ("root/x/a", "root/y/a")


def test_splits(tmp_path: Path) -> None:
    """By folder, by the file's name, else `train`."""
    names = ("project-1-at-2024.json", "val.json", "extra/tasks.json", "annotations/more.json")
    tasks = [task(1, "a.png", [annotation([])])]
    archive = save(tmp_path, dict.fromkeys(names, tasks) | {"categories.json": [], "a.png": BLANK})
    assert FORMAT.splits(archive) == ("extra", "train", "val")


def test_other_field_for_the_image(tmp_path: Path) -> None:
    tasks = [task(1, "", [annotation([])], data={"photo": "/data/upload/1/a.png", "text": "A cow."})]
    assert len(FORMAT.open(save(tmp_path, {"p.json": tasks, "a.png": BLANK}), "train")) == 1


def test_choice_of_annotations(tmp_path: Path) -> None:
    """Ground truth, else the one changed last; cancelled ones and tasks without any are counted, not read."""

    def marked(label: str, day: int, **fields: Any) -> dict[str, Any]:
        return annotation([polygon_region(label, BOX)], updated_at=f"2024-07-{day:02}T10:00:00Z", **fields)

    tasks = [
        task(1, "a.png", [marked("early", 1), marked("late", 2, was_cancelled=True), marked("middle", 1)]),
        task(2, "b.png", [marked("truth", 1, ground_truth=True), marked("late", 3)]),
        task(3, "c.png", []),
        task(4, "d.png", [marked("no", 1, was_cancelled=True)]),
        task(5, "e.png", [annotation([])]),
        task(6, "f.png", [marked("late", 9), marked("early", 2)]),
    ]
    archive = save(tmp_path, {"p.json": tasks} | {f"{letter}.png": BLANK for letter in "abcdef"})
    dataset = FORMAT.open(archive, "train")
    assert dataset.image_ids == ("a", "b", "e", "f")
    read = [
        [dataset.categories[i].name for i in sample.segments.labels.tolist()]
        for sample in map(dataset.__getitem__, range(4))
    ]
    assert read == [["middle"], ["truth"], [], ["late"]]
    assert dataset.left_out == (
        "2 cancelled (skipped) annotations",
        "3 further annotations of tasks that have several",
        "2 tasks without an annotation",
    )


def test_regions(tmp_path: Path) -> None:
    unlabelled = region("brush", "", id="b1") | {"value": {"rle": label_studio.brush(box(*BOX)), "format": "rle"}}
    result = [
        brush_region("cow", box(*BOX)),
        polygon_region("cow", BOX),
        unlabelled,
        region("labels", "dog", id="b1"),  # the label of the brush mask before
        region("rectanglelabels", "cow", x=1, y=2, width=3, height=4, rotation=0),
        {"id": "c", "type": "choices", "value": {"choices": ["day"]}, "to_name": "image", "from_name": "when"},
        polygon_region("", BOX, id="p1", value={"points": [], "polygonlabels": []}),
        region("polygonlabels", "cow", points=[[0, 0], [9, 9], [9, 0]], closed=False),
    ]
    dataset = one(tmp_path, result)
    segments = dataset[0].segments
    assert [dataset.categories[label].name for label in segments.labels.tolist()] == ["cow", "cow", "dog"]
    for index in range(3):
        np.testing.assert_array_equal(segments.masks.mask(index), box(*BOX))
    assert dataset.left_out == (
        "1 polygons that were not closed",
        "1 regions that are neither polygons nor brush masks (rectanglelabels)",
        "1 regions without a label",
    )


def test_brush_of_large_and_noisy_masks(tmp_path: Path) -> None:
    """Runs of all four sizes, and longer than the largest."""
    mask = np.zeros((150, 200), np.bool_)
    mask[140:, 3:77] = True
    mask[:4] = np.random.default_rng(0).random((4, 200)) < 0.5
    picture = png(np.zeros((*mask.shape, 3), np.uint8))
    dataset = one(tmp_path, [brush_region("cow", mask, original_width=200, original_height=150)], picture)
    np.testing.assert_array_equal(dataset[0].segments.masks.mask(0), mask)


def header(total: int, value_bits: int = 8) -> str:
    return f"{total:032b}{value_bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))


TOTAL = 4 * SIZE[0] * SIZE[1]


def test_brush_with_different_values_in_a_block(tmp_path: Path) -> None:
    """Blocks of values that do not begin at a pixel; only alpha counts, however strong; odd widths of values."""
    first = [(9, 9, 9, 0), (0, 0, 0, 1), (7, 0, 7, 127)]
    values = [value for pixel in first for value in pixel]
    for value_bits in (7, 8, 32):
        bits = header(TOTAL, value_bits)
        for start, end in ((0, 6), (6, 7), (7, 12)):
            block = "".join(f"{value:0{value_bits}b}" for value in values[start:end])
            bits += f"000{end - start - 1:03b}{block}"
        bits += f"111{TOTAL - 12 - 1:016b}{0:0{value_bits}b}"
        code = region("brushlabels", "cow", rle=packed(bits), format="rle")
        masks = one(tmp_path / str(value_bits), [code])[0].segments.masks
        np.testing.assert_array_equal(masks.mask(0), box(0, 1, 1, 3))


def test_published_code(tmp_path: Path) -> None:
    """The blocks of the example in Label Studio's own tests: 1 1 1 1 2 3 5 6 7 8 4 4 4 4 4 4 4 4; then zeros."""
    published = bytes([0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32])
    bits = "".join(f"{byte:08b}" for byte in published)
    assert bits[:53] == header(18)
    code = packed(header(TOTAL) + bits[53 : 53 + 8 * 14] + f"111{TOTAL - 18 - 1:016b}{0:08b}")
    masks = one(tmp_path, [region("brushlabels", "cow", rle=code, format="rle")])[0].segments.masks
    np.testing.assert_array_equal(masks.mask(0), box(0, 0, 1, 4))


RUN = f"111{TOTAL - 1:016b}"


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ([], "cut short"),
        (packed(header(TOTAL)), "cut short"),
        (packed(header(TOTAL) + RUN), "cut short"),
        (packed(header(TOTAL) + f"011{TOTAL - 1:016b}" + "1" * 80), "cut short"),
        (packed(header(TOTAL) + f"111{TOTAL:016b}{255:08b}"), "holds more values than the 3072"),
        (packed(header(TOTAL + 4) + RUN), r"holds 3076 values, but an image of 32 x 24 has 3072 \(four a pixel\)"),
        (packed(header(2**32 - 1)), "holds 4294967295 values"),
        ([0, 256], "what is no byte"),
        ([0, -1], "what is no byte"),
        ([0, True], "what is no byte"),
        ([0, "1"], "what is no byte"),
        ("abc", '"rle" \'abc\'; expected "rle" and bytes'),
        (None, '"rle" None'),
    ],
)
def test_malformed_brushes_are_named(tmp_path: Path, rle: Any, message: str) -> None:
    dataset = one(tmp_path, [region("brushlabels", "cow", rle=rle, format="rle")])
    with pytest.raises(DataError, match=r"project.json: image a: brush region aB3_x \(cow\): .*" + message):
        dataset[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": None}, '"points" is None'),
        ({"points": [[1, 2], [3], [4, 5]]}, r"expected a list of \[x, y\], in percent"),
        ({"points": [[1, 2], [3, "4"], [4, 5]]}, "\"points\" is '4'"),
        ({"points": [[1, 2], [3, 1e400], [4, 5]]}, "not valid JSON|is inf"),
        ({"points": [[1, 2], [3, 4]]}, "4 numbers; expected x and y of three points"),
        ({"points": [[1, 2], [90000, 4], [3, 3]]}, "coordinate 28800"),
    ],
)
def test_malformed_polygons_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        one(tmp_path, [region("polygonlabels", "cow", closed=True, **change)])[0]
    assert "project.json" in str(caught.value)


COW = polygon_region("cow", BOX)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([3], "p.json: task at place 0 is 3"),
        ([task(1, "a.png", []), task(1, "b.png", [])], '"id" is 1; each task needs its own'),
        ([task(1, "a.png", None)], "task 1: \"annotations\" is None"),  # type: ignore[arg-type]
        ([task(1, "a.png", [{"result": 3}])], 'task 1: an annotation without a list "result"'),
        ([task(1, "a.png", [annotation([3])])], 'task 1: a result 3 without a "type"'),  # type: ignore[list-item]
        ([task(1, "a.png", [annotation([COW | {"value": 3}])])], r'region aB3_x \(polygonlabels\): "value" is 3'),
        ([task(1, "a.png", [annotation([COW | {"value": {"polygonlabels": [3]}}])])], r"its labels are \[3\]"),
        ([task(1, "a.png", [annotation([COW | {"value": {"polygonlabels": ["a", "b"]}}])])], "the labels a, b"),
        ([task(1, "a.png", [annotation([COW | {"image_rotation": 90}])])], 'task 1: .*"image_rotation" is 90'),
        ([task(1, "b.png", [annotation([])])], "task 1: its image 'b.png' is not there"),
        ([task(1, "/../../etc/passwd", [annotation([])])], "task 1: its image 'passwd' is not there"),
        ([task(1, "c.png", [annotation([])])], "task 1: the image 'c.png' may be x/c.png or y/c.png"),
        ([task(1, "", [annotation([])], data=3)], 'task 1: "data" names 0 images'),
        ([task(1, "", [annotation([])], data={"a": "a.png", "b": "b.png"})], 'task 1: "data" names 2 images'),
        ([task(n, "a.png", [annotation([])]) for n in (1, 2)], "task 2: its image a.png is that of .*task 1 too"),
        ([task(1, "a.png", [])], "no annotated task in train"),
        ('[{"data": NaN, "annotations": []}]', "not valid JSON .NaN"),
    ],
)  # fmt: skip
def test_malformed_tasks_are_named(tmp_path: Path, tasks: Any, message: str) -> None:
    files = {"p.json": tasks, "a.png": BLANK, "x/c.png": BLANK, "y/c.png": BLANK}
    if tasks == [3]:
        files["p.json"] = '[3, {"data": {}, "annotations": []}]'
    with pytest.raises(DataError, match=message):
        FORMAT.open(save(tmp_path, files), "train")


def test_sizes_must_agree(tmp_path: Path) -> None:
    dataset = one(tmp_path, [COW | {"original_width": 24, "original_height": 32}])
    with pytest.raises(DataError, match=r"image a: .*original_width. and .original_height. are 24 and 32"):
        dataset[0]


def test_unknown_split(tmp_path: Path) -> None:
    label_studio.write(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        FORMAT.open(Archive(tmp_path), "test")


def test_json_min_is_refused_with_advice(tmp_path: Path) -> None:
    entry = {"image": "/data/upload/1/a.png", "id": 1, "annotator": 1, "annotation_id": 2, "lead_time": 3.0}
    label = [{"points": [[1, 2], [3, 4], [5, 5]], "polygonlabels": ["cow"], "original_width": 32}]
    missing = FORMAT.missing(save(tmp_path, {"p.json": [entry | {"label": label}]}))
    assert missing is not None
    assert 'JSON-MIN: export as "JSON"' in missing


@pytest.mark.parametrize(
    "files",
    [
        {"a.png": BLANK},
        {"result.json": {"images": [], "annotations": [], "categories": []}},
        {"annotations/instances_train.json": {"images": [], "annotations": [], "categories": []}},
        {"a.json": {"version": "5.5.0", "shapes": [], "imagePath": "a.png", "imageData": None}},
        {"detections.json": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]},
        {"categories.json": [{"name": "a", "is_thing": True}]},
        {"a.json": b"[\xff"},
    ],
)
def test_decoys(tmp_path: Path, files: dict[str, Any]) -> None:
    assert FORMAT.missing(save(tmp_path, files)) is not None


@pytest.mark.parametrize("image", ["val/0.png", "pictures/0.png"])
def test_no_image_of_another_split_stands_in_for_one_that_is_lost(tmp_path: Path, image: str) -> None:
    tasks = [task(1, "/data/upload/1/1a2b3c4d-0.png", [annotation([])])]
    archive = save(tmp_path, {"train.json": tasks, "val.json": tasks, image: BLANK})
    with pytest.raises(DataError, match=r"train.json: task 1: its image '1a2b3c4d-0.png' is not there"):
        FORMAT.open(archive, "train")
