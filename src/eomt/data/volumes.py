"""Zip and tar files as tables of members that are read in place; hostile ones are refused. What shows: `archive`.

Not by `zipfile` and `tarfile`: they build an object per member before they can be asked how many there are, let a
member replace another of its name, see no overlaps, and read through a file position that processes would share.
"""

import os
import re
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from eomt.errors import DataError

__all__ = ["MAX_BYTES", "MAX_MEMBERS", "FileSource", "Source", "Volume", "open_volume", "relative_name"]

MAX_MEMBERS = 400_000  # of all archives of a data set: COCO has 370,000 images and panoptic maps
_MAX_IN_TAR = 150_000  # which has to be gone through to be counted; COCO's largest folder has 118,287
MAX_BYTES = 3 << 29  # of one file unpacked: LVIS has a JSON file of 1.1 GiB; Linux reads less than 2 GiB at once
_MAX_INFLATED = 2 << 30  # of a compressed inner archive: opening goes once through it, at some 200 MB/s
_MAX_NAMES = 48 << 20  # bytes of all names, or of a zip's directory: 125 a member; COCO has about 100
_MAX_NAME = 4096  # bytes of a name, as for paths in Linux
_MAX_EXTENSION = 1 << 20  # bytes of a tar header's extension: names and times; attributes at worst
_MAX_EXTENSIONS = 4  # such headers in a row: a long name, a long link, one global and one local do at most
_MAX_EXTRAS = 32  # extensions of a zip member looked through for its 64-bit sizes: real ones have five
_MAX_RATIO = 50  # unpacked to packed: JSON gets to 20, a bomb to 1030; blank pictures do too, but ...
_RATIO_FROM = 64 << 20  # ... files up to this size may have any: they do no harm
_BLOCK = 1 << 20  # between two places of a compressed inner archive at which reading can start: 3 ms of inflating


@runtime_checkable
class Source(Protocol):
    """Bytes that can be read from any offset, in any order, by processes that were forked too."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, count: int) -> bytes:
        """Read so many bytes, fewer only where the source ends."""


@runtime_checkable
class Volume(Protocol):
    """An opened archive."""

    where: str
    """What it is called in messages."""
    rows: dict[str, int]
    """The names of its files, safe and with forward slashes, each with its row in the table of members."""
    members: int
    """How many members were counted, folders included."""

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError when it is absurdly large or damaged."""

    def inner(self, name: str) -> Source:
        """Give a file that is an archive itself as a source, which takes little memory however large it is."""

    def fingerprint(self, name: str) -> tuple[int, int] | None:
        """Give a file's size and checksum, or None when there is no checksum."""


class FileSource:
    """A file on disk, read without a file position."""

    def __init__(self, path: Path):
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        self._path = path
        self.size = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, offset: int, count: int) -> bytes:
        """Read so many bytes, fewer only where the file ends."""
        try:
            data = os.pread(self._descriptor, count, offset)
            while len(data) < min(count, self.size - offset):  # network file systems may give less at once
                more = os.pread(self._descriptor, count - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror}); check the disk") from error
        return data


class _Window(NamedTuple):
    """A stretch of another source."""

    source: Source
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        return self.source.read(self.start + offset, max(0, min(count, self.size - offset)))


