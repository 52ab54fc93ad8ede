"""Feed views to the training loop, batch after batch, the same ones for any number of worker processes.

Which samples form step s, and what chance does to each of them, is a function of (seed, s, place in the batch):
restarts, workers, devices and micro-batches do not change it. What a sample is, and how a view is cut, is left to
the readers and to `augment`.
"""

import logging
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from eomt.categories import Category
from eomt.config import Recipe
from eomt.data.augment import augment
from eomt.data.balance import class_shares, classes_shown, repeat_factors, say
from eomt.errors import ConfigError, DataError, EomtError, ResourceError
from eomt.types import Batch, Dataset, Sample, Target

__all__ = ["Subset", "collate", "cut_validation", "share", "steps_per_epoch", "train_loader"]

log = logging.getLogger("eomt")

_TIMEOUT = 600.0  # seconds until a worker that gives no batch is taken for hung
_SUBSTITUTES = 10  # tries to find a sample in place of one that cannot be read


@dataclass(frozen=True)
class Subset:
    """Some samples of a data set, in this order."""

    dataset: Dataset
    indices: tuple[int, ...]

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes of the whole data set."""
        return self.dataset.categories

    def listing(self) -> list[str]:
        """Name each image with its files and their sizes, where the data set does."""
        lines = self.dataset.listing()  # type: ignore[attr-defined]
        return [lines[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its segments."""
        return self.dataset[self.indices[index]]


def cut_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split a data set by chance into one to train on and, with this share of the images, one to judge on.

    Each has an image at least. Raises DataError when there are fewer than two images.
    """
    if len(dataset) < 2:
        raise DataError(
            f"{len(dataset)} image is too few to train and to judge on; give two, or a validation split"
        )
    if not 0 < fraction < 1:
        raise ConfigError(f"data.val_fraction is {fraction}; use a share between 0 and 1")
    held_out = min(max(1, round(len(dataset) * fraction)), len(dataset) - 1)
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    return Subset(dataset, tuple(sorted(order[held_out:]))), Subset(dataset, tuple(sorted(order[:held_out])))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the full batches in a pass over the images; a set smaller than a batch makes one."""
    return max(1, images // batch_size)


def share(batch_size: int, rank: int, world_size: int) -> range:
    """Give the places in a batch that process number `rank` of `world_size` has; none has two more than another.

    Raises ConfigError where there is not one for each process.
    """
    if batch_size < max(1, world_size):
        raise ConfigError(
            f"data.batch_size is {batch_size}, the images of one step; "
            + (f"use {world_size} or more, one for each process" if world_size > 1 else "use 1 or more")
        )
    each, left = divmod(batch_size, world_size)
    first = rank * each + min(rank, left)
    return range(first, first + each + (rank < left))


def train_loader(
    dataset: Dataset, recipe: Recipe, *, start_step: int = 0, rank: int = 0, world_size: int = 1
) -> Generator[Batch, None, None]:
    """Give micro-batches without end, from optimiser step `start_step` on.

    Each step has `recipe.data.batch_size` images, of which this process, number `rank` of `world_size`, gets its
    `share` in micro-batches of `recipe.data.micro_batch`, the last of them maybe smaller. Each epoch has its own
    order; images of a last, incomplete batch are left out of it. A data set smaller than a batch is seen several
    times within it, in other views. With `recipe.data.balance`, images of rare classes come up more often at the
    cost of the others; annotations are read once for it. For semantic segmentation, all segments of one class are
    one. With `recipe.data.on_bad_sample` of skip, another sample, the same one in each run, stands in for one that
    cannot be read. Closing the iterator ends the worker processes.

    Raises ConfigError when there are fewer images than processes, DataError for an empty data set and, while
    iterating, whatever error the reader raises; ResourceError when a worker process dies.
    """
    if not len(dataset):
        raise DataError("the training split has no images; add some, or choose another split")
    workers, mine = recipe.data.workers, share(recipe.data.batch_size, rank, world_size)
    if workers < 0:
        raise ConfigError(f"data.workers is {workers}; use 0 (no processes) or more")
    assert recipe.data.micro_batch != "auto"  # it was chosen before
    at_once = recipe.data.micro_batch or len(mine)
    plan = _Plan(len(dataset), recipe, start_step, mine, at_once, _factors(dataset, recipe))
    loader: DataLoader[Any] = DataLoader(
        _Views(dataset, recipe),  # type: ignore[arg-type]
        batch_sampler=plan,
        num_workers=workers,  # torch gives each of them one thread
        collate_fn=_collate_or_error,
        timeout=_TIMEOUT if workers else 0,
    )
    return _batches(loader, limit=math.ceil(recipe.data.max_bad_share * len(dataset)))


def collate(views: list[tuple[UInt8[Tensor, "3 h w"], Target, str]]) -> Batch:
    """Stack views of one size."""
    images, targets, image_ids = zip(*views, strict=True)
    return Batch(torch.stack(images), list(targets), list(image_ids))


class _Key(NamedTuple):
    """Which view of which sample: all that a worker needs to know."""

    sample: int
    step: int
    place: int


@dataclass(frozen=True)
class _Plan:
    """The keys of each micro-batch that one device is to see, in order, without end."""

    images: int
    recipe: Recipe
    start_step: int
    share: range
    micro_batch: int
    factors: NDArray[np.float64] | None = None
    """How often each image comes up, for 1 of those without rare classes; None: all alike."""

    def __iter__(self) -> Iterator[list[_Key]]:
        batch_size = self.recipe.data.batch_size
        steps = steps_per_epoch(self.images, batch_size)
        epoch, first = divmod(self.start_step, steps)
        while True:
            order = _order(self.images, steps * batch_size, self.recipe.seed, epoch, self.factors)
            for step in range(first, steps):
                samples = order[step * batch_size : (step + 1) * batch_size].tolist()
                keys = [_Key(sample, epoch * steps + step, place) for place, sample in enumerate(samples)]
                for start in self.share[:: self.micro_batch]:
                    yield keys[start : min(start + self.micro_batch, self.share.stop)]
            epoch, first = epoch + 1, 0


class _View(NamedTuple):
    """One view, and what was wrong with the samples that it stands in for, by their indices."""

    image: Tensor
    target: Target
    image_id: str
    bad: dict[int, str]


@dataclass(frozen=True)
class _Views:
    """The views of a data set by their keys. A reader's error is returned: torch would garble its words."""

    dataset: Dataset
    recipe: Recipe

    def __getitem__(self, key: _Key) -> _View | EomtError:
        bad: dict[int, str] = {}
        try:
            sample = self._read(key, bad)
        except EomtError as error:
            return error
        chance = np.random.SeedSequence((self.recipe.seed, key.step, key.place))
        generator = torch.Generator().manual_seed(int(chance.generate_state(1, np.uint64)[0]))
        model = self.recipe.model
        image, target = augment(sample, model.image_size, self.recipe.augment, generator, model.zoom)
        return _View(image, target, sample.image_id, bad)

    def _read(self, key: _Key, bad: dict[int, str]) -> Sample:
        """Read a sample; where it is bad and may be skipped, another one that follows from the key."""
        index = key.sample
        for attempt in range(1, _SUBSTITUTES + 2):
            try:
                return self._checked(self.dataset[index])
            except DataError as error:
                if self.recipe.data.on_bad_sample == "error" or attempt > _SUBSTITUTES:
                    raise
                bad[index] = str(error)
            index = int(np.random.default_rng((self.recipe.seed, *key, attempt)).integers(len(self.dataset)))
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, sample: Sample) -> Sample:
        sample.segments.check_labels(len(self.dataset.categories), f"image {sample.image_id}")
        semantic = self.recipe.task == "semantic"
        return replace(sample, segments=sample.segments.merged()) if semantic else sample


