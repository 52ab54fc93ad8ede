"""Predictions in files of any program: read as meant, matched with their images, or refused in words."""

import contextlib
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt.categories import Category
from eomt.cli import main
from eomt.data.annotations import open_annotations
from eomt.errors import ConfigError, DataError
from eomt.evaluation.evaluate import Evaluation
from eomt.evaluation.predictions import judge_files, open_predictions
from eomt.inference.results import ResultFolder
from eomt.masks import RleMasks, encode_rle, trace_polygons
from eomt.types import Prediction
from layouts import coco, coco_panoptic


def judge(data: Path, predictions: Path, tasks=(), split: str = "val") -> Evaluation:
    annotations = open_annotations(data, split)
    return judge_files(annotations, open_predictions(predictions, annotations), tasks)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


# COCO's panoptic form


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    """A data set of two images in COCO's panoptic layout, and its annotations again, as predictions."""
    coco_panoptic.write(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "annotations" / "panoptic_train2017", tmp_path / "mine")
    shutil.copy(tmp_path / "data" / "annotations" / "panoptic_train2017.json", tmp_path / "mine.json")
    return tmp_path


TRUTH = "data/annotations/panoptic_train2017.json"


@pytest.mark.parametrize("data", ["data", TRUTH])
@pytest.mark.parametrize("form", ["mine.json", "folder", "zip"])
def test_what_is_annotated_is_a_perfect_prediction(panoptic: Path, data: str, form: str) -> None:
    predictions = panoptic / "mine.json"
    if form != "mine.json":
        (panoptic / "all").mkdir()
        shutil.move(panoptic / "mine.json", panoptic / "all")
        shutil.move(panoptic / "mine", panoptic / "all")
        predictions = panoptic / "all"
    if form == "zip":
        predictions = Path(shutil.make_archive(str(panoptic / "packed"), "zip", panoptic / "all"))
    result = judge(panoptic / data, predictions, split="train")
    assert (result.tasks, result.images, result.precision) == (("panoptic",), 2, None)
    assert result.figures["PQ"] == result.figures["PQ_things"] == result.figures["PQ_stuff"] == 1.0
    assert set(result.per_class) == {"person", "car", "road", "sky"}
    assert judge(panoptic / data, predictions, ["semantic"], split="train").figures["mIoU"] == 1.0


def test_only_annotations_are_needed_of_predictions_and_images_go_by_their_ids(panoptic: Path) -> None:
    def bare(content: Any) -> Any:
        for annotation in content["annotations"]:
            (panoptic / "mine" / annotation["file_name"]).rename(
                panoptic / "mine" / f"{annotation['image_id']}.png"
            )
            annotation["file_name"] = f"{annotation['image_id']}.png"
        return {"annotations": content["annotations"]}

    edit(panoptic / "mine.json", bare)
    assert judge(panoptic / "data", panoptic / "mine.json", split="train").figures["PQ"] == 1.0


def test_categories_go_by_their_names_where_the_predictions_list_them(panoptic: Path) -> None:
    def renumbered(content: Any) -> None:
        for category in content["categories"]:
            category["id"] += 1000
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] += 1000

    edit(panoptic / "mine.json", renumbered)
    assert judge(panoptic / "data", panoptic / "mine.json", split="train").figures["PQ"] == 1.0


def _drop_image(content: Any) -> None:
    content["annotations"].pop()


def _unknown_category(content: Any) -> None:
    content["annotations"][0]["segments_info"][0]["category_id"] = 7


def _foreign_class(content: Any) -> None:
    content["categories"][0]["name"] = "dragon"


def _strangers(content: Any) -> None:
    for number, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        image["file_name"], image["id"], annotation["image_id"] = f"x{number}.jpg", number, number


def _twice(content: Any) -> None:
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"{number}/street_000001.jpg"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop_image, r"mine\.json: no prediction of 1 of 2 images: street_000002; predict them too"),
        (_unknown_category, r"category_id 7 is not among the categories"),
        (_foreign_class, r"image street_00000\d: a segment of class dragon, which the data set does not have"),
        (_strangers, r"none of its images \(x0, x1\) is of the data set \(street_000001, street_000002\)"),
        (_twice, r"two predictions of image street_000001"),
    ],
)
def test_panoptic_predictions_that_do_not_fit(panoptic: Path, change, words: str) -> None:
    edit(panoptic / "mine.json", change)
    with pytest.raises(DataError, match=words):
        judge(panoptic / "data", panoptic / "mine.json", split="train")


