"""Say in the program's own words what the reader of arguments (tyro) says in boxes. Free of what commands accept.

Only what tyro prints is relied on. What is not recognised in it is passed on, without the box.
"""

import contextlib
import io
import os
import re
from ast import literal_eval
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from eomt.errors import ConfigError

__all__ = ["ALIKE", "in_words", "nearest"]

ALIKE = 0.6
"""Least likeness of a name that is suggested, from 0 to 1."""
WIDE = "100000"
"""Columns of the terminal that tyro is shown, so that no line is broken."""
KINDS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "INT INT": "two whole numbers",
    "FLOAT FLOAT": "two numbers",
    "{None}": "None",
}
"""What tyro calls a kind of value, in words."""

_INSIDE = re.compile(r"(?:│ |  )(.*?) *│?")  # or without lines, where the terminal knows ASCII only
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_CHOICE = re.compile(
    r"invalid choice '(?P<value>.*)' for argument '(?P<option>.+?)'\. Expected one of (?P<all>\(.*\))\."
)
_COUNT = re.compile(r"Missing value for argument '(?P<option>.+?)'\. Expected (?P<count>\d+) values?\.")
_VALUE = re.compile(r"Error parsing (?P<option>[^\s:]+): (?P<why>.*)")
_SPARE = re.compile(r"Unrecognized options: (?P<words>.*)")


@contextlib.contextmanager
def in_words(arguments: Sequence[str], prog: str) -> Iterator[None]:
    """Raise ConfigError where tyro, called within, refuses the arguments of a command."""
    if {"-h", "--help"} & set(arguments):
        yield
        return
    said, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        lines = _plain(said.getvalue())
        message = _message(lines, arguments, prog) or "\n".join(lines)
        raise ConfigError(f"{message}\nAll options: {prog} --help") from None
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Give the known options that look most like a name, best first; the section may have been left out."""
    matcher = SequenceMatcher()
    matcher.set_seq2(name.lstrip("-").replace("_", "-"))

    def likeness(word: str) -> float:
        matcher.set_seq1(word)
        worth_it = matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE  # upper bounds
        return matcher.ratio() if worth_it else 0.0

    words = {option: option.lstrip("-") for option in known}
    scores = {option: max(likeness(word), likeness(word.rpartition(".")[2])) for option, word in words.items()}
    best = max(scores.values(), default=0.0)
    close = [option for option, score in scores.items() if score >= max(ALIKE, best - 0.15)]
    return sorted(close, key=lambda option: -scores[option])[:count]


def _plain(text: str) -> list[str]:
    """Give the lines inside a box, without its title, its rules and the line that names the help."""
    rows = [_STYLE.sub("", line).rstrip() for line in text.splitlines()]
    inside = [match[1] for row in rows if (match := _INSIDE.fullmatch(row))]
    lines = [line for line in inside if line.strip(" ─-")] or rows
    ends = [place for place, line in enumerate(lines) if line.startswith("For full helptext")]
    return lines[: ends[0]] if ends else lines


def _message(lines: list[str], arguments: Sequence[str], prog: str) -> str:
    """Say what is wrong; nothing where it is not recognised."""
    first = lines[0] if lines else ""
    if match := _CHOICE.match(first):
        return _choice(match["option"], match["value"], literal_eval(match["all"]))
    if match := _COUNT.match(first):
        count = int(match["count"])
        return f"{match['option']} needs {'a value' if count == 1 else f'{count} values'}"
    if match := _SPARE.match(first):
        return f"{prog} does not know what to do with {match['words']}"
    if match := _VALUE.match(first):
        return _value(match["option"], match["why"], lines, arguments)
    if first.startswith("Missing from "):
        names = [line.strip() for line in lines[1:] if re.match(r" {4}\S", line)]
        told = [f"{name}: {_help(lines, name)}" for name in names]
        return "\n".join([f"{prog} needs {' and '.join(names)}", *told])
    return ""


def _choice(option: str, value: str, choices: Sequence[str]) -> str:
    """Refuse a word that is none of these. Where None is among them, tyro lists them in any order."""
    words = sorted(set(choices) - {"None"}) if "None" in choices else list(choices)
    near = nearest(value, words, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{option} {value}: expected {_or(words)}{hint}"


def _value(option: str, why: str, lines: list[str], arguments: Sequence[str]) -> str:
    """Refuse a value that is not of its kind, which stands with its option in the help."""
    shown = next((line.strip() for line in lines if line.strip().split(" ")[0] == option), "")
    kinds = shown.removeprefix(option).strip()
    if not kinds:
        return f"{option}: {why}"
    expected = _or([KINDS.get(kind, kind) for kind in reversed(kinds.split("|"))])
    return f"{' '.join([option, *_given(option, arguments)])}: expected {expected}\n{_help(lines, shown)}"


def _help(lines: list[str], name: str) -> str:
    """Give what the help says of an option: the lines below it."""
    place = next((place for place, line in enumerate(lines) if line.strip() == name), len(lines))
    return lines[place + 1].strip().removesuffix(" (required)") if place + 1 < len(lines) else ""


def _given(option: str, arguments: Sequence[str]) -> list[str]:
    """Give the words that follow an option."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option:
            later = [value] if equals else list(arguments[place + 1 :])
            ends = [end for end, word in enumerate(later) if word.startswith("--")]
            return later[: ends[0]] if ends else later
    return []


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
