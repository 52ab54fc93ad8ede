"""Let processes that a launcher started again find one another, not the addresses of those that died.

torchrun from torch 2.14 on gives every attempt on one machine the same store. What the processes of the last
attempt wrote there looks like the addresses of the living: who reads them waits for the dead, half an hour at a
time. Joining otherwise is left to accelerate.
"""

import os

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

__all__ = ["join_again"]


def join_again(device: torch.device) -> None:
    """Form the group of a later attempt of torchrun's on one machine, under names of its own in the store.

    Does nothing elsewhere. Attempts on several machines count apart, so a name made of them would not be shared:
    there the launcher is asked for a new store each time (docs/training.md).
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    if attempt == "0" or not one_machine or not distributed.is_available() or distributed.is_initialized():
        return
    store, rank, world_size = next(rendezvous("env://"))
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"attempt {attempt}", store),
        rank=rank,
        world_size=world_size,
    )
