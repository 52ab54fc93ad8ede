from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TOY, draw_shapes
from eomt.categories import Category
from eomt.config import Thresholds
from eomt.devices import choose_device, choose_precision
from eomt.errors import ConfigError, DataError
from eomt.inference.segmenter import Segmenter
from eomt.masks import IdMap, RleMasks
from eomt.models.eomt import EoMT
from eomt.tasks import TASKS
from eomt.types import Prediction, QueryLogits
from eomt.weights.checkpoint import ModelInfo

CATEGORIES = (Category("square", True, 0, (255, 0, 0)), Category("ground", False, 1, (0, 0, 255)))
EAGER = Thresholds(score=0.0, overlap=0.0, max_detections=20)  # an untrained model is sure of nothing


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(EoMT(TOY, 2), ModelInfo("panoptic", CATEGORIES, TOY, EAGER), "cpu")


def picture(height: int = 50, width: int = 90) -> np.ndarray:
    return draw_shapes(np.random.default_rng(1), (height, width))[0]


def test_the_model_is_the_network(segmenter: Segmenter) -> None:
    outputs = segmenter.model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert [type(output) for output in outputs] == [QueryLogits]
    assert outputs[0].class_logits.dtype == torch.float32


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
@pytest.mark.parametrize("size", [(50, 90), (90, 50), (1, 1), (3, 300)])
def test_every_task_at_every_size(segmenter: Segmenter, task: str, size: tuple[int, int]) -> None:
    prediction = segmenter.predict(picture(*size) if min(size) > 20 else np.zeros((*size, 3), np.uint8), task=task)
    assert prediction.size == size
    assert prediction.label_map().shape == size
    assert len(prediction) > 0
    assert all(segment.mask.sum() == segment.area > 0 for segment in prediction)


