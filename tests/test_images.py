"""Every picture is decoded right or refused with one DataError; masks keep their numbers."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from eomt.data.images import image_size, mask_kind, read_color_map, read_image, read_label_map
from eomt.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """Write a PNG by hand: Pillow cannot save grey of 2 or 4 bits, nor absurd sizes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def two_colors(mode: str) -> Image.Image:
    return Image.fromarray(np.array([[RED, BLUE]], dtype=np.uint8)).convert(mode)


def transparent_palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    image.info["transparency"] = 1
    return image


def grey(values: list[float], dtype: object) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(two_colors("RGB")), [RED, BLUE]),
        (encode(two_colors("RGB"), "BMP"), [RED, BLUE]),
        (encode(two_colors("RGB"), "TIFF"), [RED, BLUE]),
        (encode(two_colors("RGB"), "WEBP", lossless=True), [RED, BLUE]),
        (encode(two_colors("P")), [RED, BLUE]),
        (encode(two_colors("P"), "GIF"), [RED, BLUE]),
        (encode(two_colors("CMYK"), "TIFF"), [RED, BLUE]),
        (encode(grey([0, 255], bool)), [(0, 0, 0), WHITE]),
        (encode(grey([0, 200], np.uint8)), [(0, 0, 0), (200, 200, 200)]),
        # 16 bits are scaled, not clipped: 257 is one step of 8 bits, 128/257 rounds down and 129/257 up
        (encode(grey([128, 129, 257, 65535], np.uint16)), [(0,) * 3, (1,) * 3, (1,) * 3, WHITE]),
        (encode(grey([0, 32768], np.uint16), "TIFF"), [(0,) * 3, (128,) * 3]),
        (encode(grey([0, 200], ">u2"), "TIFF"), [(0,) * 3, (1,) * 3]),
        (encode(grey([0, 65535], np.int32), "TIFF"), [(0,) * 3, WHITE]),
        (encode(grey([0, 0.5, 1], np.float32), "TIFF"), [(0,) * 3, (128,) * 3, WHITE]),
        (encode(grey([0, 7, 255], np.float32), "TIFF"), [(0,) * 3, (7,) * 3, WHITE]),
        # alpha is laid over white
        (encode(Image.fromarray(np.array([[[*RED, 0], [*RED, 255]]], np.uint8))), [WHITE, RED]),
        (encode(Image.fromarray(np.array([[[0, 0], [0, 51]]], np.uint8), "LA")), [WHITE, (204, 204, 204)]),
        (encode(transparent_palette(), transparency=1), [RED, WHITE]),
        (encode(two_colors("RGB"), transparency=BLUE), [RED, WHITE]),
        # the first frame of an animation
        (encode(two_colors("RGB"), save_all=True, append_images=[Image.new("RGB", (2, 1))]), [RED, BLUE]),
        (encode(two_colors("P"), "GIF", save_all=True, append_images=[Image.new("P", (2, 1))]), [RED, BLUE]),
    ],
)
def test_modes(data, expected):
    np.testing.assert_array_equal(read_image(data), np.array([expected], dtype=np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode):
    image = Image.new("RGB", (16, 16), (200, 40, 40)).convert(mode)
    expected = np.array(image.convert("RGB"))
    decoded = read_image(encode(image, "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - expected).max() <= 3  # JPEG rounds


CORNERS = np.array([[RED, GREEN, WHITE], [BLUE, RED, RED]], dtype=np.uint8)  # every turn and flip is told apart


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, CORNERS),
        (2, CORNERS[:, ::-1]),
        (3, CORNERS[::-1, ::-1]),
        (4, CORNERS[::-1]),
        (5, CORNERS.transpose(1, 0, 2)),
        (6, np.rot90(CORNERS)),  # is shown turned clockwise, so it lies turned the other way
        (7, CORNERS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(CORNERS, -1)),
        (9, CORNERS),  # no such orientation
    ],
)
def test_orientation(format, orientation, stored):
    image = Image.fromarray(np.ascontiguousarray(stored.repeat(16, 0).repeat(16, 1)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encode(image, format, exif=exif, **lossless)
    decoded = read_image(data)
    assert decoded.shape == (32, 48, 3)
    assert image_size(data) == (32, 48)
    assert np.abs(decoded[8::16, 8::16].astype(int) - CORNERS).max() <= (8 if format == "JPEG" else 0)


def test_16_bit_grey_is_turned_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(grey([0, 65535], np.uint16), exif=exif)
    assert read_image(data)[:, :, 0].tolist() == [[0], [255]]
    assert read_label_map(data).values.tolist() == [[0], [65535]]


def test_the_size_is_in_the_header_alone() -> None:
    late = png(3, 2, 8, 0, bytes(8))
    orientation = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    chunk = struct.pack(">I", len(orientation)) + b"eXIf" + orientation
    late = late[:-12] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + late[-12:]
    cut = encode(two_colors("RGB").resize((90, 40)))[:60]
    for data, size in ((late, read_image(late).shape[:2]), (cut, (40, 90))):
        assert image_size(data) == size
    assert image_size(late) == (3, 2)  # told after the pixels, and turned all the same
    with pytest.raises(DataError, match="megapixels"):
        image_size(png(90_000, 90_000, 8, 0, b""))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 9]], np.uint8), [(0,) * 3, (9,) * 3]),
        (np.array([[[0], [9]]], np.uint8), [(0,) * 3, (9,) * 3]),
        (np.array([[[*RED, 0], [*RED, 255]]], np.uint8), [WHITE, RED]),
        (np.array([[False, True]]), [(0,) * 3, WHITE]),
        (np.array([[0, 255]], np.uint16), [(0,) * 3, (1,) * 3]),  # 16 bits say 16 bits
        (np.array([[0, 255]], np.int64), [(0,) * 3, WHITE]),  # what arithmetic makes of uint8
        (np.array([[0.0, 1.0]]), [(0,) * 3, WHITE]),
    ],
)
def test_arrays(array, expected):
    before = array.copy()
    image = read_image(array)
    np.testing.assert_array_equal(image, np.array([expected], dtype=np.uint8))
    image[:] = 7  # the result is the caller's own
    np.testing.assert_array_equal(array, before)


