"""Folders and zips read alike; whatever is wrong with a zip is a DataError that names the file."""

import multiprocessing
import pickle
import zipfile
from pathlib import Path

import pytest

from eomt.data.archive import Archive
from eomt.errors import DataError

FILES = {
    "readme.txt": b"hi",
    "images/train/a.png": b"A",
    "images/train/deep/b.png": b"B",
    "images/val/c.png": b"C",
}
JUNK = {".DS_Store": b"", "images/train/._a.png": b"", "images/Thumbs.db": b"", "__MACOSX/images/a.png": b""}


def make(tmp_path: Path, kind: str) -> Path:
    if kind == "folder":
        for name, data in (FILES | JUNK).items():
            file = tmp_path / "data" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return tmp_path / "data"
    top = "dataset/" if kind == "zip with a top folder" else ""
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(top + name, data)
        for name, data in JUNK.items():
            archive.writestr(name, data)
    return tmp_path / "data.zip"


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a top folder"])
def test_names_and_contents_are_the_same_however_they_are_stored(tmp_path, kind):
    archive = Archive(make(tmp_path, kind))
    assert archive.names() == sorted(FILES)
    assert archive.names("images/train") == archive.names("images/train/") == sorted(FILES)[:2]
    assert archive.names("images/tra") == archive.names("nothing") == []
    assert {name: archive.read(name) for name in archive.names()} == FILES
    assert archive.exists("readme.txt")
    assert not archive.exists("images")
    with pytest.raises(DataError, match=r"missing\.png"):
        archive.read("missing.png")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_pickles_to_a_path(tmp_path, kind):
    archive = Archive(make(tmp_path, kind))
    archive.read("readme.txt")
    blob = pickle.dumps(archive)
    assert len(blob) < 400
    assert pickle.loads(blob).read("readme.txt") == b"hi"


def read_in_child(archive: Archive, results: "multiprocessing.Queue[int]") -> None:
    results.put(sum(archive.read("images/train/a.png") == b"A" for _ in range(200)))


def test_processes_do_not_share_a_file_position(tmp_path):
    archive = Archive(make(tmp_path, "zip"))
    archive.read("readme.txt")
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [fork.Process(target=read_in_child, args=(archive, results)) for _ in range(2)]
    for child in children:
        child.start()
    mine = sum(archive.read("images/val/c.png") == b"C" for _ in range(200))
    assert [mine, results.get(timeout=30), results.get(timeout=30)] == [200, 200, 200]
    for child in children:
        child.join()


def test_reads_what_lies_inside_only(tmp_path):
    (tmp_path / "secret").write_text("secret")
    archive = Archive(make(tmp_path, "folder"))
    for name in ("../secret", "images/../../secret", str(tmp_path / "secret"), "a\0b"):
        with pytest.raises(DataError, match="inside"):
            archive.read(name)


def flag_encrypted(data: bytes) -> bytes:
    place = data.index(b"PK\1\2") + 8  # general purpose flags in the central directory
    return data[:place] + b"\x01" + data[place + 1 :]


def declare_huge(data: bytes) -> bytes:
    place = data.index(b"PK\1\2") + 24  # uncompressed size
    return data[:place] + (2**31).to_bytes(4, "little") + data[place + 4 :]


def use_unknown_method(data: bytes) -> bytes:
    for place in (data.index(b"PK\3\4") + 8, data.index(b"PK\1\2") + 10):
        data = data[:place] + b"\x63\x00" + data[place + 2 :]
    return data


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flag_encrypted, "encrypted"),
        (declare_huge, "2048 MiB"),
        (use_unknown_method, "damaged"),
        (lambda data: data.replace(b"x" * 50, b"y" * 50), "damaged"),  # wrong checksum
        (lambda data: data[: len(data) // 2], "not a readable zip"),
        (lambda data: b"not a zip", "not a readable zip"),
        (lambda data: b"", "not a readable zip"),
    ],
)
def test_a_bad_zip_says_what_is_wrong(tmp_path, spoil, words):
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", b"x" * 50)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=words) as caught:
        Archive(file).read("a.txt")
    assert "bad.zip" in str(caught.value)


def test_a_missing_path_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder or zip"):
        Archive(tmp_path / "nothing")
