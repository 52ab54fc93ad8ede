"""Folders, zips and tars read alike, archives in them too; what is wrong with one is a DataError naming it."""

import io
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from eomt.data import archive as archives
from eomt.data import volumes
from eomt.data.archive import Archive
from eomt.errors import DataError

FILES = {
    "readme.txt": b"hi",
    "images/train/a.png": b"A",
    "images/train/deep/b.png": b"B",
    "images/val/c.png": b"C",
}
JUNK = {".DS_Store": b"", "images/train/._a.png": b"", "images/Thumbs.db": b"", "__MACOSX/images/a.png": b""}


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def make(tmp_path: Path, kind: str) -> Path:
    data = tmp_path / "data"
    if kind == "folder":
        write_files(data, FILES | JUNK)
        return data
    top = "dataset/" if "top folder" in kind else ""
    files = {top + name: content for name, content in FILES.items()} | JUNK
    data.write_bytes(zipped(files) if "zip" in kind else tarred(files))
    return data


KINDS = ["folder", "zip", "zip with a top folder", "tar", "tar with a top folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_contents_are_the_same_however_they_are_stored(tmp_path, kind):
    archive = Archive(make(tmp_path, kind))
    assert archive.names() == sorted(FILES)
    assert archive.names("images/train") == archive.names("images/train/") == sorted(FILES)[:2]
    assert archive.names("images/tra") == archive.names("nothing") == []
    assert {name: archive.read(name) for name in archive.names()} == FILES
    assert all(archive.exists(name) for name in (*FILES, "./readme.txt", "images//train/a.png"))
    assert not any(archive.exists(name) for name in ("images", "", ".", *JUNK, "readme.txt/x", "x" * 5000))
    assert archive.read("./images//val/c.png") == b"C"
    assert archive.where("images/val/c.png").startswith(("images/val/c.png in /", str(tmp_path / "data/images")))
    with pytest.raises(DataError, match=r"missing\.png"):
        archive.read("missing.png")


@pytest.mark.parametrize("kind", KINDS)
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


def test_names_of_a_list_that_is_given_away_do_not_change(tmp_path):
    archive = Archive(make(tmp_path, "folder"))
    archive.names().clear()
    assert archive.names() == sorted(FILES)


def test_a_missing_path_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "pipe"):
        with pytest.raises(DataError, match="no such folder or zip"):
            Archive(tmp_path / name)


# Official COCO: what is in which file. The panoptic maps lie in a zip in a zip.
PANOPTIC = {"panoptic_train2017/1.png": b"p1", "panoptic_train2017/2.png": b"p2"}
JSON = {"annotations/panoptic_train2017.json": b"{}", "annotations/panoptic_val2017.json": b"[]"}
COCO = {
    "train2017.zip": {"train2017/1.jpg": b"j1", "train2017/2.jpg": b"j2"},
    "val2017.zip": {"val2017/3.jpg": b"j3"},
    "annotations_trainval2017.zip": {"annotations/instances_train2017.json": b"{}"},
    "panoptic_annotations_trainval2017.zip": JSON
    | {f"annotations/__MACOSX/._{name}": b"" for name in ("x.zip",)}
    | {
        "annotations/panoptic_train2017.zip": zipped(PANOPTIC),
        "annotations/panoptic_val2017.zip": zipped({"panoptic_val2017/3.png": b"p3"}),
    },
}
UNPACKED = {
    **COCO["train2017.zip"],
    **COCO["val2017.zip"],
    **COCO["annotations_trainval2017.zip"],
    **JSON,
    **{f"annotations/{name}": data for name, data in PANOPTIC.items()},
    "annotations/panoptic_val2017/3.png": b"p3",
}


def write_coco(root: Path, form: str) -> Path:
    """The official files, each packed in this form, in a folder, a zip, or a tar."""
    pack = {"stored": lambda files: zipped(files, zipfile.ZIP_STORED), "deflated": zipped, "tar": tarred}[form]
    write_files(root / "coco", {name: pack(files) for name, files in COCO.items()})
    return root / "coco"


