"""Archives made to do harm are refused by name and reason, and nothing outside of them is touched."""

import dataclasses
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from eomt.data import archive as archives
from eomt.data import volumes
from eomt.data.archive import Archive
from eomt.errors import DataError


@dataclasses.dataclass(frozen=True)
class Entry:
    """A member of a zip, in which anything may be a lie: what is None is told as it is."""

    name: bytes
    data: bytes = b"data"
    method: int = 0
    flags: int = 0
    attributes: int = 0
    crc: int | None = None
    packed: int | None = None
    size: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None
    local_size: int | None = None
    local_extra: bytes = b""


def make_zip(*entries: Entry, count: int | None = None, comment: bytes = b"", gap: bytes = b"") -> bytes:
    body, directory = b"", b""
    for entry in entries:
        deflater = zlib.compressobj(wbits=-15)
        packed = entry.data if entry.method == 0 else deflater.compress(entry.data) + deflater.flush()
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed_size = len(packed) if entry.packed is None else entry.packed
        offset = len(body) if entry.offset is None else entry.offset
        local = entry.name if entry.local_name is None else entry.local_name
        same = (20, entry.flags, entry.method, 0, 0, crc, packed_size)
        local_size = size if entry.local_size is None else entry.local_size
        body += b"PK\3\4" + struct.pack("<5H3I2H", *same, local_size, len(local), len(entry.local_extra))
        body += local + entry.local_extra + packed
        directory += b"PK\1\2" + struct.pack("<6H3I", 0x31E, *same, size)
        directory += struct.pack("<5H2I", len(entry.name), len(entry.extra), 0, 0, 0, entry.attributes, offset)
        directory += entry.name + entry.extra
    count = len(entries) if count is None else count
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), len(body + gap), len(comment))
    return body + gap + directory + end + comment


def test_the_maker_of_lies_can_tell_the_truth():
    content = make_zip(Entry(b"a.txt", b"A" * 99, 8), Entry(b"b/"), Entry(b"b/c.txt"), comment=b"PK")
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


def end_with_zip64(content: bytes, **lies: int) -> bytes:
    """Put a 64-bit end before the 32-bit one."""
    *_, here, count, size, start, _ = struct.unpack("<4s4H2IH", content[-22:])
    told = {"here": here, "count": count, "size": size, "start": start, "end": len(content) - 22} | lies
    large = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, *(told[k] for k in ("here", "count", "size", "start"))
    )
    return content[:-22] + large + struct.pack("<4sIQI", b"PK\6\7", 0, told["end"], 1) + content[-22:]


def zip_of(count: int) -> bytes:
    return make_zip(*(Entry(b"%d" % index) for index in range(count)))


def link(kind: int) -> int:
    return (kind | 0o777) << 16


def quoted() -> bytes:
    """Two members of which the first one's extra field, and so its data, reach into the second one's header."""
    plain = make_zip(Entry(b"a"), Entry(b"b"))
    extra = struct.pack("<HH", 0xCAFE, 31)  # 31 bytes of extra field: the header of b
    start = plain.index(b"PK\1\2")
    return plain[:28] + struct.pack("<H", len(extra) + 31) + plain[30:start] + plain[start:]


