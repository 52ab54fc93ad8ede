"""`eomt data validate`: list what is wrong with a data set. What is looked for is said in `data.validate`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eomt.cli.console import counted, note, print_json, printable, progress
from eomt.cli.options import Switch, parse
from eomt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from eomt.data.validate import Problem, Report

__all__ = ["run"]

DESCRIPTION = """\
Find everything that is wrong with a data set, in one pass: every split is opened, every
image and mask is read, and the splits are compared. Nothing is written or changed.
Problems make a data set unfit; notices are worth a look and may be meant so. What could
not be checked, as a split cannot be opened, is a notice too.

Exit code 0: no problems; 3: there are some.

Example: eomt data validate my-data"""


@dataclass(frozen=True)
class ValidateArguments:
    """What `eomt data validate` accepts."""

    path: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="PATH", help_behavior_hint="(required)")
    ] = None
    """The data set: a folder, or a zip or tar (read as it is, not unpacked)."""
    format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(default: recognised)")] = (
        None
    )
    """Layout of its files: coco-panoptic, folder, yolo, ...; docs/data.md lists them."""
    show: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 10
    """List so many problems of each split and kind; the others are counted. --json has all."""
    workers: Annotated[
        int | None,
        tyro.conf.DisallowNone,
        tyro.conf.arg(metavar="COUNT", help_behavior_hint="(default: by itself)"),
    ] = None
    """Processes that read images; 0: none but this one."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, in place of the list, with the keys path, format,
    clean, counts, splits, and findings: severity, kind, split, file, image_id and message of each."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Validate as the arguments say and list what was found; give the exit code."""
    options = parse(ValidateArguments, arguments, "eomt data validate", DESCRIPTION)
    if options.path is None:
        raise ConfigError("eomt data validate needs a PATH: the folder or archive of a data set")
    for name, count in (("--show", options.show), ("--workers", options.workers or 0)):
        if count < 0:
            raise ConfigError(f"{name} {count}: expected a count from 0 on")

    from eomt.data.validate import validate

    with progress("validate") as show:
        report = validate(options.path, options.format, options.workers, show)
    if options.json:
        print_json(_values(report))
    else:
        _list(report, options.show)
    return DataError.exit_code if report.problems else 0


def _values(report: "Report") -> dict[str, object]:
    return {
        "path": str(report.path),
        "format": report.format or None,
        "clean": not report.problems,
        "counts": {"problems": len(report.problems), "notices": len(report.notices)},
        "splits": [split._asdict() | {"unopened": split.unopened or None} for split in report.splits],
        "findings": [finding._asdict() for finding in report.findings],
    }


def _list(report: "Report", most: int) -> None:
    for split in report.splits:
        told = f"{counted(split.images, 'image')}, {counted(split.segments, 'segment')}, read as {report.format}"
        if split.unopened:
            told = f"cannot be opened: {_short(split.unopened, report)}"
        print(printable(f"{split.name}: {told}"))
    for title, findings in (("problem", report.problems), ("notice", report.notices)):
        for (split_name, kind), group in _grouped(findings).items():
            print(printable(f"\n{split_name or 'all splits'}, {kind}: {counted(len(group), title)}".lstrip("\n")))
            for finding in group[:most]:
                for number, line in enumerate(_short(finding.message, report).splitlines()):
                    print(f"  {'  ' if number else ''}{printable(line)}")
            if len(group) > most:
                print(f"  ... and {len(group) - most} more (--show, --json)")
    files = len({finding.file for finding in report.problems if finding.file})
    told = counted(len(report.problems), "problem") if report.problems else "no problems"
    told += f" in {counted(files, 'file')}" if files else ""
    note(f"{report.path}: {told}, {counted(len(report.notices), 'notice')}")


def _grouped(findings: Iterable["Problem"]) -> dict[tuple[str, str], list["Problem"]]:
    """Put together what is of one split and kind, in the order of the first of each."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for finding in findings:
        groups.setdefault((finding.split, finding.kind), []).append(finding)
    return groups


def _short(message: str, report: "Report") -> str:
    """Leave out the path of the data set, which stands at the end."""
    return message.replace(f"{report.path}/", "").replace(f" in {report.path}", "")
