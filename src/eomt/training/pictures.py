"""Show what a run sees and finds: a training batch with its masks, and validation images with their predictions.

Nothing here draws random numbers. Drawing a sheet is left to `drawing`, where pictures go to `track`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from jaxtyping import UInt8

from eomt.config import Precision
from eomt.drawing import Tile, contact_sheet
from eomt.errors import DataError
from eomt.evaluation.gallery import as_sample
from eomt.evaluation.outcomes import shown
from eomt.inference.segmenter import Segmenter
from eomt.masks import RleMasks
from eomt.tasks import TASKS
from eomt.types import Batch, Category, Dataset, Sample, Segments

__all__ = ["predictions", "training_views"]

MOST_VIEWS = 16
"""Views of a batch that are shown."""


def training_views(batches: Sequence[Batch], categories: tuple[Category, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the views of micro-batches as the model gets them: augmented, with the masks that it is to find."""
    views = chain.from_iterable(zip(each.images, each.targets, each.image_ids, strict=True) for each in batches)
    tiles = []
    for image, target, image_id in islice(views, MOST_VIEWS):
        masks = RleMasks.encode(target.masks.numpy(), (image.shape[1], image.shape[2]))
        segments = Segments(masks, target.labels, target.is_crowd)
        tiles.append(Tile(image_id, Sample(image, segments, image_id), categories))
    return contact_sheet(tiles)


def predictions(
    segmenter: Segmenter, dataset: Dataset, count: int, precision: Precision = "auto"
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw some images, spread evenly over a data set: each as annotated and, beside it, as predicted."""
    shown = min(count, len(dataset))
    tiles: list[Tile] = []
    for index in (place * len(dataset) // shown for place in range(shown)):
        tiles += _pair(segmenter, dataset, index, precision)
    return contact_sheet(tiles)


def _pair(segmenter: Segmenter, dataset: Dataset, index: int, precision: Precision) -> Iterator[Tile]:
    try:
        sample = dataset[index]
    except DataError as error:
        yield from (Tile("cannot be read", str(error), dataset.categories),) * 2
        return
    task = TASKS[segmenter.task]
    yield Tile(f"{sample.image_id}: annotated", sample, dataset.categories)
    [(logits, tiling)] = segmenter.look([sample.image], task.fit, precision=precision)
    found = task.decode(logits, tiling, segmenter.categories, segmenter.thresholds)
    yield Tile("predicted", as_sample(sample.image, shown(found, segmenter.task)), segmenter.categories)
