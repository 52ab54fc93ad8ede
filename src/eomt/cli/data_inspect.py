"""`eomt data inspect`: show what a data set holds. Measuring it is left to `data.inspect`, pictures too."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from eomt.cli.console import counted, log_lines, note, print_json, print_table, printable, progress
from eomt.cli.options import Switch, parse
from eomt.config import TaskName
from eomt.data import figures
from eomt.data.figures import Figures, Repeated, Size
from eomt.data.inspect import Inspection, examples, inspect_data
from eomt.errors import ConfigError, DataError
from eomt.files import write_aside

__all__ = ["run"]

DESCRIPTION = """\
Show what a data set holds: its layout, splits, classes, sizes of images and of
objects, and what training would make of it. Images are not decoded, and what
was measured is remembered until a file changes (in EOMT_CACHE, else in
~/.cache/eomt). Nothing is written into the data set.

Exit code 0: every split was measured; 3: some could not be opened, or none.

Example: eomt data inspect my-data.zip --sheet my-data.png"""

ALL = "all"
WHY: dict[TaskName, str] = {
    "panoptic": "there are things and stuff",
    "instance": "all classes are things",
    "semantic": "all classes are stuff",
}
BAR = 30
"""Letters of the longest bar of a histogram."""
MOST_SPLITS = 4
"""With more splits than this, the table of classes has the figures of all of them only."""
CELLS = 8
"""Pixels in the view below which an object can hardly be outlined: two cells of the map of masks."""


@dataclass(frozen=True)
class InspectArguments:
    """What `eomt data inspect` accepts."""

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The data set: a folder, or a zip or tar (read as it is, not unpacked)."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """Only this part of the data set."""
    format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(default: recognised)")] = (
        None
    )
    """Layout of the files: coco-panoptic, folder, yolo, ...; docs/data.md lists them."""
    class_map: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """YAML or JSON file that merges, renames, drops or ignores classes: shows what that leaves."""
    queries: int = 200
    """Queries of the model (--model.num-queries): images with more segments than these are counted."""
    view: int = 640
    """Side of the model's view (--model.image-size): how large objects are in it is told."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Also draw some images with their segments into this picture, a new PNG file."""
    count: int = 12
    """Images on the sheet; they are spread over the classes, and always the same ones."""
    workers: Annotated[
        int | None, tyro.conf.DisallowNone, tyro.conf.arg(help_behavior_hint="(default: as fits)")
    ] = None
    """Processes that read annotations; 0 reads them in the main process."""
    no_cache: Switch = False
    """Measure anew, and remember nothing."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, instead of tables."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Measure a data set as the arguments say and print the figures; give the exit code."""
    options = parse(InspectArguments, arguments, "eomt data inspect", DESCRIPTION)
    _check(options)
    with log_lines(), progress("inspect") as show:
        found = inspect_data(
            options.path,
            format=options.format,
            class_map=options.class_map,
            split=options.split,
            workers=options.workers,
            use_cache=not options.no_cache,
            progress=show,
        )
    measured = list(found.splits.values())
    parts = {
        name: figures.figures(split, found.task, options.queries, options.view)
        for name, split in found.splits.items()
    }
    whole = measured[0] if len(measured) == 1 else figures.together(measured)
    total = figures.figures(whole, found.task, options.queries, options.view)
    twice = figures.repeated(measured)
    if options.sheet:
        _draw(found, options.sheet, options.count)
    if options.json:
        print_json(_as_json(options, found, parts, total, twice))
    else:
        _print(options, found, parts, total, twice)
    return DataError.exit_code if found.closed else 0


def _check(options: InspectArguments) -> None:
    """Raise ConfigError for what cannot be asked, before anything is measured."""
    for name, value, least in (
        ("queries", options.queries, 1),
        ("view", options.view, 1),
        ("count", options.count, 1),
    ):
        if value < least:
            raise ConfigError(f"--{name} {value}: expected {least} or more")
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers {options.workers}: use 0 (no processes) or more")
    sheet = options.sheet
    if sheet is None:
        return
    if sheet.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {sheet}: the picture is a PNG file; give it a name that ends with .png")
    if sheet.exists():
        raise ConfigError(f"--sheet {sheet}: this file is there already; give another name, or remove it")
    if not sheet.parent.is_dir():
        raise ConfigError(f"--sheet {sheet}: there is no folder {sheet.parent}; make it first")
    if options.path.is_dir() and sheet.resolve().is_relative_to(options.path.resolve()):
        raise ConfigError(f"--sheet {sheet}: it would lie in the data set; give a file in another folder")


