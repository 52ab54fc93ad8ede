"""What a run shows and records: figures, pictures, where it comes from, and services that may fail."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, Recipe, TrackConfig
from eomt.data.detect import open_data
from eomt.data.loader import Subset
from eomt.errors import ConfigError, DataError
from eomt.tasks import TASKS
from eomt.training import display, provenance, trackers
from eomt.training.curves import Line, Panel, draw, of_run, of_runs
from eomt.training.display import JsonLines, Lines, LiveView, Pace, clock
from eomt.training.loop import train
from eomt.training.runs import CLOCKS, FIGURES, find_runs, read_run
from eomt.training.trackers import Tracker, check_tracker, open_tracker

ROW = {
    "step": 90_000,
    "epoch": 12.25,
    "loss": 12345.678,
    "mask": 1.23456,
    "dice": 2.5,
    "class": None,
    "grad_norm": 1e-9,
    "lr": 1.5e-4,
    "lr_backbone": 0.0,
    "masked_attention": 0.5,
    "images_per_second": 123.456,
    "data_share": 0.07,
    "memory_gib": 31.99,
    "seconds_left": 90061.4,
}


def recipe(root: Path, **changes: object) -> Recipe:
    toy = Recipe(
        task="panoptic",
        steps=3,
        model=TOY,
        data=DataConfig(root=str(root), batch_size=4, micro_batch=2, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(lr=1e-3),
        device="cpu",
        precision="fp32",
        track=TrackConfig(report=False),
    )
    return replace(toy, **changes)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track") / "run"
    train(recipe(shapes), folder, origins={"steps": "command line", "optim.lr": "recipe mine"})
    return folder


def test_a_row_has_every_figure(run: Path) -> None:
    first = read_run(run).steps[0]
    assert {"loss", "mask", "dice", "class", "grad_norm", "lr", "lr_backbone", "replaced_costs"} < set(first)
    assert [first[f"masked_attention_{block}"] for block in (1, 2)] == [1.0, 1.0]
    assert set(CLOCKS) - {"val_seconds"} < set(first)
    assert 0 < first["data_share"] < 1
    assert 0.05 < first["memory_gib"] < 64
    assert first["seconds_left"] > 0


def test_settings_have_origins(run: Path) -> None:
    settings = json.loads((run / "settings.json").read_text())
    assert settings["steps"] == {"value": 3, "origin": "command line"}
    assert settings["optim.lr"] == {"value": 1e-3, "origin": "recipe mine"}
    assert settings["augment.fit"] == {"value": "contain", "origin": "settled"}
    assert settings["seed"] == {"value": 0, "origin": "default"}


def test_without_origins_what_is_not_the_default_came_from_the_call(tmp_path: Path, shapes: Path) -> None:
    given = recipe(shapes)
    provenance.record_settings(tmp_path, given, given, None)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["steps"]["origin"], settings["seed"]["origin"]) == ("call", "default")


def test_the_environment_is_told(run: Path) -> None:
    [row] = map(json.loads, (run / "environment.jsonl").read_text().splitlines())
    assert (row["steps"], row["device"], row["precision"], row["processes"]) == (3, "cpu", "fp32", 1)
    assert {"torch", "timm", "numpy"} < set(row["versions"])


def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance._commit() is None
    (tmp_path / "notes").write_text("one")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "notes"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    commit = provenance._commit()
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "notes").write_text("two")
    assert provenance._commit() == commit + "+"


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_pictures_are_pictures(run: Path) -> None:
    sizes = {path.name: size(path) for path in sorted((run / "samples").iterdir())}
    assert list(sizes) == ["train-000000000.jpg", "val-000000003.jpg"]
    width, height = sizes["val-000000003.jpg"]  # 4 images, each twice: two rows of four
    assert width == 1330
    assert height > 2 * 240
    assert size(run / "curves.png") == (1290, 560)
    again = read_run(run)
    assert again.result is not None
    assert again.result["figure"] == "PQ"


@pytest.mark.parametrize("images", [0, 2])
def test_pictures_do_not_change_the_run(run: Path, shapes: Path, tmp_path: Path, images: int) -> None:
    train(recipe(shapes, track=TrackConfig(images=images, to="none", report=False)), tmp_path / "run")
    digests = [
        json.loads((folder / "last" / "config.json").read_text())["weights"]["sha256"]
        for folder in (run, tmp_path / "run")
    ]
    assert digests[0] == digests[1]
    assert (tmp_path / "run" / "samples" / "val-000000003.jpg").exists() == (images > 0)


class Sized:
    """Only what the protocol asks for."""

    def __init__(self, data: object) -> None:
        self.data = data
        self.categories = data.categories  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> object:
        return self.data[index]  # type: ignore[index]


def test_other_data_are_noticed(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    moved = recipe(root)
    data = open_data(root, "train"), open_data(root, "val")
    provenance.record_data(
        tmp_path, provenance.data_facts(recipe(shapes), *(open_data(shapes, s) for s in ("train", "val")))
    )
    assert (
        provenance.compare_data(tmp_path, provenance.data_facts(moved, *data)) is None
    )  # a copy elsewhere is the same
    subset = Subset(data[0], (0, 1))
    found = provenance.compare_data(tmp_path, provenance.data_facts(moved, subset, data[1]))
    assert found == "the training images are not those that it began with (24 then, 2 now)"
    mask = root / "masks" / "val" / "00.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    found = provenance.compare_data(
        tmp_path, provenance.data_facts(moved, *(open_data(root, s) for s in ("train", "val")))
    )
    assert found is not None
    assert "validation images" in found
    assert "names or sizes of files" in found
    assert provenance.data_facts(moved, Sized(data[0]), data[1])["train"]["sha256"] is None
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DataError, match=r"data\.json: cannot be read"):
        provenance.compare_data(tmp_path, provenance.data_facts(moved, *data))
    assert provenance.compare_data(root, provenance.data_facts(moved, *data)) is None  # an earlier version's run


def test_a_run_goes_on_with_other_data_only_where_asked(run: Path, shapes: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(shapes, tmp_path / "data")
    image = tmp_path / "data" / "masks" / "train" / "03.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"the training images are not those .* add --change"):
        train(recipe(tmp_path / "data"), tmp_path / "run", resume=True)
    train(recipe(tmp_path / "data"), tmp_path / "run", resume=True, change=True)
    assert "it goes on all the same" in caplog.text
    assert len((tmp_path / "run" / "environment.jsonl").read_text().splitlines()) == 2


# How a run is shown


def test_lines_are_short_and_few(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "eomt")
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    lines = Lines(368_000)
    for step in range(1, 31):
        lines.step({**ROW, "step": step})
        now += 1.0
    header, *rows = [record.getMessage() for record in caplog.records]
    assert len(rows) == 3
    assert {len(line) for line in (header, *rows)} == {len(header)}
    assert len(header) <= 120
    expected = "1/368000 12346 1.23 2.5 – 1e-09 1.5e-04 0.0e+00 0.50 123 7% 32.0 25:01:01"
    assert " ".join(rows[0].split()) == expected


def test_the_live_view_fits_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=110)
    view = LiveView(console, 368_000, 100)
    view.step(ROW)
    view.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    last = [line.rstrip() for line in shown.splitlines() if line.strip()][-3:]
    assert "90000/368000" in last[0]
    assert [len(line) <= 110 for line in last] == [True] * 3
    assert last[1].split()[:2] == ["loss", "mask"]
    assert last[2].split()[0] == "12346"


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = JsonLines()
    shown.step(ROW)
    shown.evaluation({"step": 1, "PQ": None})
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [ROW, {"step": 1, "PQ": None}]


def test_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of 2 s, judged after each fourth and at the end, for 5 s."""
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    pace, left = Pace(10, 4), []
    for step in range(1, 11):
        now += 2
        left.append(pace.left_after(step))
        if step in (4, 8, 10):
            now += 5
            pace.evaluated()
    assert left[:4] == [18, 16, 14, 12]  # nothing is known of evaluations yet
    assert left[4:] == [10 + 10, 8 + 10, 6 + 10, 4 + 10, 2 + 5, 0 + 5]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0:00:00"), (59.6, "0:01:00"), (3661.0, "1:01:01"), (None, "?")]
)
def test_clock(seconds: float | None, words: str) -> None:
    assert clock(seconds) == words


