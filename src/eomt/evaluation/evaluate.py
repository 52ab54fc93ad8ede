"""Judge a segmenter on a data set: every image once through `Segmenter`, every task by its metric.

The metrics themselves are in `metrics`; nothing here knows a formula.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import torch

from eomt.config import Precision, TaskName, Thresholds
from eomt.devices import choose_precision, waiting
from eomt.errors import DataError
from eomt.evaluation.details import detailed
from eomt.evaluation.metrics import Metric
from eomt.inference.segmenter import Segmenter
from eomt.tasks import TASKS
from eomt.timing import measuring, stage
from eomt.types import ANY_CLASS, Category, Dataset, Prediction, Sample

__all__ = ["Evaluation", "Judges", "evaluate", "summary", "with_details"]

log = logging.getLogger("eomt")
P = ParamSpec("P")

Judges = dict[str | None, dict[TaskName, Metric]]
"""The metrics of each group of images, by its name, and of all images, under None."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one evaluation; fractions in [0, 1], NaN where no class was present."""

    figures: dict[str, float]
    per_class: dict[str, dict[str, float]]
    """By class name, all tasks together."""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same figures for each group of images, where groups were given."""
    tasks: tuple[TaskName, ...] = ()
    """What was judged."""
    images: int = 0
    precision: str | None = "fp32"
    """What the model computed in; None where predictions were read."""
    seconds: float = 0.0
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By task, where details were asked for: what `eomt.evaluation.details` says, as JSON has it."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of what an image goes through in this process: read, preprocess, forward, decode, metric."""


def _by_stages(
    judge: Callable[Concatenate[Segmenter, P], Evaluation],
) -> Callable[Concatenate[Segmenter, P], Evaluation]:
    """Have an evaluation tell the seconds of its stages."""

    @wraps(judge)
    def measured(segmenter: Segmenter, /, *args: P.args, **kwargs: P.kwargs) -> Evaluation:
        with measuring(waiting([segmenter.device])) as seconds:
            return replace(judge(segmenter, *args, **kwargs), stages=seconds)

    return measured


@_by_stages
def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    tasks: Sequence[TaskName] | None = None,
    *,
    max_detections: int | None = None,
    thresholds: Thresholds | None = None,
    image_size: tuple[int, int] | None = None,
    zoom: float | None = None,
    precision: Precision = "auto",
    groups: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    skip_bad: bool = False,
    details: bool = False,
    watch: Callable[[int, Sample, Mapping[TaskName, Prediction]], None] | None = None,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[list[Any]], list[Any]] | None = None,
) -> Evaluation:
    """Predict every image of a data set and judge the predictions.

    `tasks` defaults to all that suit (see `suitable_tasks`). `max_detections` bounds the instances of an image;
    when None, the thresholds do: those given, else the segmenter's own (COCO's figure is that of 100).
    `image_size` and `zoom` are those of `Segmenter.predict`. `groups` maps an image id to the name of its group,
    whose figures are then given too. `progress` is called with images done and in all.

    `details` tells more of all images: by size, confusions, calibration, edges. `watch` is called with each image:
    its place, the image with its segments in the model's labels, and what was found.

    An image that cannot be read ends it, or with `skip_bad` is logged, left out and not counted in `images`.

    Several processes may judge a share each, `(number of this one, how many)`; `gather` then brings their lists
    together, in each of them, and every process gives the figures of the whole, to the last digit those of one.

    Raises DataError where the data have classes that the model does not know, or where one of them is a thing to
    one and stuff to the other and objects are to be judged.
    """
    started = time.monotonic()
    asked = tuple(dict.fromkeys(tasks)) if tasks else suitable_tasks(segmenter, dataset.categories)
    limits = thresholds or segmenter.thresholds
    if max_detections is not None:
        limits = replace(limits, max_detections=max_detections)
    labels = match_categories(dataset.categories, segmenter.categories, asked)

    def metrics() -> dict[TaskName, Metric]:
        return {task: TASKS[task].metric(segmenter.categories, limits) for task in asked}

    judges: Judges = {None: with_details(metrics(), segmenter.categories) if details else metrics()}
    number, count = share
    skipped = 0
    for index in range(number, len(dataset), count):
        try:
            with stage("read"):
                sample = dataset[index]
            sample.segments.check_labels(len(dataset.categories), f"image {sample.image_id}")
        except DataError as error:
            if not skip_bad:
                raise
            log.warning("not judged: %s", error)
            skipped += 1
            continue
        segments = replace(sample.segments, labels=labels[sample.segments.labels])
        concerned = [judges[None]]
        if groups is not None:
            concerned.append(judges.setdefault(groups.get(sample.image_id, "(none)"), metrics()))
        [predictions] = segmenter.segment(
            [sample.image], asked, thresholds=limits, image_size=image_size, zoom=zoom, precision=precision
        )
        for judge in concerned:
            for task, prediction in predictions.items():
                judge[task].update(prediction, segments, sample.image_id)
        if watch is not None:
            watch(index, replace(sample, segments=segments), predictions)
        if progress is not None:
            progress(index + 1, len(dataset))

    if gather is not None:
        judges = _joined(gather([judges]))
    used = "bf16" if choose_precision(precision, segmenter.device) == torch.bfloat16 else "fp32"
    return summary(judges, asked, len(dataset) - skipped, used, started)