def _factors(dataset: Dataset, recipe: Recipe) -> NDArray[np.float64] | None:
    """Give the images' repeat factors where the recipe asks for them; each process finds the same."""
    threshold = recipe.data.balance
    if threshold is None:
        return None
    whole, indices = (
        (dataset.dataset, dataset.indices) if isinstance(dataset, Subset) else (dataset, range(len(dataset)))
    )
    shown = classes_shown(
        whole,
        indices,
        crowds=recipe.task == "semantic",
        skip_bad=recipe.data.on_bad_sample == "skip",
        workers=recipe.data.workers,
    )
    shares = class_shares(shown, len(dataset.categories))
    factors = repeat_factors(shown, shares, threshold)
    say([category.name for category in dataset.categories], shares, factors, threshold)
    return factors


def _order(
    images: int, length: int, seed: int, epoch: int, factors: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Shuffle the images anew in each epoch; where they are too few, go through them again.

    With factors, each image is in the hat as often as its factor says, the part after the point by chance; what
    is drawn first fills the epoch, which is no longer than without.
    """
    chance = np.random.default_rng((seed, epoch))
    rounds = [_round(images, chance, factors) for _ in range(-(-length // images))]
    return np.concatenate(rounds)[:length]


def _round(images: int, chance: np.random.Generator, factors: NDArray[np.float64] | None) -> NDArray[np.int64]:
    if factors is None:
        return chance.permutation(images)
    times = np.floor(factors + chance.random(images)).astype(np.int64)
    return chance.permutation(np.repeat(np.arange(images), times))


def _collate_or_error(views: list[_View | EomtError]) -> tuple[Batch, dict[int, str]] | EomtError:
    errors = [view for view in views if isinstance(view, EomtError)]
    if errors:
        return errors[0]
    whole = [view for view in views if isinstance(view, _View)]
    bad = {index: words for view in whole for index, words in view.bad.items()}
    return collate([(view.image, view.target, view.image_id) for view in whole]), bad


def _batches(loader: "DataLoader[Any]", limit: int) -> Generator[Batch, None, None]:
    """Give the batches; log each bad sample once, and end at more than `limit` of them."""
    iterator, known = iter(loader), set[int]()
    try:
        while True:
            found = _next(iterator)
            if isinstance(found, EomtError):
                raise found
            batch, bad = found
            for index in sorted(bad.keys() - known):
                log.warning("skipped: %s", bad[index])
            known |= bad.keys()
            if len(known) > limit:
                raise DataError(
                    f"{len(known)} training images cannot be used, more than the {limit} that data.max_bad_share "
                    "allows; the last lines name them: correct them, or raise it"
                )
            yield batch
    finally:
        del iterator  # ends the worker processes, which a traceback that is kept would hold


def _next(iterator: Iterator[Any]) -> tuple[Batch, dict[int, str]] | EomtError:
    try:
        found: tuple[Batch, dict[int, str]] | EomtError = next(iterator)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise
        raise ResourceError(
            f"a process that reads samples ended or hung ({error}); often memory is short (in a container, "
            "/dev/shm): lower data.workers or data.micro_batch; data.workers=0 shows an error where it occurs"
        ) from error
    return found
