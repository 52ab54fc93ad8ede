"""Draw what was measured as bars, with Pillow alone. Free of torch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from eomt.benchmark.rounds import WHOLE, Stages
from eomt.training.curves import LIGHT, font_of

__all__ = ["Bar", "bars", "stages_bar"]

WIDTH, ROW, BAR, MARGIN = 860, 30, 18, 14
"""Of the picture, of a row and of the bar in it, and around all, in pixels."""
TITLE, LEGEND, ROOM = 32, 26, 150
"""Height of the title and of the legend; width for the words behind the longest bar."""


class Bar(NamedTuple):
    """A row: its name, the parts that its bar is made of, and what stands behind it."""

    name: str
    parts: Mapping[str, float]
    note: str


def stages_bar(name: str, times: Stages, note: str = "") -> Bar:
    """Make a bar of the medians of stages, in milliseconds; what lies between stages is `other`."""
    parts = {stage: each.median * 1e3 for stage, each in times.items() if stage != WHOLE}
    whole = times[WHOLE].median * 1e3
    parts["other"] = max(0.0, whole - sum(parts.values()))
    return Bar(name, parts, note or f"{whole:.4g} ms")


def bars(title: str, rows: Sequence[Bar]) -> Image.Image:
    """Draw bars below each other, RGB, all on one scale from zero."""
    names = list(dict.fromkeys(part for row in rows for part in row.parts))
    font = font_of()
    left = MARGIN + max(font.getlength(row.name) for row in rows) + 10
    most = max(sum(row.parts.values()) for row in rows) or 1.0
    scale = (WIDTH - left - ROOM) / most
    picture = Image.new("RGB", (WIDTH, TITLE + ROW * len(rows) + LEGEND + MARGIN), LIGHT.paper)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, TITLE - 9), title, LIGHT.ink, font_of(14), anchor="ls")
    for number, row in enumerate(rows):
        x, middle = left, TITLE + ROW * number + ROW / 2
        pen.text((left - 8, middle), row.name, LIGHT.ink, font, anchor="rm")
        pen.line((left, middle - ROW / 2, left, middle + ROW / 2), LIGHT.grid)
        for part, value in row.parts.items():
            color = LIGHT.lines[names.index(part) % len(LIGHT.lines)]
            if value * scale >= 1:
                pen.rectangle((x, middle - BAR / 2, x + value * scale - 1, middle + BAR / 2), color)
            x += value * scale
        pen.text((x + 8, middle), row.note, LIGHT.ink, font, anchor="lm")
    x, y = left, TITLE + ROW * len(rows) + LEGEND / 2
    for number, name in enumerate(names if len(names) > 1 else ()):
        pen.rectangle((x, y - 5, x + 10, y + 5), LIGHT.lines[number % len(LIGHT.lines)])
        pen.text((x + 16, y), name, LIGHT.ink, font, anchor="lm")
        x += 16 + font.getlength(name) + 18
    return picture