def _draw(found: Inspection, sheet: Path, count: int) -> None:
    """Draw some images with their segments."""
    from PIL import Image

    from eomt.drawing import Tile, contact_sheet

    count = min(count, sum(map(len, found.splits.values())))
    tiles = []
    with progress("sheet") as show:
        for split, sample, categories in examples(found, count):
            if isinstance(sample, DataError):
                tiles.append(Tile(f"{split}: cannot be read", str(sample), categories))
            else:
                tiles.append(Tile(f"{split}: {sample.image_id}", sample, categories))
            show(len(tiles), count)
    file = io.BytesIO()
    Image.fromarray(contact_sheet(tiles)).save(file, "PNG")
    write_aside(sheet, file.getvalue())
    note(f"sheet: {sheet}")


def _as_json(
    options: InspectArguments, found: Inspection, parts: dict[str, Figures], total: Figures, twice: Repeated
) -> dict[str, Any]:
    """Give everything, as JSON can hold it."""
    return {
        "data": str(found.root),
        "format": found.format,
        "recognised_by": None if found.is_told else found.expected,
        "found": _found_files(found),
        "class_map": None if found.class_map is None else str(found.class_map),
        "task": found.task,
        "task_because": WHY[found.task],
        "train_split": found.train,
        "val_split": found.val,
        "queries": options.queries,
        "splits": {name: _plain(asdict(part)) for name, part in parts.items()},
        ALL: _plain(asdict(total)),
        "closed_splits": found.closed,
        "repeated": twice._asdict(),
        "bins": {"by_share": figures.SHARE_EDGES, "by_pixels": figures.PIXEL_EDGES, "by_coco": figures.COCO_EDGES},
        "cached": found.is_cached,
    }


def _plain(value: Any) -> Any:
    """Write small named tuples as objects, so that their fields have names in JSON too."""
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _found_files(found: Inspection) -> dict[str, list[str]]:
    """Name the first image of each split and the file that tells its segments."""
    return {name: [split.files[0], split.annotations[0]] for name, split in found.splits.items() if len(split)}


def _print(
    options: InspectArguments, found: Inspection, parts: dict[str, Figures], total: Figures, twice: Repeated
) -> None:
    """Print everything, for people."""
    _print_format(found)
    _print_closed(found)
    _print_splits(options, parts, total)
    _print_classes(parts, total)
    _print_sizes(total)
    _print_advice(options, found, total)
    _print_faults(found, parts, twice)
    if found.is_cached:
        note("measured earlier, and no file has changed since; --no-cache measures anew")


def _say(what: str, words: str) -> None:
    print(printable(f"{what:<11} {words}"))


def _print_format(found: Inspection) -> None:
    print(printable(found.root))
    _say("format", f"{found.format}, {'as told' if found.is_told else 'recognised'}: {found.expected}")
    for name, (image, annotation) in _found_files(found).items():
        _say("", f"{name}: {image}" + (f", its segments in {annotation}" if annotation != image else ""))
    if found.class_map is not None:
        _say("class map", str(found.class_map))
    _say("task", f"{found.task}, unless another is asked for: {WHY[found.task]}")


def _print_closed(found: Inspection) -> None:
    """Say which splits the tables lack."""
    for name, reason in found.closed.items():
        _say("not opened", f"{name}: {reason}")
    if found.closed:
        measured = ", ".join(found.splits)
        _say("", f"the figures are of {measured} only; eomt data validate {found.root} lists all that is wrong")


def _print_splits(options: InspectArguments, parts: dict[str, Figures], total: Figures) -> None:
    columns = [
        "split",
        "images",
        "negatives",
        "instances",
        "an image",
        "at most",
        "segments",
        "at most",
        f"> {options.queries}",
        "crowds",
        "ignored",
        "void %",
        "smallest",
        "median",
        "largest",
    ]
    rows = [_split_row(name, part) for name, part in _with_all(parts, total).items()]
    print_table("Splits (sizes of images: width x height)", columns, rows)
    if total.common:
        _say("sizes", f"most common: {', '.join(f'{size.images} of {_written(size)}' for size in total.common)}")


def _with_all(parts: dict[str, Figures], total: Figures) -> dict[str, Figures]:
    return {**parts, ALL: total} if len(parts) > 1 else parts


