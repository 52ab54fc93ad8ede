"""Files and folders that are whole or as they were: written aside, then renamed. Free of torch."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eomt.errors import ConfigError, ResourceError

__all__ = ["DISK_IS_FULL", "folder_aside", "needing_room", "write_aside"]

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system answers where a disk, a user's share of it or a file may not grow."""


@contextmanager
def needing_room(what: str, advice: str) -> Iterator[None]:
    """Raise ResourceError, with this advice, where what is written in this context does not find room."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        raise ResourceError(
            f"{what}: {error.filename or 'a file'} could not grow ({error.strerror}); {advice}"
        ) from error


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
