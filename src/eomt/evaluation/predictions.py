"""Judge predictions that lie in files, of any program, without a model: COCO's two forms, and label maps.

Reading annotations is left to `data`, and so are predictions in the same form: a panoptic prediction is read as a
panoptic annotation is. Formulas are in `metrics`. What the official tools say of files that do not fit is kept:

- Panoptic and label maps: an image without a prediction is an error, a prediction of another image is passed over.
- Instance results: an image without results has none, a result of another image is an error, one of a category
  that the annotations lack is passed over.

What is passed over is counted in a warning.
"""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eomt.categories import Category
from eomt.config import TaskName, Thresholds
from eomt.data.annotations import Annotations, map_code
from eomt.data.archive import Archive
from eomt.data.reader import Item, Split
from eomt.data.readers import coco_panoptic, folder
from eomt.data.readers.coco_json import Entry, is_id, results, some
from eomt.data.readers.mask_code import MaskCode, read_code
from eomt.errors import ConfigError, DataError
from eomt.evaluation.evaluate import Evaluation, Judges, summary, with_details
from eomt.masks import Rle, RleMasks, rle_of_counts, rle_of_polygons
from eomt.tasks import TASKS
from eomt.types import Prediction, Segments

__all__ = ["Predictions", "judge_files", "open_predictions"]

log = logging.getLogger("eomt")

_OWN_MAPS = ".labels"  # as `inference.results` calls them


@dataclass(frozen=True)
class Predictions:
    """Predictions of one form, an image at a time."""

    where: str
    tasks: tuple[TaskName, ...]
    """What they can be judged by; the first is meant where nobody says it."""
    items: tuple[Item, ...]
    """The images that they are of; `image_id` is empty where the files tell an id only."""
    read: Callable[[int, Segments, str], Prediction]
    """Reads those of one image, whose annotation and name are given too. Raises DataError."""
    complete: bool = True
    """An image without any is an error."""


