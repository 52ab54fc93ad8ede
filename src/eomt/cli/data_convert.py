"""`eomt data convert`: write a data set in another layout, and say what that one cannot hold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from eomt.cli.console import counted, log_lines, note, print_json, print_table, printable, progress
from eomt.cli.options import Switch, parse
from eomt.errors import ConfigError

if TYPE_CHECKING:
    from eomt.data.convert import Report

__all__ = [
    "ClassMap",
    "Destination",
    "Layout",
    "Names",
    "Source",
    "SourceFormat",
    "as_json",
    "check_new",
    "print_report",
    "run",
]

Layout = Literal["coco", "coco-panoptic", "yolo", "masks"]
Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC", help_behavior_hint="")]
Destination = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST", help_behavior_hint="")]
SourceFormat = Annotated[
    str | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(default: recognised)"), tyro.conf.DisallowNone
]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="(default: all)")]
ClassMap = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=""), tyro.conf.DisallowNone]

DESCRIPTION = """\
Write a data set in another layout:
  coco           annotations/instances_SPLIT.json with run-length codes, SPLIT/
                 loses nothing but ignored regions of no class
  coco-panoptic  annotations/panoptic_SPLIT.json and PNGs, SPLIT/
                 no overlaps
  yolo           data.yaml, images/SPLIT/, labels/SPLIT/*.txt with polygons
                 no crowds, no stuff, no colours, ids from 0
  masks          images/SPLIT/, masks/SPLIT/*.png, categories.json
                 no overlaps, no crowds, one segment for each class of stuff
What could not be held is counted. Image files are copied as they are; SRC is only
read. DST appears when it is complete.

Example: eomt data convert my-data my-data-coco --to coco"""


@dataclass(frozen=True)
class ConvertArguments:
    """What `eomt data convert` accepts."""

    source: Source
    """The data set: a folder, or a zip or tar as it is, in any layout that is known."""
    destination: Destination
    """The folder to write; it must be new or empty."""
    to: Annotated[
        Layout, tyro.conf.arg(metavar="{coco,coco-panoptic,yolo,masks}", help_behavior_hint="(required)")
    ]
    """The layout to write."""
    polygons: Switch = False
    """With --to coco: outlines in place of run-length codes, for tools that read nothing else. They follow the
    edges of pixels; those that do not give back every pixel are counted."""
    splits: Names = ()
    """Only these splits."""
    format: SourceFormat = None
    """Layout of SRC: coco-panoptic, folder, yolo, ...; docs/data.md lists them."""
    class_map: ClassMap = None
    """YAML or JSON file that merges, renames, drops or ignores classes."""
    json: Switch = False
    """Print one JSON object as the last line of standard output: what was read, written and lost."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Convert as the arguments say; give the exit code."""
    options = parse(ConvertArguments, arguments, "eomt data convert", DESCRIPTION)
    check_new(options.destination)
    if options.polygons and options.to != "coco":
        raise ConfigError(f"--polygons: only with --to coco, not {options.to}")

    from eomt.data.convert import all_of, convert, views
    from eomt.data.detect import find_format

    start = time.perf_counter()
    with log_lines():
        found = find_format(options.source, options.format)
        opened = views(found, options.splits, options.class_map)
    with progress("convert") as show:
        report = convert(all_of(opened), options.to, options.destination, polygons=options.polygons, progress=show)
    about = {"source": str(options.source), "format": found.format.name, "seconds": time.perf_counter() - start}
    if options.json:
        print_json({**about, **as_json(report, options.destination)})
    else:
        print_report(report, found.format.name, options.destination)
    return 0


def check_new(folder: Path) -> None:
    """Raise ConfigError for a folder that cannot be written, before anything is read."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: it is there already and not an empty folder; name a new one")


def as_json(report: "Report", destination: Path) -> dict[str, Any]:
    """Give what was read, written and lost as `--json` has it."""
    return {
        "out": str(destination),
        "to": report.target,
        "read": report.read,
        "written": report.written,
        "lost": report.lost,
        "left_out": list(report.left_out),
    }


def print_report(report: "Report", format: str, destination: Path) -> None:
    """Print what is there before and after, and what was lost, in words."""
    rows: list[list[str | float]] = []
    for (name, read), (new, written) in zip(report.read.items(), report.written.items(), strict=True):
        rows.append([name, f"read ({format})", *_row(read)])
        rows.append([new, f"written ({report.target})", *_row(written)])
    print_table("Before and after", ["split", "", *_COLUMNS.values()], rows, text=2)
    for text in report.left_out:
        note(f"not read: {text}")
    for what, count in report.lost.items():
        note(f"not kept: {count} {what}")
    images = sum(each["images"] for each in report.written.values())
    print(f"{printable(destination)}: {counted(images, 'image')}")


_COLUMNS = {
    "images": "images",
    "segments": "segments",
    "crowds": "crowds",
    "ignored_regions": "ignored regions",
    "pixels": "pixels",
}


def _row(counts: Mapping[str, int]) -> list[int]:
    return [counts.get(kind, 0) for kind in _COLUMNS]
