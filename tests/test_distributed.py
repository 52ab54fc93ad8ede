"""Two processes on one machine (gloo) train as one process with two micro-batches does; a killed one recovers.

Tolerance: 1e-5 of each figure, over 20 steps. Measured: no difference.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = (
    "small --task instance --steps 20 --evaluate-every 4 --model.backbone test_vit --model.weights none "
    "--model.image-size 64 64 --model.num-queries 12 --model.num-joint-blocks 2 --data.batch-size 4 "
    "--data.workers 0 --loss.num-points 128 --optim.lr 1e-3 --device cpu"
)
ROOT = Path(__file__).parent.parent


def launch(processes: int, *arguments: str) -> "subprocess.Popen[str]":
    """Start training by the documented command, or in one process."""
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m"] if processes > 1 else ["-m"]
    )
    return subprocess.Popen(
        [sys.executable, *launcher, "eomt", "train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "states").glob("step-*")) / "tensors")


def test_two_processes_are_one_with_two_micro_batches(shapes: Path, tmp_path: Path) -> None:
    one = launch(
        1, *SETTINGS.split(), "--data", str(shapes), "--out", str(tmp_path / "one"), "--data.micro-batch", "2"
    )
    finish(one)
    said = finish(launch(2, *SETTINGS.split(), "--data", str(shapes), "--out", str(tmp_path / "two")))
    assert "on 2 processes" in said
    assert said.count("Final figures") == 1
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    names = ("loss", "mask", "dice", "class", "grad_norm", "AP", "AP50")
    for first, second in zip(*rows, strict=True):
        assert {name: first[name] for name in names if name in first} == pytest.approx(
            {name: second[name] for name in names if name in second}, rel=1e-5
        )
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(first[name], second[name], rtol=1e-5, atol=1e-7) for name in first)


def test_a_killed_process_ends_the_run_which_goes_on_to_the_same_end(shapes: Path, tmp_path: Path) -> None:
    options = [*SETTINGS.split(), "--data", str(shapes)]
    finish(launch(2, *options, "--out", str(tmp_path / "whole")))
    process = launch(2, *options, "--out", str(tmp_path / "run"))
    rows = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 9):
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode
    finish(launch(2, "--resume", str(tmp_path / "run")))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_runs_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A dose of scripts/chaos."""
    assert runpy.run_path(str(ROOT / "scripts" / "chaos"))["main"]("kill", 1, 7) == 0
    assert "1 of 1 runs ended as the one to which nothing was done" in capsys.readouterr().out
