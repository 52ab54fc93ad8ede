"""The same batches for any number of workers, devices and micro-batches; errors keep their own words."""

import itertools
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.config import AugmentConfig, DataConfig, ModelConfig, Recipe
from eomt.data.loader import Subset, collate, cut_validation, steps_per_epoch, train_loader
from eomt.errors import ConfigError, DataError, ResourceError
from eomt.masks import IdMap
from eomt.training.micro_batches import joined
from eomt.types import Batch, Sample, Segments, Target


class Stripes:
    """Small images, all different, with one segment each; some may be broken or end their process."""

    categories = (Category("stripe", True, 0, (0, 0, 0)),)

    def __init__(self, count: int, broken: int | tuple[int, ...] = (), deadly: int = -1):
        self.count, self.deadly = count, deadly
        self.broken = (broken,) if isinstance(broken, int) else broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"image {index}: is broken; replace it")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        image = torch.randint(256, (3, 12, 12), generator=torch.Generator().manual_seed(index)).to(torch.uint8)
        ids = np.zeros((12, 12), np.int32)
        ids[:, index % 12] = 1
        segments = Segments(IdMap(ids, 1), torch.tensor([0]), torch.tensor([False]))
        return Sample(image, segments, str(index))


def recipe(batch_size: int = 4, micro_batch: int | None = None, workers: int = 0, seed: int = 0) -> Recipe:
    return Recipe(
        seed=seed,
        model=ModelConfig(image_size=(16, 16)),
        data=DataConfig(batch_size=batch_size, micro_batch=micro_batch, workers=workers),
        augment=AugmentConfig(color=True),
    )


def take(batches: Generator[Batch, None, None], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def equal(first: list[Batch], second: list[Batch]) -> bool:
    """Compare all views, however they are cut into batches."""
    one, two = (
        [(b.images[k], b.targets[k], b.image_ids[k]) for b in s for k in range(len(b.targets))]
        for s in (first, second)
    )
    return len(one) == len(two) and all(
        a[2] == b[2] and torch.equal(a[0], b[0]) and torch.equal(a[1].masks, b[1].masks)
        for a, b in zip(one, two, strict=True)
    )


def assert_gone(children: set[multiprocessing.process.BaseProcess]) -> None:
    deadline = time.monotonic() + 10
    while children & set(multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children & set(multiprocessing.active_children())


def test_worker_count_does_not_matter():
    alone = take(train_loader(Stripes(10), recipe()), 6)
    assert equal(alone, take(train_loader(Stripes(10), recipe(workers=2)), 6))
    assert not equal(alone, take(train_loader(Stripes(10), recipe(seed=1)), 6))


def test_micro_batches_and_restarts_do_not_matter():
    whole = take(train_loader(Stripes(10), recipe()), 6)
    assert equal(whole, take(train_loader(Stripes(10), recipe(micro_batch=2)), 12))
    assert equal(whole[3:], take(train_loader(Stripes(10), recipe(), start_step=3), 3))


def test_devices_share_a_batch():
    whole = take(train_loader(Stripes(10), recipe()), 1)[0]
    parts = [take(train_loader(Stripes(10), recipe(), rank=rank, world_size=2), 1)[0] for rank in (0, 1)]
    assert [part.image_ids for part in parts] == [whole.image_ids[:2], whole.image_ids[2:]]
    assert torch.equal(parts[1].images, whole.images[2:])


@pytest.mark.parametrize(
    ("batch_size", "processes", "micro_batch", "sizes"),
    [
        (5, 1, 2, [[2, 2, 1]]),
        (5, 1, 8, [[5]]),
        (5, 2, None, [[3], [2]]),
        (7, 3, 2, [[2, 1], [2], [2]]),
    ],
)
def test_any_batch_is_shared(batch_size, processes, micro_batch, sizes):
    """Nothing has to divide anything: together the processes see the batch, in order."""
    whole = take(train_loader(Stripes(10), recipe(batch_size)), 1)[0]
    parts = []
    for rank, lengths in enumerate(sizes):
        batches = train_loader(Stripes(10), recipe(batch_size, micro_batch), rank=rank, world_size=processes)
        taken = take(batches, len(lengths))
        assert [len(part.targets) for part in taken] == lengths
        parts += taken
    assert equal([whole], [joined(parts)])


def test_an_epoch_sees_each_image_once_but_for_the_last_incomplete_batch():
    assert steps_per_epoch(10, 4) == 2
    batches = take(train_loader(Stripes(10), recipe()), 20)
    assert {len(batch.image_ids) for batch in batches} == {4}
    epochs = [batches[k].image_ids + batches[k + 1].image_ids for k in range(0, 20, 2)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10  # another order each time
    assert len({image_id for epoch in epochs for image_id in epoch}) == 10  # so that all are seen


def test_a_small_set_fills_a_batch_with_different_views():
    assert steps_per_epoch(3, 8) == 1
    batch = take(train_loader(Stripes(3), recipe(batch_size=8)), 1)[0]
    assert sorted(Counter(batch.image_ids).values()) == [2, 3, 3]
    twins = [image for image, image_id in zip(batch.images, batch.image_ids, strict=True) if image_id == "1"]
    assert not torch.equal(twins[0], twins[1])


def test_views_of_an_image_differ_between_epochs():
    batches = take(train_loader(Stripes(1), recipe(batch_size=1)), 5)
    assert not any(torch.equal(a.images, b.images) for a, b in itertools.pairwise(batches))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_reader_keeps_its_words(workers):
    with pytest.raises(DataError) as caught:
        take(train_loader(Stripes(8, broken=3), recipe(workers=workers)), 2)
    assert str(caught.value) == "image 3: is broken; replace it"


def test_a_worker_that_dies_is_told():
    with pytest.raises(ResourceError, match=r"a process that reads samples ended.*data\.workers"):
        take(train_loader(Stripes(8, deadly=3), recipe(workers=1)), 2)


def test_a_label_without_a_category_is_told():
    class Mislabelled(Stripes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, segments=replace(sample.segments, labels=torch.tensor([1])))

    with pytest.raises(DataError, match=r"image \d: labels from 1 to 1, but there are 1 categories"):
        take(train_loader(Mislabelled(8), recipe()), 1)


def test_an_error_ends_the_workers():
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError) as caught:
        take(train_loader(Stripes(8, broken=3), recipe(workers=2)), 2)
    assert caught.tb is not None  # it is kept, with all its frames
    assert_gone(set(multiprocessing.active_children()) - before)


def test_closing_ends_the_workers():
    batches = train_loader(Stripes(8), recipe(workers=2))
    next(batches)
    children = set(multiprocessing.active_children())
    assert len(children) >= 2
    batches.close()
    assert_gone(children)


@pytest.mark.parametrize(
    ("data", "world_size", "words"),
    [
        (DataConfig(batch_size=0), 1, "batch_size is 0"),
        (DataConfig(batch_size=2), 3, "batch_size is 2.*; use 3 or more, one for each process"),
        (DataConfig(workers=-1), 1, "workers is -1"),
    ],
)
def test_sizes_that_cannot_be_are_told_before_the_first_batch(data, world_size, words):
    with pytest.raises(ConfigError, match=words):
        train_loader(Stripes(8), replace(recipe(), data=data), world_size=world_size)


def test_an_empty_split_is_told():
    with pytest.raises(DataError, match="no images"):
        train_loader(Stripes(0), recipe())


def test_collate():
    target = Target(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), torch.zeros(0) > 0)
    batch = collate([(torch.full((3, 4, 4), k, dtype=torch.uint8), target, str(k)) for k in range(2)])
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1]
    assert batch.image_ids == ["0", "1"]
    assert len(batch.targets) == 2


