"""Draw what was found, or annotated, over its image, with numpy and Pillow alone; many of them on one sheet.

Things are filled in colours of their own with an outline of full strength; stuff is a calm tint, where there are
things. Everything goes through the id map, so that the cost hardly depends on the number of segments. Reading and
writing pictures are left to others.
"""

import colorsys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from eomt.errors import DataError
from eomt.masks import IdMap
from eomt.types import Category, Prediction, Sample

__all__ = ["ERROR_COLORS", "Tile", "contact_sheet", "error_picture", "overlay", "segment_colors", "thumbnail"]

LABEL_EDGE = (20, 20, 20)
STRIP = 64
"""Rows that are blended at once."""
PAPER, INK, PALE = (255, 255, 255), (30, 30, 30), (225, 225, 225)
MARGIN, TEXT, LINE, SWATCH, GAP = 10, 13, 19, 16, 10
"""Pixels between the tiles of a sheet, of its letters, of a line, of a colour in it, and between two names."""
LEGEND_LINES = 2

ERROR_COLORS = ((0, 0, 0), (0, 114, 220), (225, 80, 0), (200, 90, 170), (240, 215, 40), (128, 128, 128))
"""Of what is right, missed, false, of a wrong class, of a wrong object, not judged, in the order of
`outcomes.PIXELS`; also for readers who do not tell red from green."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Legend = list[tuple[tuple[int, int, int] | None, str]]
"""Words of a caption, each with a colour or without."""


class Tile(NamedTuple):
    """An annotated image on a sheet."""

    title: str
    sample: Sample | str
    """Or why it cannot be shown."""
    categories: tuple[Category, ...]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], prediction: Prediction, opacity: float = 0.5, labels: bool = True
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a prediction over its image (RGB, 0-255), which stays as it is.

    `opacity` in [0, 1] is the strength of the fill; `labels` writes names and scores into segments that have
    the room. Where masks overlap, the one of the higher score lies on top. Raises DataError when image and
    prediction differ in size.
    """
    if image.shape[:2] != prediction.size:
        (h, w), (found_h, found_w) = image.shape[:2], prediction.size
        raise DataError(
            f"the image is {h} x {w} pixels, its prediction {found_h} x {found_w} (height x width); "
            "draw a prediction over the image that it was made from"
        )
    if not isinstance(prediction.masks, IdMap):
        prediction = prediction.select(np.argsort(-prediction.scores, kind="stable").tolist())
    ids = prediction.id_map().ids
    is_thing = _is_thing(prediction)
    width = max(1, round(max(image.shape[:2]) / 700))

    brightness = 175.0 if image.mean() < 128 else 145.0  # seen on a black fluorescence image and on a white slide
    colors = np.vstack([np.zeros(3), segment_colors(prediction, brightness)]).astype(np.float32)
    strengths = np.concatenate([[0.0], _strengths(prediction, is_thing, opacity)]).astype(np.float32)
    outlines = _outlines(ids, np.concatenate([[False], is_thing]), width)
    drawn = np.empty_like(image)
    for top in range(0, len(ids), STRIP):  # what is blended takes 40 bytes a pixel: not of all pixels at once
        rows = slice(top, top + STRIP)
        strength = np.where(outlines[rows], np.float32(1), strengths[ids[rows]])[..., None]
        drawn[rows] = np.rint(image[rows] * (1 - strength) + colors[ids[rows]] * strength)
    return _write_labels(drawn, ids, prediction) if labels else drawn


def segment_colors(prediction: Prediction, brightness: float = 165.0) -> UInt8[np.ndarray, "n 3"]:
    """Choose a colour (RGB, 0-255) for each segment.

    A segment that is alone in its category has the category's colour, and so has stuff. Instances differ in hue:
    around that of their category where there are several, over the whole circle where there is one. They look
    about equally bright (`brightness`, 0-255).
    """
    colors = np.array([prediction.categories[label].color for label in prediction.labels], dtype=np.uint8)
    colors = colors.reshape(-1, 3)
    is_thing = _is_thing(prediction)
    things = np.unique(prediction.labels[is_thing])
    spread = max(0.15, 1 / max(len(things), 1))
    for label in things:
        instances = np.flatnonzero(prediction.labels == label)
        if len(instances) > 1:
            hue, saturation, _ = colorsys.rgb_to_hsv(*(c / 255 for c in prediction.categories[label].color))
            for i, index in enumerate(instances):
                turned = hue + spread * ((0.5 + i * 0.618034) % 1 - 0.5)  # golden ratio: neighbours are far apart
                colors[index] = _even_color(
                    turned % 1, max(saturation, 0.65), brightness * (1.0, 1.12, 0.9)[i % 3]
                )
    return colors