def test_arrays_may_lie_in_memory_as_they_like():
    bgr = np.array([[BLUE, RED]], dtype=np.uint8)[:, :, ::-1]
    image = read_image(bgr)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, bgr)


def test_paths_and_pil_images(tmp_path):
    file = tmp_path / "a.png"
    two_colors("RGB").save(file)
    for source in (file, str(file), file.read_bytes(), Image.open(file), two_colors("RGB")):
        assert read_image(source).tolist() == [[list(RED), list(BLUE)]]


PNG = encode(Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(10, 100, 3)))
JPEG = encode(Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(10, 100, 3)), "JPEG")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "is empty"),
        (b"8BPS\0\1", "starts with b'8BPS"),  # Photoshop
        (b"%!PS-Adobe", "give a PNG"),
        (b"RIFF\0\0\0\0WAVE", "give a PNG"),
        (PNG[:-40], "cut short"),
        (JPEG[:-200], "cut short"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a", "damaged"),
        (b"II*\0\x08\0\0\0", "damaged"),
        (b"BM" + bytes(60), "damaged"),
        (png(0, 5, 8, 0, b""), "no pixels|damaged"),
        (png(13_000, 13_000, 8, 0, bytes(10)), "cut short"),
        (png(32, 8_000_000, 8, 0, bytes(10)), "32 x 8000000 in a file of 68 bytes cannot be.*cut short"),
        (png(50_000, 50_000, 8, 0, bytes(10)), "2500 megapixels, above the limit of 400"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\).*channels last"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.array([["a"]]), "an array of"),
        (np.array([[np.nan]]), "values from nan"),
        (np.array([[-1.0]]), "values from -1"),
        (np.array([[70_000]]), "values from 70000"),
        (encode(grey([-5, 3], np.int32), "TIFF"), "values from -5"),
    ],
)
def test_refusals_name_the_image_and_the_fault(source, words):
    with pytest.raises(DataError, match=words) as caught:
        read_image(source, "photo.png")
    assert str(caught.value).startswith("photo.png: ")


def test_refuses_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "no.png", "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            read_image(path)


def test_what_is_no_picture_is_not_read(tmp_path):
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(DataError, match=r"film.mp4: starts with .* give a PNG"):
        read_image(tmp_path / "film.mp4")


def test_pixels_are_counted_before_they_are_decoded():
    assert read_image(PNG, max_pixels=1000).shape == (10, 100, 3)
    for source in (PNG, JPEG, read_image(PNG), Image.open(io.BytesIO(PNG))):
        with pytest.raises(DataError, match=r"100 x 10 .* limit"):
            read_image(source, max_pixels=999)