class _Inflated:
    """Deflated bytes as a source: one pass notes the decoder's state every `_BLOCK`; reading goes on from there.

    That costs 50 kB for each block, where the unpacked bytes would cost 1 MiB in each process.
    """

    def __init__(self, packed: Source, size: int, crc: int, where: str):
        self.size = size
        self._packed, self._where = packed, where
        self._states: list[tuple[int, Any]] = []  # where the decoder goes on reading, and the decoder
        self._last = (-1, b"")
        decoder: Any = zlib.decompressobj(-zlib.MAX_WBITS)
        place = checksum = 0
        for start in range(0, size, _BLOCK):
            self._states.append((place, decoder.copy()))
            block, place = self._inflate(decoder, place, min(_BLOCK, size - start))
            checksum = zlib.crc32(block, checksum)
        if checksum != crc:
            raise DataError(f"{where}: damaged (its checksum is not right); fetch it again")

    def read(self, offset: int, count: int) -> bytes:
        """Read so many bytes, fewer only where the source ends."""
        end = min(offset + count, self.size)
        pieces = []
        while offset < end:
            index, skip = divmod(offset, _BLOCK)
            pieces.append(self._block(index)[skip : skip + end - offset])
            offset += len(pieces[-1])
        return b"".join(pieces)

    def _block(self, index: int) -> bytes:
        last, block = self._last
        if last != index:
            place, decoder = self._states[index]
            block, _ = self._inflate(decoder.copy(), place, min(_BLOCK, self.size - index * _BLOCK))
            self._last = index, block
        return block

    def _inflate(self, decoder: Any, place: int, count: int) -> tuple[bytes, int]:
        """Unpack so many bytes from what lies packed at a place; gives them and the place where it stopped."""
        pieces, missing = [], count
        while missing:
            data = self._packed.read(place, 8192)  # short: each state keeps what the decoder did not use of it
            try:
                piece = decoder.decompress(data, missing)
            except zlib.error as error:
                raise DataError(f"{self._where}: damaged ({error}); fetch it again") from error
            if not piece and (decoder.eof or not data):
                raise DataError(f"{self._where}: shorter than the zip says it is; fetch it again")
            place += len(data) - len(decoder.unconsumed_tail)
            missing -= len(piece)
            pieces.append(piece)
        return b"".join(pieces), place