def summary(
    judges: Judges, tasks: tuple[TaskName, ...], images: int, precision: str | None, started: float
) -> Evaluation:
    """Put together what the metrics of all images and of each group say; `started` is a `time.monotonic()`."""
    figures, per_class, details = _merge(judges[None])
    groups = {name: _merge(judges[name])[0] for name in sorted(name for name in judges if name is not None)}
    if absent := [TASKS[task].figure for task in tasks if math.isnan(figures[TASKS[task].figure])]:
        log.warning("no class is there to judge by: %s cannot be told", ", ".join(absent))
    return Evaluation(figures, per_class, groups, tasks, images, precision, time.monotonic() - started, details)


def with_details(metrics: Mapping[TaskName, Metric], categories: tuple[Category, ...]) -> dict[TaskName, Metric]:
    """Put the details of each task beside its metric."""
    return {task: detailed(task, metric, categories) for task, metric in metrics.items()}


def suitable_tasks(segmenter: Segmenter, data: tuple[Category, ...]) -> tuple[TaskName, ...]:
    """Choose what to judge where nobody says it.

    That is every task for a panoptic model, or one that knows both things and stuff, else the model's own task;
    and semantic only where the data take for stuff what the model takes for things, or the other way round.
    """
    if segmenter.task == "semantic":  # its classes may be told apart as things and stuff all the same
        return ("semantic",)
    if _of_other_kind(data, segmenter.categories):
        return ("semantic",)
    kinds = {category.is_thing for category in segmenter.categories}
    return tuple(TASKS) if segmenter.task == "panoptic" or len(kinds) == 2 else (segmenter.task,)


def _of_other_kind(data: tuple[Category, ...], model: tuple[Category, ...]) -> list[Category]:
    """List the classes of the data that are things there and stuff to the model, or the other way round."""
    known = {category.name: category.is_thing for category in model}
    return [category for category in data if known.get(category.name, category.is_thing) != category.is_thing]


def _kind(category: Category) -> str:
    return "a thing" if category.is_thing else "stuff"


def match_categories(
    data: tuple[Category, ...], model: tuple[Category, ...], tasks: Sequence[TaskName]
) -> torch.Tensor:
    """Give, for each label of the data, the model's label of the same name, [categories of the data + 1].

    The last entry, which is that of label -1 too, is `ANY_CLASS`.

    Raises DataError where data and model cannot be held against one another in these tasks.
    """
    known = {category.name: label for label, category in enumerate(model)}
    unknown = [category.name for category in data if category.name not in known]
    if unknown:
        raise DataError(
            f"the data have classes that the model does not know: {', '.join(unknown[:5])}"
            f"{', …' if len(unknown) > 5 else ''}; it knows {', '.join(list(known)[:5])}"
            f"{', …' if len(known) > 5 else ''}. Use a model that was trained on these classes "
            "(where none is named, it is the bundled one)"
        )
    if set(tasks) != {"semantic"} and (unlike := _of_other_kind(data, model)):
        raise DataError(
            f"{unlike[0].name} is {_kind(unlike[0])} in the data, but not to the model: its objects cannot be "
            'judged. Correct "is_thing" in categories.json (all names in classes.txt are stuff), or ask for '
            "semantic only"
        )
    return torch.tensor([*(known[category.name] for category in data), ANY_CLASS], dtype=torch.int64)


def _joined(shares: Sequence[Judges]) -> Judges:
    """Bring together what several processes have counted."""
    whole: Judges = {}
    for share in shares:
        for name, judges in share.items():
            for task, metric in judges.items() if name in whole else ():
                whole[name][task].merge(metric)
            whole.setdefault(name, judges)
    return whole


def _merge(
    judges: Mapping[TaskName, Metric],
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Put the figures of several tasks into one table."""
    figures: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    details: dict[str, dict[str, Any]] = {}
    for task, metric in judges.items():
        result = metric.compute()
        if result.details:
            details[task] = result.details
        figures |= result.figures
        for name, row in result.per_class.items():
            per_class.setdefault(name, {}).update(row)
    return figures, per_class, details
