"""Every kind of model on two processes (gloo), whole in each or spread over both: they step as one process does.

This file is also the program of those processes. Tolerance: 1e-4 of losses and of the norm of the gradient, in two
steps; measured: no difference, and 1e-5 where the model is spread, which is that of how torch sums a norm.
"""

import json
import os
import subprocess
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, Kind, LossConfig, ModelConfig, OptimConfig, Recipe
from eomt.training.loop import optimizer_step, prepare, read_views

CASES: dict[str, tuple[ModelConfig, OptimConfig]] = {
    **{kind: (replace(TOY, kind=kind), OptimConfig()) for kind in get_args(Kind)},
    "frozen": (replace(TOY, kind="mask2former"), OptimConfig(freeze="backbone")),
    "adapters": (
        replace(TOY, kind="mask2former_vit_adapter", gradient_checkpointing=True, drop_path=0.1),
        OptimConfig(lora=4),
    ),
}
"""What is trained."""
SPREAD = ("mask2former", "adapters")
"""What is spread over both processes as well: all parts there are. It takes seconds each."""

Taken = list[dict[str, float]]


def steps(name: str, root: Path, shard: bool = False) -> Taken:
    """Take two steps of two images, one by one, and give the losses and the gradients' norm."""
    model, optim = CASES[name]
    recipe = Recipe(
        task="instance",
        steps=10,
        model=model,
        data=DataConfig(root=str(root), batch_size=2, micro_batch=1, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=replace(optim, lr=1e-3, warmup=(0, 0)),  # so that the first step changes the model
        precision="fp32",
        device="cpu",
        shard=shard,
    )
    run = prepare(recipe, root, None, None, None, resume=False)
    run.model.train()
    taken = []
    with closing(read_views(run)) as batches:
        for _ in range(2):
            values = optimizer_step(run, batches)
            run.progress.step += 1
            taken.append({figure: values[figure] for figure in ("loss", "mask", "dice", "class", "grad_norm")})
    return taken


def main(root: str) -> None:
    """Be one of two processes: take the steps of all cases, and say what came of them."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)
    for name in CASES:
        for shard in (False, True)[: 1 + (name in SPREAD)]:
            taken = steps(name, Path(root), shard)
            if os.environ["RANK"] == "0":
                print(json.dumps([name, shard, taken]), flush=True)


@pytest.fixture(scope="module")
def of_two(shapes: Path) -> dict[tuple[str, bool], Taken]:
    """What two processes came to, by the case and whether the model was spread over them."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, __file__, str(shapes)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    return {(name, shard): taken for name, shard, taken in rows}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_step_as_one(name: str, of_two: dict[tuple[str, bool], Taken], shapes: Path) -> None:
    alone = steps(name, shapes)
    assert alone[0]["loss"] != alone[1]["loss"]
    for shard in (False, True)[: 1 + (name in SPREAD)]:
        for found, wanted in zip(of_two[name, shard], alone, strict=True):
            assert found == pytest.approx(wanted, rel=1e-4), shard


if __name__ == "__main__":
    main(sys.argv[1])