def _even_color(hue: float, saturation: float, brightness: float) -> tuple[int, ...]:
    """Give a colour of this hue that looks as bright as others: pure blue is far darker than pure yellow."""
    rgb = np.array(colorsys.hsv_to_rgb(hue, saturation, 1.0)) * 255
    seen = float(rgb @ (0.299, 0.587, 0.114))
    if seen > brightness:
        rgb *= brightness / seen
    else:
        rgb += (255 - rgb) * (brightness - seen) / (255 - seen)
    return tuple(round(c) for c in rgb)


def _is_thing(prediction: Prediction) -> NDArray[np.bool_]:
    return np.array([prediction.categories[label].is_thing for label in prediction.labels], dtype=np.bool_)


def _strengths(prediction: Prediction, is_thing: NDArray[np.bool_], opacity: float) -> NDArray[np.float64]:
    """Give the strength of each segment's fill: stuff recedes where the categories know things."""
    calm = 0.35 if any(category.is_thing for category in prediction.categories) else 1.0
    return np.where(is_thing, opacity, calm * opacity)


def _outlines(ids: NDArray[np.int32], is_thing: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Mark the border of each thing, inside of it, `width` pixels wide; `is_thing` is by id, [n + 1]."""
    side = 2 * width + 1
    near = ndimage.maximum_filter(ids, side) != ndimage.minimum_filter(ids, side)
    outlines: NDArray[np.bool_] = near & is_thing[ids]
    return outlines


def _write_labels(
    drawn: UInt8[np.ndarray, "h w 3"], ids: NDArray[np.int32], prediction: Prediction
) -> UInt8[np.ndarray, "h w 3"]:
    """Write name and score into segments that have the room, the largest first, none over another."""
    picture = Image.fromarray(drawn)
    pen = ImageDraw.Draw(picture)
    size = max(12, round((picture.width * picture.height) ** 0.5 / 45))
    font = ImageFont.load_default(size)
    places = ndimage.find_objects(ids, max_label=max(len(prediction), 1))
    written: list[tuple[int, ...]] = []
    for index in np.argsort(-prediction.areas, kind="stable").tolist():
        if places[index] is None:  # hidden
            continue
        rows, columns = places[index]
        segment = prediction[index]
        text = f"{prediction.categories[segment.label].name} {segment.score:.2f}"
        if rows.stop - rows.start < 2 * size or columns.stop - columns.start < 1.15 * font.getlength(text):
            continue
        y, x = _middle(ids[rows, columns] == index + 1)
        middle = (columns.start + x, rows.start + y)
        edge = max(1, size // 12)
        box = tuple(round(side) for side in pen.textbbox(middle, text, font=font, anchor="mm", stroke_width=edge))
        if _share(box, ids, index + 1) > 0.8 and not any(_overlap(box, other) for other in written):
            pen.text(middle, text, "white", font, anchor="mm", stroke_width=edge, stroke_fill=LABEL_EDGE)
            written.append(box)
    return np.asarray(picture)


def _middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Find the pixel (row, column) that is deepest inside a mask, on a coarse grid: enough for a label."""
    step = max(1, max(mask.shape) // 64)
    depth = ndimage.distance_transform_edt(np.pad(mask[::step, ::step], 1))
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return (row - 1) * step, (column - 1) * step


def _share(box: tuple[int, ...], ids: NDArray[np.int32], chosen: int) -> float:
    """Give the share of a box (left, top, right, bottom) that lies on one segment; 0 when it leaves the image."""
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > ids.shape[1] or bottom > ids.shape[0]:
        return 0.0
    return float((ids[top:bottom, left:right] == chosen).mean())


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def contact_sheet(tiles: Iterable[Tile], side: int = 320, columns: int = 4) -> UInt8[np.ndarray, "h w 3"]:
    """Draw annotated images side by side, each scaled to fit a square of `side` pixels, with its title below.

    Below that stand its classes, those with the most pixels first, things with the number of their segments, which
    differ in hue.
    """
    cells = [(_picture(tile, side), tile) for tile in tiles]
    columns = max(1, min(columns, len(cells)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(picture.height for picture, _ in row) for row in rows]
    below = (1 + LEGEND_LINES) * LINE + MARGIN
    width, height = columns * (side + MARGIN) + MARGIN, sum(heights) + len(rows) * below + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    bottom = MARGIN
    for row, row_height in zip(rows, heights, strict=True):
        bottom += row_height
        for column, (picture, tile) in enumerate(row):
            left = MARGIN + column * (side + MARGIN)
            sheet.paste(picture, (left + (side - picture.width) // 2, bottom - picture.height))
            pen.text((left, bottom + 3), _fitting(tile.title, font, side), INK, font)
            for x, y, color, words in _lay_out(_legend(tile), font, side):
                place = left + x, bottom + LINE + 3 + y
                if color is not None:
                    pen.rectangle((*place, place[0] + TEXT - 1, place[1] + TEXT - 1), color, INK)
                pen.text((place[0] + (SWATCH if color else 0), place[1]), words, INK, font)
        bottom += below
    return np.asarray(sheet)


def _picture(tile: Tile, side: int) -> Image.Image:
    """Draw the image of one tile; a pale square where there is none."""
    if isinstance(tile.sample, str):
        return Image.new("RGB", (side, side // 2), PALE)
    return thumbnail(tile.sample, tile.categories, side)


def thumbnail(sample: Sample, categories: tuple[Category, ...], side: int) -> Image.Image:
    """Draw the segments of a sample, smaller ones on top, on an image that is scaled to fit a square."""
    segments = sample.segments
    order = np.argsort(segments.masks.areas(), kind="stable")
    kept = order[segments.labels.numpy()[order] >= 0]
    labels = segments.labels.numpy()[kept]
    drawn = Prediction(segments.masks.select(kept.tolist()), labels, np.ones(len(kept)), categories)
    height, width = segments.masks.size
    size, x, y = _fit(width, height, side)
    small = Prediction(IdMap(drawn.id_map().ids[np.ix_(y, x)], len(kept)), labels, drawn.scores, categories)
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(overlay(np.asarray(picture), small, labels=False))


def error_picture(image: UInt8[np.ndarray, "h w 3"], codes: UInt8[np.ndarray, "h w"], side: int) -> Image.Image:
    """Draw what is wrong on a pale grey image that is scaled to fit a square; colours are those of `codes`."""
    size, x, y = _fit(image.shape[1], image.shape[0], side)
    grey = np.asarray(Image.fromarray(image).convert("L").resize(size, Image.Resampling.BICUBIC))[..., None]
    chosen = codes[np.ix_(y, x)]
    colors = np.array(ERROR_COLORS, dtype=np.float32)[chosen]
    strengths = np.array([0.0, *[0.75] * (len(ERROR_COLORS) - 2), 0.15], dtype=np.float32)[chosen][..., None]
    return Image.fromarray(np.rint(grey * 0.75 * (1 - strengths) + colors * strengths).astype(np.uint8))


def _fit(width: int, height: int, side: int) -> tuple[tuple[int, int], NDArray[np.intp], NDArray[np.intp]]:
    """Give the size that fits a square, and the columns and rows of the original that it shows."""
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = (((np.arange(n) + 0.5) * old / n).astype(np.intp) for n, old in zip(size, (width, height), strict=True))
    return size, x, y


def _legend(tile: Tile) -> Legend:
    """Name the classes on a tile, those with the most pixels first."""
    if isinstance(tile.sample, str):
        return [(None, tile.sample)]
    segments, categories = tile.sample.segments, tile.categories
    labels, areas = segments.labels.tolist(), segments.masks.areas().tolist()
    pixels: Counter[int] = Counter()
    for label, area in zip(labels, areas, strict=True):
        pixels[label] += area
    count = Counter(labels)
    legend: Legend = []
    for label, _ in pixels.most_common():
        if label >= 0:  # else anything may be there
            name, is_thing, _, color = categories[label]
            legend.append((color, f"{name} {count[label]}" if is_thing else name))
    return legend or [(None, "no segments")]


def _lay_out(legend: Legend, font: Font, side: int) -> list[tuple[int, int, tuple[int, int, int] | None, str]]:
    """Place the words of a legend in its lines (x, y, colour, words), and say how many there was no room for."""
    placed: list[tuple[int, int, tuple[int, int, int] | None, str]] = []
    x, line = 0, 0
    for index, (color, words) in enumerate(legend):
        swatch = SWATCH if color else 0
        words = _fitting(words, font, side - swatch)
        width = swatch + round(font.getlength(words))
        left = len(legend) - index
        rest = 0 if left == 1 or line < LEGEND_LINES - 1 else GAP + round(font.getlength(f"+{left}"))
        if x > 0 and x + width + rest > side:
            if line == LEGEND_LINES - 1:
                return [*placed, (x, line * LINE, None, f"+{left}")]
            x, line = 0, line + 1
        placed.append((x, line * LINE, color, words))
        x += width + GAP
    return placed


def _fitting(words: str, font: Font, width: int) -> str:
    """Cut words that are too long for a line; what cannot be printed becomes a question mark."""
    words = "".join(letter if letter.isprintable() else "?" for letter in words[:200])
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"