def test_predictions_of_other_images_are_passed_over(panoptic: Path, caplog) -> None:
    edit(panoptic / TRUTH, lambda content: content["images"].pop() and content["annotations"].pop() and None)
    assert judge(panoptic / TRUTH, panoptic / "mine.json").figures["PQ"] == 1.0
    assert "passed over 1 predictions of images that the data set does not have: street_000002" in caplog.text


def test_pngs_that_do_not_fit(panoptic: Path) -> None:
    png = panoptic / "mine" / "street_000001.png"
    colors = np.asarray(Image.open(png)).copy()
    Image.fromarray(colors[:, :-1]).save(png)
    with pytest.raises(DataError, match=r"the prediction is 24 x 31 pixels, the annotation 24 x 32"):
        judge(panoptic / "data", panoptic / "mine.json", split="train")
    colors[0, 0] = 9, 9, 9
    Image.fromarray(colors).save(png)
    with pytest.raises(DataError, match=r"the PNG has segment 592137 \(colour 9, 9, 9\)"):
        judge(panoptic / "data", panoptic / "mine.json", split="train")
    shutil.rmtree(panoptic / "mine")
    with pytest.raises(DataError, match=r"no folder mine/ beside it"):
        judge(panoptic / "data", panoptic / "mine.json", split="train")


# COCO's instance results


SIZE = 60, 80


def random_results(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw annotations and results in all forms of COCO's files; scores are tied, areas not those of masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    images = [
        {"id": number, "file_name": f"{20 - number}.jpg", "height": 60, "width": 80} for number in range(1, 13)
    ]
    annotations, found = [], []

    def form(mask: np.ndarray) -> Any:
        rle = encode_rle(mask)
        kind = rng.integers(3)
        if kind == 0 and len(rings := trace_polygons(mask)) and all(len(ring) > 2 for ring in rings):
            return [ring.astype(float).ravel().tolist() for ring in rings]
        runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False, append=not mask[-1, -1]))
        counts = np.diff(runs, prepend=0).tolist() if kind == 1 else rle["counts"].decode()
        return {"size": list(SIZE), "counts": counts}

    for image in images:
        for _ in range(rng.integers(6)):
            center, radius = rng.uniform(0, SIZE), np.exp(rng.uniform(np.log(2), np.log(60), size=2))
            for number, shift in enumerate((0.0, *rng.normal(0, 4, rng.integers(3)))):
                mask = ((y - center[0] - shift) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
                if not mask.any():
                    continue
                entry = {
                    "image_id": image["id"],
                    "category_id": int(rng.choice([3, 7])),
                    "segmentation": form(mask),
                }
                if number == 0:
                    area = float(mask.sum() * rng.uniform(0.5, 2))
                    annotation = {"id": len(annotations) + 1, "area": area, "iscrowd": int(rng.random() < 0.2)}
                    if annotation["iscrowd"] and isinstance(entry["segmentation"], list):
                        entry["segmentation"] = {"size": list(SIZE), "counts": encode_rle(mask)["counts"].decode()}
                    annotations.append(entry | annotation)
                else:
                    found.append(entry | {"score": float(rng.random().__round__(1))})
    categories = [{"id": 3, "name": "car"}, {"id": 7, "name": "bus"}, {"id": 9, "name": "tram"}]
    order = rng.permutation(len(found))
    return {"images": images, "annotations": annotations, "categories": categories}, [found[i] for i in order]


@pytest.mark.parametrize("seed", range(3))
def test_instance_results_score_what_pycocotools_gives_for_the_same_files(tmp_path: Path, seed: int) -> None:
    truth, found = random_results(seed)
    (tmp_path / "instances_val.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(found))
    result = judge(tmp_path / "instances_val.json", tmp_path / "results.json")
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(tmp_path / "instances_val.json"))
        # Of results, pycocotools itself takes compressed codes only.
        compressed = [entry | {"segmentation": official.annToRLE(entry)} for entry in found]
        evaluation = COCOeval(official, official.loadRes(compressed), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    got = [result.figures[n] for n in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")]
    np.testing.assert_allclose(np.nan_to_num(got, nan=-1), evaluation.stats[:6], rtol=0, atol=1e-9)
    assert result.tasks == ("instance",)
    assert math.isnan(result.per_class["tram"]["AP"])


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    coco.write(tmp_path / "data")
    images = json.loads((tmp_path / "data/annotations/instances_train2017.json").read_text())
    keys = ("image_id", "category_id", "segmentation")
    found = [{key: entry[key] for key in keys} | {"score": 0.5} for entry in images["annotations"]]
    (tmp_path / "mine.json").write_text(json.dumps(found))
    return tmp_path


def test_images_without_results_have_none(instances: Path, caplog) -> None:
    assert judge(instances / "data", instances / "mine.json", split="train").figures["AP"] == pytest.approx(1.0)
    (instances / "mine.json").write_text("[]")
    assert judge(instances / "data", instances / "mine.json", split="train").figures["AP"] == 0.0


def test_results_of_unknown_categories_are_passed_over(instances: Path, caplog) -> None:
    edit(instances / "mine.json", lambda found: [*found, found[0] | {"category_id": 555, "score": 0.9}])
    assert judge(instances / "data", instances / "mine.json", split="train").figures["AP"] == pytest.approx(1.0)
    assert "passed over 1 results of categories that the data set does not have: id 555" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 77}, r"results of 1 images that the data set does not have: 77"),
        ({"score": None}, r'results\[0\]: "score" is None'),
        ({"score": "high"}, r'"score" is \'high\''),
        ({"category_id": "car"}, r'"category_id" is \'car\''),
        ({"image_id": None}, r'"image_id" is None'),
        ({"segmentation": None}, r'"segmentation" is None'),
        (
            {"segmentation": {"size": [3, 3], "counts": [9]}},
            r"image street_000001: a run-length code with size \[3, 3\]",
        ),
        ({"segmentation": {"size": [24, 32], "counts": [9]}}, r"a run-length code with 9 pixels"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"polygon 1 of 1 has 4 numbers"),
    ],
)
def test_results_that_do_not_fit(instances: Path, change: dict[str, Any], words: str) -> None:
    edit(instances / "mine.json", lambda found: [found[0] | change, *found[1:]])
    with pytest.raises(DataError, match=words):
        judge(instances / "data", instances / "mine.json", split="train")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}', r"neither COCO's panoptic form .* nor COCO's instance results"),
        ('[{"image_id": NaN}]', "not valid JSON"),
        ('[{"image_id": 1}', '"category_id" is None'),
        ('[{"image_id": 1', "not valid JSON"),
        ('[{"image_id": 1, "category_id": 1, "score": 1, "segmentation": []}] x', "after the list"),
    ],
)
def test_files_that_are_none(instances: Path, content: str, words: str) -> None:
    (instances / "mine.json").write_text(content)
    with pytest.raises(DataError, match=words):
        judge(instances / "data", instances / "mine.json", split="train")


