"""Choose images of a data set: new splits with every class on each side, or a few images that show all classes.

The same data set, shares and seed give the same choice. Classes are counted by images that show them. Writing what
was chosen is left to `convert`.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eomt.categories import Category
from eomt.data.convert import Chosen, Target, View
from eomt.data.unions import identities
from eomt.errors import ConfigError, DataError
from eomt.masks import IdMap
from eomt.types import ANY_CLASS

__all__ = ["Group", "Survey", "by_class", "divide", "few", "sample", "split", "survey"]


_ANY = ""
"""Stands for a class that every image shows, so that no split is empty."""


class Group(NamedTuple):
    """Images that stay together, as their files are equal: their places in a survey, and the classes they show."""

    members: tuple[int, ...]
    classes: frozenset[str]


@dataclass(frozen=True)
class Survey:
    """What the images of a data set show."""

    images: tuple[Chosen, ...]
    classes: tuple[frozenset[str], ...]
    """The names of the classes that each image shows."""
    groups: tuple[Group, ...]
    """Images with equal files together, in order of the first."""
    repeated: int
    """Images that are in several splits and taken once, as their segments are the same there."""
    closest: Target
    """The layout that holds all of it, and looks most like it."""

    @property
    def duplicates(self) -> int:
        """Count the images whose file is equal to one before it."""
        return len(self.images) - len(self.groups)


def survey(views: Mapping[str, View], progress: Callable[[int, int], None] | None = None) -> Survey:
    """Look at every image, its file and its segments. Raises DataError.

    One that several splits have is taken from the first, if its segments are the same there; else from each.
    """
    known = identities({name: view.split for name, view in views.items()})
    first: dict[Hashable, Chosen] = {}
    for name, view in views.items():
        for place, identity in enumerate(known[name]):
            first.setdefault(identity, Chosen(view, place))
    images = tuple(first.values())
    if not images:
        raise DataError("no images; is the right split named?")
    shown: list[frozenset[str]] = []
    equal: dict[bytes, list[int]] = {}
    overlap = crowds = False
    for number, (view, place) in enumerate(images):
        segments, names = view.segments(place), [category.name for category in view.seen.categories]
        overlap |= not isinstance(segments.masks, IdMap)
        crowds |= bool(segments.is_crowd.any())
        shown.append(frozenset(names[label] for label in segments.labels.tolist() if label != ANY_CLASS))
        equal.setdefault(hashlib.sha256(view.split.image_bytes(place)).digest(), []).append(number)
        if progress is not None:
            progress(number + 1, len(images))
    groups = tuple(
        Group(tuple(members), frozenset().union(*(shown[member] for member in members)))
        for members in equal.values()
    )
    repeated = sum(map(len, known.values())) - len(images)
    return Survey(
        images, tuple(shown), groups, repeated, "coco" if overlap else "coco-panoptic" if crowds else "masks"
    )


def split(found: Survey, shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Chosen]]:
    """Divide all images among splits of these shares, equal files together; see `divide`. Raises ConfigError."""
    if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        given = ", ".join(f"--{name} {share:g}" for name, share in shares.items())
        raise ConfigError(f"{given}: each share is above 0, all together are below 1; the rest is for training")
    if len(found.groups) <= len(shares):
        raise DataError(f"{len(found.groups)} different images are too few for {len(shares) + 1} splits")
    whole = {"train": 1 - sum(shares.values()), **shares}
    names = divide(found.groups, whole, seed)
    places: dict[str, list[int]] = {name: [] for name in whole}
    for group, name in zip(found.groups, names, strict=True):
        places[name] += group.members
    for name, members in places.items():
        if not members:
            raise DataError(f"no image is left for {name}: too few, or too many are equal; give it a larger share")
    return {name: [found.images[place] for place in sorted(members)] for name, members in places.items()}


def divide(groups: Sequence[Group], shares: Mapping[str, float], seed: int = 0) -> list[str]:
    """Give each group to a split, so that images and the images of each class are shared as `shares` say.

    The rarest class comes first: each of its groups goes where it is wanted most (Sechidis et al., On the
    Stratification of Multi-Label Data, 2011). A class that is in as many groups as there are splits, or more, is
    wanted once at least in each; the first split comes first. Groups are moved in the end where that brings a
    class to a split without taking the last of another from one.
    """
    order = random.Random(seed).sample(range(len(groups)), len(groups))
    classes = [group.classes | {_ANY} for group in groups]
    count = Counter(name for shown in classes for name in shown)
    images = {split: share * sum(len(group.members) for group in groups) for split, share in shares.items()}
    wanted = {
        name: {split: max(1.0, share * total) for split, share in shares.items()} for name, total in count.items()
    }
    given: dict[int, str] = {}
    for name in sorted(count, key=lambda each: (count[each], each)):
        for index in order:
            if index not in given and name in classes[index]:
                chosen = max(shares, key=lambda split: (wanted[name][split], images[split]))
                given[index] = chosen
                images[chosen] -= len(groups[index].members)
                for each in classes[index]:
                    wanted[each][chosen] -= 1
    _move(classes, given, list(shares), order)
    return [given[index] for index in range(len(groups))]


def _move(classes: Sequence[frozenset[str]], given: dict[int, str], splits: list[str], order: list[int]) -> None:
    """Bring classes to splits that lack them, by groups that can be spared."""
    has = {split: Counter[str]() for split in splits}
    for index, split in given.items():
        has[split].update(classes[index])
    for split in splits:
        for name in sorted(frozenset().union(*classes) - (+has[split]).keys()):
            for index in order:
                old = given[index]
                if (
                    not has[split][name]
                    and name in classes[index]
                    and all(has[old][a] > 1 for a in classes[index])
                ):
                    has[old].subtract(classes[index])
                    has[split].update(classes[index])
                    given[index] = split


def sample(found: Survey, images: int, seed: int = 0) -> dict[str, list[Chosen]]:
    """Choose this many images, of each split as its size says and one at least; see `few`. Raises ConfigError."""
    places: dict[str, list[int]] = {}
    for place, chosen in enumerate(found.images):
        places.setdefault(chosen.view.name, []).append(place)
    if images < len(places):
        raise ConfigError(f"--images {images}: there are {len(places)} splits, and each needs one image at least")
    share = min(1.0, images / len(found.images))
    counts = {name: min(len(members), max(1, int(share * len(members)))) for name, members in places.items()}
    while sum(counts.values()) > images:
        largest = max(counts, key=counts.__getitem__)
        counts[largest] -= 1
    while sum(counts.values()) < min(images, len(found.images)):
        lacking = max(counts, key=lambda name: share * len(places[name]) - counts[name])
        counts[lacking] += 1
    return {
        name: [
            found.images[members[index]] for index in few([found.classes[m] for m in members], counts[name], seed)
        ]
        for name, members in places.items()
    }


def few(shown: Sequence[frozenset[str]], images: int, seed: int = 0) -> list[int]:
    """Choose images by what they show, so that as many classes as possible occur; the rest by chance.

    For the rarest class that does not occur yet, the image is taken that shows most classes that do not. Gives
    places, rising.
    """
    order = random.Random(seed).sample(range(len(shown)), len(shown))
    count = Counter(name for classes in shown for name in classes)
    absent: set[str] = set(count)
    chosen: dict[int, None] = {}
    while absent and len(chosen) < images:
        rarest = min(absent, key=lambda name: (count[name], name))
        best = max((i for i in order if rarest in shown[i]), key=lambda i: len(shown[i] & absent))
        chosen[best] = None
        absent -= shown[best]
    for index in order:
        if len(chosen) < images:
            chosen.setdefault(index, None)
    return sorted(chosen)


def by_class(plan: Mapping[str, Sequence[Chosen]], found: Survey) -> dict[str, dict[str, int]]:
    """Count for each class the images that show it, in each split of a plan."""
    shown = {
        (id(view), place): classes for (view, place), classes in zip(found.images, found.classes, strict=True)
    }
    counts = {
        name: Counter(each for view, place in chosen for each in shown[id(view), place])
        for name, chosen in plan.items()
    }
    return {name: {split: counts[split][name] for split in plan} for name in _names(found)}


def _names(found: Survey) -> list[str]:
    """List the classes in the order of the data set."""
    views = {id(chosen.view): chosen.view for chosen in found.images}.values()
    categories: list[Category] = [category for view in views for category in view.seen.categories]
    return list(dict.fromkeys(category.name for category in categories))
