"""How many images memory holds is measured, and a dry run says what a run will take; neither changes a run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eomt.cli import main
from eomt.config import LossConfig, Recipe, from_json
from eomt.errors import ConfigError, NonFiniteError, ResourceError
from eomt.training import dry_run, memory
from eomt.training.loop import train
from eomt.training.memory import Need, measure, sizes
from test_out_of_memory import recipe
from test_resume import assert_same_run

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, [1]), (4, [4, 2, 1]), (5, [5, 3, 2, 1]), (16, [16, 8, 6, 4, 3, 2, 1])]
)
def test_sizes(batch: int, expected: list[int]) -> None:
    assert sizes(batch) == expected


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(20, 10, 225), 16),  # 180 of the 180 that are not left free
        (Need(21, 10, 225), 8),
        (Need(20, 20, 225), 8),
        (Need(20, 100, 225), 1),
        (Need(20, 500, 225), 1),  # it may not suffice: training says so where it does not
    ],
)
def test_the_largest_that_fits(need: Need, expected: int) -> None:
    assert need.most(16) == expected


def test_measures_what_an_image_takes() -> None:
    kept: list[torch.Tensor] = []

    def through(images: int) -> None:
        if not kept:
            kept.append(torch.ones(100 * MIB, dtype=torch.uint8))  # as gradients are
        torch.ones(images * 64 * MIB, dtype=torch.uint8)

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process anew")
    need = measure(through, CPU, to_come=7 * MIB)
    assert need.image == pytest.approx(64 * MIB, rel=0.1)
    assert need.fixed > 107 * MIB
    assert need.limit > need.fixed


def test_memory_that_two_images_do_not_fit_in_is_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def through(images: int) -> None:
        if images > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert measure(through, CPU, 0).most(16) == 1
    monkeypatch.setattr(memory, "peak", lambda device: 0)
    with pytest.raises(ConfigError, match="cpu does not tell what memory was taken; give a number"):
        measure(through, CPU, 0)


def test_a_measured_micro_batch_is_as_one_that_is_given(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    train(recipe(shapes, 3), tmp_path / "given")

    def limited(through, device, to_come):  # type: ignore[no-untyped-def]
        return replace(measure(through, device, to_come), fixed=0, image=10, limit=40)  # 32 of them for three

    monkeypatch.setattr(memory, "measure", limited)
    asked = recipe(shapes)
    asked = replace(asked, data=replace(asked.data, micro_batch="auto"))
    train(asked, tmp_path / "auto")
    assert_same_run(tmp_path / "given", tmp_path / "auto")
    ran = from_json(Recipe, json.loads((tmp_path / "auto" / "recipe.json").read_text()))
    assert ran.data.micro_batch == 3
    monkeypatch.setattr(memory, "measure", lambda *_: pytest.fail("a resumed run keeps what was chosen"))
    train(replace(asked, steps=3), tmp_path / "auto", resume=True)


def test_a_dry_run_writes_nothing(shapes: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    options = (
        f"small --data {shapes} --out {tmp_path / 'run'} --dry-run --task instance --steps 40 --evaluate-every 2 "
        "--model.backbone test_vit --model.weights none --model.image-size 64 64 --model.num-queries 12 "
        "--model.num-joint-blocks 2 --data.batch-size 4 --data.workers 0 --loss.num-points 128 --device cpu"
    ).split()
    assert main(["train", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert (found["steps"], found["evaluations"], found["micro_batch"]) == (
        40,
        4,
        4,
    )  # every 12 steps and the last
    total = 40 * found["seconds_a_step"] + 4 * found["seconds_an_evaluation"] + found["saving_seconds"]
    assert found["seconds"] == pytest.approx(total)
    assert 0 < found["peak_memory"] < found["memory"]

    assert main(["train", *options]) == 0
    assert re.search(r"^training .*: 40 steps of ", capsys.readouterr().out, re.MULTILINE)

    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda folder: usage)
    assert main(["train", *options]) == ResourceError.exit_code
    assert "make room" in capsys.readouterr().err


def test_a_dry_run_says_where_numbers_go_wrong_and_keeps_nothing(shapes: Path, tmp_path: Path) -> None:
    asked = replace(recipe(shapes), loss=LossConfig(num_points=64, dice_weight=1e39))
    with pytest.raises(NonFiniteError, match=r"step 1: loss is .* It was not kept"):
        dry_run.dry_run(asked, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_will_hold(shapes: Path, tmp_path: Path) -> None:
    """Forecast and run, to 20 %; weights of a toy are small beside the rows of its steps."""
    forecast = dry_run.dry_run(recipe(shapes), tmp_path / "run")
    train(recipe(shapes), tmp_path / "run")
    taken = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert taken == pytest.approx(forecast.disk, rel=0.2)
