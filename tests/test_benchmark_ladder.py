"""`eomt benchmark ladder` and `sizes`: counts beside the paper's, and that the commands measure what they name."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from eomt.benchmark import ladder
from eomt.benchmark.costs import Size, measure_size
from eomt.benchmark.ladder import CLASSES, Climb, Row, forward_pass, ladder_rungs, size_rungs
from eomt.benchmark.published import STEPS
from eomt.benchmark.rounds import Times
from eomt.benchmark.subject import build
from eomt.cli import main
from eomt.cli.benchmark_ladder import _draw_sizes
from eomt.training import curves

TINY = "--image-size 64 64 --rounds 1 --warm-up 0 --no-memory --json"


@pytest.mark.parametrize("rung", ladder_rungs("large"), ids=lambda rung: rung.name)
def test_counts_are_those_of_the_papers_table(rung) -> None:
    size = measure_size(rung.config, CLASSES)
    assert size.parameters / 1e6 == pytest.approx(rung.published.parameters, rel=0.02)
    assert size.multiply_adds / 1e9 == pytest.approx(rung.published.multiply_adds, rel=0.05)


@pytest.mark.parametrize("size", ["small", "base", "giant"])
def test_sizes_count_as_in_the_paper(size: str) -> None:
    for rung in size_rungs(size):
        assert measure_size(rung.config, CLASSES).multiply_adds / 1e9 == pytest.approx(
            rung.published.multiply_adds, rel=0.05
        )


def test_rungs() -> None:
    assert [rung.name for rung in ladder_rungs("small")] == [step.name for step in STEPS]
    assert [rung.published is None for rung in ladder_rungs("base")] == [False, True, True, True, True, False]
    assert all(rung.published is None for rung in ladder_rungs("large", (64, 64)))
    assert [rung.config.masked_inference for rung in ladder_rungs("small")] == [False] * 4 + [True, False]


def test_models_of_a_size_share_their_vit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Module] = []

    def noted(config, classes: int) -> torch.nn.Module:
        made.append(build(config, classes))
        return made[-1]

    monkeypatch.setattr(ladder, "build", noted)
    kept: dict[str, torch.nn.Parameter] = {}
    for rung in size_rungs("small", (64, 64)):
        masks = forward_pass(rung.config, torch.float32, torch.device("cpu"), kept=kept)()
        assert masks.shape == (1, 200, 16, 16)
    first, last = (dict(each.backbone.vit.blocks.named_parameters()) for each in made)
    assert [each.data_ptr() for each in first.values()] == [each.data_ptr() for each in last.values()]


def test_the_ladder(capsys, tmp_path: Path) -> None:
    picture = tmp_path / "ladder.png"
    assert main(["benchmark", "ladder", "--size", "small", *TINY.split(), "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    found = json.loads(text.splitlines()[-1])
    assert [step["name"] for step in found["steps"]] == [step.name for step in STEPS]
    medians = [step["forward_ms"]["median"] for step in found["steps"]]
    assert found["step0_over_eomt"] == pytest.approx(medians[0] / medians[-1])
    assert "0 ViT-Adapter + Mask2Former" in text
    assert picture.is_file()


def test_sizes(capsys) -> None:
    assert main(["benchmark", "sizes", "--sizes", "small", *TINY.split()]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [step["name"] for step in found["sizes"]["small"]["steps"]] == [STEPS[0].name, STEPS[-1].name]


def test_accuracy_over_time_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both families a line, of PQ over milliseconds; the axis of PQ begins near the least, not at zero."""
    panels: list[curves.Panel] = []
    draw = curves.draw
    monkeypatch.setattr(curves, "draw", lambda given: draw(panels.extend(given) or given))
    machine = {"device_name": "a chip", "threads": 1, "versions": {"torch": "2"}}
    climbed = {
        size: Climb(
            machine,
            "wall",
            "float32",
            "off",
            tuple(Row(rung, Size(1, 1), Times((1.0,)), None) for rung in size_rungs(size)),
        )
        for size in ("small", "base")
    }
    _draw_sizes(climbed, tmp_path / "sizes.png")
    [panel] = panels
    assert not panel.from_zero
    assert [list(line.values) for line in panel.lines] == [[50.5, 54.4], [44.7, 50.6]]
    assert [list(line.steps) for line in panel.lines] == [[1000.0, 1000.0]] * 2
    with Image.open(tmp_path / "sizes.png") as image:
        assert image.size == (430, 280)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ladder --size giant", "--size giant: expected small"),
        ("ladder --rounds 0", "--rounds 0: expected"),
        ("sizes --sizes small huge", "huge"),
        ("sizes --threads 0", "--threads 0: expected"),
        ("sizes --image-size 64 64 --picture sizes.png", "--picture shows the paper's PQ"),
        ("ladder --image-size 0 64", "--image-size 0 64: expected sides from 1 on"),
    ],
)
def test_what_is_refused(options: str, message: str, capsys) -> None:
    assert main(["benchmark", *options.split()]) == 2
    assert message in capsys.readouterr().err
