"""How many images go through the model at once: a step's views are cut into micro-batches that memory holds.

The step stays that of one batch: its terms are divided by what the whole batch holds, so that micro-batches of any
sizes add up to it. Their passes through the model are in `loop`.
"""

import logging
from collections.abc import Sequence

import torch

from eomt.errors import ResourceError
from eomt.types import Batch

__all__ = ["cut", "fewer", "fullest", "joined"]

log = logging.getLogger("eomt")


def joined(batches: Sequence[Batch]) -> Batch:
    """Make one batch of several."""
    return Batch(
        torch.cat([batch.images for batch in batches]),
        [target for batch in batches for target in batch.targets],
        [image_id for batch in batches for image_id in batch.image_ids],
    )


def cut(batch: Batch, size: int) -> list[tuple[int, Batch]]:
    """Give micro-batches of a size, the last one maybe smaller, each with the place of its first image."""
    starts = range(0, len(batch.targets), size)
    return [(start, pick(batch, range(start, min(start + size, len(batch.targets))))) for start in starts]


def fullest(batch: Batch, images: int) -> Batch:
    """Make a batch of so many views, those with most objects; where there are fewer, they come several times."""
    places = sorted(range(len(batch.targets)), key=lambda place: -len(batch.targets[place].labels))
    return pick(batch, [places[number % len(places)] for number in range(images)])


def pick(batch: Batch, places: Sequence[int]) -> Batch:
    """Make a batch of views of a batch."""
    return Batch(
        batch.images[list(places)],
        [batch.targets[place] for place in places],
        [batch.image_ids[place] for place in places],
    )


def fewer(size: int, step: int, speaker: bool) -> int:
    """Give half a micro-batch's size, and say so if this process is the `speaker`: memory did not suffice for it.

    Raises ResourceError for one image.
    """
    if size == 1:
        raise ResourceError(
            f"step {step}: memory does not suffice for one image at a time. Add --model.gradient-checkpointing, "
            "make --model.image-size smaller, or train less of the model (--optim.freeze)"
        )
    half = (size + 1) // 2
    if speaker:
        log.warning(
            "step %d: memory does not suffice for %d images at once; from this step on, which is taken again, "
            "it is %d at once in the same batch",
            step,
            size,
            half,
        )
    return half
