"""Collect what is wrong with a data set, instead of stopping at the first fault.

Readers do each entry of a file within `each()`. Normally that does nothing; where problems are collected, a fault
ends the entry at hand only, and readers are strict: they tell, too, what reading passes over. Finding faults is
the readers' business, listing them `validate`'s.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TypeVar

from eomt.errors import DataError

__all__ = ["Remark", "Told", "at_once", "collecting", "each", "of_file", "strict", "tell", "within"]

T = TypeVar("T")

_collected: ContextVar[list[ValueError] | None] = ContextVar("_collected", default=None)


class Remark(DataError):
    """What is worth a look, and may be meant so: told, never raised."""


class Told(ValueError):
    """Ends an entry of which the fault was told before."""


class _Each:
    """A class, not a generator: files have entries by the million, and it costs each a third of a microsecond."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, ValueError):
            return False
        problems = _collected.get()
        if problems is None:
            return False
        if not _was_told(error):
            problems.append(error)
        return True


def _was_told(error: BaseException | None) -> bool:
    """Tell whether what was told before is the cause of an error."""
    while error is not None and not isinstance(error, Told):
        error = error.__cause__
    return error is not None


_EACH = _Each()


def each() -> _Each:
    """Do one entry: where problems are collected, a DataError in it is kept, and the next entry's turn comes.

    So is a ValueError, by which readers tell what is wrong with an image's segments; see `within`.
    """
    return _EACH


def strict() -> bool:
    """Tell whether problems are collected: then readers also tell what they otherwise pass over."""
    return _collected.get() is not None


def tell(fault: ValueError) -> None:
    """Keep a fault that reading passes over, where problems are collected."""
    problems = _collected.get()
    if problems is not None:
        problems.append(fault)


def at_once(entries: Sequence[T]) -> Iterable[Sequence[T]]:
    """Group what has one fault, to be told: all in one error, or each in its own where faults are collected."""
    if strict():
        return [[entry] for entry in entries]
    return [entries] if entries else []


@contextmanager
def collecting() -> Iterator[list[ValueError]]:
    """Collect the faults of entries, in the order found; one outside of any entry is kept too, and ends it."""
    problems: list[ValueError] = []
    token = _collected.set(problems)
    try:
        with each():
            yield problems
    finally:
        _collected.reset(token)


@contextmanager
def of_file(name: str) -> Iterator[None]:
    """Note in DataErrors that are raised or collected here which file they are of, unless that is known."""
    collected, error = _collected.get(), None
    before = len(collected or ())
    try:
        yield
    except DataError as raised:
        error = raised
        raise
    finally:
        for fault in (error, *(collected or ())[before:]):
            if isinstance(fault, DataError) and not fault.file:
                fault.file = name


@contextmanager
def within(place: Callable[[], str]) -> Iterator[None]:
    """Make DataErrors of the ValueErrors that are raised or collected here, with a place in front."""
    problems = _collected.get()
    before = len(problems or ())
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{place()}: {error}") from error
    finally:
        if problems is not None:
            for index in range(before, len(problems)):
                if not isinstance(problems[index], DataError):
                    problems[index] = DataError(f"{place()}: {problems[index]}")
