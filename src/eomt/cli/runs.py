"""`eomt runs`: list runs, show one, set several side by side. Reading them is left to `training.runs`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro

from eomt.cli.console import note, print_json, print_table, printable
from eomt.cli.options import Switch, parse, run_action
from eomt.cli.picture import check_picture, write_picture
from eomt.cli.recipes import written
from eomt.config import Recipe, flat, to_json
from eomt.errors import ConfigError
from eomt.training.runs import RunRecord, find_runs, read_run

__all__ = ["run"]

PURPOSE = "Runs: what eomt train left in their folders."
LIST = "List the runs below a folder: how far they came, and how good they are."
SHOW = "Show a run: its settings and where they come from, machine, data, figures."
COMPARE = "Set runs side by side: the settings in which they differ, and their figures."
NOT_SHOWN = ("step", "epoch", "val_seconds")
"""Columns of an evaluation that are no figures of the model."""
RECENT = 12
"""Evaluations that are shown."""
ABSENT = "–"
LETTERS = 110
"""Of all values in a row of settings."""


@dataclass(frozen=True)
class ListArguments:
    """What `eomt runs ls` accepts."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where runs are sought, four levels of folders deep."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with the key runs: a list of objects."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class ShowArguments:
    """What `eomt runs show` accepts."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with all settings and all evaluations."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class CompareArguments:
    """What `eomt runs compare` accepts."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folders of runs."""
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Also draw the curves of all of them into this picture, a new PNG file."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, instead of tables."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments ask and give the exit code."""
    actions = {"ls": (list_runs, LIST), "show": (show_run, SHOW), "compare": (compare_runs, COMPARE)}
    return run_action("runs", PURPOSE, actions, arguments)


def list_runs(arguments: Sequence[str]) -> int:
    """Print a line for each run; a damaged one is a line, too."""
    options = parse(ListArguments, arguments, "eomt runs ls", LIST)
    records = [read_run(folder) for folder in find_runs(options.folder)]
    if options.json:
        print_json({"runs": [_summary(record) for record in records]})
        return 0
    if not records:
        print(f"no runs in {printable(options.folder)}")
        return 0
    columns = ["run", "state", "started", "task", "figure", "best", "at step", "step", "of", "loss"]
    print_table(
        f"{len(records)} runs in {options.folder}", columns, [_row(each, options.folder) for each in records], 5
    )
    for record in records:
        for problem in record.problems:
            note(f"{record.folder}: {problem}")
    note("next: eomt runs show RUN; eomt runs compare RUN RUN")
    return 0


def show_run(arguments: Sequence[str]) -> int:
    """Print what is known of a run."""
    options = parse(ShowArguments, arguments, "eomt runs show", SHOW)
    record = read_run(options.run)
    if options.json:
        print_json(_everything(record))
        return 0
    print(f"{printable(record.folder)}: {_state(record)}, step {record.step} of {record.planned or '?'}")
    best = record.best
    if best:
        print(f"best {record.figure} {best[record.figure or '']:.4f} at step {best['step']}")
    _print_pairs("settings that are not the default", _chosen_settings(record))
    _print_pairs("data", _data_facts(record))
    for environment in record.environments:
        _print_pairs(f"started {environment.get('time', '')}", _environment_facts(environment))
    figures = _figures([record])
    if figures:
        rows = [
            [row["step"], *(_number(row.get(name)) for name in figures)] for row in record.evaluations[-RECENT:]
        ]
        print()
        print_table("Evaluations", ["step", *figures], rows, 0)
    for problem in record.problems:
        note(f"{record.folder}: {problem}")
    pictures = [name for name in ("curves.png", "samples") if (record.folder / name).exists()]
    if pictures:
        note("pictures: " + ", ".join(str(record.folder / name) for name in pictures))
    return 0


def compare_runs(arguments: Sequence[str]) -> int:
    """Print in what runs differ, and draw their curves where that is asked for."""
    options = parse(CompareArguments, arguments, "eomt runs compare", COMPARE)
    folders = list(dict.fromkeys(options.runs))
    if len(folders) < 2 and options.picture is None:
        raise ConfigError("eomt runs compare needs two runs or more; eomt runs ls lists them")
    check_picture(options.picture)
    records = [read_run(folder) for folder in folders]
    names, differing = [str(folder) for folder in folders], _differing(records)
    if options.picture is not None:
        _draw(records, options.picture)
    if options.json:
        settings = {name: dict(zip(names, values, strict=True)) for name, values in differing.items()}
        print_json({"runs": [_summary(record) for record in records], "settings": settings})
        return 0
    width = max(12, LETTERS // len(names))
    cells = [[name, *(_value(value, width) for value in row)] for name, row in differing.items()]
    print_table(
        "Settings that differ" if cells else "All settings are the same", ["", *names], cells, len(names) + 1
    )
    rows: list[list[str | int | float]] = [
        ["step", *(record.step for record in records)],
        ["best at step", *(_number(record.best.get("step")) for record in records)],
        *([name, *(_number(record.best.get(name)) for record in records)] for name in _figures(records)),
        ["last loss", *(_number(_last(record, "loss")) for record in records)],
        ["images a second", *(_middle(record, "images_per_second") for record in records)],
        ["memory, GiB", *(_number(_last(record, "memory_gib")) for record in records)],
    ]
    print_table("Figures of the best evaluation", ["", *names], rows)
    for record in records:
        for problem in record.problems:
            note(f"{record.folder}: {problem}")
    if options.picture is None:
        note("--picture FILE.png draws their curves")
    return 0


def _row(record: RunRecord, root: Path) -> list[str | int | float]:
    name = str(record.folder.relative_to(root)) if record.folder != root else str(root)
    started = record.environments[0].get("time") if record.environments else None
    return [
        name,
        _state(record),
        str(started)[:16].replace("T", " ") if started else ABSENT,
        record.settings.get("task") or ABSENT,
        record.figure or ABSENT,
        _number(record.best.get(record.figure or "")),
        _number(record.best.get("step")),
        record.step,
        _number(record.planned),
        _number(_last(record, "loss")),
    ]


def _summary(record: RunRecord) -> dict[str, Any]:
    """Give what `ls` knows of a run, by name."""
    return {
        "run": str(record.folder),
        "state": record.state,
        "changed": None
        if record.changed is None
        else datetime.fromtimestamp(record.changed, UTC).isoformat(timespec="seconds"),
        "task": record.settings.get("task"),
        "step": record.step,
        "steps": record.planned,
        "figure": record.figure,
        "best": {name: value for name, value in record.best.items() if name != "val_seconds"} or None,
        "loss": _last(record, "loss"),
        "problems": list(record.problems),
    }


def _everything(record: RunRecord) -> dict[str, Any]:
    settings = {
        name: {"value": value, "origin": record.origins.get(name)} for name, value in record.settings.items()
    }
    return _summary(record) | {
        "settings": settings,
        "environments": list(record.environments),
        "data": dict(record.data),
        "evaluations": list(record.evaluations),
        "last": record.steps[-1] if record.steps else None,
    }


def _state(record: RunRecord) -> str:
    """Say whether a run is over; where it is not, when it was last heard of."""
    if record.state == "done" or record.changed is None:
        return record.state
    seconds = max(0, round(time.time() - record.changed))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{record.state}, {seconds // size} {unit} ago"
    return f"{record.state}, {seconds} s ago"


def _chosen_settings(record: RunRecord) -> dict[str, str]:
    """Give the settings that somebody chose, and who did; where that is unknown, those unlike the default."""
    default = flat(to_json(Recipe()))
    chosen = {}
    for name, value in record.settings.items():
        origin = record.origins.get(name)
        if origin not in (None, "default") or (origin is None and value != default.get(name, value)):
            chosen[name] = f"{written(value)}  ({origin})" if origin else written(value)
    return chosen


def _data_facts(record: RunRecord) -> dict[str, str]:
    facts = {}
    for split in ("train", "val"):
        found = record.data.get(split)
        if isinstance(found, dict):
            digest = str(found.get("sha256") or "")[:12] or "no files"
            facts[split] = f"{found.get('images')} images, {len(found.get('classes') or ())} classes ({digest})"
    return facts


def _environment_facts(environment: Any) -> dict[str, str]:
    versions = environment.get("versions")
    shown = {
        name: environment.get(name) for name in ("command", "device", "device_name", "precision", "processes")
    }
    if isinstance(versions, dict):
        shown["versions"] = ", ".join(
            f"{name} {versions[name]}" for name in ("eomt", "torch", "timm") if name in versions
        )
    shown["git"] = environment.get("git")
    return {name: str(value) for name, value in shown.items() if value is not None}


def _print_pairs(title: str, pairs: dict[str, str]) -> None:
    if not pairs:
        return
    width = max(map(len, pairs))
    print(f"\n{printable(title)}:")
    for name, value in pairs.items():
        print(f"  {name:<{width}}  {printable(value)}")


def _value(value: Any, width: int) -> str:
    """Write a setting; of a long one, such as a path, the end tells most."""
    text = ABSENT if value is None else written(value)
    return text if len(text) <= width else "…" + text[1 - width :]


def _differing(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Give the settings of training, and the data, that are not the same in all runs."""
    values = [
        {**record.settings, **{f"({name})": facts for name, facts in _data_facts(record).items()}}
        for record in records
    ]
    names = dict.fromkeys(name for each in values for name in each if not name.startswith("track."))
    rows = {name: [each.get(name) for each in values] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _figures(records: Sequence[RunRecord]) -> list[str]:
    rows = [row for record in records for row in record.evaluations]
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in NOT_SHOWN]


def _last(record: RunRecord, name: str) -> Any:
    return record.steps[-1].get(name) if record.steps else None


def _middle(record: RunRecord, name: str) -> str | int | float:
    values = [row[name] for row in record.steps if isinstance(row.get(name), int | float)]
    return float(median(values)) if values else ABSENT


def _number(value: Any) -> str | int | float:
    return value if isinstance(value, int | float) else ABSENT


def _draw(records: Sequence[RunRecord], picture: Path) -> None:
    """Draw the curves of runs; of one, all that it recorded."""
    from eomt.training.curves import draw, of_run, of_runs

    rows = {str(record.folder): [*record.steps, *record.evaluations] for record in records}
    panels = of_run(next(iter(rows.values()))) if len(rows) == 1 else of_runs(rows)
    write_picture(draw(panels), picture, "curves")