# Curves


def test_curves_show_their_values() -> None:
    """A line that rises from corner to corner is drawn so; what is not finite is left out."""
    panel = Panel("a", [Line("up", [0.0, 50.0, 100.0], [0.0, 50.0, 100.0])])
    pixels = np.asarray(draw([panel]))
    blue = np.argwhere((pixels[..., 2] > 150) & (pixels[..., 0] < 90))
    plot = blue[(blue[:, 0] > 32) & (blue[:, 0] < 232)]  # without the legend
    left, right = plot[plot[:, 1].argmin()], plot[plot[:, 1].argmax()]
    assert left[1] < 64
    assert left[0] > 225
    assert right[1] > 400
    assert right[0] < 42
    rows = [{"step": step, "loss": 1.0 / step, "mask": None} for step in range(1, 2000)]
    [only] = of_run(rows)
    assert [line.name for line in only.lines] == ["loss"]
    assert len(only.lines[0].values) <= 400


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [-1.0, 2.0], [1e-12, 1e12], [5.0, 5.0], [1e6, 1e6 + 1]],
    ids=["one", "zeros", "negative", "24 decades", "constant", "hardly any change"],
)
def test_any_values_can_be_drawn(values: list[float]) -> None:
    line = Line("x\x1b" * 99, [float(step) for step in range(len(values))], values)
    for is_log in (False, True):
        assert draw([Panel("a", [line] * 12, is_log=is_log)]).size == (430, 280)
    assert draw([]).size == (430, 280)


