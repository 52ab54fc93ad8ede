"""Draw a run's curves, or those of several runs, as one picture, with numpy and Pillow alone.

What is drawn comes from the rows of metrics.jsonl. Free of torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["DARK", "LIGHT", "Line", "Palette", "Panel", "draw", "font_of", "of_run", "of_runs", "short"]

PANEL = 430, 280
"""Width and height of a panel in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 30, 46
"""Pixels around the plot of a panel."""
SHARPER = 2
"""Lines are drawn so many times as large and scaled down, which makes them smooth."""
POINTS = 400
"""A line has at most so many points: means of neighbours."""
TEXT = 12


class Palette(NamedTuple):
    """Colours of a picture."""

    paper: tuple[int, int, int]
    ink: tuple[int, int, int]
    frame: tuple[int, int, int]
    grid: tuple[int, int, int]
    lines: tuple[tuple[int, int, int], ...]


LIGHT = Palette(
    (255, 255, 255),
    (40, 40, 40),
    (150, 150, 150),
    (232, 232, 232),
    (
        (31, 119, 180),
        (214, 39, 40),
        (44, 160, 44),
        (148, 103, 189),
        (255, 127, 14),
        (23, 150, 170),
        (140, 86, 75),
        (227, 119, 194),
    ),
)
DARK = Palette(
    (24, 26, 30),
    (222, 222, 222),
    (110, 112, 118),
    (48, 50, 56),
    (
        (96, 168, 230),
        (240, 110, 105),
        (105, 195, 105),
        (182, 145, 222),
        (255, 165, 80),
        (80, 195, 210),
        (195, 145, 130),
        (240, 155, 210),
    ),
)
FIGURES = ("AP", "AP50", "AP75", "PQ", "SQ", "RQ", "mIoU")
"""Figures of an evaluation that are drawn, each where it was taken."""

Row = Mapping[str, Any]


class Line(NamedTuple):
    """One curve: values over steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    labels: Sequence[str] = ()
    """What stands beside each dot, where there are dots."""


class Panel(NamedTuple):
    """Curves that share their axes."""

    title: str
    lines: Sequence[Line]
    is_log: bool = False
    """Whether the values are drawn by their logarithm."""
    has_dots: bool = False
    """Whether each value is marked: few ones, such as those of evaluations."""
    from_zero: bool = True
    """Whether the axis of values begins at zero, or below."""


def of_run(rows: Sequence[Row]) -> list[Panel]:
    """Choose what is drawn of one run; what it did not record is left out."""
    steps, judged = _parted(rows)
    blocks = [
        name for name in dict.fromkeys(k for row in steps[:1] for k in row) if name.startswith("masked_attention_")
    ]
    panels = [
        Panel("training loss", [_line(steps, name) for name in ("loss", "mask", "dice", "class")], is_log=True),
        Panel("on the validation split", [_line(judged, name, smooth=False) for name in FIGURES], has_dots=True),
        Panel("gradient norm, before clipping", [_line(steps, "grad_norm")], is_log=True),
        Panel("learning rate", [_line(steps, name, smooth=False) for name in ("lr", "lr_backbone")]),
        Panel(
            "probability of masked attention",
            [_line(steps, name, smooth=False) for name in blocks or ["masked_attention"]],
        ),
        Panel("images a second", [_line(steps, "images_per_second")]),
    ]
    return _with_values(panels)


def of_runs(runs: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Choose what is drawn of several runs: a line each, by their names."""
    parted = {name: _parted(rows) for name, rows in runs.items()}

    def lines(key: str, place: int) -> list[Line]:
        return [_line(parts[place], key, name, smooth=place == 0) for name, parts in parted.items()]

    figures = [Panel(key, lines(key, 1), has_dots=True) for key in ("PQ", "AP", "mIoU")]
    return _with_values(
        [
            Panel("training loss", lines("loss", 0), is_log=True),
            *figures,
            Panel("gradient norm, before clipping", lines("grad_norm", 0), is_log=True),
            Panel("learning rate", lines("lr", 0)),
            Panel("images a second", lines("images_per_second", 0)),
        ]
    )


