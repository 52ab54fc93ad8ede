"""Tell which images are in several splits, and which splits are but smaller ones together, as VOC's trainval is.

An image is the same in two splits where its file is, and its segments are to the pixel: of two that were annotated
twice, neither stands for the other. Files that are equal but lie in two places are not looked for.
"""

import pickle
from collections import Counter
from collections.abc import Hashable, Mapping
from hashlib import blake2b

from eomt.data.reader import Item, Split
from eomt.errors import DataError
from eomt.types import ANY_CLASS

__all__ = ["identities", "unions"]


def identities(splits: Mapping[str, Split]) -> dict[str, list[Hashable]]:
    """Give each image of each split a value that it has in common with the same image of another, and no other.

    Annotations are read only of images that several splits take from other files, or other parts of one. Those
    that cannot be read are the same where none of them can.
    """
    files = {name: [_file(split, item) for item in split.items] for name, split in splits.items()}
    count = Counter(file for some in files.values() for file in set(some))
    told: dict[Hashable, set[Hashable]] = {}
    for name, split in splits.items():
        for file, item in zip(files[name], split.items, strict=True):
            if count[file] > 1:
                told.setdefault(file, set()).add((item.annotation, pickle.dumps(item.content), split.categories))
    return {
        name: [
            (file, _shown(splits[name], place) if len(told.get(file, ())) > 1 else b"")
            for place, file in enumerate(some)
        ]
        for name, some in files.items()
    }


def unions(splits: Mapping[str, Split]) -> tuple[str, ...]:
    """Name the splits that are exactly smaller ones together: without them no image, mask or list is lost.

    A split that lies within one other (an easy half of `val`), or is equal to it, is none.
    """
    images = {name: frozenset(some) for name, some in identities(splits).items()}
    smaller = {name: [other for other in images.values() if other < own] for name, own in images.items()}
    return tuple(name for name, own in images.items() if own and own == frozenset().union(*smaller[name]))


def _file(split: Split, item: Item) -> Hashable:
    """Tell an image by its file, or by its name where that may hold many."""
    return item.image if split.read_bytes is None else item[:2]


def _shown(split: Split, place: int) -> bytes:
    """Sum up the segments of an image, in whatever order they come."""
    try:
        segments = split.segments(place)
    except DataError:
        return b"cannot be read"
    classes = [None if label == ANY_CLASS else split.categories[label][:3] for label in segments.labels.tolist()]
    codes = [segments.masks.rle(index)["counts"] for index in range(len(segments))]
    rows = sorted(map(repr, zip(classes, segments.is_crowd.tolist(), codes, strict=True)))
    return blake2b(repr((segments.masks.size, rows)).encode(), digest_size=16).digest()