# Label maps


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Two images of classes 0 and 1 and their label maps, and a copy of these with one wrong pixel in each."""
    for number in range(2):
        for place in ("data/images/val", "data/masks/val", "mine"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
        labels = np.zeros((4, 5), np.uint8)
        labels[:2] = 1
        labels[3, 3:] = 255
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / f"data/images/val/{number}.jpg")
        Image.fromarray(labels).save(tmp_path / f"data/masks/val/{number}.png")
        labels[0, 0] = 0
        Image.fromarray(labels).save(tmp_path / f"mine/{number}.png")
    (tmp_path / "data" / "classes.txt").write_text("road\ngrass\n")
    return tmp_path


@pytest.mark.parametrize("data", ["data", "data/masks/val"])
def test_label_maps_of_classes(maps: Path, data: str) -> None:
    result = judge(maps / data, maps / "mine")
    assert result.tasks == ("semantic",)
    assert result.figures == {"mIoU": pytest.approx((8 / 9 + 9 / 10) / 2), "pixel_accuracy": 17 / 18}
    (maps / "mine" / "classes.txt").write_text("grass\nroad\n")  # its own list counts
    assert judge(maps / data, maps / "mine").figures["mIoU"] < 0.1


@pytest.mark.parametrize(
    ("value", "words"), [(7, r"value 7 belongs to no category"), (None, r"no prediction of 1 of 2 images: 1")]
)
def test_label_maps_that_do_not_fit(maps: Path, value: int | None, words: str) -> None:
    if value is None:
        (maps / "mine/1.png").unlink()
    else:
        Image.fromarray(np.full((4, 5), value, np.uint8)).save(maps / "mine/1.png")
    with pytest.raises(DataError, match=words):
        judge(maps / "data", maps / "mine")


def test_label_maps_are_no_results_with_scores(maps: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be judged as instance, only as semantic \(AP needs"):
        judge(maps / "data", maps / "mine", ["instance"])


def test_label_maps_of_objects(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for file in (shapes / "masks" / "val").iterdir():
        ids = np.asarray(Image.open(file)).copy()
        Image.fromarray(np.where(ids == 3, 0, ids).astype(np.uint16)).save(tmp_path / "mine" / file.name)
    for data in (shapes, shapes / "masks" / "val"):
        result = judge(data, tmp_path / "mine")
        assert result.tasks == ("panoptic",)
        row = result.per_class["square"]
        assert (row["TP"], row["FP"], row["SQ"]) == (12, 0, 1.0)
        assert row["FN"] == 6


# What `eomt predict` writes


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_what_eomt_predict_writes_is_read(tmp_path: Path, task) -> None:
    """The ids of images are places in its list of files: they are found by their names."""
    coco_panoptic.write(tmp_path / "data")
    annotations = open_annotations(tmp_path / "data", "train")
    own = (*reversed(annotations.categories), Category("dragon", True, 7, (1, 2, 3)))
    with ResultFolder(tmp_path / "mine", task, own) as results:
        for place, item in enumerate(annotations.items):
            segments = annotations.segments(place)
            ids = [
                i
                for i, label in enumerate(segments.labels)
                if task != "instance" or annotations.categories[label].is_thing
            ]
            masks = (
                segments.masks
                if task != "instance"
                else RleMasks.encode([segments.masks.mask(i) for i in ids], segments.masks.size)
            )
            if task == "semantic":
                segments = segments.merged()
                masks, ids = segments.masks, range(len(segments))
            labels = np.array([3 - int(segments.labels[i]) for i in ids], dtype=np.int64)
            prediction = Prediction(masks, labels, np.full(len(ids), 0.9), own)
            stem = item.image_id
            results.add(f"{stem}", place + 1, f"{stem}.jpg", prediction, np.zeros((*masks.size, 3), np.uint8))
    data = tmp_path / "data" / "annotations" / "panoptic_train2017.json"
    result = judge(data, tmp_path / "mine")
    if task == "semantic":
        assert result.figures == {"mIoU": 1.0, "pixel_accuracy": 1.0}
    elif task == "panoptic":
        assert result.tasks == ("semantic", "instance", "panoptic")
        assert [result.figures[n] for n in ("PQ", "AP", "mIoU")] == pytest.approx([1.0, 1.0, 1.0])
    else:
        assert result.figures["AP"] == pytest.approx(1.0)
        assert result.figures["PQ_things"] == 1.0


# The command


def last_json(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_the_command_judges_files(panoptic: Path, capsys) -> None:
    arguments = ["eval", "--data", str(panoptic / TRUTH), "--predictions", str(panoptic / "mine.json")]
    assert main([*arguments, "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert (result["PQ"], result["AP"], result["AP_small"], result["images"]) == (1.0, None, None, 2)
    assert (result["model"], result["precision"]) == (None, None)
    assert result["predictions"] == str(panoptic / "mine.json")
    assert result["per_class"]["car"]["TP"] == 2.0
    assert main(arguments) == 0
    assert "predictions" in capsys.readouterr().out
    assert main([*arguments, "--score", "0.5"]) == 2
    assert "--score is about a model, but --predictions judges files" in capsys.readouterr().err


def test_no_class_is_a_warning_and_null(panoptic: Path, capsys) -> None:
    for name in (TRUTH, "mine.json"):
        edit(
            panoptic / name,
            lambda content: [entry["segments_info"].clear() for entry in content["annotations"]] and None,
        )
    for place in ("mine", "data/annotations/panoptic_train2017"):
        for png in (panoptic / place).iterdir():
            Image.fromarray(np.zeros_like(np.asarray(Image.open(png)))).save(png)
    arguments = ["eval", "--data", str(panoptic / TRUTH), "--predictions", str(panoptic / "mine.json")]
    assert main([*arguments, "--json"]) == 0
    shown = capsys.readouterr()
    assert last_json(shown.out)["PQ"] is None
    assert "no class is there to judge by: PQ cannot be told" in shown.err
