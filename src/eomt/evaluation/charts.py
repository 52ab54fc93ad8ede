"""Draw what an evaluation found as bars and as a matrix, with numpy and Pillow alone, in light and in dark.

Curves are drawn by `training.curves`, whose colours and letters these share.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from eomt.training.curves import LIGHT, Palette, font_of, short

__all__ = ["Bars", "Matrix", "draw_bars", "draw_matrix"]

WIDTH, BAR, TOP, MARGIN, VALUE = 430, 20, 34, 12, 52
"""Pixels: of a chart, of a bar with its gap, above the bars, around, and of the value behind a bar."""
CELL = 34
NAME = 120
"""Most pixels of a name."""


class Bars(NamedTuple):
    """Values with names; None where there is no value."""

    title: str
    names: Sequence[str]
    values: Sequence[float | None]
    most: float | None = None
    """The value of a bar over the whole width; None: the greatest one."""


class Matrix(NamedTuple):
    """How often each row is taken for each column."""

    title: str
    names: Sequence[str]
    counts: NDArray[np.int64]
    rows: str
    columns: str


def draw_bars(bars: Bars, palette: Palette = LIGHT) -> Image.Image:
    """Draw a bar for each name, from left to right, with its value behind it."""
    letters = font_of()
    left = MARGIN + 6 + round(max((letters.getlength(_cut(name)) for name in bars.names), default=0))
    picture = Image.new("RGB", (WIDTH, TOP + BAR * max(1, len(bars.names)) + MARGIN), palette.paper)
    pen, room = ImageDraw.Draw(picture), WIDTH - left - VALUE - MARGIN
    pen.text((MARGIN, 10), bars.title, palette.ink, font_of(13))
    most = bars.most or max((value for value in bars.values if value is not None), default=0.0) or 1.0
    for place, (name, value) in enumerate(zip(bars.names, bars.values, strict=True)):
        y = TOP + BAR * place
        pen.text((left - 6, y + BAR // 2), _cut(name), palette.ink, letters, anchor="rm")
        pen.rectangle((left, y + 3, left + room, y + BAR - 4), palette.grid)
        if value is not None and value > 0:
            pen.rectangle((left, y + 3, left + round(room * min(value / most, 1)), y + BAR - 4), palette.lines[0])
        text = "-" if value is None else f"{value:.3f}" if bars.most else short(float(value))
        pen.text((left + room + 6, y + BAR // 2), text, palette.ink, letters, anchor="lm")
    return picture


def draw_matrix(matrix: Matrix, palette: Palette = LIGHT) -> Image.Image:
    """Draw a matrix with the share of its row as the strength of a cell, and in percent."""
    letters, small = font_of(), font_of(11)
    names = [_cut(name) for name in matrix.names]
    longest = round(max((letters.getlength(name) for name in names), default=0))
    left, top, count = MARGIN + longest + 30, TOP + longest + 34, len(names)
    size = max(left + CELL * count + MARGIN, 260), top + CELL * count + MARGIN
    picture = Image.new("RGB", size, palette.paper)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, 10), matrix.title, palette.ink, font_of(13))
    pen.text((left, TOP + 2), matrix.columns, palette.ink, small)
    _turned(picture, matrix.rows, (MARGIN, top), CELL * count, palette, anchor_top=True)
    sums = matrix.counts.sum(1, keepdims=True)
    shares = matrix.counts / np.maximum(sums, 1)
    for row, name in enumerate(names):
        y = top + CELL * row
        pen.text((left - 6, y + CELL // 2), name, palette.ink, letters, anchor="rm")
        _turned(picture, name, (left + CELL * row + (CELL - 15) // 2, top - longest - 8), longest + 4, palette)
        for column in range(count):
            share = float(shares[row, column])
            color = tuple(
                round(a + (b - a) * share**0.7) for a, b in zip(palette.grid, palette.lines[0], strict=True)
            )
            x = left + CELL * column
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), color)
            if matrix.counts[row, column]:
                text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                bright = sum(f * c for f, c in zip((0.299, 0.587, 0.114), color, strict=True)) > 140
                ink = (20, 20, 20) if bright else (245, 245, 245)
                pen.text((x + CELL / 2 - 1, y + CELL / 2 - 1), text, ink, small, anchor="mm")
    return picture


def _turned(
    picture: Image.Image,
    text: str,
    at: tuple[int, int],
    length: int,
    palette: Palette,
    anchor_top: bool = False,
) -> None:
    """Write upwards, from the lower end of a strip of this length, or centred in it."""
    letters = font_of(11) if anchor_top else font_of()
    strip = Image.new("RGB", (max(1, length, math.ceil(letters.getlength(text))), 15), palette.paper)
    if anchor_top:
        ImageDraw.Draw(strip).text((strip.width / 2, 7), text, palette.ink, letters, anchor="mm")
    else:
        ImageDraw.Draw(strip).text((0, 7), text, palette.ink, letters, anchor="lm")
    picture.paste(strip.rotate(90, expand=True), at)


def _cut(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name[:80])
    letters = font_of()
    if letters.getlength(name) <= NAME:
        return name
    while letters.getlength(name + "…") > NAME:
        name = name[:-1]
    return name + "…"