@pytest.mark.parametrize("outer", ["folder", "zip", "tar"])
@pytest.mark.parametrize("form", ["stored", "deflated", "tar"])
def test_archives_in_archives_show_as_if_unpacked_in_their_place(tmp_path, form, outer):
    root = write_coco(tmp_path, form)
    if outer != "folder":
        root = Path(shutil.make_archive(str(tmp_path / "all"), outer, tmp_path, "coco"))
    for archive in (Archive(root), pickle.loads(pickle.dumps(Archive(root)))):
        assert archive.read("annotations/panoptic_train2017/2.png") == b"p2"  # before anything is listed
        assert archive.names() == sorted(UNPACKED)
        assert archive.names("annotations/panoptic_val2017") == ["annotations/panoptic_val2017/3.png"]
        assert {name: archive.read(name) for name in archive.names()} == UNPACKED
        assert archive.exists("train2017/1.jpg")
        assert not archive.exists("train2017.zip")


def test_says_where_a_file_lies(tmp_path):
    root = write_coco(tmp_path, "deflated")
    archive = Archive(root)
    assert archive.where("annotations/panoptic_train2017/1.png") == (
        "panoptic_train2017/1.png in annotations/panoptic_train2017.zip"
        f" in {root}/panoptic_annotations_trainval2017.zip"
    )
    assert archive.where("train2017/1.jpg") == f"train2017/1.jpg in {root}/train2017.zip"
    assert archive.where("train2017/9.jpg") == f"{root}/train2017/9.jpg"
    assert archive.where("../9.jpg") == f"{root}/../9.jpg"
    with pytest.raises(DataError, match=r"coco/train2017/9\.jpg: no such file"):
        archive.read("train2017/9.jpg")
    whole = Path(shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path, "coco"))
    assert Archive(whole).where("val2017/3.jpg") == f"val2017/3.jpg in val2017.zip in {whole}"


def test_only_the_first_two_levels_are_searched_and_only_by_name(tmp_path):
    inner = zipped({"x.txt": b"x"})
    write_files(
        tmp_path, {"a/in.ZIP": inner, "a/b/in.zip": inner, "weights.pt": inner, "c.tar": tarred({"c/y": b"y"})}
    )
    assert Archive(tmp_path).names() == ["a/b/in.zip", "a/x.txt", "c/y", "weights.pt"]
    (tmp_path / "a" / "b.zip").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"a/b\.zip: neither a zip nor a tar"):
        Archive(tmp_path).names()


def test_an_archive_that_was_unpacked_but_not_removed_is_passed_over(tmp_path):
    root = write_coco(tmp_path, "deflated")
    write_files(root, COCO["train2017.zip"] | {"train2017/1.jpg": b"edited"})
    archive = Archive(root)
    assert archive.names() == sorted(UNPACKED)
    assert archive.read("train2017/1.jpg") == b"edited"
    (root / "train2017" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"train2017/1\.jpg is there twice, as a file .* in .*/train2017\.zip"):
        Archive(root).names()


@pytest.mark.parametrize("outer", ["folder", "zip"])
def test_two_archives_may_share_files_only_if_they_are_equal_or_leaflets(tmp_path, outer):
    root = tmp_path / "cityscapes"
    images = {"leftImg8bit/a.png": b"A", "README": b"images", "license.txt": b"L", "both.txt": b"B"}
    labels = {"gtFine/a.png": b"1", "README": b"labels", "license.txt": b"L", "both.txt": b"B"}

    def opened() -> Archive:
        write_files(root, {"images.zip": zipped(images), "labels.zip": zipped(labels)})
        if outer == "folder":
            return Archive(root)
        return Archive(shutil.make_archive(str(tmp_path / "all"), "zip", root))

    assert opened().names() == sorted(images | labels)
    assert opened().read("README") == b"images"
    labels["both.txt"] = b"C"
    with pytest.raises(DataError, match=r"both\.txt is there twice, in .*images\.zip.* and in .*labels\.zip"):
        opened().names()


