"""A run that was stopped, killed or damaged goes on as if nothing had happened: the same weights, bit by bit."""

import hashlib
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt.cli import main
from eomt.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    Recipe,
    TrackConfig,
    from_json,
    to_json,
)
from eomt.errors import ConfigError, DataError, ModelError, ResourceError
from eomt.training import loop, state
from eomt.training.loop import train
from eomt.training.runs import CLOCKS
from eomt.training.stop import Stopped

STEPS = 6
DAMAGES = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "chaos"))["DAMAGES"]


def recipe(root: Path, workers: int = 0, **optim: object) -> Recipe:
    """Six steps with all that has a memory or chance in it: accumulation, average, drop path, masked attention."""
    return Recipe(
        task="instance",
        steps=STEPS,
        evaluate_every=0.4,  # every two steps
        model=replace(TOY, drop_path=0.2),
        data=DataConfig(root=str(root), batch_size=4, micro_batch=2, workers=workers),
        augment=AugmentConfig(scale=(0.8, 1.2), color=True),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(**{"lr": 1e-3, "layer_decay": 0.9, "ema": 0.9, **optim}),
        device="cpu",
        track=TrackConfig(to="none", images=2, report=False),
    )


def tensors(run: Path) -> dict[str, torch.Tensor]:
    found = state.newest(run)
    assert found is not None
    return found[0]


def curve(run: Path) -> list[dict[str, object]]:
    """The rows of a run without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def assert_same_run(first: Path, second: Path) -> None:
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert curve(first) == curve(second)
    for name in ("best", "last"):
        digests = [
            json.loads((run / name / "config.json").read_text())["weights"]["sha256"] for run in (first, second)
        ]
        assert digests[0] == digests[1], name


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(recipe(shapes), run)
    return run


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than processors
def test_workers_and_repeats_give_the_same_bits(whole: Path, shapes: Path, tmp_path: Path) -> None:
    for workers in (0, 2, 4):
        train(recipe(shapes, workers), tmp_path / str(workers))
        assert_same_run(whole, tmp_path / str(workers))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than processors
@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_every_task_gives_the_same_bits_with_any_workers(shapes: Path, tmp_path: Path, task) -> None:
    for workers in (0, 2, 4):
        train(replace(recipe(shapes, workers), task=task, steps=3), tmp_path / str(workers))
        assert_same_run(tmp_path / "0", tmp_path / str(workers))


@pytest.mark.parametrize(("after", "workers"), [(1, 0), (2, 0), (3, 2), (5, 0)])
def test_a_stopped_run_goes_on(whole: Path, shapes: Path, tmp_path: Path, monkeypatch, after, workers) -> None:
    step = loop.optimizer_step

    def stopping(run, batches):  # type: ignore[no-untyped-def]
        if run.progress.step == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", stopping)
        with pytest.raises(Stopped):
            train(recipe(shapes, workers), tmp_path / "run")
    result = train(recipe(shapes, workers), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")
    best = json.loads((whole / "states" / "step-000000006" / "state.json").read_text())["values"]["best"]
    assert {name: value for name, value in result.metrics.items() if value == value} == {
        name: value for name, value in best.items() if value == value
    }


def test_a_run_that_was_stopped_while_it_was_judged_is_judged_again(whole, shapes, tmp_path, monkeypatch) -> None:
    evaluate = loop.evaluate

    def stopping(*arguments, **options):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", stopping)
        with pytest.raises(Stopped):
            train(recipe(shapes), tmp_path / "run")
    assert not any("AP" in row for row in curve(tmp_path / "run"))
    train(recipe(shapes), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_two_states_the_one_that_is_whole_is_taken(whole: Path, tmp_path: Path, damage: str, caplog) -> None:
    """Every harm that scripts/chaos knows; it does 100 of them, and goes on with each."""
    shutil.copytree(whole, tmp_path / "run")
    before, newest = sorted((tmp_path / "run" / "states").iterdir())
    kept = {path.name: path.read_bytes() for path in before.iterdir()}
    DAMAGES[damage](newest, before, random.Random(damage))
    found = state.newest(tmp_path / "run")
    assert found is not None
    assert found[1]["step"] == 4
    assert f"state {newest}: cannot be used" in caplog.text
    assert {path.name: path.read_bytes() for path in before.iterdir()} == kept


def test_a_run_goes_on_from_the_one_before(whole: Path, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    DAMAGES["tensors cut"](max((tmp_path / "run" / "states").iterdir()), whole, random.Random(0))
    train(recipe(shapes), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_states_of_the_first_format_are_read(tmp_path: Path) -> None:
    state.save(tmp_path, 3, {"model.a": torch.ones(3)}, {"step": 3})
    file = tmp_path / "states" / "step-000000003" / "state.json"
    digest = hashlib.sha256((file.parent / "tensors").read_bytes()).hexdigest()
    file.write_text(json.dumps({"format": 1, "sha256": digest, "values": {"step": 3}}))
    found = state.newest(tmp_path)
    assert found is not None
    assert found[1] == {"step": 3}


def test_states_that_do_not_tell_the_micro_batch_are_gone_on_from(whole, shapes, tmp_path) -> None:
    """Earlier ones did not."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(max((tmp_path / "run" / "states").iterdir()))
    found = state.newest(tmp_path / "run")
    assert found is not None
    values = found[1]
    assert values.pop("micro_batch") == {"asked": 2, "held": 2}
    state.save(tmp_path / "run", values["step"], found[0], values)
    train(recipe(shapes), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_damaged_states_do_not_count_among_those_kept(tmp_path: Path) -> None:
    for step in (3, 6):
        state.save(tmp_path, step, {"model.a": torch.ones(3)}, {"step": step})
    (tmp_path / "states" / "step-000000006" / "tensors").unlink()
    state.save(tmp_path, 4, {"model.a": torch.ones(3)}, {"step": 4})  # 3 was gone on from
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["step-000000003", "step-000000004"]


def test_a_state_is_replaced_by_a_later_one_of_its_step(tmp_path: Path) -> None:
    for judged in (0, 3):
        state.save(tmp_path, 3, {"model.a": torch.ones(3)}, {"judged": judged})
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-000000003"]
    found = state.newest(tmp_path)
    assert found is not None
    assert found[1] == {"judged": 3}


def test_all_states_damaged(whole: Path, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "states").glob("*/tensors"):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"none of its 2 states can be used; start anew with --init-from .*run"):
        train(recipe(shapes), tmp_path / "run", resume=True)


