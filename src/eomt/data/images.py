"""The one image codec: pictures to upright 8-bit RGB, masks to their exact numbers. Where they lie: `archive`.

A picture is untrusted. Only PNG, JPEG, WebP, TIFF, BMP and GIF are decoded, told by their first bytes, not by
their names; the header's size is checked before a pixel is decoded; whatever goes wrong becomes one DataError that
names the file.

How other pictures become 8-bit RGB:

- EXIF orientation is applied; of an animation the first frame is taken; colour profiles are not applied.
- Alpha (and a transparent colour or palette entry) is laid over white.
- 16-bit grey is scaled, never clipped: round(value / 257). Pillow reads 16-bit colour by its high byte.
- Wider integers and floats are read by their largest value: up to 255 as 8-bit, up to 65535 as 16-bit, floats up
  to 1 as a share of white. Anything else is refused: how to scale it is the user's to say.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from eomt.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_SUFFIXES",
    "MAX_PIXELS",
    "ImageSource",
    "LabelMap",
    "image_size",
    "mask_kind",
    "read_color_map",
    "read_image",
    "read_label_map",
]

ImageSource = Path | str | bytes | Image.Image | np.ndarray
MAX_PIXELS = 400_000_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MASK_SUFFIXES = (".png", ".tif", ".tiff")

_SIGNATURES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),  # BigTIFF
    (b"MM\0+", TiffImageFile),
    (b"BM", BmpImageFile),
    (b"GIF8", GifImageFile),
)
_LOSSLESS = (PngImageFile, TiffImageFile, BmpImageFile, GifImageFile)
_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNQUESTIONED = 2**25  # pixels; for more of them there must be a file that can hold them:
_DENSEST = 2**14  # pixels a byte; PNG gets to 8256 in blank pictures of one bit, LZW to 10,920
_STRIP = 2**18  # pixels
_warning_filters = threading.Lock()  # Python's are global: only one thread at a time may change them


class LabelMap(NamedTuple):
    """The numbers of a mask, and how many bits the file gives each of them (1, 2, 4, 8, 16 or 32)."""

    values: Int[np.ndarray, "h w"]
    bits: int


def read_image(
    source: ImageSource, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Give any picture as upright 8-bit RGB: a path, the bytes of a file, a PIL image or an array.

    Arrays are [h w], [h w 1], [h w 3] or [h w 4] (with alpha), of bool, uint8, uint16, int32 or float; the result
    never shares memory with them. `name` stands for the picture in messages. Raises DataError for whatever is not
    a picture of at most `max_pixels` pixels.
    """
    name = name or (str(source) if isinstance(source, Path | str) else "image")
    if isinstance(source, np.ndarray):
        _check_shape(source, name)
        _check_size(source.shape[1], source.shape[0], name, max_pixels)
        return _array_rgb(source, name)
    if isinstance(source, Image.Image):
        _check_size(*source.size, name, max_pixels)
        return _decoded(source, name)
    data = source if isinstance(source, bytes) else _read_file(Path(source), name)
    return _decoded(_open(data, name, max_pixels), name)


