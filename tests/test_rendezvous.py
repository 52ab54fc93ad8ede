"""Processes that are started again join one another, whatever those that died left behind."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from torch import distributed

JOIN = """
import sys, torch
from torch import distributed
from eomt.config import Recipe
from eomt.training.setup import build_accelerator
accelerator = build_accelerator(Recipe(device="cpu", precision="fp32"))
sum_of_ranks = torch.tensor([1.0 + accelerator.process_index])
distributed.all_reduce(sum_of_ranks)
sys.exit(int(sum_of_ranks.item()))
"""


@pytest.fixture
def store():
    """The store of a launcher, which all its attempts share."""
    return distributed.TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=60), multi_tenant=True)


def start(store: distributed.TCPStore, rank: int, attempt: int) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "GROUP_WORLD_SIZE": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    return subprocess.Popen([sys.executable, "-c", JOIN], env=environment)


def test_a_second_attempt_does_not_wait_for_the_first(store: distributed.TCPStore) -> None:
    """The second process of the second attempt looks for the first one before it is there, and must wait."""
    first = [start(store, rank, attempt=0) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in first] == [3, 3]
    known = store.num_keys()
    second = start(store, 1, attempt=1)
    processes = [second]
    try:
        for _ in range(6000):  # until it has said where it is, or a minute
            if store.num_keys() > known or second.poll() is not None:
                break
            time.sleep(0.01)
        assert store.num_keys() > known, "the second attempt has the names of the first"
        processes.insert(0, start(store, 0, attempt=1))
        assert [process.wait(timeout=120) for process in processes] == [3, 3]
    finally:
        for process in processes:
            process.kill()