def judge_files(
    annotations: Annotations,
    predictions: Sequence[Predictions],
    tasks: Sequence[TaskName] = (),
    *,
    max_detections: int = 100,
    groups: Mapping[str, str] | None = None,
    details: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge what `open_predictions` found: each by the task that suits it, or by those asked for.

    Raises DataError where predictions and annotations do not fit together, ConfigError where a task is asked for
    that none of them can be judged by.
    """
    started = time.monotonic()
    chosen = _choose(predictions, tasks)
    images = annotations.items
    partners = {id(each): _match(each, images) for each in chosen.values()}
    categories, limits = annotations.categories, Thresholds(max_detections=max_detections)

    def metrics() -> Any:
        return {task: TASKS[task].metric(categories, limits) for task in chosen}

    judges: Judges = {None: with_details(metrics(), categories) if details else metrics()}
    for index, (image, key) in enumerate(zip(images, _keys(images), strict=True)):
        segments = annotations.segments(index)
        concerned = [judges[None]]
        if groups is not None:
            concerned.append(judges.setdefault(groups.get(image.image_id, "(none)"), metrics()))
        read: dict[int, Prediction] = {}
        for task, source in chosen.items():
            partner = partners[id(source)].get(index, -1)
            if id(source) not in read:
                read[id(source)] = source.read(partner, segments, image.image_id)
            for judge in concerned:
                judge[task].update(read[id(source)], segments, key)
        if progress is not None:
            progress(index + 1, len(images))
    return summary(judges, tuple(chosen), len(images), None, started)


def _choose(predictions: Sequence[Predictions], tasks: Sequence[TaskName]) -> dict[TaskName, Predictions]:
    """Give the predictions that each task judges."""
    if not tasks:
        return {task: each for task in TASKS for each in predictions if each.tasks[0] == task}
    chosen: dict[TaskName, Predictions] = {}
    for task in dict.fromkeys(tasks):
        able = sorted(
            (each for each in predictions if task in each.tasks), key=lambda each: each.tasks.index(task)
        )
        if not able:
            known = ", ".join(dict.fromkeys(task for each in predictions for task in each.tasks))
            raise ConfigError(
                f"{some(each.where for each in predictions)}: cannot be judged as {task}, only as {known} (AP "
                "needs COCO's instance results, which have scores); leave --task out, or give other predictions"
            )
        chosen[task] = able[0]
    return chosen


def _keys(images: Sequence[Item]) -> list[str]:
    """Give the names by which metrics tell images apart: COCO's numbers, by which its tools rank equal scores."""
    numbers = [image.number for image in images]
    if all(type(number) is int for number in numbers):
        return [f"image {number:012}" for number in numbers]
    return [image.image_id for image in images]


def _match(predictions: Predictions, images: Sequence[Item]) -> dict[int, int]:
    """Give, for each image by its place, the place of its prediction.

    By the names of the images where any of those is known, else by their numbers: programs that are given images
    alone cannot know COCO's numbers.
    """
    by_name, by_number = _by_names(images), {image.number: index for index, image in enumerate(images)}
    partners = [by_name.get(_stem(item.image_id)) for item in predictions.items]
    if all(partner is None for partner in partners):
        partners = [by_number.get(item.number) if item.number is not None else None for item in predictions.items]
    found: dict[int, int] = {}
    for place, partner in enumerate(partners):
        if partner is not None and found.setdefault(partner, place) != place:
            raise DataError(
                f"{predictions.where}: two predictions of image {images[partner].image_id}; keep one of them"
            )
    strangers = [
        _shown(item) for item, partner in zip(predictions.items, partners, strict=True) if partner is None
    ]
    missing = [image.image_id for index, image in enumerate(images) if index not in found]
    if not found and images and predictions.items:
        raise DataError(
            f"{predictions.where}: none of its images ({some(strangers)}) is of the data set ({some(missing)}); "
            "check that both are of one split, and that names or ids are the data set's own"
        )
    if missing and predictions.complete:
        raise DataError(
            f"{predictions.where}: no prediction of {len(missing)} of {len(images)} images: {some(missing)}; "
            "predict them too (with nothing found, a map of void)"
        )
    if strangers and not predictions.complete:
        raise DataError(
            f"{predictions.where}: results of {len(strangers)} images that the data set does not have: "
            f"{some(strangers)}; remove them, or give the split that they are of"
        )
    if strangers:
        log.warning(
            "%s: passed over %d predictions of images that the data set does not have: %s",
            predictions.where,
            len(strangers),
            some(strangers),
        )
    return found


def _by_names(images: Sequence[Item]) -> dict[str, int]:
    """Map whole names, and their last parts where only one image has them."""
    ends = Counter(_stem(image.image_id) for image in images)
    names = {_stem(image.image_id): index for index, image in enumerate(images)}
    return {name: index for name, index in names.items() if ends[name] == 1}


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _shown(item: Item) -> str:
    return item.image_id or str(item.number)


# Files


def open_predictions(path: str | Path, annotations: Annotations) -> list[Predictions]:
    """Find the predictions in a JSON file, or in a folder, zip or tar, that are to be held against annotations.

    A JSON file is COCO's panoptic form, with the folder of its PNGs beside it, or a list of COCO's instance
    results. A folder holds such files, or what `eomt predict` writes, or label maps: those of up to 8 bits show
    classes, as the data set's own masks number them or by a list of classes among them, those of more bits number
    objects. Categories are told by their names where the files list them, else by their ids.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".json":
        archive, names = Archive(path.parent), [path.name]
    else:
        archive = Archive(path)
        names = [name for name in archive.names() if "/" not in name and name.endswith(".json")]
    kinds = {name: _kind(archive.read(name)) for name in names}
    listed = read_code(archive)
    found = [
        *(_panoptic(archive, name, annotations) for name in names if kinds[name] == "panoptic"),
        *(
            _instances(archive, name, annotations.categories, listed)
            for name in names
            if kinds[name] == "instances"
        ),
    ]
    if path.suffix.lower() != ".json" and listed and any(_is_own(name) for name in archive.names()):
        found.append(_maps(archive, annotations, _own_code(listed), _OWN_MAPS))
    if path.suffix.lower() == ".json" and not found:
        raise DataError(
            f"{path}: neither COCO's panoptic form (an object with annotations that have segments_info) nor "
            "COCO's instance results (a list of objects with image_id, category_id, segmentation and score)"
        )
    if not found:
        found.append(_maps(archive, annotations, listed or _code_of(annotations)))
    doubles = [task for task, count in Counter(each.tasks[0] for each in found).items() if count > 1]
    if doubles:
        files = some(each.where for each in found if each.tasks[0] == doubles[0])
        raise DataError(f"{path}: several files of {doubles[0]} predictions: {files}; name one of them")
    return found


def _kind(content: bytes) -> str:
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return "instances" if b'"image_id"' in content or content.strip() == b"[]" else "other"
    return "panoptic" if b'"segments_info"' in content or b'"annotations"' in content else "other"


def _is_own(name: str) -> bool:
    return "/" not in name and name.endswith(f"{_OWN_MAPS}.png")


def _own_code(listed: MaskCode) -> MaskCode:
    """Say what our own label maps mean: a label is a place in the list, the greatest value void."""
    count = len(listed.categories)
    return MaskCode(listed.categories, tuple(range(count)), "semantic", (255 if count <= 255 else 65535,))


def _code_of(annotations: Annotations) -> MaskCode:
    """Say what label maps mean that come without a list of classes: what the data set's own mean."""
    names = {category.name for category in annotations.categories}
    archive = getattr(getattr(annotations, "dataset", annotations), "archive", None)
    code = map_code(archive.path) if isinstance(archive, Archive) else None
    if code is not None and {category.name for category in code.categories} <= names:
        return code
    return MaskCode(annotations.categories, (None,) * len(annotations.categories))


def _maps(archive: Archive, annotations: Annotations, code: MaskCode, ending: str = "") -> Predictions:
    split, semantic = folder.open_maps(archive, code, ending)
    return _as_annotated(split, ("semantic",) if semantic else ("panoptic", "semantic"), annotations.categories)


def _panoptic(archive: Archive, name: str, annotations: Annotations) -> Predictions:
    split = coco_panoptic.open_annotations(archive, name, annotations.categories)
    return _as_annotated(split, ("panoptic", "semantic"), annotations.categories, archive.where(name))


def _as_annotated(
    split: Split, tasks: tuple[TaskName, ...], categories: tuple[Category, ...], where: str = ""
) -> Predictions:
    """Take for predictions what is in the form of annotations. All have the score 1."""
    labels = {category.name: label for label, category in enumerate(categories)}
    table = np.array([labels.get(category.name, -1) for category in split.categories], dtype=np.int64)
    where = where or str(split.archive.path)

    def read(place: int, segments: Segments, image_id: str) -> Prediction:
        found = split.segments(place)
        own = found.labels.numpy()
        if (table[own] < 0).any():
            name = split.categories[own[table[own] < 0][0]].name
            raise DataError(
                f"{where}: image {image_id}: a segment of class {name}, which the data set does not have "
                f"({some(labels)}); predict the data set's classes"
            )
        return Prediction(found.masks, table[own], np.ones(len(own)), categories)

    return Predictions(where, tasks, split.items, read)


# COCO's instance results


class _Result(NamedTuple):
    """One entry of a file of results, checked but for its mask."""

    image: int | str
    file_name: str
    category: int
    score: float


def _instances(
    archive: Archive, name: str, categories: tuple[Category, ...], listed: MaskCode | None
) -> Predictions:
    """Open a file of results. Masks stay text until their image's turn comes: there may be a million."""
    where, labels = archive.where(name), _labels_by_id(categories, listed)
    text, ends = bytearray(), [0]
    rows: dict[int | str, list[int]] = {}
    names: dict[int | str, str] = {}
    unknown: Counter[int] = Counter()
    for entry in results(archive, name):
        result = _result(entry, where)
        rows.setdefault(result.image, [])
        names.setdefault(result.image, result.file_name)
        if result.category not in labels:
            unknown[result.category] += 1
            continue
        rows[result.image].append(len(ends))
        text += entry.text.encode()
        ends.append(len(text))
    if unknown:
        log.warning(
            "%s: passed over %d results of categories that the data set does not have: %s",
            where,
            unknown.total(),
            some(f"id {id}" for id in sorted(unknown)),
        )
    numbers = tuple(rows)

    def read(place: int, segments: Segments, image_id: str) -> Prediction:
        size = segments.masks.size
        entries = (
            [] if place < 0 else [json.loads(text[ends[row - 1] : ends[row]]) for row in rows[numbers[place]]]
        )
        entries.sort(key=lambda entry: -float(entry["score"]))  # equal ones stay in the order of the file
        try:
            masks = tuple(_mask(entry["segmentation"], size) for entry in entries)
        except ValueError as error:
            raise DataError(f"{where}: image {image_id}: {error}") from error
        return Prediction(
            RleMasks(size, masks),
            np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64),
            np.array([entry["score"] for entry in entries], dtype=np.float64),
            categories,
        )

    items = tuple(Item(names[number], "", name, number=number) for number in numbers)
    return Predictions(where, ("instance",), items, read, complete=False)


