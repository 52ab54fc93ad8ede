"""`eomt predict`: find the images, segment one after another, write the results.

An image that cannot be read does not stop the others.
"""

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eomt.cli.console import log_lines, note, print_json, printable, progress
from eomt.cli.options import (
    OWN,
    TASKS,
    ClassSource,
    Device,
    ImageSize,
    Merge,
    ModelSource,
    OwnCount,
    OwnShare,
    Switch,
    Zoom,
    check_view,
    make_folder,
    override_thresholds,
    parse,
)
from eomt.config import Precision, TaskName
from eomt.errors import ConfigError, DataError
from eomt.weights import zoo

if TYPE_CHECKING:
    from eomt.inference.results import ResultFolder
    from eomt.types import Prediction

__all__ = ["run"]

DESCRIPTION = """\
Segment images and write the results into a folder:
  NAME.overlay.png    the segments drawn on the image
  NAME.labels.png     label of each pixel, 255 where nothing was found
  panoptic/NAME.png   id of each pixel's segment, with segments_info in
  panoptic.json       COCO's panoptic form
  instances.json      COCO's results: the things, masks as run-length codes
  categories.json     the classes in the order of their labels
A semantic prediction has no ids and no things. Where masks of an instance
prediction overlap, only instances.json has all of their pixels. NAME is that of
the image file; where several inputs share it, their folders' names are put in
front. Results of an earlier run with the same names are replaced; images are
never changed. When an image cannot be read, the others are done all the same,
and the command ends with 3.

Example: eomt predict photo.jpg more-photos/ --out results"""


@dataclass(frozen=True)
class PredictArguments:
    """What `eomt predict` accepts."""

    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES...", help_behavior_hint="")
    ] = ()
    """PNG, JPEG, WebP, TIFF, BMP or GIF files, folders (the images directly inside) and quoted patterns such as
    'photos/**/*.jpg', in any number."""
    model: ModelSource = "bundled"
    """A trained model: the folder of a run or of a model, a file of weights, a published name (eomt models ls) or
    OWNER/NAME of a repository; by default the one that comes with eomt."""
    classes: ClassSource = None
    """Its classes, where its file does not name them: coco-panoptic, coco-instance, ade20k-panoptic,
    ade20k-semantic, cityscapes-semantic, or a categories.json or classes.txt."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("predictions")
    """Folder of the results; it is made when missing."""
    task: Annotated[TaskName | None, tyro.conf.arg(metavar=TASKS, help_behavior_hint=OWN)] = None
    """What to ask of the model."""
    score: OwnShare = None
    """Panoptic: least class probability of a segment that is kept. Instance: least score, where it is given."""
    mask: OwnShare = None
    """Least mask probability of a pixel that belongs to a segment."""
    overlap: OwnShare = None
    """Panoptic: least share of its mask that a segment must win from others to be kept."""
    duplicate: OwnShare = None
    """Instance: of two segments of one class whose masks agree by more than this (intersection over union), the
    better one is kept; 1 keeps both."""
    max_detections: OwnCount = None
    """Instance: so many segments with the highest scores are kept in an image."""
    image_size: ImageSize = None
    """Size in pixels of the view that the model sees. Smaller is quicker, larger finds smaller things."""
    zoom: Zoom = None
    """Pixels of the view for each of the image: larger images are seen in overlapping tiles, and what is found in
    them is joined. 0: the whole image in one view."""
    merge: Merge = None
    """Merge patches whose tokens are at least so alike (cosine, such as 0.98): faster, a little less exact. Tiles
    that the model sees at once merge equally many, and so depend on each other."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the keys out, images, failed."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class Failure:
    """An input without a result, and why."""

    file: str
    error: str


def run(arguments: Sequence[str]) -> int:
    """Predict as the arguments say; give 0, or 3 when some image failed."""
    options = parse(PredictArguments, arguments, "eomt predict", DESCRIPTION)
    if not options.images:
        raise ConfigError("eomt predict needs images: files, folders or patterns\nExample: eomt predict photo.jpg")
    check_view(options.image_size, options.zoom)
    zoo.check(options.model)
    files, failures = find_images(options.images)
    for failure in failures:
        note(f"error: {failure.error}")
    if not files:
        raise DataError("none of the inputs is an image; nothing was written")
    images = _predict_all(options, files, failures)
    if options.json:
        failed = [{"file": failure.file, "error": failure.error} for failure in failures]
        print_json({"out": str(options.out), "images": images, "failed": failed})
    else:
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        where = f"results in {printable(options.out)}" if images else "nothing was written"
        print(f"{count} segmented, {where}")
    if failures:
        note(f"{len(failures)} of {len(failures) + len(images)} inputs failed; the reasons stand above")
    return DataError.exit_code if failures else 0


