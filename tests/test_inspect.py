"""What a data set holds is measured without decoding an image, once, and summed up as can be counted by hand."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eomt.data.inspect
import eomt.data.reader
from eomt.categories import Category
from eomt.cli import main
from eomt.data.figures import Measured, Size, figures, repeated, together
from eomt.data.inspect import Inspection, cache_folder, examples, inspect_data
from eomt.drawing import Tile, contact_sheet
from eomt.errors import ConfigError, DataError
from eomt.masks import IdMap, RleMasks
from eomt.tasks import TASKS
from eomt.types import Sample, Segments
from layouts import coco, coco_panoptic, folder, instance_folder, voc, yolo

CELL, GROUND = Category("cell", True, 1, (255, 0, 0)), Category("ground", False, 2, (0, 255, 0))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EOMT_CACHE", str(folder))
    return folder


def measured(
    sizes: list[tuple[int, int]], segments: list[tuple[int, int, int, bool]], categories=(CELL, GROUND), files=None
) -> Measured:
    """Write down what was measured: sizes of images; image, label, area and crowd of each segment."""
    owners, labels, areas, crowds = zip(*segments, strict=True) if segments else ((), (), (), ())
    covered = np.bincount(np.array(owners, np.int64), np.array(areas, np.float64), minlength=len(sizes))
    names = tuple(files or (f"images/{i}.png" for i in range(len(sizes))))
    return Measured(
        categories,
        (),
        (),
        tuple(Path(name).stem for name in names),
        names,
        names,
        np.arange(len(sizes)),
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        covered.astype(np.int64),
        np.array(owners, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(areas, dtype=np.int64),
        np.array(crowds, dtype=np.bool_),
    )


THREE = measured(
    [(10, 20), (40, 50), (100, 100)],
    [
        (0, 0, 16, False),  # 4 pixels: 28 % of 14.1
        (0, 0, 64, False),  # 8 pixels: the lower edge of a bin belongs to it
        (0, 1, 100, False),
        (1, 0, 900, True),  # a crowd
        (1, -1, 100, True),  # anything
        (2, 1, 5000, False),  # stuff only
    ],
)


def test_figures_by_hand() -> None:
    found = figures(THREE, "panoptic", queries=2, view=200)
    assert (found.images, found.instances, found.crowds, found.ignored) == (3, 2, 1, 1)
    assert found.negatives == 1  # the last: a crowd is no negative
    assert (found.per_image, found.most) == (2 / 3, 2)
    assert (found.segments_per_image, found.most_segments, found.above_queries) == (4 / 3, 3, 1)
    assert found.void_share == pytest.approx(1 - (180 + 1000 + 5000) / (200 + 2000 + 10000))
    assert (found.smallest, found.median, found.largest) == (Size(10, 20), Size(40, 50), Size(100, 100))
    assert found.by_pixels == (1, 1, 0, 0, 0, 0, 0, 0)
    assert found.by_share == (0, 0, 0, 0, 0, 1, 1, 0)
    assert found.by_coco == (2, 0, 0)
    cell, ground = found.classes
    assert (cell.images, cell.segments, cell.pixel_share) == (2, 2, pytest.approx(980 / 12200))
    assert (ground.images, ground.segments, ground.pixel_share) == (2, 2, pytest.approx(5100 / 12200))
    assert found.view is not None
    assert (found.view.fit, found.view.scale) == ("contain", 4.0)  # of 10, 4 and 2
    assert (found.view.tenth, found.view.median) == pytest.approx((44.0, 60.0))  # of 40 and 80


def test_queries_find_classes_where_objects_are_not_told_apart() -> None:
    found = figures(THREE, "semantic", queries=1)
    assert (found.segments_per_image, found.most_segments, found.above_queries) == (4 / 3, 2, 1)


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_the_view_is_fitted_as_the_task_does(task) -> None:
    view = figures(THREE, task).view
    assert view is not None
    assert view.fit == TASKS[task].fit


def test_without_images_or_segments() -> None:
    for empty, images in ((measured([], []), 0), (measured([(8, 8)], []), 1)):
        found = figures(together([empty, empty]), "instance")
        assert (found.images, found.negatives, found.instances, found.view) == (images, images, 0, None)
    assert figures(measured([(8, 8)], []), "instance").void_share == 1.0


def test_an_image_of_several_splits_counts_once() -> None:
    train = measured([(8, 8), (4, 4)], [(0, 0, 9, False), (1, 1, 16, False)], files=["a/x.png", "a/y.png"])
    val = measured([(8, 8), (2, 2)], [(0, 1, 9, False), (1, 0, 4, False)], (GROUND, CELL), ["a/x.png", "b/y.png"])
    both = together([train, val])
    assert both.files == ("a/x.png", "a/y.png", "b/y.png")
    lost = replace(val, unreadable=("a/z.png: damaged",))
    assert figures(together([lost, lost]), "instance").images == 3
    assert [category.name for category in both.categories] == ["cell", "ground"]
    assert both.owners.tolist() == [0, 1, 2]
    assert both.labels.tolist() == [0, 1, 1]  # by its name, not by its place
    twice = repeated([train, val])
    assert (twice.images, twice.names) == (1, 1)
    assert twice.examples == ("a/x.png", "a/y.png", "b/y.png")


SCENE_THINGS = {"person": (2, 3, 252), "car": (2, 2, 352)}
"""Images, objects and pixels of each thing in the scenes."""


@pytest.mark.parametrize(
    ("write", "name", "task"),
    [
        (coco.write, "coco-instance", "instance"),
        (coco_panoptic.write, "coco-panoptic", "panoptic"),
        (folder.write, "folder", "panoptic"),
        (instance_folder.write, "instance-folder", "instance"),
        (voc.write, "voc", "panoptic"),
        (yolo.write, "yolo", "instance"),
    ],
)
def test_scenes_in_any_layout_without_decoding_an_image(write, name, task, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(eomt.data.reader, "read_image", None)
    found = inspect_data(tmp_path, workers=0)
    assert (found.format, found.is_told, found.task) == (name, False, task)
    total = figures(together(list(found.splits.values())), found.task)
    assert (total.images, total.instances, total.median) == (3, 5, Size(24, 32, 3))
    by_name = {each.name: each for each in total.classes}
    for thing, (images, objects, pixels) in SCENE_THINGS.items():
        assert by_name[thing][3:5] == (images, objects)
        assert by_name[thing].pixel_share == pytest.approx(pixels / (3 * 24 * 32))


def test_the_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("images/train", "masks/train"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "images/train/a.jpg", exif=exif)
    Image.fromarray(np.ones((40, 20), np.uint16)).save(tmp_path / "masks/train/a.png")
    found = inspect_data(tmp_path, workers=0)
    assert found.splits["train"].sizes.tolist() == [[40, 20]]
    assert found.splits["train"].covered.tolist() == [800]


def test_overlapping_objects_cover_their_union(tmp_path: Path) -> None:
    coco.write(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"] *= 2
    for id, annotation in enumerate(content["annotations"]):
        content["annotations"][id] = annotation | {"id": id}
    file.write_text(json.dumps(content))
    split = inspect_data(tmp_path, split="val", workers=0).splits["val2017"]
    assert split.areas.tolist() == [162, 162]
    assert split.covered.tolist() == [162]


def test_any_number_of_processes_measures_the_same(shapes: Path) -> None:
    shown: list[tuple[int, int]] = []
    one = inspect_data(shapes, workers=0, use_cache=False, progress=lambda *done: shown.append(done))
    two = inspect_data(shapes, workers=2, use_cache=False)
    assert_same(one, two)
    assert shown == [(16, 30), (24, 30), (30, 30)]


def test_measured_once(tmp_path: Path, cache: Path) -> None:
    folder.write(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    first, second = inspect_data(tmp_path / "data"), inspect_data(tmp_path / "data")
    assert (first.is_cached, second.is_cached) == (False, True)
    assert_same(first, second)
    assert replace(first, splits={}, is_cached=True).__dict__ == replace(second, splits={}).__dict__
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written beside the data
    assert len(list((cache / "inspect").iterdir())) == 1


def assert_same(one: Inspection, two: Inspection) -> None:
    assert one.splits.keys() == two.splits.keys()
    for name, split in one.splits.items():
        for column, values in vars(split).items():
            other = getattr(two.splits[name], column)
            assert type(values) is type(other), column
            assert np.array_equal(values, other) if isinstance(values, np.ndarray) else values == other, column


def touch(root: Path, note: Path) -> None:
    file = root / "masks" / "val" / "street_000003.png"
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(file)


def remove(root: Path, note: Path) -> None:
    for name in ("images", "masks"):
        (root / name / "train" / "street_000002.png").unlink()


def cut(root: Path, note: Path) -> None:
    note.write_bytes(note.read_bytes()[:-20])


def change(root: Path, note: Path) -> None:
    note.write_bytes(note.read_bytes().replace(b"street_000001", b"street_999999"))


def overwrite(root: Path, note: Path) -> None:
    note.write_bytes(b"\xff\x00" * 100)


@pytest.mark.parametrize("happens", [touch, remove, cut, change, overwrite])
def test_a_stale_or_damaged_memory_is_replaced(happens, tmp_path, cache):
    folder.write(tmp_path)
    inspect_data(tmp_path)
    happens(tmp_path, next((cache / "inspect").iterdir()))
    assert not (again := inspect_data(tmp_path)).is_cached
    assert inspect_data(tmp_path).is_cached
    assert len(list((cache / "inspect").iterdir())) == 1
    assert "street_999999" not in str([split.image_ids for split in again.splits.values()])


def test_an_archive_is_measured_and_remembered_too(tmp_path: Path) -> None:
    folder.write(tmp_path / "data")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "data"))
    first = inspect_data(packed)
    assert_same(first, inspect_data(tmp_path / "data"))
    assert inspect_data(packed).is_cached
    (tmp_path / "data/images/val/street_000003.png").rename(tmp_path / "data/images/train/street_000003.png")
    (tmp_path / "data/masks/val/street_000003.png").rename(tmp_path / "data/masks/train/street_000003.png")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "data")
    assert len(inspect_data(packed).splits["train"]) == 3


def test_what_is_asked_is_remembered_apart(tmp_path: Path) -> None:
    folder.write(tmp_path / "data")
    table = tmp_path / "map.yaml"
    for words, names in (("drop: [sky]", ["road", "person", "car"]), ("drop: [road]", ["sky", "person", "car"])):
        table.write_text(words)
        found = inspect_data(tmp_path / "data", class_map=table)
        assert not found.is_cached
        assert [category.name for category in found.splits["train"].categories] == names
        assert "1 class dropped" in found.splits["train"].left_out[0]
    assert not inspect_data(tmp_path / "data").is_cached
    assert not inspect_data(tmp_path / "data", split="val").is_cached
    assert inspect_data(tmp_path / "data", split="val").splits.keys() == {"val"}


def test_without_a_place_to_remember(tmp_path: Path, cache: Path, monkeypatch) -> None:
    folder.write(tmp_path / "data")
    inspect_data(tmp_path / "data", use_cache=False)
    assert not list(cache.iterdir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EOMT_CACHE", str(tmp_path / "file"))
    assert not inspect_data(tmp_path / "data").is_cached


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"EOMT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"EOMT_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/eomt"),
        ({"EOMT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/eomt"),
    ],
)
def test_the_cache_s_folder(variables, place, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(place)


def test_what_cannot_be_read_is_counted_and_not_remembered(tmp_path: Path) -> None:
    folder.write(tmp_path)
    (tmp_path / "images/train/street_000002.png").write_bytes(b"no picture")
    for _ in range(2):
        found = inspect_data(tmp_path)
        assert not found.is_cached
    part = figures(found.splits["train"], "panoptic")
    assert part.images == 2
    assert [text.partition(": ")[0] for text in part.unreadable] == [f"{tmp_path}/images/train/street_000002.png"]
    assert found.splits["train"].places.tolist() == [0]


def test_a_split_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    folder.write(tmp_path)
    for name in ("images/test/a.png", "images/test/b.png", "masks/test/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = inspect_data(tmp_path)
    assert found.splits.keys() == {"train", "val"}
    assert "1 of 2 images of test have no mask" in found.closed["test"]
    with pytest.raises(DataError, match="have no mask"):
        inspect_data(tmp_path, split="test")
    with pytest.raises(DataError, match="no split 'tset'; did you mean test"):
        inspect_data(tmp_path, split="tset")


def test_examples_are_spread_over_the_classes_and_always_the_same(tmp_path: Path) -> None:
    voc.write(tmp_path)
    found = inspect_data(tmp_path)
    two = [(split, sample.image_id) for split, sample, _ in examples(found, 2)]
    assert [(split, sample.image_id) for split, sample, _ in examples(inspect_data(tmp_path), 2)] == two
    everything = [sample for _, sample, _ in examples(found, 9)]
    assert sorted(sample.image_id for sample in everything) == ["street_000001", "street_000002", "street_000003"]
    labels = {int(label) for sample in everything[:2] for label in sample.segments.labels}
    assert labels == {
        label for label, each in enumerate(figures(found.splits["trainval"], "panoptic").classes) if each.images
    }


def test_an_example_that_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    folder.write(tmp_path)
    file = tmp_path / "images/val/street_000003.png"
    file.write_bytes(file.read_bytes()[:45])  # the header is whole
    found = inspect_data(tmp_path)
    assert found.splits["val"].sizes.tolist() == [[24, 32]]
    broken = [sample for _, sample, _ in examples(found, 3) if isinstance(sample, DataError)]
    assert len(broken) == 1
    assert "street_000003.png" in str(broken[0])


def sample(masks, labels: list[int], size: tuple[int, int]) -> Sample:
    image = torch.full((3, *size), 100, dtype=torch.uint8)
    crowds = torch.tensor([label < 0 for label in labels], dtype=torch.bool)
    return Sample(image, Segments(masks, torch.tensor(labels, dtype=torch.int64), crowds), "x")


def test_a_sheet_shows_image_segments_and_classes() -> None:
    ids = np.zeros((40, 80), dtype=np.int32)
    ids[10:30, 20:60] = 1
    tile = Tile("a", sample(IdMap(ids, 1), [0], (40, 80)), (CELL, GROUND))
    sheet = contact_sheet([tile], side=160)
    picture = sheet[10:90, 10:170]  # twice as large
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[20, 40:120].tolist() == [[255, 0, 0]] * 80  # the outline
    assert picture[40, 80].tolist() == [178, 50, 50]  # half red
    below = sheet[90:].reshape(-1, 3)
    assert (below == [255, 0, 0]).all(1).sum() > 50  # the class's colour
    assert not (below == [0, 255, 0]).all(1).any()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_a_sheet_has_rows(count) -> None:
    nothing = Tile("none\n", sample(IdMap(np.zeros((8, 8), np.int32), 0), [], (8, 8)), (CELL,))
    whole = np.ones((4, 8), dtype=np.bool_)
    overlapping = Tile(
        "y" * 99, sample(RleMasks.encode([whole, whole, whole], (4, 8)), [0, 0, -1], (4, 8)), (CELL,)
    )
    tiles = [nothing, overlapping, Tile("z", "cannot be read", (CELL,))] * 3
    sheet = contact_sheet(tiles[:count], side=64, columns=4)
    assert sheet.shape[1] == max(1, min(count, 4)) * 74 + 10
    assert sheet.dtype == np.uint8


def test_many_classes_are_counted_where_there_is_no_room() -> None:
    ids = np.arange(1, 61, dtype=np.int32).repeat(4)[None].repeat(4, 0)
    classes = tuple(Category(f"class {i}", False, i, (i, 0, 0)) for i in range(60))
    sheet = contact_sheet([Tile("many", sample(IdMap(ids, 60), list(range(60)), (4, 240)), classes)], side=240)
    assert sheet.shape[1] == 260
    assert (sheet[:, 250:] == 255).all()  # nothing beyond the tile


def test_the_command(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("eomt.cli.console.QUIET_SECONDS", 0.0)
    coco_panoptic.write(tmp_path / "data")
    assert (
        main(["data", "inspect", str(tmp_path / "data"), "--queries", "4", "--sheet", str(tmp_path / "s.png")])
        == 0
    )
    out, err = capsys.readouterr()
    assert "coco-panoptic, recognised: " in out
    assert "train2017: train2017/street_000001.jpg, its segments in " in out
    assert "task        panoptic" in out
    assert "1 of 3 images: more segments than 4 queries can find; at most 5" in out
    assert "the median object is" in out
    assert "inspect: 3 of 3" in err
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width == 3 * 330 + 10


def test_the_command_as_json(tmp_path: Path, capsys) -> None:
    coco.write(tmp_path / "data")
    for cached in (False, True):
        assert main(["data", "inspect", str(tmp_path / "data"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["cached"] is cached
        assert (found["format"], found["task"], found["train_split"], found["val_split"]) == (
            "coco-instance",
            "instance",
            "train2017",
            "val2017",
        )
        assert found["splits"].keys() == {"train2017", "val2017"}
        assert found["all"]["classes"][0]["segments"] == 3
        assert found["all"]["median"] == {"height": 24, "width": 32, "images": 3}
        assert found["all"]["view"]["side"] == 640
        assert found["repeated"] == {"images": 0, "names": 0, "examples": []}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 3, "no such folder"),
        (["data", "--queries", "0"], 2, "--queries 0: expected 1 or more"),
        (["data", "--workers", "-1"], 2, "use 0"),
        (["data", "--sheet", "s.jpg"], 2, "ends with .png"),
        (["data", "--sheet", "there.png"], 2, "is there already"),
        (["data", "--sheet", "no/s.png"], 2, "no folder no"),
        (["data", "--sheet", "data/s.png"], 2, "in the data set"),
        (["data", "--format", "yolo"], 3, "cannot be read as yolo"),
        (["data", "--split", "test"], 3, "no split 'test'"),
        (["data", "--class-map", "no.yaml"], 3, "cannot be read"),
    ],
)
def test_mistakes(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder.write(Path("data"))
    Path("there.png").write_text("mine")
    assert main(["data", "inspect", *arguments]) == code
    assert words in capsys.readouterr().err
    assert Path("there.png").read_text() == "mine"


def test_faults_are_told(tmp_path: Path, capsys) -> None:
    folder.write(tmp_path)
    (tmp_path / "images/train/street_000002.png").write_bytes(b"no picture")
    for name in ("images/test/a.png", "images/test/b.png", "masks/test/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert main(["data", "inspect", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert (
        out.index("not opened  test: ") < out.index("the figures are of train, val only") < out.index("Splits (")
    )
    assert "unreadable  train: 1 of 2 images; the first: " in out
    assert "eomt data validate" in err


def test_what_is_remembered_is_told_without_torch(tmp_path: Path) -> None:
    folder.write(tmp_path)
    inspect_data(tmp_path)
    script = (
        "import sys; from eomt.cli import main; main(['data', 'inspect', sys.argv[1], '--json']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cached"] is True


def test_a_process_that_dies_is_no_mystery(shapes: Path, monkeypatch) -> None:
    def die(segments: object) -> None:
        import os

        os._exit(1)

    monkeypatch.setattr(eomt.data.inspect, "_row", die)
    with pytest.raises(eomt.errors.ResourceError, match="--workers"):
        inspect_data(shapes, workers=1, use_cache=False)


def test_errors_are_ours() -> None:
    with pytest.raises(ConfigError, match="no data format"):
        inspect_data(Path(__file__).parent, format="nothing", workers=0)
