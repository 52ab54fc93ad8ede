"""One self-contained page of HTML: text, tables and pictures inside, nothing from outside, no scripts.

It follows the reader's light or dark colours, fits a phone, and prints. What is shown is left to `report`.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

__all__ = ["Section", "cards", "chart", "encoded_png", "facts", "page", "paragraph", "photo", "row", "table"]


class Section(NamedTuple):
    """A part of the page; `body` is HTML."""

    title: str
    body: str


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --soft: #667; --line: #ddd; --card: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #181a1e; --ink: #dedede; --soft: #9aa0aa; --line: #34373e; --card: #22252b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1350px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6em; margin: .3em 0 0; } h2 { font-size: 1.2em; margin: 2em 0 .5em; }
h2 { border-bottom: 1px solid var(--line); }
p { max-width: 75ch; margin: .4em 0; } .soft, figcaption { color: var(--soft); font-size: .9em; }
code { font-size: .9em; background: var(--card); padding: 1px 4px; border-radius: 3px; }
nav a { margin-right: .9em; white-space: nowrap; } a { color: inherit; }
.cards, .row { display: flex; flex-wrap: wrap; gap: 12px; }
.cards div { background: var(--card); border-radius: 6px; padding: 8px 14px; min-width: 92px; }
.cards b { display: block; font-size: 1.5em; font-weight: 600; line-height: 1.25; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9em; margin: .5em 0; }
th, td { text-align: left; padding: 2px 10px 2px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: anywhere; } td:first-child { overflow-wrap: normal; }
figure { margin: 0 0 10px; } img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.key span { white-space: nowrap; }
.key i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; border-radius: 2px; }
@media print {
  nav { display: none; } body { max-width: none; font-size: 11px; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser is told to load nothing from elsewhere."""


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Put sections together; `lead` is HTML below the title."""
    links = "".join(f'<a href="#s{place}">{escape(each.title)}</a> ' for place, each in enumerate(sections))
    bodies = "\n".join(
        f'<section><h2 id="s{place}">{escape(each.title)}</h2>\n{each.body}</section>'
        for place, each in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n{bodies}\n</body></html>\n"
    )


def paragraph(text: str, soft: bool = False) -> str:
    """Write plain text; parts in backticks are code."""
    parts = escape(text).split("`")
    inner = "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
    return f'<p class="soft">{inner}</p>\n' if soft else f"<p>{inner}</p>\n"


def cards(values: Mapping[str, str]) -> str:
    """Show a few figures in large letters."""
    inner = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in values.items())
    return f'<div class="cards">{inner}</div>\n'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """Write a table whose first `text` columns are words, the others figures."""

    def cell(kind: str, place: int, value: str) -> str:
        number = "" if place < text else ' class="n"'
        return f"<{kind}{number}>{escape(value)}</{kind}>"

    head = "".join(cell("th", place, value) for place, value in enumerate(columns))
    body = "\n".join(
        "<tr>" + "".join(cell("td", place, value) for place, value in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def facts(pairs: Mapping[str, str]) -> str:
    """Write names and values."""
    return table(["", ""], pairs.items(), 2) if pairs else ""


def row(parts: Iterable[str]) -> str:
    """Put charts beside one another where there is room."""
    return f'<div class="row">{"".join(parts)}</div>\n'


def chart(light: Image.Image, dark: Image.Image, words: str) -> str:
    """Show a chart in the reader's colours; `words` tell it to who cannot see it."""
    sources = [f"data:image/png;base64,{base64.b64encode(encoded_png(each)).decode()}" for each in (dark, light)]
    return (
        f'<figure><picture><source media="screen and (prefers-color-scheme: dark)" srcset="{sources[0]}">'
        f'<img src="{sources[1]}" width="{light.width}" height="{light.height}" alt="{escape(words)}">'
        "</picture></figure>"
    )


def photo(image: Image.Image, caption: str, quality: int) -> str:
    """Show a picture with words below it."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    source = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def encoded_png(image: Image.Image) -> bytes:
    """Write a picture as PNG; one of few colours takes few bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=False)
    return stream.getvalue()
