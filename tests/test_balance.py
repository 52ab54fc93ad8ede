"""Images of rare classes come up more often: by how much, and the same for any workers, devices and restarts."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eomt.categories import Category
from eomt.config import DataConfig, Recipe
from eomt.data import loader
from eomt.data.balance import class_shares, classes_shown, repeat_factors
from eomt.data.loader import Subset, train_loader
from eomt.data.readers.folder import open_folder
from eomt.errors import ConfigError, DataError
from eomt.masks import IdMap
from eomt.training.setup import check
from eomt.types import ANY_CLASS, Sample, Segments
from test_loader import equal, recipe, take


def labels(*images: str) -> list[np.ndarray]:
    """One string an image, one letter a class."""
    return [np.array(sorted(ord(letter) - ord("a") for letter in image), np.int64) for image in images]


@pytest.mark.parametrize(
    ("images", "threshold", "expected"),
    [
        (("a", "a", "a", "b"), 0.25, [1, 1, 1, 1]),  # b is in a quarter
        (("a", "a", "a", "b"), 1.0, [(4 / 3) ** 0.5] * 3 + [2]),  # sqrt(1 / (1/4)) = 2
        (("a", "a", "ab", ""), 1.0, [(4 / 3) ** 0.5] * 2 + [2, 1]),  # the rarest class counts; nothing is 1
        (("a", "a", "a", "a"), 1.0, [1, 1, 1, 1]),
    ],
)
def test_factors(images: tuple[str, ...], threshold: float, expected: list[float]) -> None:
    shown = labels(*images)
    assert repeat_factors(shown, class_shares(shown, 3), threshold) == pytest.approx(expected)  # c is nowhere


class Rare:
    """Forty images of class a; one in ten shows b instead, and image 0 a crowd of c."""

    categories = tuple(Category(name, True, i, (0, 0, 0)) for i, name in enumerate("abc"))

    def __init__(self, count: int = 40, broken: int | None = None) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"image {index}: is broken")
        ids = np.zeros((12, 12), np.int32)
        ids[:, :6], ids[:, 6:8], ids[:, 8:] = 1, 2, 3
        own = 1 if index % 10 == 9 else 0
        told = [own, 2 if index == 0 else own, ANY_CLASS]
        crowd = torch.tensor([False, index == 0, True])
        segments = Segments(IdMap(ids, 3), torch.tensor(told), crowd)
        return Sample(torch.full((3, 12, 12), index, dtype=torch.uint8), segments, str(index))


def balanced(**data: object) -> Recipe:
    bare = recipe()
    return replace(bare, data=replace(bare.data, balance=0.4, **data))


@pytest.mark.parametrize(("crowds", "first"), [(False, [0]), (True, [0, 2])])
def test_what_training_shows(crowds: bool, first: list[int]) -> None:
    """A crowd counts only where it is trained on, and what may be anything never."""
    shown = classes_shown(Rare(10), [9, 0], crowds=crowds, skip_bad=False, workers=0)
    assert [each.tolist() for each in shown] == [[1], first]


@pytest.mark.parametrize(("threshold", "factor"), [(0.4, 2.0), (0.225, 1.5)])
def test_how_often_they_come_up(threshold: float, factor: float) -> None:
    """b is in a tenth of the images: sqrt(0.4 / 0.1) = 2 times as often; of 1.5, a half by chance."""
    shown = labels(*(["a"] * 9 + ["b"]) * 4)
    factors = repeat_factors(shown, class_shares(shown, 2), threshold)
    counts = sum(np.bincount(loader._order(40, 40, 0, epoch, factors), minlength=40) for epoch in range(400))
    rare, common = counts[9::10].mean(), np.delete(counts, range(9, 40, 10)).mean()
    assert rare / common == pytest.approx(factor, rel=0.05)
    assert counts.sum() == 400 * 40


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than processors
def test_workers_micro_batches_devices_and_restarts_do_not_matter() -> None:
    whole = take(train_loader(Rare(12), balanced()), 4)
    assert equal(whole, take(train_loader(Rare(12), balanced(workers=1)), 4))
    assert equal(whole, take(train_loader(Rare(12), balanced(micro_batch=2)), 8))
    assert equal(whole[3:], take(train_loader(Rare(12), balanced(), start_step=3), 1))
    parts = [take(train_loader(Rare(12), balanced(), rank=rank, world_size=2), 4) for rank in (0, 1)]
    ids = [[a.image_ids + b.image_ids for a, b in zip(*parts, strict=True)], [b.image_ids for b in whole]]
    assert ids[0] == ids[1]
    assert not equal(whole, take(train_loader(Rare(12), recipe()), 4))


def test_fewer_images_than_a_batch() -> None:
    batch = take(train_loader(Rare(10), balanced(batch_size=32)), 1)[0]
    assert len(batch.image_ids) == 32
    assert batch.image_ids.count("9") > 3  # a tenth would be three


def test_annotations_are_read_without_images(shapes: Path, caplog) -> None:
    """Of a reader's split, whole or a part, no image is decoded; of a data set from Python, samples are read."""
    data = open_folder(shapes, "train")

    class Undecoded(type(data)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            raise AssertionError("an image is decoded")

    light = Undecoded(**{name: getattr(data, name) for name in data.__dataclass_fields__})
    with caplog.at_level(logging.INFO, "eomt"):
        factors = loader._factors(Subset(light, (3, 5)), balanced())
        assert "reading the annotations of 2 images once" in caplog.text
        assert "every class is in as many images or more" in caplog.text
        assert factors is not None
        assert factors.tolist() == [1, 1]
        loader._factors(Rare(), balanced())
    assert "reading the samples (this data set has no `segments(index)`) of 40 images once" in caplog.text
    assert "1 of 3 classes are in fewer images: b (10.00%); 4 of 40 images come up to 2.0 times" in caplog.text


def test_a_bad_sample() -> None:
    with pytest.raises(DataError, match="image 9: is broken"):
        train_loader(Rare(broken=9), balanced())
    factors = loader._factors(Rare(broken=9), balanced(on_bad_sample="skip"))
    assert factors is not None
    assert factors[[1, 9]].tolist() == [1, 1]
    assert factors[19] > 2  # three of forty are left


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_cannot_be(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"data.balance .*: a share of the images above 0"):
        check(Recipe(data=DataConfig(balance=share)), tmp_path / "run")