def test_a_state_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at any write leaves the states that were there."""
    values = {"step": 1}
    state.save(tmp_path, 1, {"model.a": torch.ones(3)}, values)
    for call in ("save_file", "_to_disk"):
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(state, call, full)
            told = r"state of step 2 \(0.0 MB\) could not be written \(.*No space left.*\). Those before it are"
            with pytest.raises(ResourceError, match=told):
                state.save(tmp_path, 2, {"model.a": torch.zeros(3)}, {"step": 2})
        assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-000000001"]
    found = state.newest(tmp_path)
    assert found is not None
    assert found[1] == values
    for step in range(2, 6):
        state.save(tmp_path, step, {"model.a": torch.zeros(3)}, {"step": step})
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["step-000000004", "step-000000005"]


def test_auto_begins_a_run_or_goes_on_with_it(whole: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "asked.json").write_text(json.dumps(to_json(recipe(shapes))))
    command = ["train", str(tmp_path / "asked.json"), "--resume", "auto", "--out"]
    shutil.copytree(whole, tmp_path / "begun")
    shutil.rmtree(max((tmp_path / "begun" / "states").iterdir()))
    assert main([*command, str(tmp_path / "begun"), "--optim.lr", "5e-3"]) == ConfigError.exit_code
    assert "optim.lr was 0.001, is 0.005" in capsys.readouterr().err
    (tmp_path / "killed").mkdir()  # before its first state
    shutil.copy(whole / "recipe.json", tmp_path / "killed")
    for name, said in (("begun", "going on after step 4"), ("killed", "6 steps of 4 images")):
        assert main([*command, str(tmp_path / name)]) == 0
        assert said in capsys.readouterr().err
        assert_same_run(whole, tmp_path / name)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert main([*command, str(tmp_path / "other")]) == ConfigError.exit_code
    assert "it holds something already" in capsys.readouterr().err


def test_what_cannot_go_on(whole: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no state to go on from"):
        train(recipe(shapes), tmp_path / "nothing", resume=True)
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(shapes, tmp_path / "data")
    (first, *_) = sorted((tmp_path / "data/images/train").iterdir())
    first.unlink()
    with pytest.raises(DataError, match=r"was trained on 24 images of .*; now there are 23"):
        train(recipe(tmp_path / "data"), tmp_path / "run", resume=True)
    other = recipe(shapes)
    with pytest.raises(ModelError, match="of another model"):
        train(replace(other, model=replace(other.model, num_queries=5)), tmp_path / "run", resume=True)


@pytest.mark.parametrize("part", ["early_blocks", "backbone"])
def test_what_is_frozen_stays(shapes: Path, tmp_path: Path, part) -> None:
    train(replace(recipe(shapes, freeze=part), steps=2), tmp_path / "run")
    states = sorted((tmp_path / "run" / "states").iterdir())
    (before, _), (after, _) = ((state.load_file(path / "tensors"), None) for path in (states[0], states[-1]))
    same = {name for name in before if name.startswith("model.") and torch.equal(before[name], after[name])}
    assert "model.backbone.vit.blocks.0.attn.qkv.weight" in same
    assert "model.queries.weight" not in same
    assert not any(name.startswith("exp_avg.backbone.vit.blocks.0.") for name in after)
    last = max(
        name for name in before if re.fullmatch(r"model\.backbone\.vit\.blocks\.\d+\.attn\.qkv\.weight", name)
    )
    assert (last in same) == (part == "backbone")


def test_patience_ends_a_run(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "better", lambda figure, best: False)
    result = train(replace(recipe(shapes), patience=1, steps=20), tmp_path / "run")
    judged = [row["step"] for row in curve(tmp_path / "run") if "AP" in row]
    assert judged == [2, 4]
    assert result.metrics["AP"] >= 0


def test_a_file_that_may_not_grow_ends_a_run_which_goes_on_later(whole, shapes, tmp_path) -> None:
    """The system's limit stands for a full disk; scripts/chaos fills real ones."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(max((tmp_path / "run" / "states").iterdir()))
    (kept,) = (tmp_path / "run" / "states").iterdir()
    limit = (kept / "tensors").stat().st_size // 2
    resume = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "from eomt.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", resume, "train", "--resume", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == ResourceError.exit_code, ended.stderr
    assert re.search(r"error: run .*: the state of step 6 \(.* MB\) could not be written", ended.stderr)
    assert [path.name for path in (tmp_path / "run" / "states").iterdir()] == [kept.name]
    train(recipe(shapes), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_what_was_changed_stays_so(whole: Path, shapes: Path, tmp_path: Path) -> None:
    """A run that goes on otherwise, and is stopped again, is the changed one: no option has to be repeated."""
    shutil.copytree(whole, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "settings.json").read_text())
    longer = replace(recipe(shapes, lr=5e-4), steps=STEPS + 2)
    train(longer, tmp_path / "run", resume=True, change=True)
    kept = from_json(Recipe, json.loads((tmp_path / "run" / "recipe.json").read_text()))
    assert (kept.steps, kept.optim.lr) == (STEPS + 2, 5e-4)
    assert kept.model.weights == from_json(Recipe, json.loads((whole / "recipe.json").read_text())).model.weights
    after = json.loads((tmp_path / "run" / "settings.json").read_text())
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"steps", "optim.lr"}
    assert after["steps"] == {"value": STEPS + 2, "origin": "changed later"}
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0  # nothing is left to do
    assert len([row for row in curve(tmp_path / "run") if "loss" in row]) == STEPS + 2