SECRET = "../secret.txt"
ZIPS: dict[str, tuple[bytes, str]] = {
    "leads up": (make_zip(Entry(SECRET.encode())), "out of a folder"),
    "leads up from within": (make_zip(Entry(b"a/../../secret.txt")), "out of a folder"),
    "leads up as a folder": (make_zip(Entry(b"../up/", b"")), "out of a folder"),
    "absolute": (make_zip(Entry(b"/etc/passwd")), "out of a folder"),
    "drive letter": (make_zip(Entry(b"C:/secret.txt")), "out of a folder"),
    "backslashes": (make_zip(Entry(b"..\\secret.txt")), "out of a folder"),
    "NUL": (make_zip(Entry(b"a.png\0.txt")), "out of a folder"),
    "no name": (make_zip(Entry(b"")), "empty"),
    "name of a novel": (make_zip(Entry(b"a" * 5000)), "5000 bytes"),
    "name not UTF-8": (make_zip(Entry(b"\xff.txt", flags=1 << 11)), "not UTF-8"),
    "symbolic link": (make_zip(Entry(b"a", SECRET.encode(), attributes=link(stat.S_IFLNK))), "link or a device"),
    "device": (make_zip(Entry(b"a", b"", attributes=link(stat.S_IFCHR))), "link or a device"),
    "pipe": (make_zip(Entry(b"a", b"", attributes=link(stat.S_IFIFO))), "link or a device"),
    "same name": (make_zip(Entry(b"a"), Entry(b"a")), "twice"),
    "same name, written otherwise": (make_zip(Entry(b"b/a"), Entry(b"b//./a")), "twice"),
    "same bytes": (make_zip(Entry(b"a"), Entry(b"b", offset=0)), "overlaps"),
    "bytes of another's header": (make_zip(Entry(b"a", packed=40, size=40), Entry(b"b", b"x" * 40)), "overlaps"),
    "bytes of another by its extra field": (quoted(), "other than the zip's directory"),
    "bytes of the directory": (make_zip(Entry(b"a", packed=5, size=5)), "behind the end"),
    "encrypted": (make_zip(Entry(b"a", flags=1)), "encrypted"),
    "strongly encrypted": (make_zip(Entry(b"a", flags=1 << 6)), "encrypted"),
    "unknown compression": (make_zip(Entry(b"a", method=99)), "method 99"),
    "cut off": (make_zip(Entry(b"a", b"x" * 500))[:-200], "end of the zip is missing"),
    "cut at its start": (make_zip(Entry(b"a", b"x" * 500))[60:], "neither a zip nor a tar"),
    "cut within": (
        (lambda data: data[:40] + data[90:])(make_zip(Entry(b"a", b"x" * 500))),
        "not where it should be",
    ),
    "followed by something": (make_zip(Entry(b"a")) + b"more", "follows the end"),
    "led by something": (b"PK\3\4" + make_zip(Entry(b"a")), "not where it should be"),
    "wrong checksum": (make_zip(Entry(b"a", crc=1)), "checksum"),
    "wrong size": (make_zip(Entry(b"a", b"x" * 50, 8, size=49)), "size or checksum"),
    "larger than deflate can do": (make_zip(Entry(b"a", b"x", 8, size=1 << 20)), "cannot be of the size"),
    "stored in two sizes": (make_zip(Entry(b"a", size=1 << 20)), "two sizes"),
    "larger than anything": (
        make_zip(Entry(b"a", b"x" * 2_000_000, size=(1 << 32) - 2, method=8)),
        "cannot be of",
    ),
    "bomb": (make_zip(Entry(b"a", b"\0" * (65 << 20), 8)), "65 MiB packed into 6"),
    "bomb in a zip": (make_zip(Entry(b"a.zip", b"\0" * (65 << 20), 8)), "65 MiB packed into 6"),
    "data not deflated": (
        (lambda data: data[:31] + b"\xff" + data[32:])(make_zip(Entry(b"a", b"x" * 50, 8))),
        "invalid block type",
    ),
    "inner archive not deflated": (
        (lambda data: data[:35] + b"\xff" + data[36:])(make_zip(Entry(b"a.zip", b"x" * 50, 8))),
        "invalid block type",
    ),
    "inner archive of another size": (
        make_zip(Entry(b"a.zip", b"x" * 50, 8, size=51)),
        "shorter than the zip says",
    ),
    "inner archive of another checksum": (make_zip(Entry(b"a.zip", b"x" * 50, 8, crc=1)), "checksum"),
    "another name before the data": (make_zip(Entry(b"a", local_name=b"b")), "differ in name"),
    "a longer name before the data": (
        make_zip(Entry(b"a", local_name=b"aa"), Entry(b"c")),
        "overlaps|differ in name",
    ),
    "another size before the data": (make_zip(Entry(b"a", local_size=9)), "differ in size"),
    "no header": (make_zip(Entry(b"a")).replace(b"PK\3\4", b"PK\5\6"), "no header"),
    "more members than it says": (make_zip(Entry(b"a"), Entry(b"b"), count=1), "more members than it says"),
    "fewer members than it says": (make_zip(Entry(b"a" * 99), count=2), "directory is damaged"),
    "a million members": (end_with_zip64(make_zip(Entry(b"a"), count=0xFFFF), here=10**6, count=10**6), "400,000"),
    "a directory of zeros": (make_zip(Entry(b"a")).replace(b"PK\1\2", b"PK\0\0"), "directory is damaged"),
    "zip64 of another size": (end_with_zip64(make_zip(Entry(b"a")), size=60), "two ends differ"),
    "zip64 of another count": (end_with_zip64(make_zip(Entry(b"a")), count=9), "two ends differ"),
    "zip64 elsewhere": (end_with_zip64(make_zip(Entry(b"a")), end=0), "two ends differ"),
    "zip64 sizes missing": (make_zip(Entry(b"a", packed=0xFFFFFFFF, size=0xFFFFFFFF)), "lacks its zip64"),
    "zip64 sizes beyond all": (
        make_zip(
            Entry(b"a", packed=0xFFFFFFFF, size=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63))
        ),
        "behind the end",
    ),
    "one part of several": ((lambda data: data[:-18] + b"\1" + data[-17:])(make_zip(Entry(b"a"))), "several"),
}


