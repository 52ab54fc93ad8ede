"""Read files from a folder, a zip or a tar, never extracting. What they mean is left to the readers.

How a zip or tar is laid out, and what is refused in it, is told in `volumes`.
"""

import errno
import logging
import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eomt.data.problems import of_file
from eomt.data.volumes import MAX_BYTES, MAX_MEMBERS, FileSource, Source, Volume, open_volume, relative_name
from eomt.errors import DataError

__all__ = ["Archive"]

log = logging.getLogger("eomt")

_MAX_DEPTH = 2  # of archives in archives: COCO's panoptic maps lie in a zip in a zip
_MAX_ARCHIVES = 64  # opened in one data set: publishers give a dozen; a folder of thousands holds something else
_MAX_LINKED = 10_000  # links to folders that are followed, and ...
_MAX_LINKS = 4  # ... of these on the way to one file: links behind links can make 2^n folders of n
_SUFFIXES = (".zip", ".tar")  # of inner archives; .npz, .pt and office files are zips too, and no folders
# Texts that a publisher puts into each archive of a data set, and that no reader reads: the first one is shown.
_LEAFLET = re.compile(r"(.*/)?(readme|licen[cs]e|copying|changelog)[^/]*", re.IGNORECASE)


class Archive:
    """The files below a folder or in a zip or tar, by their names from its root, with forward slashes.

    Archives among them, in the first two levels of folders, are seen as if they had been unpacked in their place
    and removed, and so are archives in these, but not deeper: COCO's `annotations/panoptic_train2017.zip` in
    `panoptic_annotations_trainval2017.zip` shows as `annotations/panoptic_train2017/*.png`. One that was unpacked
    but not removed is passed over; otherwise no two files may have one name, unless they are equal.

    Where everything in a zip or tar lies in one top folder, that folder is left out of the names. Hidden files and
    what operating systems leave behind (`.DS_Store`, `__MACOSX`, `Thumbs.db`) are not seen.

    Files are listed once, when it is first asked for: those that come later are not seen. Links in a folder are
    followed, to other places too, as large data often lie elsewhere; a link to a folder that it lies in is passed
    over. In a zip or tar there may be no links.

    Each process opens archives for itself, when it first reads from one; pickling sends only the path.

    An archive that cannot be used, in a folder with files and no other archive, is passed over with a warning.

    Raises DataError when the path is neither a folder, a zip nor a plain tar, or when an archive is damaged,
    encrypted, hostile or too large.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._names: list[str] | None = None
        self._mounts: list[_Mount] | None = None
        self._is_first = True
        if not self.path.is_dir():
            if not self.path.is_file():
                raise DataError(f"{self.path}: no such folder or zip or tar file; check the path")
            self._opened()  # a damaged one is reported here, not later in a worker

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._names, self._mounts = state["path"], None, None
        self._is_first = False  # what is passed over was told where it was first opened

    def names(self, prefix: str = "") -> list[str]:
        """List the files below a folder, at any depth, sorted; an empty list when there is no such folder.

        Raises DataError when two archives, or an archive and the folder, have different files of one name.
        """
        if self._names is None:
            self._names = self._listing()
        prefix = self._safe(prefix)
        if not prefix:
            return self._names.copy()
        after_slash = chr(ord("/") + 1)
        return self._names[bisect_left(self._names, prefix + "/") : bisect_left(self._names, prefix + after_slash)]

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return self._file(name) is not None or self._member(name) is not None

    def read(self, name: str) -> bytes:
        """Read one file. Raises DataError when it is missing, unreadable, damaged or absurdly large."""
        with of_file(name):
            file = self._file(name)
            if file is not None:
                return _read_file(file)
            found = self._member(name)
            if found is None:
                raise DataError(f"{self.where(name)}: no such file; check that nothing is missing")
            mount, member = found
            return mount.volume.read(member)

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        """Give name, size and time of the last change (ns) of each file on disk, in the order of names.

        Archives are files like others here: nothing has changed where no stamp has. A lost link has the size -1.
        """
        if self.path.is_dir():
            names, root = sorted({*_files_below(self.path), *_archives_in(self.path)}), f"{self.path}/"
        else:
            names, root = [""], str(self.path)
        for name in names:
            try:
                about = os.stat(root + name)
            except OSError:
                yield name, -1, 0
            else:
                yield name, about.st_size, about.st_mtime_ns

    def where(self, name: str) -> str:
        """Name a file for messages: its path, or its name in an archive and where that one lies."""
        if relative_name(name) is not None and self._file(name) is None:
            found = self._member(name)
            if found is not None:
                mount, member = found
                return f"{member[len(mount.top) :]} in {mount.volume.where}"
        return f"{self.path}/{name}" if self.path.is_dir() else f"{name} in {self.path}"

    def _safe(self, name: str) -> str:
        """Refuse names that leave the root: an annotation file may come from anywhere."""
        inside = not (name.startswith("/") or "\0" in name or ".." in name.split("/"))
        if not inside:
            raise DataError(f"{name!r} does not lie inside {self.path}; use names relative to it, without '..'")
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def _file(self, name: str) -> Path | None:
        """Find a file on disk; not those that are never listed."""
        name = self._safe(name)
        if not self.path.is_dir() or not _is_visible(name) or _may_be_archive(name):
            return None
        file = self.path / name
        try:
            return file if file.is_file() else None  # reading a pipe or a device might never end
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise DataError(f"{file}: cannot be read ({error.strerror}); check the file") from error

    def _member(self, name: str) -> "tuple[_Mount, str] | None":
        """Find a file in an archive."""
        name = self._safe(name)
        for mount in self._opened():
            member = mount.top + name.removeprefix(mount.shown)
            if name.startswith(mount.shown) and member in mount.volume.rows:
                return (mount, member) if _is_visible(name) else None
        return None

    def _opened(self) -> "list[_Mount]":
        if self._mounts is None:
            mounts: list[_Mount] = []
            if self.path.is_dir():
                broken: list[DataError] = []
                for name in _archives_in(self.path):
                    file, before = self.path / name, len(mounts)
                    try:
                        _mount(FileSource(file), str(file), name[: name.rfind("/") + 1], 1, mounts)
                    except DataError as error:
                        if len(mounts) == _MAX_ARCHIVES:
                            raise
                        del mounts[before:]
                        broken.append(error)
                self._pass_over(broken, mounts)
            else:
                _mount(FileSource(self.path), str(self.path), "", 0, mounts)
            self._mounts = mounts
        return self._mounts

    def _pass_over(self, broken: list[DataError], mounts: "list[_Mount]") -> None:
        """Warn of archives that cannot be used beside files on disk: they need not be of the data set.

        Raises the first DataError where there are no such files, or other archives hold some of the data: then
        this one may hold the rest, and be cut short.
        """
        on_disk = {name for name in _files_below(self.path) if not _LEAFLET.fullmatch(name)} if broken else set()
        if broken and not (on_disk and all(on_disk.issuperset(mount.names()) for mount in mounts)):
            raise broken[0]
        for error in broken if self._is_first else ():
            log.warning("passed over: %s", error)

    def _listing(self) -> list[str]:
        """List the files on disk and in all archives. Raises DataError for different files of one name."""
        on_disk = set(_files_below(self.path)) if self.path.is_dir() else set()
        owners: dict[str, _Mount] = {}
        for mount in self._opened():
            names = list(mount.names())
            if names and on_disk.issuperset(names):
                continue  # was unpacked here
            for name in names:
                if name in on_disk and not _LEAFLET.fullmatch(name):
                    self._refuse_clash(name, f"as a file of its own and in {mount.volume.where}")
                other = owners.setdefault(name, mount)
                if other is not mount and not _LEAFLET.fullmatch(name) and not _same(name, mount, other):
                    self._refuse_clash(name, f"in {other.volume.where} and in {mount.volume.where}")
        return sorted(on_disk | owners.keys())

    def _refuse_clash(self, name: str, places: str) -> None:
        raise DataError(
            f"{self.path}: {name} is there twice, {places}; remove one of them, or move the archive elsewhere if"
            " it was unpacked"
        )


class _Mount(NamedTuple):
    """An opened archive and how its members show: `top` in front of their names is replaced by `shown`."""

    volume: Volume
    top: str
    shown: str

    def names(self) -> Iterator[str]:
        return (self.shown + name[len(self.top) :] for name in self.volume.rows)


def _mount(source: Source, where: str, shown: str, depth: int, mounts: list[_Mount]) -> None:
    """Open an archive, and those in it, and add them to the mounts."""
    if len(mounts) == _MAX_ARCHIVES:
        raise DataError(f"{where}: more than {_MAX_ARCHIVES} archives in one data set; unpack them")
    volume = open_volume(source, where, MAX_MEMBERS - sum(mount.volume.members for mount in mounts))
    for name in [name for name in volume.rows if not _is_visible(name)]:
        del volume.rows[name]
    top = _top_folder(volume) if depth == 0 else ""
    mounts.append(_Mount(volume, top, shown))
    if depth < _MAX_DEPTH:
        for name in sorted(name for name in volume.rows if _may_be_archive(name[len(top) :])):
            own = name[len(top) :]
            _mount(volume.inner(name), f"{own} in {where}", shown + own[: own.rfind("/") + 1], depth + 1, mounts)
            del volume.rows[name]


def _top_folder(volume: Volume) -> str:
    """Name the folder that holds all files, with a slash; empty when there is none."""
    first, slash, _ = next(iter(volume.rows), "").partition("/")
    return first + slash if slash and all(name.startswith(first + slash) for name in volume.rows) else ""


def _same(name: str, mount: _Mount, other: _Mount) -> bool:
    one = mount.volume.fingerprint(mount.top + name[len(mount.shown) :])
    return one is not None and one == other.volume.fingerprint(other.top + name[len(other.shown) :])


def _is_visible(name: str) -> bool:
    if name[:1] != "." and "/." not in name and "__MACOSX" not in name and "Thumbs.db" not in name:
        return True  # nearly all names; a data set has 100,000 of them
    parts = name.split("/")
    return parts[-1] != "Thumbs.db" and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _may_be_archive(name: str) -> bool:
    return name[-4:].lower() in _SUFFIXES and name.count("/") < 2


def _archives_in(root: Path) -> list[str]:
    """List the archives in the first two levels of a folder."""
    found = []
    for folder in (
        "",
        *(f"{entry.name}/" for entry in _scan(root) if _is_visible(entry.name) and _is_folder(entry)),
    ):
        names = (folder + entry.name for entry in _scan(root / folder) if _may_be_archive(entry.name))
        found += [name for name in names if _is_visible(name) and (root / name).is_file()]
    return sorted(found)


def _files_below(root: Path) -> Iterator[str]:
    """List the visible files below a folder without the archives that are opened, with links that lead nowhere."""
    linked = 0
    folders: list[tuple[str, int, frozenset[tuple[int, int]]]] = [("", 0, frozenset())]
    while folders:
        folder, links, above = folders.pop()
        above |= {_identity(root / folder)}
        for entry in _scan(root / folder):
            name = folder + entry.name
            if not _is_visible(entry.name):
                continue
            if _is_folder(entry):
                if not entry.is_symlink():
                    folders.append((name + "/", links, above))
                elif _identity(root / name) not in above:
                    folders.append((name + "/", links + 1, above))
                    linked += 1
                    if linked > _MAX_LINKED or links == _MAX_LINKS:
                        raise DataError(
                            f"{root / name}: more than {_MAX_LINKED:,} links to folders, or {_MAX_LINKS} links"
                            " behind each other; remove some of them"
                        )
            elif (entry.is_symlink() or entry.is_file()) and not _may_be_archive(name):  # not pipes and devices
                if not name.isascii():
                    _refuse_undecodable(root, name)
                yield name


def _refuse_undecodable(root: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{root}: the file name {os.fsencode(name)!r} is not UTF-8; rename the file") from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        about = folder.stat()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check the folder") from error
    return about.st_dev, about.st_ino


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check the folder") from error


def _read_file(file: Path) -> bytes:
    source = FileSource(file)
    if source.size > MAX_BYTES:
        raise DataError(f"{file}: {source.size >> 20} MiB, more than {MAX_BYTES >> 20}; leave it out")
    return source.read(0, source.size)