def _labels_by_id(categories: tuple[Category, ...], listed: MaskCode | None) -> dict[int, int]:
    """Give the label of each id: by the names of the classes that are listed beside the results, if any are."""
    by_name = {category.name: label for label, category in enumerate(categories)}
    own = categories if listed is None else listed.categories
    return {category.id: by_name[category.name] for category in own if category.name in by_name}


def _result(entry: Entry, where: str) -> _Result:
    values, place = entry.values, f"{where}: {entry.place}"
    image, category, score = (values.get(field) for field in ("image_id", "category_id", "score"))
    if not is_id(image):
        raise DataError(f'{place}: "image_id" is {image!r:.60}; expected the id of an image')
    if type(category) is not int:
        raise DataError(f'{place}: "category_id" is {category!r:.60}; expected the id of a category')
    if type(score) not in (int, float) or not math.isfinite(score):  # type: ignore[arg-type]
        raise DataError(f'{place}: "score" is {score!r:.60}; results are ranked by it: expected a number')
    if not isinstance(values.get("segmentation"), list | dict):
        found = f"{values.get('segmentation')!r:.60}" if "segmentation" in values else "absent (a box is no mask)"
        raise DataError(f'{place}: "segmentation" is {found}; expected a run-length code or polygons')
    file_name = values.get("file_name")
    stem = file_name.rpartition(".")[0] or file_name if isinstance(file_name, str) else ""
    return _Result(image, stem, category, float(score))  # type: ignore[arg-type]


def _mask(segmentation: Any, size: tuple[int, int]) -> Rle:
    if isinstance(segmentation, dict):
        return rle_of_counts(segmentation.get("counts"), segmentation.get("size"), size)
    return rle_of_polygons(segmentation, size)
