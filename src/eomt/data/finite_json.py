"""Parse JSON strictly: NaN and Infinity are no numbers.

Where faults are collected, they are told by their place, and become values: one of them does not hide what else is
wrong with a file. What entries mean is left to the readers.
"""

import json
import math
from collections.abc import Container, Iterator
from typing import Any, NoReturn

from eomt.data.problems import Told, strict, tell
from eomt.errors import DataError

__all__ = ["decode", "parse_json", "require_finite", "tell_not_finite"]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


_exact = json.JSONDecoder(parse_constant=_refuse)
_lenient = json.JSONDecoder()


def decode(text: str, start: int) -> tuple[Any, int]:
    """Parse the value that starts here; give it, and where it ends. Raises ValueError or RecursionError."""
    return (_lenient if strict() else _exact).raw_decode(text, start)


def parse_json(content: bytes, where: str) -> Any:
    """Parse a file in UTF-8. Raises DataError."""
    try:
        value = (_lenient if strict() else _exact).decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); export or save it again") from error
    tell_not_finite(value, where)
    return value


def tell_not_finite(value: Any, place: str, checked: Container[str] = ()) -> None:
    """Tell each number that is not finite, where faults are collected, but those in fields that are `checked`."""
    if strict():
        for path, number in _not_finite(value, "", checked):
            tell(DataError(f"{place}: {path.lstrip('.')} is {json.dumps(number)}, no finite number; correct it"))


def require_finite(value: Any) -> None:
    """Raise `Told` for numbers that are not finite, where `tell_not_finite` has told them."""
    if strict() and any(True for _ in _not_finite(value, "", ())):
        raise Told("a number is not finite")


def _not_finite(value: Any, path: str, checked: Container[str]) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            if isinstance(part, float | list | dict) and key not in checked:
                yield from _not_finite(part, f"{path}.{key}", checked)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            if isinstance(part, list | dict) or (isinstance(part, float) and not math.isfinite(part)):
                yield from _not_finite(part, f"{path}[{index}]", checked)