def test_links_in_a_folder_are_followed_but_not_round_in_circles(tmp_path):
    write_files(tmp_path, {"elsewhere/1.png": b"1", "root/a/2.png": b"2"})
    root = tmp_path / "root"
    for name, target in {
        "train": tmp_path / "elsewhere",  # data on another disk
        "val": tmp_path / "elsewhere",  # may be used twice
        "3.png": tmp_path / "elsewhere/1.png",
        "a/up": root,  # round in a circle
        "self": "self",
        "lost.png": "nowhere.png",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    archive = Archive(root)
    names = archive.names()
    assert [name for name in names if archive.exists(name)] == ["3.png", "a/2.png", "train/1.png", "val/1.png"]
    assert sorted(set(names) - {"3.png", "a/2.png", "train/1.png", "val/1.png"}) == [
        "lost.png",
        "self",
        "zero.png",
    ]
    assert archive.read("val/1.png") == b"1"
    for name in ("lost.png", "self", "zero.png", "pipe.png"):  # lost files are told when they are read
        with pytest.raises(DataError, match=f"{name}: no such file"):
            archive.read(name)


def test_links_to_links_do_not_make_a_folder_without_end(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()
    for level in range(1, 40):  # 2^39 paths
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level - 1))
    with pytest.raises(DataError, match="4 links behind each other"):
        Archive(tmp_path).names()
    monkeypatch.setattr(archives, "_MAX_LINKED", 1)
    with pytest.raises(DataError, match="more than 1 links to folders"):
        Archive(tmp_path / "1").names()


def test_a_file_name_that_cannot_be_printed_is_told(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    with pytest.raises(DataError, match="not UTF-8"):
        Archive(tmp_path).names()


def test_a_file_is_not_read_without_measure(tmp_path, monkeypatch):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    with pytest.raises(DataError, match=r"huge\.png: 1048576 MiB"):
        Archive(tmp_path).read("huge.png")
    monkeypatch.setattr(volumes, "MAX_BYTES", 99)
    for name, content in {"a.zip": zipped({"a": b"x" * 100}), "a.tar": tarred({"a": b"x" * 100})}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="more than 0"):
            Archive(tmp_path / name).read("a")


NAMES = ["plain", "ünïcödé/日本.png", "long/" * 60 + "x", "with space/ü", "x" * 120, "empty"]


def random_files() -> dict[str, bytes]:
    chance = random.Random(0)
    sizes = (3, 511, 512, 513, 5000, 200_000)
    return {f"{name}": chance.randbytes(size) for name, size in zip(NAMES, sizes, strict=True)} | {"none": b""}


def by_command(command: str, root: Path) -> Path:
    """Pack a folder by a program that people use."""
    target = root.parent / "packed"
    line = command.format(target=target)
    if shutil.which(line.split()[0]) is None:
        pytest.skip(f"{line.split()[0]} is not installed")
    subprocess.run(line, shell=True, cwd=root, check=True, stdout=subprocess.DEVNULL)
    return next(file for file in root.parent.iterdir() if file.is_file())


@pytest.mark.parametrize(
    "command",
    [
        "zip -qr {target}.zip .",
        "zip -qr0 {target}.zip .",
        "zip -qr - . | cat > {target}.zip",  # sizes behind the data
        "tar -cf {target}.tar .",
        "tar -cf {target}.tar *",
        "tar --format=pax -cf {target}.tar .",
        "tar --format=ustar -cf {target}.tar plain empty none",
        "tar --format=gnu -cf {target}.tar .",
    ],
)
def test_reads_what_common_programs_write(tmp_path, command):
    files = random_files()
    write_files(tmp_path / "root", files)
    archive = Archive(by_command(command, tmp_path / "root"))
    if "ustar" in command:
        files = {name: files[name] for name in ("plain", "empty", "none")}
    assert {name: archive.read(name) for name in archive.names()} == files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_each_form_of_tar(tmp_path, form):
    files = random_files() if form != tarfile.USTAR_FORMAT else {"a/b": b"1", "a" * 90 + "/" + "b" * 90: b"2"}
    (tmp_path / "a.tar").write_bytes(tarred(files, form))
    archive = Archive(tmp_path / "a.tar")
    assert {name: archive.read(name) for name in archive.names()} == files


