"""A report that shows why: one evaluation looked at from all sides, as one page of HTML and as files.

`examine` judges a model; `write_report` tells what it found, and what a run left. Either may be missing: the
report then says so and shows the rest. Formulas are left to `metrics` and `details`, the page's form to `page`.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eomt.categories import Category
from eomt.config import Precision, TaskName, Thresholds
from eomt.data.loader import Subset
from eomt.drawing import ERROR_COLORS
from eomt.evaluation.charts import Bars, Matrix, draw_bars, draw_matrix
from eomt.evaluation.evaluate import Evaluation, evaluate
from eomt.evaluation.gallery import Gallery, Picture
from eomt.evaluation.outcomes import PIXELS, Outcome, judge_image
from eomt.evaluation.page import Section, cards, chart, encoded_png, facts, page, paragraph, photo, row, table
from eomt.evaluation.thresholds import threshold_curve
from eomt.files import write_aside
from eomt.inference.segmenter import Segmenter
from eomt.machine import peak_resident
from eomt.training import curves
from eomt.training.runs import RunRecord
from eomt.types import Dataset, Prediction, Sample

__all__ = ["Findings", "examine", "is_whole", "write_report"]

EXAMPLES, WORST = 8, 16
"""Images that are shown: spread evenly over the data, and the worst."""
CURVE_IMAGES = 50
"""Images on which thresholds are compared, which decodes each of them many times."""
MOST_BARS, MOST_CLASSES = 30, 14
"""Classes in a chart of bars, and in the matrix of confusions."""
PHOTO_BYTES = 3_500_000
"""Of all pictures of images in the page, which is to stay below 5 MB."""
QUALITIES = (82, 65, 45, 25)
HEADLINES: dict[TaskName, tuple[str, ...]] = {
    "panoptic": ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"),
    "instance": ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    "semantic": ("mIoU", "pixel_accuracy"),
}
FILE = "report.html"


@dataclass(frozen=True)
class Findings:
    """What was found out about a model on some images."""

    task: TaskName
    categories: tuple[Category, ...]
    evaluation: Evaluation
    outcomes: tuple[Outcome, ...]
    """In the order of the images."""
    examples: tuple[Picture, ...]
    worst: tuple[Picture, ...]
    thresholds: dict[str, Any] | None
    """Scores, PQ and F1 above each, and the best one."""
    limits: Thresholds
    """Those that it was judged with."""
    num_queries: int
    in_all: int
    """Images of the data set, of which a part may have been judged."""
    memory: int
    """The most bytes that the process has held so far."""


def examine(
    segmenter: Segmenter,
    dataset: Dataset,
    task: TaskName | None = None,
    *,
    images: int | None = None,
    precision: Precision = "auto",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Judge a model on a data set, or on some `images` spread evenly over it, and remember what shows why.

    Raises DataError as `evaluate` does.
    """
    task = task or segmenter.task
    in_all = len(dataset)
    if images is not None and images < in_all:
        dataset = _spread(dataset, images)
    outcomes: list[Outcome] = []
    shown = {place * len(dataset) // EXAMPLES for place in range(EXAMPLES)}
    gallery = Gallery(task, segmenter.categories, shown, WORST)

    def watch(index: int, sample: Sample, predictions: Mapping[TaskName, Prediction]) -> None:
        outcome = judge_image(predictions[task], sample.segments, task, sample.image_id, index)
        outcomes.append(outcome)
        gallery.add(sample, predictions[task], outcome)

    evaluation = evaluate(
        segmenter,
        dataset,
        [task],
        precision=precision,
        skip_bad=skip_bad,
        details=True,
        watch=watch,
        progress=progress,
    )
    curve = evaluation.details.get(task, {}).get("thresholds")
    if task == "panoptic" and len(outcomes) == len(dataset):  # else an image cannot be read
        found = threshold_curve(segmenter, _spread(dataset, CURVE_IMAGES), precision=precision)
        curve = {"scores": found.scores, "PQ": found.quality, "F1": found.f1, "best": found.best}
        curve |= {"images": min(CURVE_IMAGES, len(dataset))}
    return Findings(
        task,
        segmenter.categories,
        evaluation,
        tuple(outcomes),
        tuple(gallery.examples),
        tuple(gallery.worst),
        curve,
        segmenter.thresholds,
        segmenter.info.model.num_queries,
        in_all,
        peak_resident(),
    )


def _spread(dataset: Dataset, images: int) -> Dataset:
    """Take so many images, evenly spread."""
    count = min(images, len(dataset))
    return Subset(dataset, tuple(place * len(dataset) // count for place in range(count)))


def write_report(
    folder: Path, findings: Findings | None, record: RunRecord | None = None, missing: Sequence[str] = ()
) -> Path:
    """Write the page and its files into a folder, and give the page.

    `missing` says why parts are not there. What earlier reports left under the same names is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    charts = _charts(findings, record)
    for name, (light, _, _) in charts.items():
        write_aside(folder / f"{name}.png", encoded_png(light))
    content = _content(findings, record, missing)
    write_aside(folder / "report.json", json.dumps(_finite(content), indent=1, allow_nan=False).encode())
    for name, rows in _tables(findings).items():
        stream = io.StringIO()
        csv.writer(stream).writerows(rows)
        write_aside(folder / f"{name}.csv", stream.getvalue().encode())
    if findings is not None:
        for name, pictures in (("examples", findings.examples), ("worst", findings.worst)):
            if pictures:
                write_aside(folder / f"{name}.png", encoded_png(_stacked(pictures)))
    shown = {name: chart(*parts) for name, parts in charts.items()}
    write_aside(folder / FILE, _page(folder, findings, record, missing, shown).encode("utf-8", "replace"))
    return folder / FILE


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a report from which nothing is missing."""
    try:
        content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("missing") == []


def _content(findings: Findings | None, record: RunRecord | None, missing: Sequence[str]) -> dict[str, Any]:
    """Give all that the page says, but for the pictures, as JSON has it."""
    content: dict[str, Any] = {"made": _now(), "missing": list(missing)}
    if findings is not None:
        evaluation = findings.evaluation
        content |= {
            "task": findings.task,
            "images": evaluation.images,
            "images_in_all": findings.in_all,
            "figures": evaluation.figures,
            "per_class": evaluation.per_class,
            "details": evaluation.details,
            "score_thresholds": findings.thresholds,
            "thresholds": asdict(findings.limits),
            "errors": _reasons(findings),
            "worst": [picture.outcome.image_id for picture in findings.worst],
            "precision": evaluation.precision,
            "seconds": evaluation.seconds,
            "stages": evaluation.stages,
            "memory_bytes": findings.memory,
        }
    if record is not None:
        content |= {
            "run": {
                "folder": record.folder.name,
                "state": record.state,
                "step": record.step,
                "best": record.best,
                "settings": dict(record.settings),
                "origins": dict(record.origins),
                "environments": list(record.environments),
                "data": dict(record.data),
                "problems": list(record.problems),
            }
        }
    return content


def _tables(findings: Findings | None) -> dict[str, list[list[Any]]]:
    """Give the CSV files, by name: rows, the first of them the columns."""
    if findings is None:
        return {}
    evaluation = findings.evaluation
    names = list(dict.fromkeys(name for each in evaluation.per_class.values() for name in each))
    images = [
        [
            each.image_id,
            each.quality,
            each.annotated,
            each.found,
            each.right,
            *each.reasons.values(),
            _why(each, findings),
        ]
        for each in findings.outcomes
    ]
    reasons = list(findings.outcomes[0].reasons) if findings.outcomes else []
    tables: dict[str, list[list[Any]]] = {
        "figures": [["figure", "value"], *([name, value] for name, value in evaluation.figures.items())],
        "classes": [
            ["class", *names],
            *([name, *(each.get(key) for key in names)] for name, each in evaluation.per_class.items()),
        ],
        "images": [["image", "quality", "annotated", "found", "right", *reasons, "why"], *images],
    }
    details = evaluation.details.get(findings.task, {})
    if "confusion" in details:
        classes, matrix = details["confusion"]["classes"], details["confusion"]["matrix"]
        tables["confusion"] = [
            ["annotated", *classes],
            *([name, *counts] for name, counts in zip(classes, matrix, strict=True)),
        ]
    if "calibration" in details:
        keys = ["from", "segments", "score", "right"]
        tables["calibration"] = [
            keys,
            *([each.get(key) for key in keys] for each in details["calibration"]["bins"]),
        ]
    if findings.thresholds is not None:
        keys = ["scores", "PQ", "F1"]
        tables["score_thresholds"] = [
            ["score", "PQ", "F1"],
            *map(list, zip(*(findings.thresholds[key] for key in keys), strict=True)),
        ]
    return tables


def _why(outcome: Outcome, findings: Findings) -> str:
    return outcome.why([category.name for category in findings.categories], findings.task)


def _reasons(findings: Findings) -> dict[str, int]:
    """Count the reasons over all images."""
    total: Counter[str] = Counter()
    for outcome in findings.outcomes:
        total.update(outcome.reasons)
    return dict(total)


Chart = tuple[Image.Image, Image.Image, str]
"""In light and in dark colours, and in words."""


def _charts(findings: Findings | None, record: RunRecord | None) -> dict[str, Chart]:
    """Draw all charts, by name."""
    charts: dict[str, Chart] = {}
    rows = [*record.steps, *record.evaluations] if record is not None else []
    panels = {f"curve_{place}": panel for place, panel in enumerate(curves.of_run(rows), 1)}
    if findings is None:
        return {name: _lines(panel) for name, panel in panels.items()}
    details = findings.evaluation.details.get(findings.task, {})
    if bars := _class_bars(findings):
        charts["classes"] = _bars(bars)
    if findings.task != "semantic" and findings.outcomes:
        reasons = _reasons(findings)
        charts["errors"] = _bars(
            Bars("segments that are not right, by reason", list(reasons), list(reasons.values()))
        )
        charts["segments"] = _bars(_histogram([outcome.found for outcome in findings.outcomes]))
    if "by_size" in details:
        sizes = details["by_size"]
        charts["sizes"] = _bars(
            Bars("PQ by size of the segment", list(sizes), [each["PQ"] for each in sizes.values()], most=1.0)
        )
    if "confusion" in details:
        charts["confusion"] = _confusions(details["confusion"])
    if "calibration" in details:
        bins = [each for each in details["calibration"]["bins"] if each["segments"]]
        lines = [
            curves.Line("if scores were right", [0.0, 1.0], [0.0, 1.0]),
            curves.Line(
                "segments that are right", [each["score"] for each in bins], [each["right"] for each in bins]
            ),
        ]
        if bins:
            panels["calibration"] = curves.Panel("share that is right, by score", lines, has_dots=True)
    if findings.thresholds is not None:
        scores = findings.thresholds["scores"]
        known = {
            name: [
                (s, v) for s, v in zip(scores, findings.thresholds[name], strict=True) if v is not None and v == v
            ]
            for name in ("PQ", "F1")
        }
        lines = [curves.Line(name, *map(list, zip(*pairs, strict=True))) for name, pairs in known.items() if pairs]
        if lines:
            panels["score_thresholds"] = curves.Panel(
                "PQ and F1, by the least score that is kept", lines, has_dots=True
            )
    if stages := findings.evaluation.stages:
        each = {name: 1000 * seconds / max(findings.evaluation.images, 1) for name, seconds in stages.items()}
        charts["stages"] = _bars(Bars("milliseconds an image", list(each), list(each.values())))
    return charts | {name: _lines(panel) for name, panel in panels.items()}


def _lines(panel: curves.Panel) -> Chart:
    light, dark = (curves.draw([panel], 1, palette) for palette in (curves.LIGHT, curves.DARK))
    last = ", ".join(f"{line.name} {line.values[-1]:.4g}" for line in panel.lines)
    return light, dark, f"{panel.title}; at the end: {last}"


def _bars(bars: Bars) -> Chart:
    words = ", ".join(
        f"{name} {'–' if value is None else f'{value:.3g}'}"
        for name, value in zip(bars.names, bars.values, strict=True)
    )
    return draw_bars(bars), draw_bars(bars, curves.DARK), f"{bars.title}: {words}"


def _class_bars(findings: Findings) -> Bars | None:
    """Choose the classes with the lowest figures, where there are too many."""
    figure = {"panoptic": "PQ", "instance": "AP", "semantic": "IoU"}[findings.task]
    values = [
        (value, name)
        for name, each in findings.evaluation.per_class.items()
        if (value := each.get(figure, math.nan)) == value
    ]
    if not values:
        return None
    kept = sorted(values)[:MOST_BARS]
    title = f"{figure} by class" + (
        f": the {MOST_BARS} lowest of {len(values)}" if len(values) > MOST_BARS else ""
    )
    return Bars(title, [name for _, name in kept], [value for value, _ in kept], most=1.0)


def _histogram(counts: Sequence[int]) -> Bars:
    """Count images by their segments, in at most twelve steps of equal width."""
    most = max(counts)
    width = next(w for w in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if most < 12 * w)
    bins = Counter(count // width for count in counts)
    names = [str(b) if width == 1 else f"{b * width} to {(b + 1) * width - 1}" for b in range(most // width + 1)]
    return Bars("images, by the segments found in them", names, [float(bins[b]) for b in range(most // width + 1)])


def _confusions(found: Mapping[str, Any]) -> Chart:
    """Draw the matrix; of many classes, those that are confused most, the others together."""
    names, counts = list(found["classes"]), np.array(found["matrix"], dtype=np.int64)
    title = "what is taken for what, percent of a row"
    present = np.flatnonzero(counts.sum(0) + counts.sum(1) + (np.arange(len(names)) == len(names) - 1))
    names, counts = [names[k] for k in present], counts[np.ix_(present, present)]
    if len(names) - 1 > MOST_CLASSES:
        off = counts * ~np.eye(len(names), dtype=np.bool_)
        order = np.argsort(-(off[:-1, :].sum(1) + off[:, :-1].sum(0)), kind="stable")
        kept, rest = np.sort(order[:MOST_CLASSES]), np.sort(order[MOST_CLASSES:])
        groups = [*([int(k)] for k in kept), rest.tolist(), [len(names) - 1]]
        counts = np.array([[counts[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])
        title = f"the {MOST_CLASSES} of {len(names) - 1} classes that are confused most, percent of a row"
        names = [*(names[k] for k in kept), "(other classes)", names[-1]]
    matrix = Matrix(title, names, counts, "annotated", "found")
    off = counts * ~np.eye(len(names), dtype=np.bool_)
    r, c = divmod(int(off.argmax()), len(names))
    words = (
        f"{title}; the most frequent: {names[r]} taken for {names[c]}, {off[r, c]} times" if off.any() else title
    )
    return draw_matrix(matrix), draw_matrix(matrix, curves.DARK), words


def _stacked(pictures: Sequence[Picture]) -> Image.Image:
    """Put pictures below one another."""
    gap = 6
    size = max(each.image.width for each in pictures), sum(each.image.height + gap for each in pictures) - gap
    whole, y = Image.new("RGB", size, (128, 128, 128)), 0
    for each in pictures:
        whole.paste(each.image, (0, y))
        y += each.image.height + gap
    return whole


def _page(
    folder: Path,
    findings: Findings | None,
    record: RunRecord | None,
    missing: Sequence[str],
    charts: Mapping[str, str],
) -> str:
    """Write the page."""
    name = record.folder.resolve().name if record is not None else folder.resolve().name
    sections: list[Section] = []
    if missing:
        sections.append(Section("What is missing", "".join(paragraph(text) for text in missing)))
    if findings is not None:
        sections += _sections(findings, charts, record)
    if record is not None:
        shown = [html for key, html in charts.items() if key.startswith("curve_")]
        sections.append(Section("Training", row(shown) if shown else paragraph("No step was recorded.")))
        sections += [Section("Settings", _settings(record)), Section("Machine and data", _origin(record))]
    return page(f"Report on {name}", _lead(findings, record), sections)


def _lead(findings: Findings | None, record: RunRecord | None) -> str:
    """Say what this is about, and the figures that matter most."""
    lead = ""
    if findings is not None:
        evaluation = findings.evaluation
        part = "" if evaluation.images == findings.in_all else f" of {findings.in_all}"
        lead += paragraph(
            f"{findings.task} segmentation, {len(findings.categories)} classes, judged on "
            f"{evaluation.images}{part} images in {evaluation.precision}; shares from 0 to 1.",
            soft=True,
        )
        figures = {
            name: evaluation.figures[name] for name in HEADLINES[findings.task] if name in evaluation.figures
        }
        lead += cards({name: _number(value) for name, value in figures.items()})
    elif record is not None and record.best:
        known = [name for names in HEADLINES.values() for name in names if name in record.best]
        lead += cards({name: _number(record.best[name]) for name in known})
        lead += paragraph("As the run recorded them at its best evaluation.", soft=True)
    if record is not None:
        best = f", best at step {record.best['step']}" if record.best else ""
        lead += paragraph(f"Run {record.state}: step {record.step} of {record.planned or '?'}{best}.", soft=True)
    return lead + paragraph(f"Made {_now()}.", soft=True)


def _sections(findings: Findings, charts: Mapping[str, str], record: RunRecord | None) -> list[Section]:
    evaluation, details = findings.evaluation, findings.evaluation.details.get(findings.task, {})
    names = list(dict.fromkeys(name for each in evaluation.per_class.values() for name in each))
    classes = table(
        ["class", *names],
        ([name, *(_number(each.get(key)) for key in names)] for name, each in evaluation.per_class.items()),
    )
    every = table(["figure", ""], ([name, _number(value)] for name, value in evaluation.figures.items()))
    quality = _quality(findings)
    sections = [
        Section("What goes wrong", _wrong(findings, charts)),
        Section("The worst images", _photos(findings.worst, findings, quality)),
        Section("Some images", _photos(findings.examples, findings, quality)),
        Section("Classes and figures", row(_present(charts, "classes")) + classes + every),
        Section("Scores", _scores(findings, charts, details, record)),
        Section("Segments of an image", _counts(findings, charts, details)),
        Section("Time and memory", _cost(findings, charts)),
    ]
    return [section for section in sections if section.body]


def _quality(findings: Findings) -> int:
    """Choose how finely pictures are stored, so that all of them stay small."""
    pictures = [*findings.worst, *findings.examples]
    for quality in QUALITIES[:-1]:
        if sum(len(photo(each.image, "", quality)) for each in pictures) < PHOTO_BYTES:
            return quality
    return QUALITIES[-1]


def _present(charts: Mapping[str, str], *names: str) -> list[str]:
    return [charts[name] for name in names if name in charts]


def _wrong(findings: Findings, charts: Mapping[str, str]) -> str:
    """Tell errors by reason, by size and by class."""
    body = ""
    if findings.task != "semantic" and findings.outcomes:
        right, annotated = (
            sum(getattr(each, name) for each in findings.outcomes) for name in ("right", "annotated")
        )
        shown = " Instances with a score from 0.5 on are shown." if findings.task == "instance" else ""
        body += paragraph(
            f"{right} of {annotated} annotated segments were found: one of their class covers them with an IoU "
            f"above 0.5.{shown} Merged: several lie in one that was found. Split: several that were found lie "
            "in one. Poor outline: an IoU of 0.1 to 0.5. Small is below 32 x 32 pixels, large from 96 x 96."
        )
    body += row(_present(charts, "errors", "sizes", "confusion"))
    if findings.task != "semantic":
        body += paragraph(
            "(background): the row is what was found where nothing is, the column what was missed.", soft=True
        )
    return body


def _photos(pictures: Sequence[Picture], findings: Findings, quality: int) -> str:
    """Show pictures with what is wrong in each."""
    if not pictures:
        return ""
    key = "".join(
        f'<span><i style="background: rgb{ERROR_COLORS[PIXELS.index(name)]}"></i>{name}</span> '
        for name in ("missed", "false", "wrong class", "wrong object")
        if findings.task != "semantic" or name in ("missed", "wrong class")
    )
    head = f'<p class="soft key">Annotated, predicted, and what is wrong:{key}</p>\n'
    inner = "\n".join(
        photo(
            each.image,
            f"{each.outcome.image_id}: {each.outcome.quality:.2f}. {_why(each.outcome, findings)}",
            quality,
        )
        for each in pictures
    )
    meaning = "the share of pixels that are right" if findings.task == "semantic" else "PQ, all classes as one"
    return (
        f'{head}<div class="photos">{inner}</div>\n{paragraph(f"The number of an image is {meaning}.", soft=True)}'
    )


def _scores(
    findings: Findings, charts: Mapping[str, str], details: Mapping[str, Any], record: RunRecord | None
) -> str:
    """Tell whether scores can be trusted, and which is the best threshold."""
    body = row(_present(charts, "calibration", "score_thresholds"))
    error = details.get("calibration", {}).get("ECE")
    if error is not None:
        body += paragraph(f"On average, a score is {error:.3f} off the share of segments that are right (ECE).")
    best = (findings.thresholds or {}).get("best")
    if best is None or findings.thresholds is None:
        return body if charts.keys() & {"calibration", "score_thresholds"} else ""
    if findings.task == "instance":
        return body + paragraph(
            f"Of the scores tried, {best:g} is the best one to tell instances that are right from others (F1). "
            "AP needs all of them, so the model keeps all; leave out those below where you use them."
        )
    model = f" --model {record.folder}" if record is not None else ""
    return body + paragraph(
        f"Segments are kept above {findings.limits.score:g}. On {findings.thresholds['images']} of these images, "
        f"{best:g} gives the best PQ. `eomt models tune{model} --data PATH` finds it on all and stores it."
    )


def _counts(findings: Findings, charts: Mapping[str, str], details: Mapping[str, Any]) -> str:
    body = row(_present(charts, "segments"))
    counts = details.get("segments")
    if counts and counts["most"] is not None:
        body += paragraph(
            f"The model has {findings.num_queries} queries for a view, an image or a tile of it. It showed "
            f"{counts['mean']:.1f} segments an image on average, {counts['median']:g} in the middle, at most "
            f"{counts['most']:g}. Where the most comes near the number of queries, more of them help."
        )
    return body


def _cost(findings: Findings, charts: Mapping[str, str]) -> str:
    evaluation = findings.evaluation
    speed = evaluation.seconds / max(evaluation.images, 1)
    return row(_present(charts, "stages")) + paragraph(
        f"{evaluation.images} images in {evaluation.seconds:.1f} s, {speed:.2f} s an image, with these details. "
        f"The process held at most {findings.memory / 2**30:.2f} GiB."
    )


def _settings(record: RunRecord) -> str:
    rows = (
        [name, "–" if value is None else json.dumps(value).strip('"'), record.origins.get(name, "")]
        for name, value in record.settings.items()
    )
    return table(["setting", "value", "from"], rows, 3)


def _origin(record: RunRecord) -> str:
    """Tell the machine, and what tells the data apart from others."""
    body = ""
    for environment in record.environments:
        flat = {name: value for name, value in environment.items() if not isinstance(value, Mapping)}
        flat |= {f"{name} (version)": value for name, value in (environment.get("versions") or {}).items()}
        body += facts({name: str(value) for name, value in flat.items() if value is not None})
    for name in ("train", "val"):
        if isinstance(found := record.data.get(name), Mapping):
            told = {key: value for key, value in found.items() if key != "classes"}
            listed = [str(each) for each in found.get("classes") or ()]
            told["classes"] = ", ".join(listed[:40]) + (
                f" and {len(listed) - 40} more" if len(listed) > 40 else ""
            )
            body += facts({f"{name}: {key}": str(value) for key, value in told.items()})
    return body + "".join(paragraph(problem) for problem in record.problems)


def _number(value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if not float(value).is_integer() or abs(value) <= 1 else f"{value:.0f}"


def _finite(value: Any) -> Any:
    """Replace what JSON cannot write by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
