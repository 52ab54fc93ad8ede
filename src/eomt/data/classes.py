"""Change the classes of a data set by a small table: merge, rename, drop, ignore, or say what is a thing.

The table is a YAML or JSON file with any of these keys; names are those of the data set:

    merge: {vehicle: [car, truck]}    several classes become one
    rename: {person: human}
    drop: [sky]                       its segments are taken out; their pixels are void, as if never annotated
    ignore: [dirt]                    the same, and objects found there count neither for nor against
    things: [vehicle]                 classes, by their new names, that are countable,
    stuff: [human]                    or are not

Ids and colours stay; merged classes have those of the class of the new name, else of the first. Readers know
nothing of all this.
"""

import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.data.reader import Item
from eomt.data.shallow_yaml import ShallowLoader
from eomt.errors import DataError
from eomt.types import ANY_CLASS, Dataset, Sample, Segments

__all__ = ["Changed", "ClassChanges", "change_classes", "read_changes"]

_DROPPED = ANY_CLASS - 1
_MAX_BYTES = 1 << 16
"""A larger file is no table that somebody wrote, and YAML is read at 20 kB/s. 1200 names take 30 kB."""


@dataclass(frozen=True)
class ClassChanges:
    """What is to become of classes, by their names."""

    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()

    @property
    def new_names(self) -> dict[str, str]:
        """The new name of each class that has one. Raises DataError where a class would become two things."""
        pairs = [(old, new) for new, olds in self.merge.items() for old in olds] + list(self.rename.items())
        gone = [(old, "") for old in (*self.drop, *self.ignore)]
        twice = [old for old, count in Counter(old for old, _ in (*pairs, *gone)).items() if count > 1]
        if twice:
            raise DataError(f"class map: {twice[0]!r} is named more than once; say once what becomes of it")
        return dict(pairs)


@dataclass(frozen=True, eq=False)
class Changed:
    """A data set seen through a table of changes."""

    dataset: Dataset
    categories: tuple[Category, ...]
    labels: NDArray[np.int64]
    """The new label of each old one."""
    left_out: tuple[str, ...]
    """Which classes were dropped or ignored."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The name of each image."""
        return tuple(self.dataset.image_ids)  # type: ignore[attr-defined]

    @property
    def items(self) -> tuple[Item, ...]:
        """The images, not read yet."""
        return tuple(self.dataset.items)  # type: ignore[attr-defined]

    def listing(self) -> list[str]:
        """Name each image with its files and their sizes."""
        lines: list[str] = self.dataset.listing()  # type: ignore[attr-defined]
        return lines

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and what is left of its segments."""
        sample = self.dataset[index]
        return replace(sample, segments=self._seen(sample.segments))

    def segments(self, index: int) -> Segments:
        """Read what is left of the segments of one image, without decoding it."""
        return self._seen(self.dataset.segments(index))  # type: ignore[attr-defined]

    def _seen(self, segments: Segments) -> Segments:
        segments.check_labels(len(self.labels))
        table = torch.from_numpy(np.append(self.labels, ANY_CLASS))  # the last is that of label -1
        labels = table[segments.labels]
        seen = Segments(segments.masks, labels, segments.is_crowd | (labels == ANY_CLASS), segments.told_areas)
        kept = torch.nonzero(labels != _DROPPED).flatten()
        stuff = [label for label, category in enumerate(self.categories) if not category.is_thing]
        return seen.select(kept.tolist()).merged(stuff)


def read_changes(path: str | Path) -> ClassChanges:
    """Read a table of changes from a YAML or JSON file. Raises DataError for anything else."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"class map {path}: larger than {_MAX_BYTES >> 10} KiB; that is no table of classes")
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, ShallowLoader)
    except OSError as error:
        raise DataError(f"class map {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"class map {path}: neither YAML nor JSON ({error})") from error
    known = list(ClassChanges.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) - set(known):
        raise DataError(f"class map {path}: expected one or more of {', '.join(known)}; see docs/data.md")
    values = {key: _checked(key, value, path) for key, value in content.items() if value is not None}
    return ClassChanges(**values)


def change_classes(dataset: Dataset, changes: ClassChanges) -> Changed:
    """See a data set through a table of changes. Raises DataError for a class that is not there, by name."""
    new_names = changes.new_names
    gone = {**dict.fromkeys(changes.drop, _DROPPED), **dict.fromkeys(changes.ignore, ANY_CLASS)}
    old = {category.name: category for category in dataset.categories}
    _check_known([*new_names, *gone], list(old))
    for name, new in changes.rename.items():
        if new in old and new not in new_names and new not in gone and new != name:
            raise DataError(
                f"class map: rename {name!r} to {new!r}, which is a class already; say merge: "
                f"{{{new}: [{name}, {new}]}} if they are to be one"
            )
    groups: dict[str, list[Category]] = {}
    for category in dataset.categories:
        if category.name not in gone:
            groups.setdefault(new_names.get(category.name, category.name), []).append(category)
    if not groups:
        raise DataError("class map: it leaves no class")
    _check_known([*changes.things, *changes.stuff], list(groups))
    categories = tuple(_joined(name, members, changes) for name, members in groups.items())
    label_of = {member.name: label for label, members in enumerate(groups.values()) for member in members} | gone
    labels = np.array([label_of[category.name] for category in dataset.categories], dtype=np.int64)
    left_out = tuple(
        f"{len(names)} {'class' if len(names) == 1 else 'classes'} {what}: {', '.join(names)}"
        for names, what in ((changes.drop, "dropped"), (changes.ignore, "ignored"))
        if names
    )
    return Changed(dataset, categories, labels, left_out)


def _joined(name: str, members: list[Category], changes: ClassChanges) -> Category:
    first = next((member for member in members if member.name == name), members[0])
    told = name in changes.things, name in changes.stuff
    if all(told):
        raise DataError(f"class map: {name!r} is listed under things and under stuff")
    if not any(told) and len({member.is_thing for member in members}) > 1:
        names = ", ".join(member.name for member in members)
        raise DataError(
            f"class map: {name!r} joins things and stuff ({names}); say what it is: things: [{name}], or stuff"
        )
    return first._replace(name=name, is_thing=told[0] if any(told) else first.is_thing)


def _check_known(names: list[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known[:20])}"
            raise DataError(f"class map: the data have no class {name!r}{hint}")


def _checked(key: str, value: Any, path: Path) -> Any:
    """Give a value of the table as `ClassChanges` has it. Raises DataError for one of another form."""
    if key == "merge" and isinstance(value, dict) and all(map(_is_names, value.values())) and _is_names([*value]):
        return {new: tuple(olds) for new, olds in value.items()}
    if key == "rename" and isinstance(value, dict) and _is_names([*value, *value.values()]):
        return value
    if key not in ("merge", "rename") and _is_names(value):
        return tuple(value)
    form = {"merge": "{new: [old, old]}", "rename": "{old: new}"}.get(key, "[name, name]")
    raise DataError(f"class map {path}: {key} is {reprlib.repr(value):.80}; write {key}: {form}")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