def test_reads_zips_of_64_bits(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a", "b"):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(name.encode() * 9)
    content = (tmp_path / "a.zip").read_bytes()
    start = content.index(b"PK\1\2")
    # what a program writes that does not know sizes beforehand: all of the first member is in its extension
    extra = struct.pack("<2H3Q", 1, 24, 9, 9, 0)
    changed = bytearray(content[start : start + 46])
    changed[20:28] = changed[42:46] * 0 + b"\xff" * 8
    changed[30:32] = struct.pack("<H", len(extra))
    changed[42:46] = b"\xff" * 4
    directory = bytes(changed) + b"a" + extra + content[start + 47 : -22]
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), start)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    end += b"PK\5\6" + b"\0" * 4 + b"\xff" * 12 + b"\0\0"
    (tmp_path / "a.zip").write_bytes(content[:start] + directory + end)
    assert [Archive(tmp_path / "a.zip").read(name) for name in ("a", "b")] == [b"a" * 9, b"b" * 9]
    assert zipfile.ZipFile(tmp_path / "a.zip").testzip() is None


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"\x81.png", "ü.png"),  # the PC's first code page, as the standard has it
        ("ü.png".encode(), "ü.png"),  # UTF-8 that is not said to be it, as macOS has it
    ],
)
def test_names_of_zips_that_do_not_tell_their_encoding(tmp_path, raw, name):
    content = zipped({"x" * len(raw): b"1"}).replace(b"x" * len(raw), raw)
    (tmp_path / "a.zip").write_bytes(content)
    archive = Archive(tmp_path / "a.zip")
    assert archive.names() == [name]
    assert archive.read(name) == b"1"


def test_an_empty_zip_and_an_empty_folder_hold_nothing(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({}))
    assert Archive(tmp_path / "a.zip").names() == []
    assert Archive(tmp_path).names() == []


def test_a_compressed_archive_in_an_archive_is_read_from_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_BLOCK", 1000)
    chance = random.Random(1)
    files = {f"{index:03}": chance.randbytes(chance.randrange(3000)) for index in range(100)}
    files["text"] = b"again and again " * 3000
    for pack in (lambda inner: zipped(inner, zipfile.ZIP_STORED), tarred):
        (tmp_path / "a.zip").write_bytes(zipped({"top": b"", "in.zip": pack(files)}))
        archive = Archive(tmp_path / "a.zip")
        names = list(files)
        chance.shuffle(names)
        assert all(archive.read(name) == files[name] for name in names)


@pytest.mark.parametrize("name", ["extra.zip", "weights/model.tar"])
def test_a_broken_archive_beside_files_is_passed_over_and_told_once(tmp_path, name, caplog):
    write_files(tmp_path, {"images/0.png": b"x", name: b"junk" * 200})
    archive = Archive(tmp_path)
    assert archive.names() == ["images/0.png"]
    assert len(caplog.records) == 1
    assert f"passed over: {tmp_path / name}: neither a zip nor a tar" in caplog.text
    assert pickle.loads(pickle.dumps(archive)).names() == ["images/0.png"]
    assert len(caplog.records) == 1  # not in each worker


@pytest.mark.parametrize(
    "files", [{}, {"README.txt": b"x"}, {"classes.txt": b"x", "part1.zip": zipped({"0.png": b"x"})}]
)
def test_a_broken_archive_that_may_hold_the_data_is_an_error(tmp_path, files):
    write_files(tmp_path, files | {"part2.zip": b"junk" * 200})
    with pytest.raises(DataError, match=r"part2\.zip: neither a zip nor a tar"):
        Archive(tmp_path).names()
