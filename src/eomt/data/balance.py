"""Let images of rare classes come up more often: the repeat factors of LVIS (Gupta et al., 2019, appendix B).

What is drawn by them is left to `loader`.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eomt.data.pool import in_order
from eomt.errors import DataError, EomtError
from eomt.types import Dataset

__all__ = ["class_shares", "classes_shown", "repeat_factors", "say"]

log = logging.getLogger("eomt")


def classes_shown(
    dataset: Dataset, indices: Sequence[int], *, crowds: bool, skip_bad: bool, workers: int
) -> list[NDArray[np.int64]]:
    """Read which classes each of these images shows in training, crowds among them or not.

    Images are not decoded where the data set has `segments(index)`, as those of all readers have. An image that
    cannot be read shows nothing with `skip_bad`, and otherwise raises DataError.
    """
    light = hasattr(dataset, "segments")
    log.info(
        "data.balance: reading the %s of %d images once, to count classes",
        "annotations" if light else "samples (this data set has no `segments(index)`)",
        len(indices),
    )
    started = time.monotonic()
    rows = [row for chunk in in_order(_Rows(dataset, indices, crowds), "annotations", workers) for row in chunk]
    log.info("data.balance: read in %.1f s", time.monotonic() - started)
    for row in rows:
        if isinstance(row, EomtError) and not (skip_bad and isinstance(row, DataError)):
            raise row
    nothing = np.empty(0, np.int64)
    return [nothing if isinstance(row, EomtError) else row for row in rows]


def class_shares(shown: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.float64]:
    """Give the share of the images that show each class."""
    return np.bincount(np.concatenate([np.empty(0, np.int64), *shown]), minlength=classes) / max(len(shown), 1)


def repeat_factors(
    shown: Sequence[NDArray[np.int64]], shares: NDArray[np.float64], threshold: float
) -> NDArray[np.float64]:
    """Give each image's weight: of its classes' sqrt(threshold / share) the largest, and 1 at least."""
    with np.errstate(divide="ignore"):
        of_class = np.maximum(1.0, np.sqrt(threshold / shares))
    return np.array([of_class[labels].max(initial=1.0) for labels in shown])


def say(names: Sequence[str], shares: NDArray[np.float64], factors: NDArray[np.float64], threshold: float) -> None:
    """Log which classes come up more often, and how much."""
    rare = [place for place in np.argsort(shares, kind="stable") if 0 < shares[place] < threshold]
    if not rare:
        log.warning(
            "data.balance %g: every class is in as many images or more, so that nothing changes", threshold
        )
        return
    listed = ", ".join(f"{names[place]} ({shares[place]:.2%})" for place in rare[:5])
    log.info(
        "data.balance %g: %d of %d classes are in fewer images: %s%s; %d of %d images come up to %.1f times as "
        "often as the others",
        threshold,
        len(rare),
        len(names),
        listed,
        " and more" if len(rare) > 5 else "",
        int((factors > 1).sum()),
        len(factors),
        factors.max(),
    )


@dataclass(frozen=True)
class _Rows:
    """The classes of each image, or what is wrong with it."""

    dataset: Dataset
    indices: Sequence[int]
    crowds: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> NDArray[np.int64] | EomtError:
        index = self.indices[place]
        try:
            read = getattr(self.dataset, "segments", None)
            segments = self.dataset[index].segments if read is None else read(index)
            segments.check_labels(len(self.dataset.categories), f"image {index}")
        except EomtError as error:
            return error
        kept = segments.labels >= 0 if self.crowds else (segments.labels >= 0) & ~segments.is_crowd
        return np.unique(segments.labels[kept].numpy())
