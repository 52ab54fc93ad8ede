"""How long it takes, and how much memory, to refuse the largest archives made to do harm, and to open honest ones.

    python benchmarks/hostile_archives.py

Each case runs in a process of its own; the seconds and MB are those of opening and listing, on top of the imports.
On a busy machine the seconds of computing count. Files are made in a temporary folder and take up to
1 GB at a time.
"""

import io
import multiprocessing
import random
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from eomt.data.archive import Archive
from eomt.errors import DataError


def directory_of(count: int, name: Callable[[int], bytes], told: int | None = None) -> bytes:
    """A zip of empty members without compression, and, if need be, with a false count of them."""
    body, directory = bytearray(), bytearray()
    for index in range(count):
        raw, offset = name(index), len(body)
        body += b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 0, 0, len(raw), 0) + raw
        directory += b"PK\1\2" + struct.pack(
            "<6H3I5H2I", 0, 20, 0, 0, 0, 0, 0, 0, 0, len(raw), 0, 0, 0, 0, 0, offset
        )
        directory += raw
    told = count if told is None else told
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, told, told, len(directory), len(body))
    end += struct.pack("<4sIQI", b"PK\6\7", 0, len(body) + len(directory), 1)
    few = min(told, 0xFFFF)
    end += b"PK\5\6" + struct.pack("<4H2IH", 0, 0, few, few, len(directory), len(body), 0)
    return bytes(body + directory + end)


def tar_of(count: int, extended: bool = False) -> bytes:
    """A tar of empty files, each with an extended header if need be."""
    pieces = []

    def header(name: bytes, kind: bytes, size: int) -> bytes:
        head = bytearray(512)
        head[: len(name)] = name
        head[124:135], head[156:157], head[257:265] = b"%011o" % size, kind, b"ustar\x0000"
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head)

    for index in range(count):
        if extended:
            pieces += [header(b"x", b"x", 21), (b"21 path=abcd/%07d\n" % index).ljust(512, b"\0")]
        pieces.append(header(b"%09d.jpg" % index, b"0", 0))
    return b"".join(pieces) + b"\0" * 1024


def inner_zeros(size: int, ratio: int) -> bytes:
    """A compressed inner archive of zeros, padded to a ratio that is let through."""
    deflater = zlib.compressobj(1, wbits=-15)
    packed, checksum = io.BytesIO(), 0
    noise = random.Random(0)
    piece = b"PK\3\4" + bytes((1 << 20) - 4)
    for _ in range(size >> 20):
        piece = noise.randbytes((1 << 20) // ratio) + bytes((1 << 20) - (1 << 20) // ratio)
        if not checksum:
            piece = b"PK\3\4" + piece[4:]
        checksum = zlib.crc32(piece, checksum)
        packed.write(deflater.compress(piece))
    packed.write(deflater.flush())
    data, name = packed.getvalue(), b"in.zip"
    told = (20, 0, 8, 0, 0, checksum, len(data), size, len(name))
    body = b"PK\3\4" + struct.pack("<5H3I2H", *told, 0) + name + data
    directory = b"PK\1\2" + struct.pack("<6H3I5H2I", 0, *told, 0, 0, 0, 0, 0, 0) + name
    return body + directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 1, 1, len(directory), len(body), 0)


def nested() -> bytes:
    """Sixteen zips in each of sixteen zips, and so on."""
    content = b"\0" * (60 << 20)
    for _ in range(4):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(16):
                archive.writestr(f"{index}.zip", content)
        content = file.getvalue()
    return content


def pictures(count: int) -> bytes:
    """A zip as official ones are, but with pictures of a few bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(count):
            archive.writestr(f"train2017/{index:012}.jpg", b"picture")
    return file.getvalue()


def coco_name(index: int) -> bytes:
    return b"train2017/%012d.jpg" % index


CASES: dict[str, Callable[[], bytes]] = {
    "zip: a million members": lambda: directory_of(1_000_000, coco_name),
    "zip: a million members, told to be 5": lambda: directory_of(1_000_000, coco_name, told=5),
    "zip: a million members, told to be 400,000": lambda: directory_of(1_000_000, coco_name, told=400_000),
    "zip: 400,000 members, the last one twice": lambda: directory_of(
        400_000, lambda n: coco_name(min(n, 399_998))
    ),
    "zip: 400,000 long names, the last one twice": lambda: directory_of(
        400_000, lambda n: b"%079d" % min(n, 399_998)
    ),
    "tar: a million members": lambda: tar_of(1_000_000),
    "tar: 500,000 members with extended headers": lambda: tar_of(500_000, extended=True),
    "zip in zip: 2 GiB at a ratio of 45": lambda: inner_zeros(2047 << 20, 45),
    "zip in zip in zip in zip, 16 in each": nested,
    "honest: 118,287 pictures in a zip": lambda: pictures(118_287),
    "honest: 118,287 pictures in a tar": lambda: tar_of(118_287),
    "honest: 400,000 members": lambda: directory_of(400_000, coco_name),
}


def peak() -> float:
    """The largest size of this process so far in MB; `getrusage` gives the parent's where that is larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(path: Path, results: "multiprocessing.Queue[tuple[float, float, float, str]]") -> None:
    """Open and list an archive; seconds, seconds of computing, growth of memory in MB, and what was said."""
    before = peak()
    start = time.perf_counter(), time.process_time()
    try:
        said = f"{len(Archive(path).names()):,} files"
    except DataError as error:
        said = str(error).replace(str(path.parent) + "/", "")
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    results.put((*seconds, peak() - before, said))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    print("| archive | s | of computing | MB | outcome |\n|---|---|---|---|---|")
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.zip"
            path.write_bytes(make())
            results = spawn.Queue()
            process = spawn.Process(target=measure, args=(path, results))
            process.start()
            seconds, computing, growth, said = results.get()
            process.join()
        print(f"| {name} | {seconds:.2f} | {computing:.2f} | {growth:.0f} | {said[:100]} |", flush=True)


if __name__ == "__main__":
    main()
