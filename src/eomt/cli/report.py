"""`eomt report`: judge the model of a run from all sides, and write what shows why as a page and as files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eomt.cli.console import log_lines, note, print_json, printable, progress
from eomt.cli.options import Device, Switch, make_folder, parse
from eomt.config import Recipe, from_json
from eomt.errors import ConfigError, EomtError
from eomt.training.runs import RunRecord, read_run

if TYPE_CHECKING:
    from eomt.evaluation.report import Findings
    from eomt.types import Dataset

__all__ = ["run"]

DESCRIPTION = """\
Judge the best model of a run on its validation images once more, and write a
page (HTML, self-contained) that shows why: errors by reason, the worst images,
classes, confusions, scores and thresholds, curves, speed, all settings; and the
same as PNG, CSV and JSON. Where the data or the model are not there any more,
it says so and shows the rest.

Example: eomt report runs/first"""


@dataclass(frozen=True)
class ReportArguments:
    """What `eomt report` accepts."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: the run's)")] = None
    """Where the data set is, if it has moved, or another one."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the run's)")] = None
    """Part of the data set to judge on."""
    images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Judge so many images, spread evenly over the split."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUN/report)")] = None
    """Folder of the report."""
    device: Device = "auto"
    """auto (an accelerator if there is one), cpu, cuda, cuda:1, mps."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the keys report, missing, figures."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Report as the arguments say; give the exit code."""
    options = parse(ReportArguments, arguments, "eomt report", DESCRIPTION)
    if options.images is not None and options.images < 1:
        raise ConfigError(f"--images {options.images}: at least 1")
    record = read_run(options.run)
    out = options.out or options.run / "report"

    from eomt.evaluation.report import is_whole, write_report

    findings, missing = _examine(options, record)
    if findings is None and is_whole(out):
        for text in missing:
            note(text)
        raise ConfigError(
            f"{out}: it holds a report with what is missing now, which stays; --out DIR writes one without it "
            "elsewhere, --data PATH says where the data are"
        )
    make_folder(out)
    page = write_report(out, findings, record, missing)
    for text in missing:
        note(f"missing: {text}")
    if options.json:
        figures = None if findings is None else findings.evaluation.figures
        print_json({"report": str(page), "missing": list(missing), "figures": figures})
    else:
        print(f"report in {printable(page)}")
    return 0


def _examine(options: ReportArguments, record: RunRecord) -> tuple["Findings | None", list[str]]:
    """Judge the run's model, or say why that cannot be. Raises what the user asked for and cannot be had."""
    from eomt.evaluation.report import examine
    from eomt.inference.segmenter import Segmenter

    missing = []
    recipe: Recipe | None = None
    with log_lines():
        try:
            recipe = _recipe(options)
            dataset = _open(options, recipe)
        except EomtError as error:
            if options.data is not None or options.split is not None:
                raise
            missing.append(f"The data: {error}")
        try:
            segmenter = Segmenter.from_pretrained(options.run, options.device)
        except EomtError as error:
            missing.append(f"The model: {error}")
    if missing or recipe is None:
        return None, missing
    with log_lines(), progress("report") as show:
        return examine(
            segmenter,
            dataset,
            images=options.images,
            precision=recipe.precision,
            skip_bad=recipe.data.on_bad_sample == "skip",
            progress=show,
        ), []


def _recipe(options: ReportArguments) -> Recipe:
    """Read the settings of the run, of which those of the data matter. Raises ConfigError."""
    import json

    path = options.run / "recipe.json"
    try:
        recipe = from_json(Recipe, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}), so that its data are not known") from error
    return replace(recipe, data=replace(recipe.data, root=str(options.data))) if options.data else recipe


def _open(options: ReportArguments, recipe: Recipe) -> "Dataset":
    """Open the images that the run was judged on, or those that are named."""
    if options.split is None:
        from eomt.training.setup import choose_data

        return choose_data(recipe, None, None)[1]
    from eomt.data.detect import open_data

    if recipe.data.root is None:
        raise ConfigError("the run does not say where its data are: give --data PATH")
    root, data = Path(recipe.data.root), recipe.data
    return open_data(root, options.split, format=data.format, class_map=data.class_map and Path(data.class_map))