def test_sources_agree(segmenter: Segmenter, tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [
        pixels,
        Image.fromarray(pixels),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
    ]
    maps = [segmenter.predict(source).label_map() for source in sources]
    assert all(np.array_equal(maps[0], each) for each in maps)


def test_batch_equals_one_by_one(segmenter: Segmenter) -> None:
    """Images of different sizes, with windows of one image in two chunks."""
    images = [picture(50, 90), picture(64, 64), picture(64, 300)]
    for task in ("semantic", "panoptic"):
        together = segmenter.predict_batch(images, task=task, batch_size=3)
        for one, image in zip(together, images, strict=True):
            alone = segmenter.predict(image, task=task)
            assert np.mean(one.label_map() == alone.label_map()) > 0.999  # batches round differently
            assert one.scores == pytest.approx(alone.scores, abs=1e-4)


def test_memory_does_not_grow_with_the_number_of_images(segmenter: Segmenter, monkeypatch) -> None:
    """At most `batch_size` images are open at once, and an empty list is answered by one."""
    open_at_once: list[int] = []
    look = segmenter.look

    def counting(images, *arguments, **options):
        open_at_once.append(len(images))
        return look(images, *arguments, **options)

    monkeypatch.setattr(segmenter, "look", counting)
    assert len(segmenter.predict_batch([picture()] * 5, batch_size=2)) == 5
    assert open_at_once == [2, 2, 1]
    assert segmenter.predict_batch([]) == []
    with pytest.raises(ConfigError, match="batch size 0"):
        segmenter.predict_batch([picture()], batch_size=0)


def test_larger_view(segmenter: Segmenter) -> None:
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    [(logits, tiling)] = segmenter.look([image], "contain", image_size=(128, 96))
    assert tiling.view == (128, 96)
    assert logits.features.shape[-2:] == (32, 24)


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_tiles_that_see_alike_give_what_one_view_gives(segmenter: Segmenter, monkeypatch, task: str) -> None:
    """With a model that names each pixel by its colour, the cuts between tiles cannot be seen in the result."""

    def look(images, fit, *, zoom=None, **options):
        assert zoom in (2.0, None, 0)
        return [(image, None) for image in images]

    def decode(image, tiling, categories, thresholds):
        red = image[0].numpy()
        present = [value for value in (200, 100) if (red == value).any()]
        masks = [red == value for value in present]
        labels = np.array([{200: 0, 100: len(categories) - 1}[value] for value in present], dtype=np.int64)
        if task == "instance":
            masks, labels = masks[: int(200 in present)], labels[: int(200 in present)]
            encoded = RleMasks.encode(masks, red.shape)
        else:
            ids = sum(place * mask for place, mask in enumerate(masks, 1)).astype(np.int32)
            encoded = IdMap(ids, len(masks))
        return Prediction(encoded, labels, np.full(len(labels), 0.5), categories)

    monkeypatch.setattr(segmenter, "look", look)
    monkeypatch.setitem(TASKS, task, replace(TASKS[task], decode=decode))
    image = np.full((90, 140, 3), 100, dtype=np.uint8)
    image[20:70, 10:130] = 200  # one bar, longer than three tiles of 32
    tiled, whole = (segmenter.predict(image, task=task, zoom=zoom) for zoom in (2.0, 0.0))
    assert [(s.label, s.score, s.rle) for s in tiled] == [(s.label, s.score, s.rle) for s in whole]


def test_zoom_is_the_scale_of_the_views(segmenter: Segmenter) -> None:
    image = torch.from_numpy(picture(20, 31)).permute(2, 0, 1)
    [(_, tiling)] = segmenter.look([image], "contain", zoom=2.0)
    assert (tiling.scaled, len(tiling)) == ((40, 62), 1)
    [(_, tiling)] = segmenter.look([image], "contain")
    assert tiling.scaled == (41, 64)


def test_the_models_own_zoom(segmenter: Segmenter, monkeypatch) -> None:
    """It is saved with the model, used by default, and 0 turns it off."""
    counts = []
    look = segmenter.look
    monkeypatch.setattr(
        segmenter, "look", lambda images, *a, **o: counts.append(len(images)) or look(images, *a, **o)
    )
    monkeypatch.setattr(segmenter, "info", replace(segmenter.info, model=replace(segmenter.info.model, zoom=1.0)))
    segmenter.predict(picture(64, 100))
    segmenter.predict(picture(64, 100), zoom=0.0)
    assert counts == [2, 1]
    segmenter.segment([torch.from_numpy(picture(64, 100)).permute(2, 0, 1)], list(TASKS))
    assert counts == [2, 1, 2]  # one look for all tasks
    with pytest.raises(ConfigError, match="zoom 20: a view of 64 x 64"):
        segmenter.predict(picture(64, 100), zoom=20.0)


def test_save_and_load(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save(tmp_path / "toy")
    loaded = Segmenter.from_pretrained(tmp_path / "toy", device="cpu")
    assert (loaded.task, loaded.categories, loaded.thresholds) == ("panoptic", CATEGORIES, EAGER)
    assert np.array_equal(loaded.predict(picture()).label_map(), segmenter.predict(picture()).label_map())


def test_precision_acts_inside(segmenter: Segmenter) -> None:
    image = torch.from_numpy(picture(64, 64)).permute(2, 0, 1)
    [(half, _)], [(full, _)] = (segmenter.look([image], "contain", precision=p) for p in ("bf16", "fp32"))
    assert half.class_logits.dtype == torch.bfloat16
    assert torch.allclose(half.class_logits.float(), full.class_logits, atol=0.1)
    assert next(segmenter.model.parameters()).dtype == torch.float32
    for task in ("semantic", "instance", "panoptic"):
        assert segmenter.predict(picture(), task=task, precision="bf16").size == (50, 90)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_precision("fp32", torch.device("cpu")) == torch.float32
    assert choose_precision("bf16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(ConfigError, match="device 'cpuu' cannot be used"):
        choose_device("cpuu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx2": True}, torch.float32),
    ],
)
def test_bf16_only_where_the_processor_has_it(monkeypatch, capabilities, dtype) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert choose_precision("auto", torch.device("cpu")) == dtype


def test_refuses(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 'pose': known are semantic, instance, panoptic"):
        segmenter.check_task("pose")
    with pytest.raises(DataError):
        segmenter.predict(tmp_path / "absent.png")