@pytest.mark.parametrize(
    ("images", "fraction", "held_out"), [(10, 0.2, 2), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1), (2, 0.9, 1)]
)
def test_cut_validation(images, fraction, held_out):
    train, val = cut_validation(Stripes(images), fraction, seed=0)
    assert len(val) == held_out
    assert sorted(train.indices + val.indices) == list(range(images))
    assert (train, val) == cut_validation(train.dataset, fraction, seed=0)
    assert val[0].image_id == str(val.indices[0])
    assert isinstance(val, Subset)
    assert val.categories == Stripes.categories


def test_cut_validation_needs_two_images_and_a_share():
    with pytest.raises(DataError, match="too few"):
        cut_validation(Stripes(1), 0.1, seed=0)
    with pytest.raises(ConfigError, match="val_fraction"):
        cut_validation(Stripes(9), 0.0, seed=0)


def skipping(batch_size: int = 4, workers: int = 0, share: float = 0.5) -> Recipe:
    plain = recipe(batch_size, workers=workers)
    return replace(plain, data=replace(plain.data, on_bad_sample="skip", max_bad_share=share))


def test_a_bad_sample_has_the_same_substitute_in_each_run(caplog) -> None:
    bad = {2, 5}
    runs = [take(train_loader(Stripes(8, tuple(bad)), skipping(workers=workers)), 4) for workers in (0, 2)]
    first, second = ([batch.image_ids for batch in run] for run in runs)
    assert first == second
    assert not {image_id for batch in first for image_id in batch} & {str(index) for index in bad}
    sound = [batch.image_ids for batch in take(train_loader(Stripes(8), skipping()), 4)]
    for ids, others in zip(sound, first, strict=True):  # all but the substitutes stay where they were
        assert all(a == b for a, b in zip(ids, others, strict=True) if int(a) not in bad)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped")]
    assert sorted(said) == sorted(2 * [f"skipped: image {index}: is broken; replace it" for index in bad])


def test_too_many_bad_samples_end_it() -> None:
    batches = train_loader(Stripes(8, (1, 2, 3)), skipping(share=0.25))
    with pytest.raises(DataError, match="3 training images cannot be used, more than the 2"):
        take(batches, 4)
    with pytest.raises(DataError, match="is broken"):  # not one sound image
        take(train_loader(Stripes(8, tuple(range(8))), skipping(share=1.0)), 1)


def test_semantic_segmentation_sees_one_segment_a_class() -> None:
    class Pair(Stripes):
        def __getitem__(self, index: int) -> Sample:
            ids = np.zeros((12, 12), np.int32)
            ids[:6], ids[6:9], ids[9:] = 1, 2, 3
            crowd = torch.tensor([False, False, True])
            segments = Segments(IdMap(ids, 3), torch.tensor([0, 0, 0]), crowd)
            return replace(super().__getitem__(index), segments=segments)

    counts = {}
    for task in ("instance", "semantic"):
        (batch,) = take(train_loader(Pair(4), replace(recipe(), task=task)), 1)
        counts[task] = {len(target.labels) for target in batch.targets}
    assert max(counts["instance"]) == 2  # the crowd is not trained on
    assert counts["semantic"] == {1}
