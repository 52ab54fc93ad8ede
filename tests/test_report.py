"""The report of a run: one page with nothing from outside, the same as files, and what is missing is said."""

import csv
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.cli import main
from eomt.config import TrackConfig
from eomt.evaluation.charts import Bars, Matrix, draw_bars, draw_matrix
from eomt.evaluation.page import encoded_png
from eomt.evaluation.report import examine, write_report
from eomt.inference.segmenter import Segmenter
from eomt.training import loop
from eomt.training.curves import DARK
from test_evaluate import EAGER, Shapes, segmenter  # noqa: F401
from test_track import recipe


class Reader(HTMLParser):
    """Collects what a page loads, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.loaded += [
            value or "" for name, value in attrs if name == "href" and not (value or "").startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.words += data


def read(page: Path) -> Reader:
    assert page.stat().st_size < 5_000_000
    reader = Reader()
    reader.feed(page.read_text())
    assert all(each.startswith("data:image/") for each in reader.loaded)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    return reader


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data that may be moved."""
    root = tmp_path_factory.mktemp("report")
    shutil.copytree(shapes, root / "data")
    asked = recipe(root / "data", track=TrackConfig(to="none"), thresholds=EAGER)
    loop.train(asked, root / "run", origins={"steps": "command line"})
    return root / "run"


def test_a_run_ends_with_a_report(run: Path) -> None:
    reader = read(run / "report" / "report.html")
    for title in ("What goes wrong", "The worst images", "Some images", "Classes and figures", "Scores"):
        assert title in reader.words
    assert "optim.lr" in reader.words
    assert "command line" in reader.words
    told = json.loads((run / "report" / "report.json").read_text())
    assert told["missing"] == []
    assert told["figures"] == json.loads((run / "result.json").read_text())["best"]
    assert told["run"]["settings"]["steps"] == 3
    with (run / "report" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == told["images"] == 6
    assert sum(int(row["missed"]) for row in rows) == told["errors"]["missed"]
    qualities = {row["image"]: float(row["quality"]) for row in rows}
    worst = [qualities[image] for image in told["worst"]]
    assert worst == sorted(worst)
    names = {path.name for path in (run / "report").glob("*.png")}
    assert {"classes.png", "confusion.png", "curve_1.png", "errors.png", "worst.png", "examples.png"} <= names
    for path in (run / "report").glob("*.png"):
        Image.open(path).verify()


def test_the_command_says_the_same_again(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(run), "--json", "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"] == json.loads((run / "result.json").read_text())["best"]
    assert told["missing"] == []
    read(Path(told["report"]))
    command = ["report", str(run), "--split", "train", "--images", "2", "--out", str(tmp_path / "train")]
    assert main(command) == 0
    found = json.loads((tmp_path / "train" / "report.json").read_text())
    assert (found["images"], found["images_in_all"]) == (2, 24)


def test_data_that_moved(run: Path, tmp_path: Path, capsys) -> None:
    before = (run / "report" / "report.html").read_bytes()
    data = run.parent / "data"
    moved = data.rename(tmp_path / "moved")
    try:
        assert main(["report", str(run)]) == 2
        assert "--data PATH says where" in capsys.readouterr().err
        assert (run / "report" / "report.html").read_bytes() == before
        assert main(["report", str(run), "--data", str(moved), "--out", str(tmp_path / "whole")]) == 0
        assert json.loads((tmp_path / "whole" / "report.json").read_text())["missing"] == []

        assert main(["report", str(run), "--out", str(tmp_path / "part"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["figures"] is None
        assert "The data: " in told["missing"][0]
        reader = read(tmp_path / "part" / "report.html")
        assert "What is missing" in reader.words
        assert "training loss" in (tmp_path / "part" / "report.html").read_text()
        assert main(["report", str(run), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 3
    finally:
        moved.rename(data)


def test_a_report_that_fails_does_not_cost_the_run(shapes: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(loop, "write_report", broken)
    loop.train(recipe(shapes, track=TrackConfig(to="none")), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["figure"] == "PQ"
    assert f"no report could be made (the disk is full); eomt report {tmp_path / 'run'} tries again" in caplog.text


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_the_other_tasks(segmenter: Segmenter, tmp_path: Path, task) -> None:  # noqa: F811
    findings = examine(segmenter, Shapes(), task)
    page = write_report(tmp_path, findings)
    reader = read(page)
    assert ("mIoU" if task == "semantic" else "AP50") in reader.words
    assert ("IoU" if task == "semantic" else "AP") in (tmp_path / "classes.csv").read_text()
    assert "Settings" not in reader.words


def test_pictures_of_noise_stay_small(segmenter: Segmenter, tmp_path: Path) -> None:  # noqa: F811
    findings = examine(segmenter, Shapes(), "semantic")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 972, 3), dtype=np.uint8))
    pictures = tuple(findings.examples[0]._replace(image=noise) for _ in range(24))
    read(write_report(tmp_path, replace(findings, worst=pictures[:16], examples=pictures[16:])))


def test_charts_take_any_names() -> None:
    names = ["a" * 200, "\x1b[31mred", "", "<b>"]
    light = draw_bars(Bars("bars", names, [0.5, None, 0.0, 2.0]))
    matrix = Matrix("matrix", names, np.arange(16).reshape(4, 4), "annotated", "found")
    for image in (light, draw_bars(Bars("none", [], [])), draw_matrix(matrix), draw_matrix(matrix, DARK)):
        assert encoded_png(image).startswith(b"\x89PNG")
    assert np.asarray(light)[40].std() > 0
