"""Files of results: read back by what others read them with."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from eomt.categories import Category
from eomt.inference.results import ResultFolder, id_image, image_numbers, label_image, result_names
from eomt.masks import IdMap, RleMasks
from eomt.types import Prediction

CATEGORIES = (Category("cell", True, 7, (255, 0, 0)), Category("glass", False, 9, (0, 0, 255)))
IDS = np.array([[1, 1, 0, 3], [1, 2, 2, 3]], dtype=np.int32)
PANOPTIC = Prediction(IdMap(IDS, 3), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7]), CATEGORIES)
NOTHING = Prediction(IdMap(np.zeros((2, 4), np.int32), 0), np.zeros(0, np.int64), np.zeros(0), CATEGORIES)
INSTANCES = Prediction(  # the two overlap
    RleMasks.encode([IDS == 1, IDS > 0], (2, 4)), np.array([0, 0]), np.array([0.9, 0.2]), CATEGORIES
)
OVERLAY = np.zeros((2, 4, 3), np.uint8)


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_panoptic_writes_all(tmp_path):
    with ResultFolder(tmp_path / "out", "panoptic", CATEGORIES) as results:
        files = results.add("a", 1, "a.jpg", PANOPTIC, OVERLAY)
        results.add("b", 2, "b.jpg", NOTHING, OVERLAY)
    assert all(path.exists() for path in files.values())
    assert read(files["labels"]).tolist() == [[0, 0, 255, 0], [0, 1, 1, 0]]
    red, green, blue = np.moveaxis(read(files["panoptic"]).astype(int), -1, 0)
    assert (red + 256 * green + 65536 * blue).tolist() == IDS.tolist()

    panoptic = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert panoptic["images"][0] == {"id": 1, "file_name": "a.jpg", "height": 2, "width": 4}
    assert panoptic["categories"][1] | {"id": 9, "name": "glass", "isthing": 0} == panoptic["categories"][1]
    first, second = panoptic["annotations"]
    assert (first["image_id"], first["file_name"], second["segments_info"]) == (1, "a.png", [])
    assert [(s["id"], s["category_id"], s["area"], s["bbox"]) for s in first["segments_info"]] == [
        (1, 7, 3, [0, 0, 2, 2]),
        (2, 9, 2, [1, 1, 2, 1]),
        (3, 7, 2, [3, 0, 1, 2]),
    ]

    instances = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [(entry["image_id"], entry["file_name"], entry["category_id"]) for entry in instances] == [
        (1, "a.jpg", 7),
        (1, "a.jpg", 7),  # things only
    ]
    assert coco_mask.decode(instances[1]["segmentation"]).tolist() == (IDS == 3).astype(int).tolist()
    assert json.loads((tmp_path / "out" / "categories.json").read_text()) == [
        {"name": "cell", "is_thing": True, "id": 7, "color": [255, 0, 0]},
        {"name": "glass", "is_thing": False, "id": 9, "color": [0, 0, 255]},
    ]


@pytest.mark.parametrize(
    ("task", "prediction", "written"),
    [
        ("semantic", PANOPTIC, ["a.labels.png", "a.overlay.png", "categories.json"]),
        (
            "instance",
            INSTANCES,
            ["a.labels.png", "a.overlay.png", "categories.json", "instances.json", "panoptic", "panoptic.json"],
        ),
    ],
)
def test_other_tasks_write_what_they_have(tmp_path, task, prediction, written):
    with ResultFolder(tmp_path, task, CATEGORIES) as results:
        results.add("a", 1, "a.jpg", prediction, OVERLAY)
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_overlapping_instances_keep_all_their_pixels(tmp_path):
    with ResultFolder(tmp_path, "instance", CATEGORIES) as results:
        results.add("a", 1, "a.jpg", INSTANCES, OVERLAY)
    instances = json.loads((tmp_path / "instances.json").read_text())
    assert [entry["score"] for entry in instances] == [0.9, 0.2]
    assert coco_mask.area([entry["segmentation"] for entry in instances]).tolist() == [3, 7]
    [annotation] = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert [(info["id"], info["area"]) for info in annotation["segments_info"]] == [(1, 3), (2, 4)]  # what is seen
    assert read(tmp_path / "panoptic" / "a.png")[..., 0].tolist() == [[1, 1, 0, 2], [1, 2, 2, 2]]
    assert read(tmp_path / "a.labels.png").tolist() == [[0, 0, 255, 0], [0, 0, 0, 0]]


def test_an_interrupted_run_leaves_whole_files(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), ResultFolder(tmp_path, "panoptic", CATEGORIES) as results:
        results.add("a", 1, "a.jpg", PANOPTIC, OVERLAY)
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "panoptic.json").read_text())["annotations"]) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with ResultFolder(tmp_path, "semantic", CATEGORIES) as results:
        overlay = results.add("a", 1, "a.jpg", PANOPTIC, OVERLAY)["overlay"]
        before = overlay.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", fail)
            with pytest.raises(OSError, match="No space"):
                results.add("a", 1, "a.jpg", PANOPTIC, OVERLAY + 1)
    assert overlay.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_many_categories_need_16_bits():
    categories = tuple(Category(str(label), False, label, (0, 0, 0)) for label in range(300))
    prediction = Prediction(IdMap(np.array([[0, 1]], np.int32), 1), np.array([299]), np.array([1.0]), categories)
    image = label_image(prediction)
    assert (image.dtype, image.tolist()) == (np.uint16, [[65535, 299]])
    assert label_image(PANOPTIC).dtype == np.uint8


def test_ids_beyond_a_byte():
    assert id_image(np.array([[1, 256, 70000]], np.int32)).tolist() == [[[1, 0, 0], [0, 1, 0], [112, 17, 1]]]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/a.png", "x/b.jpg"], ["a", "b"]),
        (["x/a.png", "y/a.png", "y/c.png"], ["x_a", "y_a", "c"]),  # the same name in two folders
        (["x/a.png", "x/a.jpg"], ["x_a", "x_a_jpg"]),  # in one folder
        (["x/A.png", "y/a.png"], ["x_A", "y_a"]),  # differ in case only
        (["x/a.png", "z/x/a.png", "y/x/a.png"], ["x_a", "x_a_png", "x_a_png-2"]),
        (["x/a.png", "y/a.png", "q/x_a.png"], ["x_a_png", "y_a", "x_a"]),  # a made-up name is taken already
    ],
)
def test_names_never_collide(files, names):
    assert result_names([Path(file) for file in files]) == names


def test_long_names_fit_a_file_system(tmp_path):
    [name, other] = result_names([Path("x") / ("é" * 120 + end + ".png") for end in ("1", "2")])
    assert name != other
    (tmp_path / f"{name}.overlay.png.12345678.tmp").touch()


@pytest.mark.parametrize(
    ("stems", "numbers"),
    [
        (["000000000139", "000000000285"], [139, 285]),  # COCO's own files
        (["7", "007"], [1, 2]),  # the same number
        (["a", "5"], [1, 2]),
        (["²"], [1]),
    ],
)
def test_image_numbers(stems, numbers):
    assert image_numbers([Path(f"{stem}.jpg") for stem in stems]) == numbers


def test_nothing_added_leaves_what_was_there(tmp_path):
    (tmp_path / "instances.json").write_text("earlier")
    with ResultFolder(tmp_path, "panoptic", CATEGORIES):
        pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("instances.json", "earlier")]