def make_tar(*members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return file.getvalue()


def special(kind: bytes, name: str = "a", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def headed(content: bytes, start: int, field: bytes) -> bytes:
    """Change the first header of a tar and set its checksum right."""
    head = bytearray(content[:512])
    head[start : start + len(field)] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content[512:]


ONE = make_tar(("a", b"data"))
TARS: dict[str, tuple[bytes, str]] = {
    "leads up": (make_tar((SECRET, b"")), "out of a folder"),
    "absolute": (make_tar(("/etc/passwd", b"")), "out of a folder"),
    "leads up in a long name": (make_tar(("a/" * 80 + "../" * 99 + "x", b"")), "out of a folder"),
    "leads up in an extended header": (make_tar(("é/" * 80 + "../" * 99, b""), form=tarfile.PAX_FORMAT), "out of"),
    "drive letter": (make_tar(("C:/secret.txt", b"")), "out of a folder"),
    "backslashes": (make_tar(("a\\b", b"")), "out of a folder"),
    "NUL in an extended header": (
        make_tar(special(b"0", pax_headers={"path": "a\0b"}), form=tarfile.PAX_FORMAT),
        "out of a folder",
    ),
    "name not UTF-8": (headed(ONE, 0, b"\xff"), "not UTF-8"),
    "symbolic link": (make_tar(special(tarfile.SYMTYPE, linkname=SECRET)), "symbolic link"),
    "hard link": (make_tar(special(tarfile.LNKTYPE, linkname=SECRET)), "hard link"),
    "device": (make_tar(special(tarfile.CHRTYPE)), "device"),
    "pipe": (make_tar(special(tarfile.FIFOTYPE)), "pipe"),
    "sparse": (headed(ONE, 156, b"S"), "sparse"),
    "sparse in the other way": (
        make_tar(special(b"0", pax_headers={"GNU.sparse.size": "99"}), form=tarfile.PAX_FORMAT),
        "sparse",
    ),
    "unknown kind": (headed(ONE, 156, b"Q"), "unknown kind"),
    "same name": (make_tar(("a", b"1"), ("./a", b"2")), "twice"),
    "cut within a file": (make_tar(("a", b"x" * 5000))[:2048], "cut off within"),
    "cut between files": (make_tar(("a", b"x" * 512))[:1024], "without its end mark"),
    "larger than the file": (headed(ONE, 124, b"77777777777"), "cut off within"),
    "larger than 64 bits": (headed(ONE, 124, b"\x80" + b"\xff" * 11), "cut off within"),
    "negative size": (headed(ONE, 124, b"\xff" * 12), "where a number should be"),
    "size not a number": (headed(ONE, 124, b"1_000"), "where a number should be"),
    "wrong checksum": (ONE[:10] + b"x" + ONE[11:], "header is damaged"),
    "folder with content": (headed(ONE, 156, b"5"), "folder with content"),
    "size in an extended header": (
        make_tar(special(b"0", pax_headers={"size": "9" * 12}), form=tarfile.PAX_FORMAT),
        "cut off within",
    ),
    "damaged extended header": (
        make_tar(special(b"0", pax_headers={"comment": "abc"}), form=tarfile.PAX_FORMAT).replace(b"=abc", b"abcd"),
        "extended header is damaged",
    ),
    "one name for all": (
        headed(make_tar(special(b"0", pax_headers={"path": "é"}), form=tarfile.PAX_FORMAT), 156, b"g"),
        "one name or size for all",
    ),
    "endless long names": (headed(make_tar(("a" * 200, b"")), 156, b"L")[:1024] * 9 + ONE, "absurd extensions"),
    "compressed by gzip": (b"\x1f\x8b" + ONE, "gunzip -k"),
    "compressed by bzip2": (b"BZh9" + ONE, "bunzip2"),
    "compressed by xz": (b"\xfd7zXZ\0" + ONE, "unxz"),
}
BAD = [pytest.param(*row, id=f"zip: {name}") for name, row in ZIPS.items()]
BAD += [pytest.param(*row, id=f"tar: {name}") for name, row in TARS.items()]


def read_all(path: Path) -> None:
    archive = Archive(path)
    for name in archive.names():
        archive.read(name)


def watched(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(("content", "reason"), BAD)
@pytest.mark.parametrize("place", ["alone", "in a folder", "in a zip"])
def test_hostile_archives_are_refused(tmp_path, content, reason, place):
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    file = root / "bad.zip"
    file.write_bytes(content if place != "in a zip" else make_zip(Entry(b"top.txt"), Entry(b"bad.zip", content)))
    before = watched(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        read_all(root if place == "in a folder" else file)
    assert "bad.zip" in str(caught.value)
    assert watched(tmp_path) == before
    assert os.listdir(root) == ["bad.zip"]


@pytest.mark.parametrize("make", [zip_of, lambda count: make_tar(*((str(n), b"") for n in range(count)))])
def test_members_are_counted_while_they_are_listed(tmp_path, make: Callable[[int], bytes], monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.zip").write_bytes(make(10))
    assert len(Archive(tmp_path / "data").names()) == 10
    (tmp_path / "data" / "a.zip").write_bytes(make(11))
    with pytest.raises(DataError, match=r"a\.zip: more than the 10 members"):
        Archive(tmp_path / "data").names()
    (tmp_path / "data" / "a.zip").write_bytes(make(5))
    (tmp_path / "data" / "b.zip").write_bytes(make_zip(*(Entry(b"b%d" % index) for index in range(6))))
    with pytest.raises(DataError, match=r"b\.zip: more than the 5 members"):
        Archive(tmp_path / "data").names()


def test_a_zip_of_a_million_members_is_refused_before_its_directory_is_read(tmp_path):
    class Counting:
        content = end_with_zip64(make_zip(Entry(b"a"), count=0xFFFF), here=10**6, count=10**6)
        size = len(content)
        reads = 0

        def read(self, offset: int, count: int) -> bytes:
            self.reads += 1
            return self.content[offset : offset + count]

    source = Counting()
    with pytest.raises(DataError, match="members"):
        volumes.open_volume(source, "million.zip")
    assert source.reads == 4  # its start, its end, the place of its zip64 end, and that


def test_archives_are_counted(tmp_path):
    for index in range(65):
        (tmp_path / f"{index}.zip").write_bytes(make_zip(Entry(b"%d.txt" % index)))
    with pytest.raises(DataError, match="more than 64 archives"):
        Archive(tmp_path).names()


def test_archives_in_archives_are_opened_two_levels_deep(tmp_path):
    content = make_zip(Entry(b"bottom.txt"))
    for level in range(5):
        content = make_zip(Entry(b"%d.txt" % level), Entry(b"deeper.zip", content, method=8))
    (tmp_path / "data.zip").write_bytes(content)
    assert Archive(tmp_path / "data.zip").names() == ["2.txt", "3.txt", "4.txt", "deeper.zip"]


def test_a_compressed_archive_in_an_archive_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_MAX_INFLATED", 50)
    (tmp_path / "data.zip").write_bytes(make_zip(Entry(b"inner.zip", zip_of(5), method=8)))
    with pytest.raises(DataError, match=r"inner\.zip in .*data\.zip: a compressed archive"):
        Archive(tmp_path / "data.zip")


def test_an_archive_that_is_cut_off_while_it_is_used(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(("a", b"x" * 9999)))
    (tmp_path / "a.zip").write_bytes(make_zip(Entry(b"a", b"x" * 9999)))
    for file in (tmp_path / "a.tar", tmp_path / "a.zip"):
        archive = Archive(file)
        os.truncate(file, 2000)
        with pytest.raises(DataError, match=r"cut off|damaged"):
            archive.read("a")