def test_mutated_files_raise_nothing_else():
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 255, (12, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    seeds = [encode(image, format, exif=exif) for format in ("PNG", "JPEG", "WEBP", "TIFF")]
    seeds += [
        encode(image, "TIFF", compression="tiff_lzw"),
        encode(image, "BMP"),
        encode(image.convert("P"), "GIF"),
    ]
    decoded, refusals = 0, []
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for number in range(1500):
            data = bytearray(seeds[number % len(seeds)])
            for place in chance.integers(0, len(data), 1 + number % 7):
                data[place] = chance.integers(256)
            try:
                decoded += read_image(bytes(data), max_pixels=1_000_000).ndim == 3
            except DataError as error:
                refusals.append(str(error))
    assert not any("\n" in words for words in refusals)
    assert not leaked
    assert 300 < decoded < 1500  # some survive, some do not: the mutations are neither harmless nor all fatal


def indexed(values: list[int]) -> Image.Image:
    image = Image.new("P", (len(values), 1))
    image.putpalette([*RED, *GREEN, *BLUE] * 85)
    image.putdata(values)
    return image


@pytest.mark.parametrize(
    ("data", "values", "bits"),
    [
        (encode(grey([0, 3, 255], np.uint8)), [0, 3, 255], 8),
        (encode(indexed([0, 3, 200])), [0, 3, 200], 8),  # indices, not their colours
        (encode(indexed([0, 1, 2]), bits=2), [0, 1, 2], 2),
        (encode(indexed([0, 1, 2]), transparency=1), [0, 1, 2], None),
        (encode(grey([0, 1], bool)), [0, 1], 1),
        (png(4, 1, 2, 0, b"\0" + bytes([0b00_01_10_11])), [0, 1, 2, 3], 2),  # Pillow shows 0, 85, 170, 255
        (png(2, 1, 4, 0, b"\0" + bytes([0x1F])), [1, 15], 4),
        (encode(grey([0, 300, 65535], np.uint16)), [0, 300, 65535], 16),
        (encode(grey([0, 300, 65535], np.uint16), "TIFF"), [0, 300, 65535], 16),
        (encode(grey([0, 300], ">u2"), "TIFF"), [0, 300], 16),
        (encode(grey([0, 70_000], np.int32), "TIFF"), [0, 70_000], 32),
    ],
)
def test_label_maps_keep_their_numbers(data, values, bits):
    mask = read_label_map(data)
    assert mask.values.tolist() == [values]
    assert bits is None or mask.bits == bits


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(two_colors("RGB")), "mode RGB"),
        (encode(two_colors("LA")), "mode LA"),
        (encode(grey([0.0, 1.0], np.float32), "TIFF"), "mode F"),
        (encode(grey([-1, 1], np.int32), "TIFF"), "negative"),
        (encode(two_colors("L"), "JPEG"), "lossy"),
        (PNG[:-40], "cut short"),
        (b"text", "give a PNG"),
    ],
)
def test_label_maps_that_cannot_be_right_are_refused(data, words):
    with pytest.raises(DataError, match=words) as caught:
        read_label_map(data, "mask.png")
    assert str(caught.value).startswith("mask.png: ")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encode(two_colors("RGB")), "color"),
        (encode(two_colors("RGBA"), "TIFF"), "color"),
        (encode(two_colors("P")), "palette"),
    ],
)
def test_colors_of_masks_are_one_number_each(data, kind):
    assert mask_kind(data) == kind
    values = read_color_map(data)
    assert values.dtype == np.int32
    assert values.tolist() == [[255, 255 << 16]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(two_colors("L")), "mode L, not colours"),
        (encode(two_colors("RGB"), "JPEG"), "lossy"),
        (encode(transparent_palette()), "transparent in places"),
        (encode(Image.new("RGBA", (1, 1), (1, 2, 3, 128))), "transparent in places"),
        (encode(Image.effect_noise((9, 9), 90).convert("RGB"))[:-40], "cut short"),
    ],
)
def test_colors_that_cannot_be_exact_are_refused(data, words):
    with pytest.raises(DataError, match=words) as caught:
        read_color_map(data, "mask.png")
    assert str(caught.value).startswith("mask.png: ")


def test_grey_masks_are_told_from_the_header():
    assert mask_kind(encode(two_colors("L"))) == mask_kind(encode(grey([7], np.uint16))) == "grey"