def test_several_runs_share_panels() -> None:
    rows = [{"step": 1, "loss": 2.0, "lr": 1e-4}, {"step": 1, "AP": 0.5}]
    panels = of_runs({"one": rows, "two": rows, "none": []})
    assert [panel.title for panel in panels] == ["training loss", "AP", "learning rate"]
    assert [line.name for line in panels[1].lines] == ["one", "two"]


# Runs, read back


def test_figures_agree_with_the_tasks() -> None:
    assert {name: task.figure for name, task in TASKS.items()} == FIGURES


def test_broken_runs_are_read_as_far_as_they_go(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "deep" / "good")
    bad = tmp_path / "runs" / "bad"
    bad.mkdir()
    (bad / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"step": "x"}\n{"step": 4, "loss": null}\n{"step": 5, "lo')
    (bad / "recipe.json").write_text('{"model": {"future": 1}}')
    (bad / "result.json").write_text("5")
    (bad / "settings.json").write_text('{"a": 1, "b": {"origin": "x"}}')
    assert find_runs(tmp_path / "runs") == [bad, tmp_path / "runs" / "deep" / "good"]
    assert find_runs(bad) == [bad]
    found = read_run(bad)
    assert (found.step, found.best, found.state, found.planned) == (4, {}, "unfinished", None)
    assert found.settings == {"model.future": 1}
    assert len(found.problems) == 3
    good = read_run(tmp_path / "runs" / "deep" / "good")
    assert (good.step, good.planned, good.state, good.problems) == (3, 3, "done", ())
    with pytest.raises(ConfigError, match="no run in this folder"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        find_runs(tmp_path / "absent")


# Services


class Service:
    name = "wandb"

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((values, step))
        if step == 2:
            raise OSError("the network is down\nand more")

    def finish(self) -> None:
        raise AssertionError("a service that failed is left alone")


def test_a_service_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    tracker = Tracker(service)
    for step in (1, 2, 3):
        tracker.figures({"loss": 1.0, "mask": None, "dice": float("nan")}, step, "train")
    tracker.picture("val", np.zeros((4, 4, 3), dtype=np.uint8), 3)
    tracker.close()
    assert service.rows == [({"train/loss": 1.0}, 1), ({"train/loss": 1.0}, 2)]
    assert caplog.text.count("track.to wandb: it failed (OSError: the network is down) and is left out") == 1


def test_what_is_not_installed_is_said_at_the_door(monkeypatch, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "eomt")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for to in ("tensorboard", "wandb", "mlflow", "trackio"):
        with pytest.raises(ConfigError, match=rf"track.to {to}: not installed; pip install 'eomt\[{to}\]'"):
            check_tracker(TrackConfig(to=to))
    with pytest.raises(ConfigError, match=r"track\.images -1"):
        check_tracker(TrackConfig(images=-1))
    check_tracker(TrackConfig())
    assert open_tracker(TrackConfig(), tmp_path, {}, 0) is None
    assert "pip install 'eomt[tensorboard]'" in caplog.text
    assert open_tracker(TrackConfig(), tmp_path, {}, 5) is None  # said once, not at each start
    assert caplog.text.count("pip install") == 1


def test_a_service_that_cannot_be_started(monkeypatch, tmp_path: Path) -> None:
    class Broken:
        def __init__(self, **options: object) -> None:
            raise RuntimeError("not logged in\n")

    monkeypatch.setitem(trackers.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    with pytest.raises(ConfigError, match=r"track.to wandb: it cannot be started \(RuntimeError: not logged in\)"):
        open_tracker(TrackConfig(to="wandb"), tmp_path, {}, 0)


def test_tensorboard(tmp_path: Path) -> None:
    """Rows and pictures are in the event files; of steps that are taken twice, the later row counts."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps, value in ((0, (1, 2, 3, 4), 1.0), (2, (3, 4, 5), 2.0)):
        tracker = open_tracker(TrackConfig(), tmp_path, {"seed": 0}, start)
        assert tracker is not None
        for step in steps:
            tracker.figures({"loss": value}, step, "train")
        tracker.picture("val", np.full((8, 16, 3), 200, dtype=np.uint8), steps[-1])
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(row.step, row.value) for row in events.Scalars("train/loss")] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
    ]
    assert (events.Images("val")[-1].width, events.Images("val")[-1].height) == (16, 8)


def test_reading_runs_does_without_torch() -> None:
    code = "import sys, eomt.cli.runs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch is not None