def image_size(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Give the upright height and width of a picture from its header, without decoding it. Raises DataError."""
    image = _open(data, name, max_pixels)
    width, height = image.size
    if isinstance(image, TiffImageFile):
        width, height = image.tag_v2[256], image.tag_v2[257]  # as stored: some versions of Pillow turn the other
    return (width, height) if _orientation(image, data) in (5, 6, 7, 8) else (height, width)


def read_label_map(data: bytes, name: str = "mask", max_pixels: int = MAX_PIXELS) -> LabelMap:
    """Give the exact numbers of a mask: grey values, or palette indices whatever colours they show.

    Colours of which red, green and blue are equal everywhere are grey. Raises DataError for other colour pictures,
    lossy formats, fractions and whatever cannot be decoded.
    """
    file = _open(data, name, max_pixels)
    if not isinstance(file, _LOSSLESS):
        raise DataError(f"{name}: in a lossy format a mask's numbers are wrong at edges; export it again as PNG")
    try:
        image = _upright(file)
        values = np.array(image)
    except Exception as error:
        raise _damaged(name, error) from error
    if image.mode in ("1", "L", "P"):
        bits = _stored_bits(file, data)
        if image.mode == "L" and bits in (2, 4):
            values = values // (255 // (2**bits - 1))  # Pillow spreads grey of few bits over 0-255
        return LabelMap(values.astype(np.uint8), bits)
    if image.mode.startswith("I;16"):
        return LabelMap(values.astype(np.uint16), 16)
    if image.mode == "I" and values.min() >= 0:
        return LabelMap(values.astype(np.int32), 32)
    if image.mode == "I":
        raise DataError(f"{name}: the mask has negative or very large numbers; use 0 to 65535, in 16 bits")
    if image.mode in ("RGB", "RGBA") and _is_grey(values):
        return LabelMap(values[..., 0].copy(), 8)
    raise DataError(
        f"{name}: the mask has mode {image.mode}, but a mask holds one whole number a pixel; save it as 8-bit "
        "grey, palette or 16-bit PNG (where colours mean classes, number them)"
    )


def _is_grey(colors: NDArray[np.uint8]) -> bool:
    """Tell whether red, green and blue are equal in all pixels, and none is transparent."""
    same = (colors[..., 1:3] == colors[..., :1]).all()
    return bool(same and (colors[..., 3:] == 255).all())


def mask_kind(
    data: bytes, name: str = "mask", max_pixels: int = MAX_PIXELS
) -> Literal["grey", "palette", "color"]:
    """Tell from its header what a mask holds: grey values, indices of a palette, or colours. Raises DataError."""
    mode = _open(data, name, max_pixels).mode
    if mode == "P":
        return "palette"
    return "grey" if mode in ("1", "L", "F") or mode.startswith("I") else "color"


def read_color_map(data: bytes, name: str = "mask", max_pixels: int = MAX_PIXELS) -> Int[np.ndarray, "h w"]:
    """Give the exact colours of a mask, each as one number: red + 256 green + 65536 blue.

    Raises DataError for grey pictures, lossy formats, transparency and whatever cannot be decoded.
    """
    file = _open(data, name, max_pixels)
    if not isinstance(file, _LOSSLESS):
        raise DataError(f"{name}: in a lossy format a mask's colours are wrong at edges; export it again as PNG")
    if file.mode not in ("RGB", "RGBA", "P"):
        raise DataError(
            f"{name}: the mask has mode {file.mode}, not colours; save it as RGB with 8 bits a channel"
        )
    try:
        image = _upright(file)
        mode = "RGBA" if image.has_transparency_data else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        # Pillow keeps four bytes a pixel, in this order: so they are numbers already.
        pixels = np.frombuffer(image.tobytes("raw", "RGBA" if mode == "RGBA" else "RGBX"), dtype="<i4")
    except Exception as error:
        raise _damaged(name, error) from error
    if mode == "RGBA" and pixels.view(np.uint8)[3::4].min() < 255:
        raise DataError(f"{name}: the mask is transparent in places; save it without transparency")
    return (pixels & 0xFFFFFF).astype(np.int32, copy=False).reshape(image.height, image.width)


def _stored_bits(file: ImageFile, data: bytes) -> int:
    """Tell how many bits a value of a grey or palette picture has in the file."""
    if isinstance(file, PngImageFile):
        return data[24]  # of the header chunk, which comes first
    if isinstance(file, TiffImageFile):
        return int(file.tag_v2.get(258, (1,))[0])
    return 8


def _read_file(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(16)
            return head + file.read() if _opener(head) else head  # a film is refused without being read
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: cannot be read ({reason}); check the path") from error


def _open(data: bytes, name: str, max_pixels: int) -> ImageFile:
    """Read the header only, by the format's own class: `Image.open` judges the size by a global setting."""
    opener = _opener(data)
    if opener is None:
        found = f"starts with {data[:8]!r}" if data else "is empty"
        raise DataError(f"{name}: {found}; give a PNG, JPEG, WebP, TIFF, BMP or GIF file")
    try:
        with _quiet():
            image = opener(io.BytesIO(data))
    except Exception as error:  # Pillow raises SyntaxError, struct.error, KeyError, ... at damaged headers
        raise _damaged(name, error) from error
    _check_size(*image.size, name, max_pixels)
    width, height = image.size
    if width * height > max(_UNQUESTIONED, _DENSEST * len(data)):
        raise DataError(
            f"{name}: {width} x {height} in a file of {len(data)} bytes cannot be, or is blank; the file is "
            "damaged or cut short, replace it"
        )
    return image


def _opener(data: bytes) -> type[ImageFile] | None:
    """Tell the format by the first bytes, at least 12 of them."""
    opener = next((opener for signature, opener in _SIGNATURES if data.startswith(signature)), None)
    return None if opener is WebPImageFile and data[8:12] != b"WEBP" else opener


def _check_shape(array: NDArray[Any], name: str) -> None:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise DataError(
            f"{name}: an array of shape {array.shape}; expected [h w], [h w 1], [h w 3] or [h w 4], channels last"
        )


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{name}: has no pixels (width {width}, height {height}); leave it out or replace it")
    if width * height > max_pixels:
        raise DataError(
            f"{name}: {width} x {height} is {width * height / 1e6:.0f} megapixels, above the limit of "
            f"{max_pixels / 1e6:.0f}; shrink it, cut it into tiles, or raise the limit"
        )


def _decoded(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return _rgb(_upright(image), name)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    reason = str(error) or type(error).__name__
    return DataError(f"{name}: cannot be decoded ({reason}); the file is damaged or cut short, replace it")


def _upright(image: Image.Image) -> Image.Image:
    """Decode the pixels and apply the EXIF orientation."""
    if isinstance(image, TiffImageFile):
        with _quiet():  # reads metadata while it decodes, and turns the picture upright itself
            image.load()
        return image
    image.load()
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation(image: Image.Image, data: bytes | None = None) -> Any:
    """Read the EXIF orientation. With the bytes of a PNG file, its pixels are decoded only if they must be."""
    try:
        with _quiet():
            if isinstance(image, PngImageFile) and data is not None and not _has_late_text(data):
                return Image.Image.getexif(image).get(0x0112, 1)  # its own method decodes, to see what comes last
            return image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata do not spoil the pixels
        return 1


def _has_late_text(png: bytes) -> bool:
    """Tell whether a chunk that may hold an orientation comes after the first one of pixels."""
    place, pixels = 8, False
    while place + 8 <= len(png):
        kind = png[place + 4 : place + 8]
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        pixels |= kind == b"IDAT"
        place += 12 + int.from_bytes(png[place : place + 4])
    return False


def _rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode[0] in "IF":
        return _array_rgb(np.array(image), name)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return _copied(image if image.mode == "RGB" else image.convert("RGB"))


def _copied(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Copy pixels strip by strip: at once, Pillow would hold them twice more, and take longer."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _array_rgb(array: NDArray[Any], name: str) -> UInt8[np.ndarray, "h w 3"]:
    pixels = np.atleast_3d(_to_8_bit(array, name))
    if pixels.shape[2] == 4:
        return _rgb(Image.fromarray(pixels), name)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def _to_8_bit(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: an array of {array.dtype}; give uint8, uint16 or float")
    least, most = array.min(), array.max()
    if not (least >= 0 and most <= 65535):  # also false for NaN
        raise DataError(
            f"{name}: values from {least} to {most}; scale them to 0-255 (8 bits), 0-65535 (16) or 0-1 (float)"
        )
    if array.dtype.kind == "f" and most <= 1:
        array = np.rint(array * 255)
    elif array.dtype.str[1:] == "u2" or most > 255:  # of either byte order
        array = (np.rint(array).astype(np.uint32) + 128) // 257
    rounded: NDArray[np.uint8] = np.rint(array).astype(np.uint8)
    return rounded


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings about metadata and sizes from the user: what matters becomes a DataError."""
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
