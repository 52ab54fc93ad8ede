"""Several processes on one machine (gloo) train as one does with micro-batches, stop together, recover.

Tolerance: 1e-5 of each figure, over 20 steps. Measured: no difference; with the model spread over both, 6e-7.
"""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

SETTINGS = (
    "small --task instance --model.backbone test_vit --model.weights none --model.image-size 64 64 "
    "--model.num-queries 12 --model.num-joint-blocks 2 --data.batch-size 4 --data.micro-batch 2 --data.workers 0 "
    "--loss.num-points 128 --optim.lr 1e-3 --optim.ema 0.9 --device cpu --precision fp32 --track.no-report"
)
TWENTY = [*SETTINGS.split(), "--steps", "20", "--evaluate-every", "1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TWO = "-m torch.distributed.run --nproc-per-node 2"
"""The documented command, torchrun."""
NAMES = ("loss", "mask", "dice", "class", "grad_norm", "AP", "AP50")
SIGNALLED = """
import os, signal, sys
from eomt.cli import main
from eomt.training import loop
before, calls = loop.{name}, []
def signalled(*arguments, **options):
    calls.append(None)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return before(*arguments, **options)
loop.{name} = signalled
sys.exit(main(sys.argv[1:]))
"""
"""Training that gets a signal when it does something for the second time."""
SHORT_OF_MEMORY = """
import os, sys, torch
from eomt.cli import main
from eomt.training import loop
before = loop.segmentation_loss
def limited(outputs, targets, *rest):
    if os.environ["RANK"] == "1" and len(targets) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return before(outputs, targets, *rest)
loop.segmentation_loss = limited
sys.exit(main(sys.argv[1:]))
"""
"""Training where one process has memory for one image at once only."""


def train(*arguments: str | Path, launcher: str = "", program: Sequence[str | Path] = ("-m", "eomt")) -> str:
    """Train in one process, or in those of a launcher; give what is said."""
    said, code = trained(*arguments, launcher=launcher, program=program)
    assert code == 0, said
    return said


def trained(*arguments: str | Path, launcher: str, program: Sequence[str | Path]) -> tuple[str, int]:
    """Train to whatever end; give what is said, and the exit code."""
    command = [sys.executable, *launcher.split(), *map(str, program), "train", *map(str, arguments)]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False)
    return ended.stdout + ended.stderr, ended.returncode


def assert_alike(one: Path, other: Path) -> None:
    """Compare the curves and the last states of two runs."""
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)
    ]
    for first, second in zip(*rows, strict=True):
        assert {name: first[name] for name in NAMES if name in first} == pytest.approx(
            {name: second[name] for name in NAMES if name in second}, rel=1e-5
        )
    first, second = (load_file(max((run / "states").glob("step-*")) / "tensors") for run in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-5, atol=1e-6), name


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, with two micro-batches."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(*TWENTY, "--data", shapes, "--out", run)
    return run


@pytest.mark.parametrize("more", [(), ("--shard",)])
def test_two_processes_are_one_with_two_micro_batches(whole: Path, shapes: Path, tmp_path: Path, more) -> None:
    said = train(*TWENTY, "--data", shapes, "--out", tmp_path / "two", *more, launcher=TWO)
    assert "on 2 processes" in said
    assert said.count("Final figures") == 1
    assert "Warning" not in said
    assert_alike(whole, tmp_path / "two")


def test_a_batch_that_cannot_be_halved_and_memory_that_one_process_lacks(shapes: Path, tmp_path: Path) -> None:
    """Five images are three and two; the process of two has memory for one: both take them one by one."""
    options = [*SETTINGS.split(), "--data", shapes, "--data.batch-size", "5", "--steps", "5"]
    train(*options, "--out", tmp_path / "one", "--data.micro-batch", "1")
    program = tmp_path / "short_of_memory.py"
    program.write_text(SHORT_OF_MEMORY)
    short = {"launcher": TWO, "program": [program]}
    said = train(*options, "--out", tmp_path / "two", "--data.micro-batch", "3", **short)
    halved = [line for line in said.splitlines() if "memory does not suffice" in line]
    assert [re.findall(r"for (\d) images at once; .* it is (\d) at once", line) for line in halved] == [
        [("3", "2")],
        [("2", "1")],
    ]
    assert_alike(tmp_path / "one", tmp_path / "two")

    said = train(*options, "--out", tmp_path / "measured", "--data.micro-batch", "auto", **short)
    assert "micro-batch 1 of 3 images a process" in said  # the least of both
    assert_alike(tmp_path / "one", tmp_path / "measured")

    said, code = trained(*options, "--out", tmp_path / "spread", "--data.micro-batch", "3", "--shard", **short)
    assert code != 0
    assert "memory does not suffice: CUDA out of memory" in said


@pytest.mark.parametrize(
    ("name", "step", "more"),
    [("optimizer_step", 2, ()), ("evaluate", 12, ("--shard",))],  # in a step; while one of two still judges
)
def test_a_signal_to_one_process_stops_both_and_one_goes_on(whole, shapes, tmp_path, name, step, more) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    run = tmp_path / "run"
    starts = (["-m", "eomt"], ["-c", SIGNALLED.format(name=name)])
    processes = [
        subprocess.Popen(
            [sys.executable, *start, "train", *TWENTY, "--data", str(shapes), "--out", str(run), *more],
            env={**ENVIRONMENT, **address, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank, start in enumerate(starts)
    ]
    assert [process.wait(timeout=500) for process in processes] == [143, 143]
    assert max(path.name for path in (run / "states").iterdir()) == f"step-{step:09}"
    train("--resume", run)
    assert_alike(whole, run)


def test_processes_without_a_target_and_fewer_images_than_a_batch(tmp_path: Path) -> None:
    """Of three training images one has an object; of one image to judge on, one process has none."""
    for split, objects in (("train", (True, False, False)), ("val", (True,))):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index, there in enumerate(objects):
            ids = np.zeros((64, 64), dtype=np.uint16)
            ids[10:40, 20:50] = there
            Image.fromarray((200 * ids).astype(np.uint8)).save(tmp_path / "data/images" / split / f"{index}.png")
            Image.fromarray(ids).save(tmp_path / "data/masks" / split / f"{index}.png")
    (tmp_path / "data/categories.json").write_text('[{"name": "square", "is_thing": true}]')
    few = [*SETTINGS.split(), "--steps", "6", "--evaluate-every", "3", "--data", tmp_path / "data"]
    train(*few, "--data.micro-batch", "1", "--out", tmp_path / "one")
    train(*few, "--data.micro-batch", "1", "--out", tmp_path / "two", launcher=TWO)
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("harm", ["kill", "rank"])
def test_killed_runs_go_on(capsys: pytest.CaptureFixture[str], harm: str) -> None:
    """A dose of scripts/chaos: a run killed, and one of two processes that are started again by the launcher."""
    assert runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "chaos"))["main"](harm, 1, 7) == 0
    said = capsys.readouterr().out
    assert "1 of 1 runs ended as the one to which nothing was done" in said
    assert harm == "kill" or "1 restarts" in said
