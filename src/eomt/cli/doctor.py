"""`eomt doctor`: run the checks and print them as they come. What is checked is `eomt.doctor`'s business."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from eomt.cli.console import print_json, printable
from eomt.doctor import Check, State, examine
from eomt.errors import CheckError

try:
    from eomt.cli.options import Switch, parse
except ImportError:  # what reads arguments is missing, and doctor is there to say so
    Switch = bool  # type: ignore[misc]
    parse = None  # type: ignore[assignment]

__all__ = ["run"]

DESCRIPTION = """\
Check whether this machine is ready for eomt, and say what to do where it is
not: Python and packages, devices, memory, disks, image codecs, the bundled
model, the cache of downloaded models, optional extras, the terminal. One line
a check, marked {ok} (good), {warn} (warning) or {fail} (failure), and under the last two
what to do. It ends with 7 if a check fails, else with 0.

Nothing is downloaded or changed. The report can be shown to others: no home
folder, token or host name is in it.

Example: eomt doctor --json"""

MARKS: dict[State, tuple[str, str, int]] = {
    "ok": ("✓", "+", 32),
    "warn": ("!", "!", 33),
    "fail": ("✗", "x", 31),
}
"""Of each state the mark, the mark where only ASCII can be shown, and the colour (ANSI)."""


@dataclass(frozen=True)
class DoctorArguments:
    """What `eomt doctor` accepts."""

    json: Switch = False
    """Print one JSON object instead of lines: checks (each with name, state, found, fix) and ok. state is ok, warn
    or fail; fix is null or what to do: needed under warn and fail, a choice under ok."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Check the machine; give 0, or 7 when a check fails."""
    if parse is None:
        as_json = "--json" in arguments
    else:
        description = DESCRIPTION.format(**{state: _mark(state) for state in MARKS})
        as_json = parse(DoctorArguments, arguments, "eomt doctor", description).json
    done = []
    for check in examine():
        done.append(check)
        if not as_json:
            print(_lines(check), flush=True)
    count = Counter(check.state for check in done)
    if as_json:
        print_json({"checks": [asdict(check) for check in done], "ok": not count["fail"]})
    else:
        numbers = (_count(count["warn"], "warning"), _count(count["fail"], "failure"))
        print(f"{_count(len(done), 'check')}: {count['ok']} good, {', '.join(numbers)}")
    return CheckError.exit_code if count["fail"] else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lines(check: Check) -> str:
    """Write a check as one line, and its fix as a second where there is something to mend."""
    mark = _mark(check.state)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        mark = f"\x1b[{MARKS[check.state][2]}m{mark}\x1b[0m"
    line = f"{mark} {check.name:<22} {printable(check.found)}"
    return line if check.state == "ok" else f"{line}\n    fix: {printable(check.fix)}"


def _mark(state: State) -> str:
    mark, ascii_mark, _ = MARKS[state]
    return mark if "utf" in (sys.stdout.encoding or "").lower() else ascii_mark