def _split_row(name: str, part: Figures) -> list[str | int | float]:
    sizes = ["–" if size is None else _written(size) for size in (part.smallest, part.median, part.largest)]
    return [
        name,
        part.images,
        part.negatives,
        part.instances,
        f"{part.per_image:.1f}",
        part.most,
        f"{part.segments_per_image:.1f}",
        part.most_segments,
        part.above_queries,
        part.crowds,
        part.ignored,
        f"{100 * part.void_share:.1f}",
        *sizes,
    ]


def _written(size: Size) -> str:
    return f"{size.width} x {size.height}"


def _print_classes(parts: dict[str, Figures], total: Figures) -> None:
    """Print a row for each class that occurs, with its figures in each split, and name the other classes."""
    told = parts if 1 < len(parts) <= MOST_SPLITS else {}
    by_name = [{each.name: each for each in part.classes} for part in told.values()]
    rows: list[list[str | int | float]] = []
    for each in total.classes:
        if each.images:
            row: list[str | int | float] = [each.name, "thing" if each.is_thing else "stuff", each.id]
            row += [each.images, each.segments, f"{100 * each.pixel_share:.2f}"]
            there = [classes.get(each.name) for classes in by_name]
            rows.append([*row, *("–" if part is None else f"{part.images} / {part.segments}" for part in there)])
    title = f"Classes: {len(rows)} occur, of {len(total.classes)}"
    title += " (in each split: images / segments)" if told else ""
    print_table(title, ["class", "kind", "id", "images", "segments", "pixels %", *told], rows, text=2)
    unseen = [each.name for each in total.classes if not each.images]
    if unseen:
        _say("unused", f"{counted(len(unseen), 'class')} without a segment: {', '.join(unseen)}")


def _print_sizes(total: Figures) -> None:
    if not total.instances:
        return
    small, medium, large = total.by_coco
    _say(
        "objects",
        f"by COCO's measure {small} small (under 32 x 32 pixels), {medium} medium, {large} large (from 96 x 96)",
    )
    shares = [f"{100 * edge:.0f} %" for edge in figures.SHARE_EDGES]
    _print_histogram(
        "Objects by size in pixels (square root of the area)", list(map(str, figures.PIXEL_EDGES)), total.by_pixels
    )
    _print_histogram("Objects by size, as a share of the image's", shares, total.by_share)


def _print_histogram(title: str, edges: list[str], counts: Sequence[int]) -> None:
    names = [
        f"under {edges[0]}",
        *(f"{a} to {b}" for a, b in pairwise(edges)),
        f"from {edges[-1]}",
    ]
    longest = max(counts)
    rows: list[list[str | int | float]] = [
        [
            name,
            "█" * round(BAR * count / longest) or ("▏" if count else ""),
            count,
            f"{100 * count / sum(counts):.1f}",
        ]
        for name, count in zip(names, counts, strict=True)
    ]
    print_table(title, ["size", "", "objects", "%"], rows, text=2)


def _print_advice(options: InspectArguments, found: Inspection, total: Figures) -> None:
    """Say what the figures mean for training."""
    if total.above_queries:
        _say(
            "queries",
            f"{total.above_queries} of {counted(total.images, 'image')}: more segments than "
            f"{counted(options.queries, 'query')} can find; at most {total.most_segments} (--model.num-queries)",
        )
    view = total.view
    if view is None:
        return
    _say(
        "view",
        f"at {view.side} pixels the median image is scaled by {view.scale:.2f} (--augment.fit {view.fit}); the "
        f"median object is {view.median:.0f} pixels then, a tenth are under {view.tenth:.0f}",
    )
    if view.tenth < CELLS:
        _say("", f"objects under {CELLS} can hardly be outlined: a larger --model.image-size shows them larger")


def _print_faults(found: Inspection, parts: dict[str, Figures], twice: Repeated) -> None:
    """Say what was passed over, and what is odd."""
    for name, part in parts.items():
        for words in part.left_out:
            _say("left out", f"{name}: {words}")
        if part.unreadable:
            images = counted(part.images, "image")
            _say("unreadable", f"{name}: {len(part.unreadable)} of {images}; the first: {part.unreadable[0]}")
    if twice.images:
        _say("repeated", f"{counted(twice.images, 'image')} in several splits: {', '.join(twice.examples[:3])}")
    if twice.names:
        _say("repeated", f"{counted(twice.names, 'name')} of several files: {', '.join(twice.examples[-2:])}")
    if any(part.unreadable for part in parts.values()):
        note(f"eomt data validate {found.root}: lists all that is wrong")
