"""Read all items of a data set in order, in several processes where that pays: to look at data, not to train."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from eomt.errors import ResourceError

__all__ = ["in_order"]

_CHUNK = 16
"""Items that a process reads before it answers."""
_FEW = 200
"""So many images are read sooner than processes start."""
_MOST_WORKERS = 8


def in_order(
    dataset: Any, what: str, workers: int | None = None, images: int | None = None
) -> Iterator[list[Any]]:
    """Give all items of a data set (`__len__`, `__getitem__`, picklable) in order, in chunks, few ahead of time.

    `workers` None: as many processes as there are processors, if the images in all (None: those of the data set)
    are more than a few; 0: none. `what` names the items. Raises ResourceError when a process dies.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        many = (len(dataset) if images is None else images) > _FEW and processors > 1
        workers = min(_MOST_WORKERS, processors) if many else 0
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=_CHUNK,
        num_workers=min(workers, processors),  # more gain nothing
        collate_fn=list,
        generator=torch.Generator(),  # its seed is not wanted, and the user's chance left alone
    )
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise
        raise ResourceError(
            f"a process that reads {what} ended ({error}); often memory is short: use fewer (--workers), or 0"
        ) from error
