"""What the user sees: errors, progress, tables and the one line of JSON. Free of torch; rich is imported late."""

import errno
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from eomt.errors import ConfigError, EomtError, ResourceError, is_lost_process, is_out_of_memory
from eomt.files import DISK_IS_FULL

__all__ = [
    "LogLines",
    "counted",
    "log_lines",
    "note",
    "print_json",
    "print_table",
    "printable",
    "progress",
    "report",
]

QUIET_SECONDS = 10.0
"""Where standard error is no terminal, progress is a line at most so often."""

TABLE_WIDTH = 160
"""A table is not squeezed to less: a cut figure is worse than a long line."""

EXIT_CODES_OF_SYSTEM = {
    **dict.fromkeys((*DISK_IS_FULL, errno.EMFILE, errno.ENFILE), ResourceError.exit_code),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ConfigError.exit_code),  # a folder that was named
}
"""What the system may answer through no fault of the program."""


def printable(text: object) -> str:
    r"""Escape what could steer a terminal or forge a line, such as ESC or a newline in a file name."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def counted(count: int, thing: str) -> str:
    """Write a count with what is counted: `1 image`, `2 images`, `2 classes`, `0 queries`."""
    if count == 1:
        return f"1 {thing}"
    if thing.endswith("y"):
        return f"{count} {thing[:-1]}ies"
    return f"{count} {thing}{'es' if thing.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def note(text: object) -> None:
    """Print one line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


class LogLines(logging.Handler):
    """Shows log records as plain lines on standard error, wherever that leads when they come."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        note(record.getMessage())


@contextmanager
def log_lines() -> Iterator[None]:
    """Show what the package logs as lines on standard error."""
    log, lines = logging.getLogger("eomt"), LogLines()
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)


def report(error: Exception, with_traceback: bool) -> int:
    """Print an error as one block on standard error and give the exit code that belongs to it."""
    if with_traceback:
        traceback.print_exception(error)
    code, lines = _explain(error)
    first, *others = "\n".join(lines).splitlines() or [""]
    note(f"error: {first}")
    for line in others:
        note(f"  {line.lstrip()}" if line.strip() else "")
    return code


def _explain(error: Exception) -> tuple[int, list[str]]:
    """Say what went wrong, and what to do where the program knows."""
    if isinstance(error, EomtError):
        return error.exit_code, [str(error)]
    if is_out_of_memory(error):
        return ResourceError.exit_code, [
            f"memory does not suffice: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "Train with a smaller --data.micro-batch or --model.image-size; predict, evaluate and measure with a "
            "smaller --image-size or image, fewer of them at once, or --device cpu.",
        ]
    if isinstance(error, OSError) and error.errno in EXIT_CODES_OF_SYSTEM:
        where = f"{error.filename}: " if error.filename else ""
        return EXIT_CODES_OF_SYSTEM[error.errno], [f"{where}{error.strerror}"]
    first = str(error).splitlines()[0] if str(error) else ""
    if is_lost_process(error):
        return 1, [
            "another of the processes that compute together has ended, or cannot be reached",
            f"What it said last tells why. ({first})",
        ]
    return 1, [
        f"unexpected {type(error).__name__}: {first}",
        "This is a fault of the program, or of the machine, that it did not foresee. "
        "Run again with --traceback to see where it arose.",
    ]


def print_json(values: Any) -> None:
    """Print one JSON object as one line on standard output; a number that is not finite becomes null."""
    print(json.dumps(_finite(values), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot write by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | int | float]], text: int = 1
) -> None:
    """Print a table on standard output: the first `text` columns are words, the others figures (– where none)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="left" if index < text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    print(printable(title))
    Console(width=max(Console().width, TABLE_WIDTH)).print(table)


def _cell(value: str | int | float) -> str:
    """Write a value of a table: three decimals tell apart what a validation set of some hundred images can."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if math.isfinite(value) else "–"


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a piece of work is on standard error: a bar on a terminal, else a line now and then.

    Gives a function of how many are done and how many there are.
    """
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, highlight=False), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _lines(label: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET_SECONDS:
            last = time.monotonic()
            note(f"{label}: {done} of {total}")

    return show
