"""`eomt data sample`: write a few images of a data set that show all of its classes, to try a recipe on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from eomt.cli.console import counted, note, print_json, progress
from eomt.cli.data_convert import (
    ClassMap,
    Destination,
    Names,
    Source,
    SourceFormat,
    as_json,
    check_new,
    print_report,
)
from eomt.cli.data_split import ClosestLayout, closest, look, print_classes
from eomt.cli.options import Switch, parse

__all__ = ["run"]

DESCRIPTION = """\
Write a small part of a data set, to try a recipe on: so many images, of each
split as its size says, chosen so that all classes occur if they can; the rest by
chance. The same seed gives the same images.

Example: eomt data sample my-data my-sample --images 20"""


@dataclass(frozen=True)
class SampleArguments:
    """What `eomt data sample` accepts."""

    source: Source
    """The data set: a folder, or a zip or tar as it is, in any layout that is known."""
    destination: Destination
    """The folder to write; it must be new or empty. Image files are copied."""
    images: int = 20
    """How many images, of all splits together."""
    seed: int = 0
    """Another number gives other images."""
    by_class: Switch = False
    """Also print how many images show each class."""
    to: ClosestLayout = None
    """The layout to write, as `eomt data convert` has it."""
    splits: Names = ()
    """Of these splits only."""
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
    """Take a sample as the arguments say; give the exit code."""
    options = parse(SampleArguments, arguments, "eomt data sample", DESCRIPTION)
    check_new(options.destination)

    from eomt.data.convert import convert
    from eomt.data.subsets import by_class, sample

    start = time.perf_counter()
    found, _, seen = look(options)
    plan = sample(seen, options.images, options.seed)
    with progress("sample") as show:
        report = convert(plan, options.to or closest(found, seen), options.destination, progress=show)
    classes, everywhere = by_class(plan, seen), frozenset().union(*seen.classes)
    absent = [name for name, images in classes.items() if name in everywhere and not any(images.values())]
    if options.json:
        about = {"source": str(options.source), "format": found.format.name, "seed": options.seed}
        counts = {"repeated": seen.repeated, "classes": classes, "classes_not_shown": absent}
        seconds = time.perf_counter() - start
        print_json({**about, "seconds": seconds, **as_json(report, options.destination), **counts})
        return 0
    if options.by_class:
        print_classes(classes)
    print_report(report, found.format.name, options.destination)
    if len(seen.images) < options.images:
        there = counted(len(seen.images), "image")
        note(f"--images {options.images}: there are no more than {there}; all were taken")
    if absent:
        note(f"not shown by any of these images: {', '.join(absent)}; take more (--images)")
    return 0
