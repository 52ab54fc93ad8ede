"""Files and folders that are whole or as they were: written aside, then renamed. Free of torch."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eomt.errors import ConfigError

__all__ = ["folder_aside", "write_aside"]


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its place at the end; where that is not reached, nothing is left.

    Raises ConfigError where something is there already that is not an empty folder.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ConfigError(f"{path}: it is there already and not an empty folder; name a new one")
    temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_aside(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader, or a crash, finds the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
