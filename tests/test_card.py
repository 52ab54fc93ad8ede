"""What `eomt convert` adds to our layout, a card that the hub reads and that runs; its help names all tables."""

import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import eomt
from eomt.categories import CLASS_TABLES
from eomt.cli import main


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_our_layout_has_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    folder = tmp_path / "model"
    assert main(["convert", "bundled", str(folder), "--storage", storage]) == 0
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "eomt"
    assert card.data.pipeline_tag == "image-segmentation"
    assert "things | 1: nucleus |" in card.text
    assert main(["models", "verify", str(folder)]) == 0

    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    ran: dict[str, object] = {}
    exec(code.replace("PATH", "model"), ran)
    assert isinstance(ran["prediction"], eomt.Prediction)


@pytest.mark.parametrize("command", ["convert", "predict", "eval"])
def test_help_names_every_class_table(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    (said,) = re.findall(r"--classes CLASSES(.*?)categories\.json", capsys.readouterr().out, re.DOTALL)
    assert set(re.findall(r"\w+-\w+", said)) == {name.replace("_", "-") for name in CLASS_TABLES}
