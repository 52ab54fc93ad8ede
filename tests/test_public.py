"""What the package promises: its names, what importing it costs, and that its settings build."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eomt
from eomt.models.eomt import EoMT
from eomt.recipes import OWN_DATA


def test_public_names() -> None:
    assert sorted(eomt.__all__) == list(eomt.__all__)
    for name in eomt.__all__:
        assert getattr(eomt, name).__name__ == name
        assert getattr(eomt, name).__doc__
        assert name in dir(eomt)
    assert eomt.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = eomt.Segmentor


def test_importing_is_light() -> None:
    light = "eomt, eomt.config, eomt.recipes, eomt.cli"
    code = f"import sys, {light}; assert not {{'torch', 'timm', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_other_eomt_is_noticed(tmp_path: Path) -> None:
    info = tmp_path / "attr_eomt-2.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: attr-eomt\nVersion: 2.0.0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", "import eomt"], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "the package attr-eomt is installed too" in run.stderr


@pytest.mark.parametrize("name", OWN_DATA)  # the published ones: test_recipes.py
def test_recipes_build(name: str) -> None:
    """Every recipe's model can be built, and its docstring says what it is for."""
    recipe = OWN_DATA[name]()
    assert OWN_DATA[name].__doc__

    with torch.device("meta"):
        model = EoMT(replace(recipe.model, weights="none"), num_classes=2)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e7
