"""`eomt eval`: open the data, judge the model, print the figures. What they mean is said in `evaluation`."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eomt.cli.console import log_lines, print_json, print_table, printable, progress
from eomt.cli.options import (
    TASKS,
    ClassSource,
    Device,
    ImageSize,
    Merge,
    ModelSource,
    OwnShare,
    Switch,
    Zoom,
    check_view,
    override_thresholds,
    parse,
)
from eomt.config import Precision, TaskName
from eomt.errors import ConfigError, DataError
from eomt.weights import zoo

if TYPE_CHECKING:
    from eomt.evaluation.evaluate import Evaluation

__all__ = ["FIGURES", "run"]

FIGURES = (
    *("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"),
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("mIoU", "pixel_accuracy"),
)
"""Always present with --json, null where a task was not judged or no class is present."""
HEADLINES = ("PQ", "SQ", "RQ", "AP", "AP50", "AP75", "IoU", "mIoU", "pixel_accuracy")
"""Figures of a class or a group that fit on a line; --json has all."""

DESCRIPTION = """\
Measure a model on an annotated data set. All figures are shares from 0 to 1:
  panoptic   PQ, SQ, RQ, and PQ of things and of stuff
  instance   AP (COCO's, of masks), AP50, AP75, AP of small (below 32 x 32
             pixels), medium and large (from 96 x 96) objects
  semantic   mIoU, pixel accuracy

With --predictions, what any program has written is measured, and no model:
  X.json beside the folder X    COCO's panoptic form
  a JSON list                   COCO's instance results
  a folder of PNGs              classes (8 bits) or objects (16) of each pixel
  a folder                      what eomt predict writes

