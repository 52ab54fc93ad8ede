"""Fuzz pictures and masks of every format and mode that is decoded."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eomt.data.images import image_size, mask_kind, read_color_map, read_image, read_label_map
from eomt.errors import DataError
from fuzz.kind import Changes, Files, Kind, judge
from fuzz.mutations import mutate_files

__all__ = ["KIND"]

SIZE = 20, 14


def _seeds(_: Path) -> dict[str, Files]:
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (14, 20, 3), dtype=np.uint8))
    grey, deep = color.convert("L"), Image.fromarray(rng.integers(0, 65536, (14, 20), dtype=np.uint16))
    alpha = Image.fromarray(rng.integers(0, 256, (14, 20, 4), dtype=np.uint8))
    long = Image.fromarray(rng.integers(0, 65536, (14, 20), dtype=np.int32))
    palette = color.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    pictures: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        **{f"png-{mode}": (color.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "RGB", "RGBA")},
        **{f"png-palette-{bits}": (palette, "PNG", {"bits": bits}) for bits in (4, 8)},
        "png-transparent": (palette, "PNG", {"transparency": 3, "exif": exif}),
        "png-16": (deep, "PNG", {}),
        "png-animated": (color, "PNG", {"save_all": True, "append_images": [color.rotate(90)]}),
        "jpeg": (color, "JPEG", {"exif": exif, "dpi": (72, 72), "comment": b"a comment"}),
        "jpeg-grey": (grey, "JPEG", {}),
        "jpeg-cmyk": (color.convert("CMYK"), "JPEG", {}),
        "jpeg-progressive": (color, "JPEG", {"progressive": True, "icc_profile": b"profile" * 20}),
        "webp": (color, "WEBP", {"exif": exif}),
        "webp-lossless": (alpha, "WEBP", {"lossless": True}),
        "webp-animated": (color, "WEBP", {"save_all": True, "append_images": [color.rotate(90)]}),
        **{
            f"tiff-{mode}": (color.convert(mode), "TIFF", {"exif": exif})
            for mode in ("1", "L", "RGB", "CMYK", "LAB")
        },
        **{
            f"tiff-{name}": (color, "TIFF", {"compression": name})
            for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        },
        "tiff-group4": (color.convert("1"), "TIFF", {"compression": "group4"}),
        "tiff-palette": (palette, "TIFF", {}),
        "tiff-alpha": (alpha, "TIFF", {}),
        "tiff-16": (deep, "TIFF", {}),
        "tiff-32": (long, "TIFF", {}),
        "tiff-float": (Image.fromarray(rng.random((14, 20), dtype=np.float32)), "TIFF", {}),
        "tiff-big": (color, "TIFF", {"big_tiff": True}),
        "tiff-strips": (color, "TIFF", {"compression": "tiff_lzw", "strip_size": 120}),
        **{f"bmp-{mode}": (color.convert(mode), "BMP", {}) for mode in ("1", "L", "RGB", "RGBA")},
        "bmp-palette": (palette, "BMP", {}),
        "gif": (palette, "GIF", {"transparency": 2, "interlace": 1, "comment": b"a comment"}),
        "gif-animated": (
            palette,
            "GIF",
            {"save_all": True, "append_images": [palette.rotate(90)], "duration": 50},
        ),
    }
    made = {name: _encoded(*picture) for name, picture in pictures.items()}
    made |= {f"png-grey-{bits}": _png(rng, bits, 0, 0) for bits in (2, 4)}
    made |= {"png-deep-color": _png(rng, 16, 2, 0), "png-interlaced": _png(rng, 8, 0, 1)}
    made |= {"tiff-tiles": _tiled(np.asarray(grey), "<"), "tiff-tiles-16": _tiled(np.asarray(deep), ">")}
    return {name: {f"{name}.{name.partition('-')[0]}": data} for name, data in made.items()}


def _encoded(image: Image.Image, format: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _png(rng: np.random.Generator, bits: int, color: int, interlaced: int) -> bytes:
    """Write what Pillow does not: few or many bits, and seven interlaced passes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b""
    for left, top, right, down in passes if interlaced else ((0, 0, 1, 1),):
        width, height = -(-(SIZE[0] - left) // right), -(-(SIZE[1] - top) // down)
        row = -(-width * bits * (3 if color == 2 else 1) // 8)
        rows += b"".join(b"\0" + rng.bytes(row) for _ in range(height))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", *SIZE, bits, color, 0, 0, interlaced)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _tiled(values: NDArray[Any], order: str) -> bytes:
    """Write a grey TIFF in tiles of 16 x 16, which Pillow does not."""
    padded = np.zeros((16, 32), values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    padded = padded.astype(values.dtype.newbyteorder(order))
    tiles, bits = [padded[:, :16].tobytes(), padded[:, 16:].tobytes()], 8 * values.dtype.itemsize
    tags = [(256, 20), (257, 14), (258, bits), (259, 1), (262, 1), (277, 1), (322, 16), (323, 16)]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    entries += struct.pack(order + "HHII", 324, 4, 2, start) + struct.pack(order + "HHII", 325, 4, 2, start + 8)
    places = struct.pack(order + "4I", start + 16, start + 16 + len(tiles[0]), len(tiles[0]), len(tiles[1]))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags) + 2)
    return head + entries + bytes(4) + places + b"".join(tiles)


def _change(chance: Random, files: Files) -> Changes:
    return mutate_files(chance, files)


def _read(folder: Path, _: str) -> bool:
    """Read the picture, and as all kinds of masks."""
    readers: tuple[Callable[[bytes], Any], ...] = (
        image_size,
        read_image,
        read_label_map,
        read_color_map,
        mask_kind,
    )
    used = False
    for path in folder.iterdir():
        data = path.read_bytes()
        for reader in readers:
            try:
                found = reader(data)
            except DataError as error:
                judge(error)
            else:
                used = True
                if reader is image_size:
                    size = found
                elif reader is read_image:
                    assert found.dtype == np.uint8
                    assert found.shape == (*size, 3), f"{found.shape}, but its header says {size}"
    return used


KIND = Kind(_seeds, _change, _read)
