"""Fuzz the files of every layout of data sets that the tests write, and read them with every reader."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from random import Random

import layouts
from eomt.data.besides import read_besides
from eomt.data.detect import find_format
from eomt.data.problems import collecting, strict
from eomt.data.reader import Split
from eomt.errors import DataError
from eomt.types import ANY_CLASS
from fuzz.kind import MOST_WORDS, Changes, Files, Kind, files_below, judge
from fuzz.mutations import mutate_files

__all__ = ["KIND"]

FORMATS: dict[str, str] = {}
"""The layout of each seed, recognised once."""


def _writers() -> dict[str, Callable[[Path], None]]:
    modules = [
        importlib.import_module(f"layouts.{module.name}") for module in pkgutil.iter_modules(layouts.__path__)
    ]
    return {
        f"{module.__name__.partition('.')[2]}.{name}": writer
        for module in modules
        for name, writer in vars(module).items()
        if name.startswith("write")
    }


def _seeds(place: Path) -> dict[str, Files]:
    seeds = {}
    for name, write in _writers().items():
        folder = place / name
        folder.mkdir(parents=True)
        write(folder)
        FORMATS[name] = find_format(folder).format.name
        seeds[name] = files_below(folder)
    return seeds


def _is_annotation(name: str) -> bool:
    """Tell what says where things are from pictures: a mask is one, as far as its folder's name tells."""
    suffix = PurePosixPath(name).suffix
    told = any(
        word in name.lower() for word in ("mask", "label", "annotation", "segmentation", "gtfine", "panoptic")
    )
    return suffix not in (".png", ".jpg", ".jpeg") or told


def _change(chance: Random, files: Files) -> Changes:
    return mutate_files(chance, files, _is_annotation)


def _read(folder: Path, seed: str) -> bool:
    """Open it as what it looks like and as what it was, and read samples; then again, collecting faults."""
    used = False
    for format in (None, FORMATS[seed]):
        used |= _tried(lambda: _read_all(folder, format))  # noqa: B023 — called at once
    with collecting() as problems:
        _read_all(folder, FORMATS[seed])
    for problem in problems:
        judge(problem)
    return used


def _read_all(folder: Path, format: str | None) -> bool:
    found, used = find_format(folder, format), False
    for name in found.splits:
        used |= _tried(lambda: _read_split(found.format.open(found.archive, name)))  # noqa: B023
    return used


def _read_split(split: Split) -> bool:
    assert all(len(words) <= MOST_WORDS for words in split.left_out), "a long message"
    if not strict():  # converting opens no file in which something is wrong
        read_besides(split)
    return sum(_tried(lambda: _read_sample(split, index)) for index in range(min(len(split), 4))) > 0  # noqa: B023


def _read_sample(split: Split, index: int) -> bool:
    sample = split[index]
    _, height, width = sample.image.shape
    segments = sample.segments
    assert segments.masks.size == (height, width)
    assert all(0 <= label < len(split.categories) or label == ANY_CLASS for label in segments.labels.tolist())
    assert (segments.masks.areas() >= 0).all()
    segments.target((0, 0, min(height, 64), min(width, 64)))
    return True


def _tried(read: Callable[[], bool]) -> bool:
    try:
        return read()
    except DataError as error:
        judge(error)
        return False


KIND = Kind(_seeds, _change, _read)