Examples: eomt eval --data my-data --split val --model runs/first
          eomt eval --data panoptic_val2017.json --predictions mine.json"""


@dataclass(frozen=True)
class EvalArguments:
    """What `eomt eval` accepts."""

    data: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """The data set: a folder or a zip (read as it is, not unpacked). With --predictions, its annotations will do:
    COCO's JSON file, or a folder of label maps."""
    predictions: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Measure these predictions, and no model: a JSON file or a folder, as above."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "val"
    """Part of the data set to measure on; a name that is not there is answered with those that are."""
    model: ModelSource = "bundled"
    """A trained model: the folder of a run or of a model, a file of weights, a published name (eomt models ls) or
    OWNER/NAME of a repository; by default the one that comes with eomt."""
    classes: ClassSource = None
    """Its classes, where its file does not name them: coco-panoptic, coco-instance, ade20k-panoptic,
    ade20k-semantic, cityscapes-semantic, or a categories.json or classes.txt."""
    task: Annotated[
        tuple[TaskName, ...],
        tyro.conf.arg(metavar=f"{TASKS}...", help_behavior_hint="(default: all that suit model and data)"),
    ] = ()
    """What to measure: one task or more."""
    format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(default: recognised)")] = (
        None
    )
    """Layout of the data set's files: coco-panoptic, folder, yolo, ...; docs/data.md lists them."""
    class_map: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """YAML or JSON file that merges, renames, drops or ignores classes of the data set."""
    group_by: Annotated[str | None, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = None
    """Also give the figures of each group of images: a column of `images.csv` in the data set, whose column
    `image_id` holds the images' file names without suffix."""
    max_detections: int = 100
    """Instance: so many segments with the highest scores are judged in an image. COCO's AP takes 100; images with
    more objects than that need more."""
    score: OwnShare = None
    """Panoptic: least class probability of a segment that is kept."""
    mask: OwnShare = None
    """Least mask probability of a pixel that belongs to a segment."""
    overlap: OwnShare = None
    """Panoptic: least share of its mask that a segment must win from others to be kept."""
    duplicate: OwnShare = None
    """Instance: of two segments of one class whose masks agree by more than this (intersection over union), the
    better one is kept; 1 keeps both."""
    image_size: ImageSize = None
    """Size in pixels of the view that the model sees."""
    zoom: Zoom = None
    """Pixels of the view for each of the image: larger images are seen in overlapping tiles, and what is found in
    them is joined. 0: the whole image in one view."""
    merge: Merge = None
    """Merge patches whose tokens are at least so alike (cosine, such as 0.98): faster, a little less exact."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32. The report says which it was."""
    details: Switch = False
    """Also tell, with --json under "details": PQ by size, which classes are taken for which, whether scores say
    how often a segment is right (panoptic), IoU along the edges (semantic), segments an image."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, instead of tables; null stands for a figure that
    was not measured."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate as the arguments say and print the figures; give the exit code."""
    options = parse(EvalArguments, arguments, "eomt eval", DESCRIPTION)
    check_view(options.image_size, options.zoom)
    zoo.check(options.model)

    evaluation = _judge_model(options) if options.predictions is None else _judge_files(options)
    if options.json:
        print_json(_as_json(options, evaluation))
    else:
        _print(options, evaluation)
    return 0


def _judge_files(options: EvalArguments) -> "Evaluation":
    """Judge predictions in files. Raises ConfigError for options that only a model has."""
    fresh = EvalArguments(options.data)
    for name in (
        "model",
        "classes",
        "score",
        "mask",
        "overlap",
        "duplicate",
        "image_size",
        "zoom",
        "merge",
        "device",
        "precision",
    ):
        if getattr(options, name) != getattr(fresh, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is about a model, but --predictions judges files; leave one of them out")

    from eomt.data.annotations import open_annotations
    from eomt.evaluation.predictions import judge_files, open_predictions

    assert options.predictions is not None
    groups = read_groups(options.data, options.group_by) if options.group_by else None
    with log_lines():
        annotations = open_annotations(
            options.data, options.split, format=options.format, class_map=options.class_map
        )
        predictions = open_predictions(options.predictions, annotations)
        with progress("eval") as show:
            return judge_files(
                annotations,
                predictions,
                options.task,
                max_detections=options.max_detections,
                groups=groups,
                details=options.details,
                progress=show,
            )


def _judge_model(options: EvalArguments) -> "Evaluation":
    from eomt.data.detect import open_data

    with log_lines():
        dataset = open_data(options.data, options.split, format=options.format, class_map=options.class_map)
    groups = read_groups(options.data, options.group_by) if options.group_by else None

    from eomt.evaluation.evaluate import evaluate
    from eomt.inference.segmenter import Segmenter

    with log_lines():
        segmenter = Segmenter.from_pretrained(
            options.model, options.device, task=options.task[0] if options.task else None, classes=options.classes
        )
    if options.merge is not None:
        segmenter.merge_tokens(options.merge)
    thresholds = override_thresholds(segmenter.thresholds, options)
    with log_lines(), progress("eval") as show:
        return evaluate(
            segmenter,
            dataset,
            options.task,
            max_detections=options.max_detections,
            thresholds=thresholds,
            image_size=options.image_size,
            zoom=options.zoom,
            precision=options.precision,
            groups=groups,
            details=options.details,
            progress=show,
        )


def read_groups(root: Path, column: str) -> dict[str, str]:
    """Read which group each image belongs to from a column of `images.csv` in a data set.

    Raises DataError when there is no such file or column, naming the columns that there are.
    """
    from eomt.data.archive import Archive

    archive = Archive(root)
    where = archive.where("images.csv")
    if not archive.exists("images.csv"):
        raise DataError(f"{where}: no such file; --group-by needs it, with the columns image_id and {column}")
    try:
        rows = csv.DictReader(io.StringIO(archive.read("images.csv").decode("utf-8-sig"), newline=""))
        columns = [name for name in rows.fieldnames or () if name]
        if not {"image_id", column} <= set(columns):
            missing = "image_id" if "image_id" not in columns else column
            raise DataError(f"{where}: has no column {missing}; it has {', '.join(columns) or 'none'}")
        return {row["image_id"]: row[column] or "" for row in rows if row["image_id"]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: is no CSV file in UTF-8 ({error}); export it again") from error


def _as_json(options: EvalArguments, evaluation: "Evaluation") -> dict[str, object]:
    """Give the figures and what they were measured on."""
    about = {
        "images": evaluation.images,
        "tasks": list(evaluation.tasks),
        "data": str(options.data),
        "split": options.split,
        "model": options.model if options.predictions is None else None,
        "predictions": options.predictions and str(options.predictions),
        "precision": evaluation.precision,
        "merge": options.merge,
        "max_detections": options.max_detections,
        "seconds": evaluation.seconds,
        "stages": evaluation.stages,
        "per_class": evaluation.per_class,
    }
    groups = {"groups": evaluation.groups} if options.group_by else {}
    details = {"details": evaluation.details} if options.details else {}
    return {**dict.fromkeys(FIGURES), **evaluation.figures, **about, **groups, **details}


def _print(options: EvalArguments, evaluation: "Evaluation") -> None:
    """Print the figures of all images, of each class and of each group as tables."""
    rows: list[list[str | float]] = [[name, value] for name, value in evaluation.figures.items()]
    alone = options.data.suffix.lower() == ".json"
    title = str(options.data) if alone else f"{options.data}, {options.split}"
    print_table(f"{title}: {', '.join(evaluation.tasks)}", ["figure", "0..1"], rows)
    if len(evaluation.per_class) > 1:
        _print_parts("By class", "class", evaluation.per_class)
    if options.group_by:
        _print_parts(f"By {options.group_by}", options.group_by, evaluation.groups)
    speed = evaluation.seconds / evaluation.images if evaluation.images else 0.0
    print(
        f"{evaluation.images} images, {evaluation.seconds:.1f} s ({speed:.2f} s an image), "
        + (
            f"{evaluation.precision}, model {printable(options.model)}"
            if options.predictions is None
            else f"predictions {printable(options.predictions)}"
        )
    )


def _print_parts(title: str, kind: str, parts: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with a row for each part and a column for each headline that any of them has."""
    present = {name for figures in parts.values() for name in figures}
    names = [name for name in HEADLINES if name in present]
    rows: list[list[str | float]] = [
        [part, *(figures.get(name, float("nan")) for name in names)] for part, figures in parts.items()
    ]
    print_table(title, [kind, *names], rows)
