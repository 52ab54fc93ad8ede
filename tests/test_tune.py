"""The best threshold is stored with a model; how sure a model is of each pixel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eomt.cli import main
from eomt.evaluation.anomalies import AnomalyScores
from eomt.inference.segmenter import Segmenter
from test_evaluate import segmenter  # noqa: F401


def test_the_best_threshold_is_stored(segmenter: Segmenter, shapes: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    model = Segmenter(segmenter.model, replace(segmenter.info, task="panoptic"), "cpu")
    model.save(tmp_path / "run" / "best")
    before = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    command = [
        "models",
        "tune",
        "--model",
        str(tmp_path / "run"),
        "--data",
        str(shapes),
        "--device",
        "cpu",
        "--json",
    ]
    assert main([*command, "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "run" / "best" / "config.json").read_text()) == before
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == told | {"stored": True}
    assert told["best"] in told["scores"]
    assert told["PQ"][told["scores"].index(told["best"])] == max(told["PQ"])
    after = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert after == before | {"thresholds": before["thresholds"] | {"score": told["best"]}}
    assert Segmenter.from_pretrained(tmp_path / "run", "cpu").thresholds.score == told["best"]


def test_what_cannot_be_tuned(segmenter: Segmenter, shapes: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    Segmenter(segmenter.model, replace(segmenter.info, task="instance"), "cpu").save(tmp_path / "model")
    assert main(["models", "tune", "--model", str(tmp_path / "model"), "--data", str(shapes)]) == 2
    assert "only panoptic segments" in capsys.readouterr().err
    assert main(["models", "tune", "--model", str(tmp_path / "none"), "--data", str(shapes)]) == 4


@pytest.mark.parametrize("zoom", [None, 1.0])
def test_confidence_is_that_of_the_likeliest_class(segmenter: Segmenter, zoom) -> None:  # noqa: F811
    """Of a view that is the whole image, against the plain definition."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sure = segmenter.confidence(image, zoom=zoom, precision="fp32")
    [(logits, _)] = segmenter.look([torch.from_numpy(image).permute(2, 0, 1)], "cover", precision="fp32")
    masks = torch.nn.functional.interpolate(logits.mask_logits, (64, 64), mode="bilinear").sigmoid()
    classes = logits.class_logits.softmax(-1)[..., :-1]
    expected = (classes[0].T @ masks[0].flatten(1)).amax(0).clamp(0, 1).view(64, 64)
    np.testing.assert_allclose(sure, expected.numpy(), atol=1e-5)


def test_confidence_of_tiles_goes_into_the_figures_of_anomalies(segmenter: Segmenter) -> None:  # noqa: F811
    image = np.random.default_rng(1).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    sure = segmenter.confidence(image, zoom=1.0)
    assert sure.shape == (90, 150)
    scores = AnomalyScores()
    scores.update(sure, sure < np.median(sure))
    assert scores.compute()["AUROC"] > 0.99
