"""Draw what was found over its image, with numpy and Pillow alone.

Things are filled in colours of their own with an outline of full strength; stuff is a calm tint, where there are
things. Everything goes through the id map, so that the cost hardly depends on the number of segments. Reading and
writing pictures are left to others.
"""

import colorsys

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from eomt.errors import DataError
from eomt.masks import IdMap
from eomt.types import Prediction

__all__ = ["overlay", "segment_colors"]

LABEL_EDGE = (20, 20, 20)
STRIP = 64
"""Rows that are blended at once."""


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