# What compresses a tar as a whole, or is an archive of another kind.
_OTHERS = (
    (b"\x1f\x8b", "gzip", "gunzip -k"),
    (b"BZh", "bzip2", "bunzip2 -k"),
    (b"\xfd7zXZ\0", "xz", "unxz -k"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
    (b"Rar!", "rar", "unrar x"),
)


def open_volume(source: Source, where: str, room: int = MAX_MEMBERS) -> Volume:
    """Open a zip or a plain tar, told by what it holds. `room` is how many members it may have.

    Raises DataError for anything else, for archives that are damaged, encrypted or hostile in any way, and for
    tars compressed as a whole: to list such a tar, each process would have to unpack all of it.
    """
    head = source.read(0, 512)
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return _Zip(source, where, room)
    if head[257:262] == b"ustar":
        return _Tar(source, where, room)
    for magic, name, command in _OTHERS:
        if head.startswith(magic):
            raise DataError(
                f"{where}: {name} data, from which single files cannot be read; unpack it with `{command}` and"
                " give the folder, zip or plain tar that comes out"
            )
    raise DataError(f"{where}: neither a zip nor a tar, or damaged at its start; give a folder or a whole archive")


def relative_name(name: str) -> str | None:
    """Simplify a name (`./a//b/` is `a/b`, `.` is empty); None when it could lead out of a folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = name.startswith("/") or ".." in parts or re.search(r"^[A-Za-z]:|[\\\0]", name)
    return None if unsafe else "/".join(parts)


def _is_odd(name: str) -> bool:
    """Tell names that need a closer look from the many that do not, faster than a regular expression can."""
    return name[:1] in "./" or "/." in name or "//" in name or "\\" in name or "\0" in name or name[1:2] == ":"


def _member_name(raw: bytes, codec: str, where: str) -> str:
    """Decode and check the name of a member; the slash at the end of a folder's stays."""
    if len(raw) > _MAX_NAME:
        shown = raw[:80].decode("ascii", "backslashreplace")
        raise DataError(f"{where}: a name of {len(raw)} bytes ({shown}...), more than {_MAX_NAME}; shorten it")
    try:
        name = raw.decode(codec)
    except UnicodeDecodeError as error:
        shown = raw[:80].decode("ascii", "backslashreplace")
        raise DataError(
            f"{where}: the name {shown} is not {codec.upper()}; rename the file and make the archive again"
        ) from error
    if _is_odd(name):
        safe = relative_name(name)
        if safe is None or not name:
            raise DataError(
                f"{where}: the name {name[:80]!r} is empty or could lead out of a folder; make the archive again"
                " with relative names, without '..', backslashes and drive letters"
            )
        return safe + "/" * name.endswith("/")
    return name


def _too_many(where: str, room: int) -> DataError:
    return DataError(
        f"{where}: more than the {room:,} members that are left to it (of {_MAX_IN_TAR:,} in a tar and"
        f" {MAX_MEMBERS:,} in all archives of a data set); unpack it into a folder"
    )


# A record in the directory of a zip; name, extensions and comment follow it.
_RECORD = np.dtype(
    [
        ("magic", "S4"),
        ("made_by", "<u2"),
        ("needs", "<u2"),
        ("flags", "<u2"),
        ("method", "<u2"),
        ("time", "<u2"),
        ("date", "<u2"),
        ("crc", "<u4"),
        ("packed", "<u4"),
        ("size", "<u4"),
        ("name_length", "<u2"),
        ("extra_length", "<u2"),
        ("comment_length", "<u2"),
        ("disk", "<u2"),
        ("internal", "<u2"),
        ("attributes", "<u4"),
        ("offset", "<u4"),
    ]
)
_LENGTHS = struct.Struct("<28x3H")
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_LATER = 1 << 3  # sizes and checksum stand behind the data, not before it
_UTF_8 = 1 << 11
_STORED, _DEFLATED = 0, 8
_DEFLATE_RATIO = 1032  # the most that deflate can do
_WIDE = 0xFFFFFFFF  # in a field of 32 bits: the number is in the zip64 extension


class _Member(NamedTuple):
    """A row of the table: what the directory of a zip says of a member, and where the next one begins."""

    offset: int
    packed: int
    size: int
    crc: int
    method: int
    name_length: int
    limit: int


class _Zip:
    """A zip whose directory has been read and checked; local headers are compared with it when a file is read."""

    def __init__(self, source: Source, where: str, room: int):
        self.where = where
        self._source = source
        start, size, self.members = self._end(room)
        directory = source.read(start, size)
        names, places = self._names(directory)
        records = sliding_window_view(
            np.frombuffer(directory or bytes(_RECORD.itemsize), np.uint8), _RECORD.itemsize
        )
        fields = records[places].view(_RECORD)[:, 0]
        columns = {key: fields[key].astype(np.int64) for key in _Member._fields if key != "limit"}
        wide = (fields["packed"] == _WIDE) | (fields["size"] == _WIDE) | (fields["offset"] == _WIDE)
        for row in np.flatnonzero(wide).tolist():
            self._widen(names[row], directory, int(places[row]), fields[row], columns, row)
        self._check(names, fields, columns, start)
        columns["limit"] = self._limits(names, columns, start)
        self._table = np.stack([columns[key] for key in _Member._fields], axis=1)
        files = [row for row, name in enumerate(names) if name and name[-1] != "/"]
        self.rows = {names[row]: row for row in files}
        if len(self.rows) < len(files):
            twice = next(names[row] for row in files if self.rows[names[row]] != row)
            raise DataError(f"{where}: {twice} is in it twice; make the zip again")

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError when it is absurdly large, damaged, or not what the directory says."""
        member, where = self._member(name), f"{name} in {self.where}"
        if member.size > MAX_BYTES:
            raise DataError(
                f"{where}: {member.size >> 20} MiB unpacked, more than {MAX_BYTES >> 20}; leave it out"
            )
        packed = self._packed(name, member)
        data = packed.read(0, packed.size)
        if member.method == _DEFLATED:
            decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = decoder.decompress(data, member.size + 1)
            except zlib.error as error:
                raise DataError(f"{where}: damaged ({error}); make or fetch the zip again") from error
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise DataError(f"{where}: damaged (size or checksum is not right); make or fetch the zip again")
        return data

    def inner(self, name: str) -> Source:
        """Give a stored file as a window on this zip, a compressed one unpacked piece by piece."""
        member, where = self._member(name), f"{name} in {self.where}"
        packed = self._packed(name, member)
        if member.method == _STORED:
            return packed
        if member.size > _MAX_INFLATED:
            raise DataError(
                f"{where}: a compressed archive of {member.size >> 20} MiB in an archive, more than"
                f" {_MAX_INFLATED >> 20}; unpack {self.where}, or make it with `zip -0`"
            )
        return _Inflated(packed, member.size, member.crc, where)

    def fingerprint(self, name: str) -> tuple[int, int] | None:
        """Give a file's size and checksum."""
        member = self._member(name)
        return member.size, member.crc

    def _member(self, name: str) -> _Member:
        return _Member(*self._table[self.rows[name]].tolist())

    def _packed(self, name: str, member: _Member) -> _Window:
        """Find a file's data behind its local header, which must say what the directory says."""
        where = f"{name} in {self.where}"
        if member.size > _RATIO_FROM and member.size > _MAX_RATIO * member.packed:
            raise DataError(
                f"{where}: {member.size >> 20} MiB packed into {member.packed >> 10} KiB, as only those made"
                " do harm have it; leave it out"
            )
        data = self._source.read(member.offset, _LOCAL.size + member.name_length)
        header = _LOCAL.unpack_from(data) if len(data) == _LOCAL.size + member.name_length else (b"",)
        if header[0] != b"PK\3\4":
            raise DataError(f"{where}: damaged (there is no header before it); make or fetch the zip again")
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = header
        said = {"name": name, "method": member.method}
        raw = data[_LOCAL.size :]
        found = {"name": _member_name(raw, _zip_codec(raw, flags), self.where), "method": method}
        if name_length != member.name_length:
            found["name"] = "a name of another length"
        if not flags & _LATER:
            said |= {"checksum": member.crc, "packed size": member.packed, "size": member.size}
            found |= {"checksum": crc, "packed size": packed, "size": size}
        for field, value in found.items():
            if value != said[field] and value != 0xFFFFFFFF:  # that means: in the zip64 extension
                raise DataError(
                    f"{where}: its header and the zip's directory differ in {field} ({value} and {said[field]});"
                    " make the zip again"
                )
        start = member.offset + _LOCAL.size + name_length + extra_length
        if flags & _ENCRYPTED or start + member.packed > member.limit:
            raise DataError(f"{where}: its header says other than the zip's directory; make the zip again")
        return _Window(self._source, start, member.packed)

    def _end(self, room: int) -> tuple[int, int, int]:
        """Read from the end of the zip where its directory lies, its size, and how many members it lists."""
        tail_at = max(0, self._source.size - _END.size - 0xFFFF)
        tail = self._source.read(tail_at, self._source.size - tail_at)
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + _END.size:
            raise DataError(f"{self.where}: the end of the zip is missing; fetch or copy it again")
        _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
        if len(tail) != at + _END.size + comment:
            raise DataError(f"{self.where}: something follows the end of the zip; fetch or make it again")
        at += tail_at
        locator = self._source.read(max(0, at - _LOCATOR_64.size), _LOCATOR_64.size)
        if at >= _LOCATOR_64.size + _END_64.size and locator.startswith(b"PK\6\7"):
            _, _, end, _ = _LOCATOR_64.unpack(locator)
            record = self._source.read(at - _LOCATOR_64.size - _END_64.size, _END_64.size)
            large = _END_64.unpack(record)
            at -= _LOCATOR_64.size + _END_64.size
            small = zip((disk, first_disk, here, count, size, start), large[4:], strict=True)
            lies = any(a not in (b, 0xFFFF, 0xFFFFFFFF) for a, b in small)
            if large[0] != b"PK\6\6" or large[1] != _END_64.size - 12 or end != at or lies:
                raise DataError(f"{self.where}: damaged (its two ends differ); make or fetch the zip again")
            disk, first_disk, here, count, size, start = large[4:]
        if disk or first_disk or here != count:
            raise DataError(f"{self.where}: one part of several; join the parts with `zip -s 0 --out`")
        if count > room:
            raise _too_many(self.where, room)
        if size > _MAX_NAMES:
            raise DataError(
                f"{self.where}: a directory of {size >> 20} MiB, more than {_MAX_NAMES >> 20}; unpack it"
            )
        if start + size != at or count * _RECORD.itemsize > size:
            raise DataError(f"{self.where}: damaged (its directory is not where it should be); fetch it again")
        return start, size, count

    def _names(self, directory: bytes) -> tuple[list[str], NDArray[np.int64]]:
        """Go through the directory: the name of each member, and where its record begins."""
        raws, places, place = [], array("q"), 0
        for _ in range(self.members):
            name_at = place + _RECORD.itemsize
            if name_at > len(directory) or directory[place : place + 4] != b"PK\1\2":
                raise DataError(f"{self.where}: its directory is damaged; make or fetch the zip again")
            name_length, extra_length, comment_length = _LENGTHS.unpack_from(directory, place)
            raws.append(directory[name_at : name_at + name_length])
            places.append(place)
            place = name_at + name_length + extra_length + comment_length
        if place > len(directory):
            raise DataError(f"{self.where}: its directory is cut off; make or fetch the zip again")
        if place < len(directory):
            raise DataError(f"{self.where}: its directory lists more members than it says; make the zip again")
        text = b"\n".join([b"", *raws, b""])  # looked at as a whole: that takes a fifth of the time
        plain = (
            text.isascii() and not any(odd in text for odd in _ODD) and max(map(len, raws), default=0) <= _MAX_NAME
        )
        names = text[1:-1].decode("ascii").split("\n") if plain else []
        if len(names) != len(raws):
            flags = [int.from_bytes(directory[place + 8 : place + 10], "little") for place in places]
            codecs = map(_zip_codec, raws, flags)
            names = [_member_name(raw, codec, self.where) for raw, codec in zip(raws, codecs, strict=True)]
        return names, np.array(places, np.int64)

    def _widen(
        self, name: str, directory: bytes, place: int, field: Any, columns: dict[str, NDArray[np.int64]], row: int
    ) -> None:
        """Take what does not fit 32 bits from the zip64 extension."""
        wide = [key for key in ("size", "packed", "offset") if field[key] == _WIDE]
        place += _RECORD.itemsize + int(field["name_length"])
        end = place + int(field["extra_length"])
        for _ in range(_MAX_EXTRAS):
            if place + 4 > end:
                break
            kind, length = struct.unpack_from("<2H", directory, place)
            if kind == 1 and 8 * len(wide) <= min(length, end - place - 4):
                values = struct.unpack_from(f"<{len(wide)}Q", directory, place + 4)
                for key, value in zip(wide, values, strict=True):
                    columns[key][row] = min(value, 1 << 50)  # which no zip holds, and of which sums are exact
                return
            place += 4 + length
        raise DataError(f"{self.where}: {name} lacks its zip64 sizes; make the zip again")

    def _check(
        self, names: list[str], fields: NDArray[Any], columns: dict[str, NDArray[np.int64]], directory: int
    ) -> None:
        """Refuse members that cannot be read, that are no files, or that do not lie before the directory."""
        kind = fields["attributes"] >> 16 & 0o170000
        folder = np.fromiter((name[-1:] == "/" for name in names), bool, len(names))
        packed, size, method = columns["packed"], columns["size"], columns["method"]
        ends = columns["offset"] + _LOCAL.size + columns["name_length"] + packed
        for wrong, reason in (
            (fields["flags"] & _ENCRYPTED != 0, "is encrypted; make the zip again without a password"),
            (
                (kind != 0) & (kind != stat.S_IFREG) & ~((kind == stat.S_IFDIR) & folder),
                "is a link or a device; make the zip again with the files themselves (without -y)",
            ),
            # others take as much memory as the zip tells them to
            (
                (method != _STORED) & (method != _DEFLATED),
                "is compressed by method {method}; make the zip again with deflate",
            ),
            ((method == _STORED) & (packed != size), "is damaged (stored, but of two sizes); make the zip again"),
            (size > _DEFLATE_RATIO * (packed + 1), "cannot be of the size that it says; make the zip again"),
            (ends > directory, "would end behind the end of the zip; fetch or copy it again"),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(f"{self.where}: {names[row]} {reason.format(method=method[row])}")

    def _limits(
        self, names: list[str], columns: dict[str, NDArray[np.int64]], directory: int
    ) -> NDArray[np.int64]:
        """Find where the next member begins, for each of them. Refuses members that share bytes."""
        order = np.argsort(columns["offset"], kind="stable")
        limits = np.empty_like(order)
        limits[order] = np.append(columns["offset"][order[1:]], directory)[: len(order)]
        short = columns["offset"] + _LOCAL.size + columns["name_length"] + columns["packed"] > limits
        if short.any():
            raise DataError(
                f"{self.where}: {names[int(np.argmax(short))]} overlaps the member behind it, as only those made"
                " to do harm have it; do not use it"
            )
        return limits


_ODD = (b"\n.", b"\n/", b"\n\n", b"/.", b"//", b"\\", b"\0", b":")  # in names that need a closer look


def _zip_codec(raw: bytes, flags: int) -> str:
    """Names are UTF-8 where the zip says so, and often where not; else they are in the PC's first code page."""
    if flags & _UTF_8:
        return "utf-8"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "cp437"
    return "utf-8"


# What a tar's members may be besides files and folders.
_SPECIAL = {
    b"1": "a hard link; make the tar again with --hard-dereference",
    b"2": "a symbolic link; make the tar again with --dereference",
    b"3": "a device; make the tar again without it",
    b"4": "a device; make the tar again without it",
    b"6": "a pipe; make the tar again without it",
    b"S": "sparse; make the tar again without --sparse",
    b"M": "one part of several; make the tar again in one part",
}
_FILES, _FOLDER, _LONG_NAME, _LONG_LINK, _LOCAL_PAX, _GLOBAL_PAX, _LABEL = (
    b"0\07",
    b"5",
    b"L",
    b"K",
    b"x",
    b"g",
    b"V",
)
_PAX_HEAD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")


class _Tar:
    """A plain tar that was gone through once: where each file begins, and its size."""

    def __init__(self, source: Source, where: str, room: int):
        self.where = where
        self._source = source
        self.rows: dict[str, int] = {}
        self._cells = array("q")  # offset and size of each file in turn
        self.members = names = 0
        room = min(room, _MAX_IN_TAR)
        for name, start, size in self._files():
            self.members += 1
            names += len(name)
            if self.members > room:
                raise _too_many(where, room)
            if names > _MAX_NAMES:
                raise DataError(f"{where}: names of more than {_MAX_NAMES >> 20} MiB; unpack it")
            if name.endswith("/") or not name:
                continue
            if name in self.rows:
                raise DataError(f"{where}: {name} is in it twice; make the tar again")
            self.rows[name] = len(self._cells) // 2
            self._cells.extend((start, size))

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError when it is absurdly large. A tar has no checksums of what it holds."""
        window = self.inner(name)
        if window.size > MAX_BYTES:
            raise DataError(
                f"{name} in {self.where}: {window.size >> 20} MiB, more than {MAX_BYTES >> 20}; leave it out"
            )
        data = window.read(0, window.size)
        if len(data) < window.size:
            raise DataError(f"{name} in {self.where}: cut off; the tar has changed while it was read")
        return data

    def inner(self, name: str) -> Source:
        """Give a file as a window on this tar."""
        row = 2 * self.rows[name]
        return _Window(self._source, self._cells[row], self._cells[row + 1])

    def fingerprint(self, name: str) -> tuple[int, int] | None:
        """A tar has no checksums."""
        return None

    def _files(self) -> Iterator[tuple[str, int, int]]:
        """Go through the headers; name, offset and size of each file, and of folders with a slash at the end."""
        place, extensions, given = 0, 0, dict[str, bytes]()
        ahead, ahead_at, step = b"", 0, 0
        while True:
            if (
                not 0 <= place - ahead_at <= len(ahead) - 512
            ):  # headers of small files lie close: fetch many at once
                ahead, ahead_at = self._source.read(place, 1 << 16 if step < 1 << 13 else 512), place
            block = ahead[place - ahead_at : place - ahead_at + 512]
            if len(block) < 512:
                raise DataError(f"{self.where}: ends without its end mark, so it was cut off; fetch it again")
            if not block.strip(b"\0"):
                return
            raw, kind, size = self._header(block)
            size = self._number(given["size"], 10) if "size" in given and kind in _FILES else size
            start = place + 512
            step = 512 + (size + 511 & ~511)
            place += step
            if start + size > self._source.size:
                raise DataError(f"{self.where}: cut off within {raw[:80]!r}; fetch or copy it again")
            if kind in (_LONG_NAME, _LONG_LINK, _LOCAL_PAX, _GLOBAL_PAX, _LABEL):
                extensions += 1
                if extensions > _MAX_EXTENSIONS or size > _MAX_EXTENSION:
                    raise DataError(f"{self.where}: a header with absurd extensions; make the tar again")
                given |= self._extension(kind, start, size)
                continue
            raw = given.get("path", raw)
            name = _member_name(raw, "utf-8", self.where)
            if kind not in _FILES and kind != _FOLDER:
                what = _SPECIAL.get(kind, f"of the unknown kind {kind!r}; make the tar again")
                raise DataError(f"{self.where}: {name} is {what}")
            if kind == _FOLDER and size:
                raise DataError(f"{self.where}: {name} is a folder with content; make the tar again")
            yield name.rstrip("/") + "/" if kind == _FOLDER else name, start, size
            extensions, given = 0, {}

    def _header(self, block: bytes) -> tuple[bytes, bytes, int]:
        """Take name, kind and size from a header whose checksum is right."""
        # The low half of an Adler checksum is 1 + the sum of the bytes, modulo 65521; sum() is ten times slower
        total = (zlib.adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 8 * ord(" ")
        if block[257:262] != b"ustar" or (total - self._number(block[148:156], 8)) % 65521:
            raise DataError(f"{self.where}: a header is damaged; make or fetch the tar again")
        name = block[:100].split(b"\0", 1)[0]
        if block[262:263] == b"\0" and block[345]:  # GNU's own form has other things there
            name = block[345:500].split(b"\0", 1)[0] + b"/" + name
        size = block[124:136]
        large = size[0] == 0x80
        return name, block[156:157], int.from_bytes(size[1:], "big") if large else self._number(size, 8)

    def _number(self, field: bytes, base: int) -> int:
        digits = field.strip(b" \0") or b"0"
        try:
            return int(digits if digits.isdigit() and len(digits) < 19 else b"none", base)
        except ValueError as error:
            raise DataError(
                f"{self.where}: a header has {field!r} where a number should be; make the tar again"
            ) from error

    def _extension(self, kind: bytes, start: int, size: int) -> dict[str, bytes]:
        """Read what a header says of the next member: `path` and `size`."""
        if kind in (_LONG_LINK, _LABEL):
            return {}
        data = self._source.read(start, size)
        if kind == _LONG_NAME:
            return {"path": data.split(b"\0", 1)[0]}
        given, place = dict[str, bytes](), 0
        while place < len(data):
            head = _PAX_HEAD.match(data, place)
            end = place + int(head[1]) if head else 0
            if head is None or not head.end() < end <= len(data) or data[end - 1 : end] != b"\n":
                raise DataError(f"{self.where}: an extended header is damaged; make or fetch the tar again")
            if head[2].startswith(b"GNU.sparse"):
                raise DataError(f"{self.where}: holds sparse files; make the tar again without --sparse")
            if head[2] in (b"path", b"size"):
                given[head[2].decode()] = data[head.end() : end - 1]
            place = end
        if given and kind == _GLOBAL_PAX:
            raise DataError(f"{self.where}: one name or size for all its files; make the tar again")
        return given
