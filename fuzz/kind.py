"""What can be fuzzed: seeds, what is done to them, and how they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

__all__ = ["MOST_WORDS", "Changes", "Files", "Kind", "files_below", "judge"]

MOST_WORDS = 4096
"""Characters of a message."""
Files = Mapping[str, bytes]
"""The files of a seed, by their names below its folder."""
Changes = dict[str, bytes | None]
"""What a case makes of some of them; None takes a file away."""


class Kind(NamedTuple):
    """A row of the table in `runner`."""

    seeds: Callable[[Path], dict[str, Files]]
    """Makes the seeds, given a place to write in, by their names."""
    change: Callable[[Random, Files], Changes]
    """Makes a case of a seed."""
    read: Callable[[Path, str], bool]
    """Reads the folder of a case, given its seed's name. True: it could be used; False: refused with the right
    error. Raises whatever else happens."""


def files_below(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def judge(error: Exception) -> None:
    """Raise RuntimeError for a message that nobody can read: none, or much of a file's contents."""
    if not 0 < len(str(error)) <= MOST_WORDS:
        raise RuntimeError(f"a message of {len(str(error))} characters: {str(error)[:500]}")
