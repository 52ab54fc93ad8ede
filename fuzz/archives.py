"""Fuzz zips and tars, and those in a folder or in each other."""

import io
import tarfile
import zipfile
from pathlib import Path
from random import Random

from eomt.data.archive import Archive
from eomt.errors import DataError
from fuzz.kind import Changes, Files, Kind, judge
from fuzz.mutations import mutate_files

__all__ = ["KIND"]

MEMBERS = {
    "data/images/a.png": bytes(range(256)) * 8,
    "data/images/b é.png": b"",
    "data/masks/a.png": b"mask" * 500,
    "data/" + "long" * 40 + "/" + "name" * 30 + ".txt": b"text",
    "data/categories.json": b'[{"name": "cell", "is_thing": true}]',
}


def _zip(members: dict[str, bytes], method: int, whole: bool = True) -> bytes:
    """Pack a zip: as one file, or as a stream, with sizes behind the data."""
    file = io.BytesIO()
    if not whole:
        file.seekable = lambda: False  # type: ignore[method-assign]
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in members.items():
            with packed.open(zipfile.ZipInfo(name), "w", force_zip64=name.endswith("b é.png")) as member:
                member.write(content)
        packed.comment = b"a comment"
    return file.getvalue()


def _tar(members: dict[str, bytes], format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as packed:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    return file.getvalue()


def _seeds(_: Path) -> dict[str, Files]:
    short = {name: content for name, content in MEMBERS.items() if len(name) < 100}
    stored, deflated = _zip(MEMBERS, zipfile.ZIP_STORED), _zip(MEMBERS, zipfile.ZIP_DEFLATED)
    tar = _tar(short, tarfile.USTAR_FORMAT)
    inner = {"data/annotations/inner.zip": deflated, "data/a.tar": tar, "data/x.txt": b"x"}
    return {
        "stored": {"a.zip": stored},
        "deflated": {"a.zip": deflated},
        "streamed": {"a.zip": _zip(MEMBERS, zipfile.ZIP_DEFLATED, whole=False)},
        "ustar": {"a.tar": tar},
        "gnu": {"a.tar": _tar(MEMBERS, tarfile.GNU_FORMAT)},
        "pax": {"a.tar": _tar(MEMBERS, tarfile.PAX_FORMAT)},
        "zips in a zip": {"a.zip": _zip(inner, zipfile.ZIP_STORED)},
        "zips in a deflated zip": {"a.zip": _zip(inner, zipfile.ZIP_DEFLATED)},
        "zips in a tar": {"a.tar": _tar(inner, tarfile.GNU_FORMAT)},
        "zips in a folder": {
            "a.zip": stored,
            "b/c.zip": _zip({"d.txt": b"d"}, zipfile.ZIP_STORED),
            "e.tar": _tar({"f.txt": b"f"}, 0),
        },
    }


def _change(chance: Random, files: Files) -> Changes:
    return mutate_files(chance, files)


def _read(folder: Path, seed: str) -> bool:
    """Open it, list it and read everything in it."""
    places = [folder] if len(list(folder.iterdir())) > 1 else list(folder.iterdir())
    used = False
    for place in places:
        try:
            archive = Archive(place)
            names = archive.names()
        except DataError as error:
            judge(error)
            continue
        assert not any(".." in name.split("/") or name.startswith("/") for name in names)
        for name in names:
            try:
                assert archive.exists(name)
                archive.read(name)
                used = True
            except DataError as error:
                judge(error)
            archive.where(name)
    return used


KIND = Kind(_seeds, _change, _read)
