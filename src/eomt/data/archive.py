"""Read files from a folder or straight from a zip, never extracting. What they mean is left to the readers."""

import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from eomt.errors import DataError

__all__ = ["Archive"]

_MAX_BYTES = 1 << 30  # of one file in a zip once decompressed: no picture needs more, a bomb does


class Archive:
    """The files below a folder or in a zip, by their names from its root, with forward slashes.

    Where everything in a zip lies in one top folder, that folder is left out of the names. Hidden files and what
    operating systems leave behind (`.DS_Store`, `__MACOSX`, `Thumbs.db`) are not seen. Each process opens a zip
    for itself, when it first reads from it; pickling sends only the path.

    Raises DataError when the path is neither a folder nor a zip, or a zip is damaged.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._open_zip: zipfile.ZipFile | None = None
        self._pid = 0  # of the process that opened it: after a fork a file handle would share its position
        self._members: dict[str, zipfile.ZipInfo] = {}
        if not self.path.exists():
            raise DataError(f"{self.path}: no such folder or zip file; check the path")
        if self.path.is_file():
            self._zip()  # a damaged zip is reported here, not later in a worker

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open_zip, self._pid, self._members = None, 0, {}

    def names(self, prefix: str = "") -> list[str]:
        """List the files below a folder, at any depth, sorted; an empty list when there is no such folder."""
        prefix = prefix.rstrip("/")
        if self.path.is_dir():
            top = self.path / _safe(prefix, self.path) if prefix else self.path
            found = (
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(top, followlinks=True)
                for file in files
            )
            return sorted(name for name in found if _is_visible(name))
        self._zip()
        return sorted(name for name in self._members if not prefix or name.startswith(prefix + "/"))

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        if self.path.is_dir():
            return (self.path / _safe(name, self.path)).is_file()
        self._zip()
        return name in self._members

    def read(self, name: str) -> bytes:
        """Read one file. Raises DataError when it is missing, unreadable, encrypted, damaged or absurdly large."""
        if self.path.is_dir():
            try:
                return (self.path / _safe(name, self.path)).read_bytes()
            except OSError as error:
                raise DataError(
                    f"{self.where(name)}: cannot be read ({error.strerror}); check the file"
                ) from error
        return self._read_member(name)

    def where(self, name: str) -> str:
        """Name a file for messages: the path of the folder or zip and the name inside of it."""
        return f"{self.path}/{name}" if self.path.is_dir() else f"{name} in {self.path}"

    def _read_member(self, name: str) -> bytes:
        archive = self._zip()
        member = self._members.get(name)
        if member is None:
            raise DataError(f"{self.where(name)}: no such file; check that the zip is complete")
        if member.flag_bits & 1:
            raise DataError(f"{self.where(name)}: encrypted; make the zip again without a password")
        if member.file_size > _MAX_BYTES:
            size = member.file_size >> 20
            raise DataError(f"{self.where(name)}: {size} MiB unpacked, more than {_MAX_BYTES >> 20}; leave it out")
        try:
            return archive.read(member)  # reads no more than `file_size`, whatever the compressed data hold
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.where(name)}: damaged in the zip ({error}); make or fetch it again") from error

    def _zip(self) -> zipfile.ZipFile:
        if self._open_zip is None or self._pid != os.getpid():
            try:
                self._open_zip = zipfile.ZipFile(self.path)
            except Exception as error:  # hostile directories raise struct, value, unicode and other errors
                raise DataError(
                    f"{self.path}: not a readable zip ({error}); give a folder or a whole zip file"
                ) from error
            self._pid = os.getpid()
            self._members = _members(self._open_zip)
        return self._open_zip


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Map names, without a top folder that all of them share, to the visible files of a zip."""
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    files = {name: info for name, info in files.items() if _is_visible(name)}
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in files}
    cut = len(tops.pop()) + 1 if len(tops) == 1 and "" not in tops else 0
    return {name[cut:]: info for name, info in files.items()}


def _is_visible(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] != "Thumbs.db" and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _safe(name: str, root: Path) -> str:
    """Refuse names that leave the root: an annotation file may come from anywhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(f"{name!r} does not lie inside {root}; use names relative to it, without '..'")
    return name
