"""How much memory training takes and may take: measured on the device, by real passes through the model.

What passes through the model is the caller's; what is done where memory runs out all the same is in
`micro_batches` and `loop`.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from eomt import machine
from eomt.errors import ConfigError, is_out_of_memory

__all__ = ["MARGIN", "Need", "limit", "measure", "peak", "reset_peak", "sizes"]

log = logging.getLogger("eomt")

MARGIN = 0.2
"""Share of the memory that is left free: for batches with more objects, and for the processes that read."""
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """What passes through the model take, in bytes."""

    fixed: int
    image: int
    limit: int
    """So much may be taken, with what is left free."""

    def of(self, images: int) -> int:
        """Give what a micro-batch takes."""
        return self.fixed + images * self.image

    def most(self, batch: int) -> int:
        """Choose the largest micro-batch for a batch of this size; one image where not even that may fit."""
        fitting = (size for size in sizes(batch) if self.of(size) <= (1 - MARGIN) * self.limit)
        return next(fitting, 1)

    def __str__(self) -> str:
        kept = f"{self.limit / GIB:.2f} GiB, of which {MARGIN:.0%} are left free"
        return f"an image takes {self.image / GIB:.2f} GiB beside {self.fixed / GIB:.2f}; there are {kept}"


def sizes(batch: int) -> list[int]:
    """Give the micro-batches that a batch can be cut into, large ones first: 16, 8, 6, 4, 3, 2, 1 of 16."""
    return sorted({math.ceil(batch / count) for count in range(1, batch + 1)}, reverse=True)


def measure(through: Callable[[int], object], device: torch.device, to_come: int) -> Need:
    """Measure what one and two images take on their way through the model and back; more take as much each.

    `through` sends so many images; the gradients that it leaves stay, as they do between micro-batches. `to_come`
    are bytes that training will take beside, from its first step on. Where there is no memory for two images, one
    takes all. Raises ConfigError where the device does not tell what was taken.
    """
    through(1)  # makes room for the gradients
    one, two = (_peak_of(through, images, device) for images in (1, 2))
    if not one:
        raise ConfigError(
            f"data.micro_batch auto: {device.type} does not tell what memory was taken; give a number"
        )
    space = limit(device)
    image = space if two is None else max(two - one, 1)
    return Need(max(0, one - image) + to_come, image, space)


def _peak_of(through: Callable[[int], object], images: int, device: torch.device) -> int | None:
    """Give the peak while images go through the model; None where memory does not suffice for more than one."""
    reset_peak(device)
    try:
        through(images)
    except Exception as error:
        if images == 1 or not is_out_of_memory(error):
            raise
        return None
    return peak(device)


def limit(device: torch.device) -> int:
    """Give the bytes that this process may have in all: those that it has and those that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of a launcher: they share what is free
    return machine.resident() + machine.memory()[1] // processes


def reset_peak(device: torch.device) -> None:
    """Let `peak` start from what is taken now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.reset_peak_resident()


def peak(device: torch.device) -> int:
    """Give the most bytes that were taken at once; 0 where that is not told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return machine.peak_resident() if device.type == "cpu" else 0