def find_images(inputs: Sequence[str]) -> tuple[list[Path], list[Failure]]:
    """List the image files that the inputs mean, in order and each once, and the inputs that mean none.

    A folder means the images directly inside, by their suffixes; so does a pattern. What exists under a name is
    that, even when it looks like a pattern. A file that is named is tried whatever its suffix.
    """
    found: dict[Path, Path] = {}
    failures = []
    for text in inputs:
        try:
            files, otherwise = _meant_by(text)
        except OSError as error:  # such as a name that is too long, or a folder that may not be read
            files, otherwise = [], str(error.strerror)
        for file in files:
            found.setdefault(file.resolve(), file)
        if not files:
            failures.append(Failure(text, f"{text}: {otherwise}"))
    return list(found.values()), failures


def _meant_by(text: str) -> tuple[list[Path], str]:
    """Give the files that one input means, and what to say when there are none."""
    path = Path(text)
    if path.is_dir():
        return _images_only(
            path.iterdir()
        ), f"no images directly inside; use '{text.rstrip('/')}/**/*.jpg' for deeper"
    if path.exists():
        return [path] if path.is_file() else [], "is no regular file"
    if glob.has_magic(text):
        return _images_only(map(Path, glob.iglob(text, recursive=True))), "no image matches this pattern"
    return [], "no such file or folder; check the path"


def _images_only(paths: Iterable[Path]) -> list[Path]:
    from eomt.data.images import IMAGE_SUFFIXES

    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _predict_all(options: PredictArguments, files: list[Path], failures: list[Failure]) -> list[dict[str, Any]]:
    """Predict file after file; describe each result, and append what failed to `failures`."""
    from eomt.data.images import read_image
    from eomt.drawing import overlay
    from eomt.inference.results import ResultFolder, image_numbers, result_names
    from eomt.inference.segmenter import Segmenter

    with log_lines():
        segmenter = Segmenter.from_pretrained(
            options.model,
            options.device,
            task=options.task,
            classes=options.classes,
            image_size=options.image_size,  # files of the authors' with DINOv3 do not tell it
        )
    if options.merge is not None:
        segmenter.merge_tokens(options.merge)
    thresholds = override_thresholds(segmenter.thresholds, options)
    task = options.task or segmenter.task
    results = ResultFolder(options.out, task, segmenter.categories)
    names, numbers = result_names(files), image_numbers(files)
    _spare_inputs(files, results, names)
    make_folder(options.out)
    described = []
    with results, progress("predict") as show:
        for index, (file, name, number) in enumerate(zip(files, names, numbers, strict=True)):
            show(index, len(files))
            try:
                image = read_image(file)
                prediction = segmenter.predict(
                    image,
                    task=task,
                    thresholds=thresholds,
                    image_size=options.image_size,
                    zoom=options.zoom,
                    precision=options.precision,
                )
            except DataError as error:
                failures.append(Failure(str(file), str(error)))
                note(f"error: {error}")
                continue
            if task == "instance" and options.score is not None:
                prediction = prediction.select([i for i, s in enumerate(prediction.scores) if s >= options.score])
            written = results.add(name, number, file.name, prediction, overlay(image, prediction))
            described.append(_describe(file, prediction, written))
            note(f"{file}: {_summary(prediction)}")
    return described


def _spare_inputs(files: Sequence[Path], results: "ResultFolder", names: Sequence[str]) -> None:
    """Raise ConfigError when a result would replace an image that is to be read."""
    inputs = {file.resolve() for file in files}
    for name in names:
        for path in results.files(name).values():
            if path.resolve() in inputs:
                raise ConfigError(f"{path} is an input and would be replaced by a result; choose another --out")


def _describe(file: Path, prediction: "Prediction", written: dict[str, Path]) -> dict[str, Any]:
    height, width = prediction.size
    paths = {kind: str(path) for kind, path in written.items()}
    return {"file": str(file), **paths, "segments": len(prediction), "height": height, "width": width}


def _summary(prediction: "Prediction") -> str:
    """Say what was found: `12 segments: 9 car, 2 person, 1 road`."""
    counts = Counter(prediction.categories[label].name for label in prediction.labels)
    kinds = [f"{count} {name}" for name, count in counts.most_common(5)]
    more = f", {len(counts) - 5} more classes" if len(counts) > 5 else ""
    total = f"{len(prediction)} segment{'' if len(prediction) == 1 else 's'}"
    return f"{total}: {', '.join(kinds)}{more}" if counts else "nothing found"
