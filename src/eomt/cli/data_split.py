"""`eomt data split`: write a data set with new splits, each class on every side where that is possible."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from eomt.cli.console import counted, log_lines, note, print_json, print_table, progress
from eomt.cli.data_convert import (
    ClassMap,
    Destination,
    Layout,
    Names,
    Source,
    SourceFormat,
    as_json,
    check_new,
    print_report,
)
from eomt.cli.options import Switch, parse

if TYPE_CHECKING:
    from eomt.cli.data_sample import SampleArguments
    from eomt.data.convert import Target, View
    from eomt.data.detect import Found
    from eomt.data.subsets import Survey

__all__ = ["ClosestLayout", "closest", "look", "print_classes", "run"]

Share = Annotated[float, tyro.conf.arg(metavar="0..1")]
ClosestLayout = Annotated[
    Layout | None,
    tyro.conf.arg(
        metavar="{coco,coco-panoptic,yolo,masks}", help_behavior_hint="(default: like SRC, without loss)"
    ),
    tyro.conf.DisallowNone,
]

DESCRIPTION = """\
Write a data set with new splits: train, val and, if asked for, test. Images of all
splits of SRC are taken together. Each class is shared as the images are, the
rarest first, and is on every side where it is in images enough; images with
equal files stay together. The same seed gives the same splits.

Example: eomt data split my-data my-data-split --val 0.1"""


@dataclass(frozen=True)
class SplitArguments:
    """What `eomt data split` accepts."""

    source: Source
    """The data set: a folder, or a zip or tar as it is, in any layout that is known."""
    destination: Destination
    """The folder to write; it must be new or empty. Image files are copied."""
    val: Share = 0.1
    """Share of the images to validate on."""
    test: Share = 0.0
    """Share of the images to test on; 0: there is no such split."""
    seed: int = 0
    """Another number gives other splits."""
    by_class: Switch = False
    """Also print how many images of each split show each class."""
    to: ClosestLayout = None
    """The layout to write, as `eomt data convert` has it."""
    splits: Names = ()
    """Take the images of these splits only; the others are left alone."""
    format: SourceFormat = None
    """Layout of SRC: coco-panoptic, folder, yolo, ...; docs/data.md lists them."""
    class_map: ClassMap = None
    """YAML or JSON file that merges, renames, drops or ignores classes."""
    json: Switch = False
    """Print one JSON object as the last line of standard output: what was read, written and lost, and how many
    images show each class."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Split as the arguments say; give the exit code."""
    options = parse(SplitArguments, arguments, "eomt data split", DESCRIPTION)
    check_new(options.destination)

    from eomt.data.convert import convert
    from eomt.data.subsets import by_class, split

    start = time.perf_counter()
    found, opened, seen = look(options)
    shares = {"val": options.val} | ({"test": options.test} if options.test else {})
    plan = split(seen, shares, options.seed)
    with progress("split") as show:
        report = convert(plan, options.to or closest(found, seen), options.destination, progress=show)
    classes = by_class(plan, seen)
    if options.json:
        about = {"source": str(options.source), "format": found.format.name, "seed": options.seed}
        counts = {"repeated": seen.repeated, "duplicates": seen.duplicates, "classes": classes}
        seconds = time.perf_counter() - start
        print_json({**about, "seconds": seconds, **as_json(report, options.destination), **counts})
        return 0
    if options.by_class:
        print_classes(classes)
    print_report(report, found.format.name, options.destination)
    if len(opened) > 1:
        note(f"taken together: the splits {', '.join(opened)}; --splits NAME takes one of them")
    if seen.duplicates:
        note(f"{seen.duplicates} images have the same file as another; these are in one split")
    for name, images in classes.items():
        absent = [split for split, count in images.items() if not count]
        if absent and len(absent) < len(images):
            note(f"class {name}: in no image of {', '.join(absent)} ({sum(images.values())} show it in all)")
    return 0


def look(options: "SplitArguments | SampleArguments") -> "tuple[Found, Mapping[str, View], Survey]":
    """Recognise the source, open its splits and look at all segments, as the options say."""
    from eomt.data.convert import views
    from eomt.data.detect import find_format
    from eomt.data.subsets import survey

    with log_lines():
        found = find_format(options.source, options.format)
        opened = views(found, options.splits, options.class_map)
    with progress("look") as show:
        seen = survey(opened, show)
    if seen.repeated:
        note(f"{counted(seen.repeated, 'image')} in several splits, with the same segments: taken once")
    return found, opened, seen


def closest(found: "Found", seen: "Survey") -> "Target":
    """Choose the layout like that of the source that holds all of it."""
    if found.format.name in ("coco-panoptic", "coco-instance"):
        return "coco-panoptic" if found.format.name == "coco-panoptic" else "coco"
    return seen.closest


def print_classes(classes: Mapping[str, Mapping[str, int]]) -> None:
    """Print how many images show each class."""
    splits = list(next(iter(classes.values())))
    rows: list[list[str | float]] = [[name, *images.values()] for name, images in classes.items()]
    print_table("Images that show a class", ["class", *splits], rows)