def draw(panels: Sequence[Panel], columns: int = 3, palette: Palette = LIGHT) -> Image.Image:
    """Draw panels in rows, RGB; a line that says so where there is none."""
    width, height = PANEL
    columns = max(1, min(columns, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    picture = Image.new("RGB", (columns * width, rows * height), palette.paper)
    for number, panel in enumerate(panels):
        picture.paste(_panel(panel, palette), (number % columns * width, number // columns * height))
    if not panels:
        ImageDraw.Draw(picture).text(
            (width / 2, height / 2), "nothing was recorded yet", palette.ink, font_of(), anchor="mm"
        )
    return picture


def _parted(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Tell the rows of steps from those of evaluations."""
    return [row for row in rows if "loss" in row], [row for row in rows if "loss" not in row]


def _line(rows: Iterable[Row], key: str, name: str | None = None, smooth: bool = True) -> Line:
    """Take a column; `smooth` makes of noise what the eye can follow: means over a fiftieth of the run."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    steps, values = (
        np.array(column, dtype=np.float64) for column in (zip(*points, strict=True) if points else ((), ()))
    )
    window = len(values) // 50 if smooth else 1
    if window > 1:
        weights = np.ones(window)
        values = np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")
    if len(values) > POINTS:
        parts = np.array_split(np.arange(len(values)), POINTS)
        steps, values = (np.array([column[part].mean() for part in parts]) for column in (steps, values))
    return Line(name or key, steps.tolist(), values.tolist())


def _with_values(panels: Sequence[Panel]) -> list[Panel]:
    """Leave out lines and panels without a value."""
    full = [panel._replace(lines=[line for line in panel.lines if len(line.values)]) for panel in panels]
    return [panel for panel in full if panel.lines]


class _Axis(NamedTuple):
    """How values become places from 0 to 1, and where the ticks are."""

    place: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ticks: list[float]


def _panel(panel: Panel, palette: Palette) -> Image.Image:
    """Draw one panel."""
    width, height = PANEL
    across, down = width - LEFT - RIGHT, height - TOP - BOTTOM
    all_steps = np.concatenate([np.asarray(line.steps, dtype=np.float64) for line in panel.lines])
    all_values = np.concatenate([np.asarray(line.values, dtype=np.float64) for line in panel.lines])
    is_log = panel.is_log and bool((all_values > 0).all())
    least = min(0.0, float(all_values.min())) if panel.from_zero else float(all_values.min())
    x_axis = _linear(min(0.0, float(all_steps.min())), float(all_steps.max()), 5)
    y_axis = _log(all_values) if is_log else _linear(least, float(all_values.max()), 5)

    large = Image.new("RGB", (width * SHARPER, height * SHARPER), palette.paper)
    pen = ImageDraw.Draw(large)
    frame = LEFT, TOP, LEFT + across, TOP + down

    def points(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
        x = LEFT + across * x_axis.place(np.asarray(steps, dtype=np.float64))
        y = TOP + down * (1 - y_axis.place(np.asarray(values, dtype=np.float64)))
        return [(float(a) * SHARPER, float(b) * SHARPER) for a, b in zip(x, y, strict=True)]

    tick_x = [points([tick], y_axis.ticks[:1])[0][0] for tick in x_axis.ticks]
    tick_y = [points(x_axis.ticks[:1], [tick])[0][1] for tick in y_axis.ticks]
    for x in tick_x:
        pen.line((x, frame[1] * SHARPER, x, frame[3] * SHARPER), palette.grid, SHARPER)
    for y in tick_y:
        pen.line((frame[0] * SHARPER, y, frame[2] * SHARPER, y), palette.grid, SHARPER)
    pen.rectangle([side * SHARPER for side in frame], outline=palette.frame, width=SHARPER)
    for number, line in enumerate(panel.lines):
        color, at = palette.lines[number % len(palette.lines)], points(line.steps, line.values)
        pen.line(at, color, 2 * SHARPER - 1, joint="curve")
        for x, y in at if panel.has_dots or len(at) == 1 else ():
            pen.circle((x, y), 1.3 * SHARPER + 2, color)
    small = large.reduce(SHARPER)

    pen, letters = ImageDraw.Draw(small), font_of()
    pen.text((LEFT, TOP - 7), panel.title, palette.ink, font_of(TEXT + 1), anchor="ls")
    for tick, x in zip(x_axis.ticks, tick_x, strict=True):
        pen.text((x / SHARPER, TOP + down + 5), short(tick), palette.ink, letters, anchor="ma")
    for tick, y in zip(y_axis.ticks, tick_y, strict=True):
        pen.text((LEFT - 5, y / SHARPER), short(tick), palette.ink, letters, anchor="rm")
    for number, line in enumerate(panel.lines):
        up = -9 if number % 2 == 0 else 10  # of two lines that cross, one has its words above
        for label, (x, y) in zip(line.labels, points(line.steps, line.values), strict=False):
            pen.text((x / SHARPER - 4, y / SHARPER + up), label, palette.ink, letters, anchor="rm")
    _legend(pen, panel.lines, width - RIGHT, palette)
    return small


def _legend(pen: ImageDraw.ImageDraw, lines: Sequence[Line], right: int, palette: Palette) -> None:
    """Name the lines below a panel, in a row; those without room are counted."""
    letters, x, y = font_of(), float(LEFT), PANEL[1] - 12
    for number, line in enumerate(lines):
        name = "".join(letter if letter.isprintable() else "?" for letter in line.name)[-32:]
        length = 20 + letters.getlength(name) + 12
        if x + length > right + 12 and number:
            pen.text((x, y), f"+{len(lines) - number}", palette.ink, letters, anchor="lm")
            return
        pen.line((x, y, x + 14, y), palette.lines[number % len(palette.lines)], 3)
        pen.text((x + 19, y), name, palette.ink, letters, anchor="lm")
        x += length


def _linear(low: float, high: float, count: int) -> _Axis:
    """Span an axis with about `count` round ticks."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    low, top = math.floor(low / step) * step, high + 0.02 * (high - low)
    ticks = [low + number * step for number in range(int((top - low) / step + 1e-6) + 1)]
    return _Axis(lambda values: (values - low) / (top - low), ticks)


def _log(values: NDArray[np.float64]) -> _Axis:
    """Span a logarithmic axis, with a tick each decade, or at 1, 2 and 5 where there are few decades."""
    low, high = math.log10(float(values.min())) - 0.03, math.log10(float(values.max())) + 0.03
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = max(1, len(decades) // 6)
    ticks = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
    inside = [tick for tick in ticks if low <= math.log10(tick) <= high]
    span = (low, high)
    if len(inside) < 2:  # hardly any change: round ticks would lie outside
        inside = [10.0**low, 10.0**high]
    return _Axis(lambda each: (np.log10(each) - span[0]) / (span[1] - span[0]), inside)


def short(value: float) -> str:
    """Write a tick in few letters."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.5g}"


def font_of(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give the font of all pictures, in this height."""
    return ImageFont.load_default(size)
