"""Collect what is wrong with a data set, instead of stopping at the first fault.

Readers do each entry of a file within `each()`. Normally that does nothing; where problems are collected, a
DataError ends the entry at hand only. Finding faults is the readers' business, listing them `validate`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from eomt.errors import DataError

__all__ = ["collecting", "each"]

_collected: ContextVar[list[DataError] | None] = ContextVar("_collected", default=None)


@contextmanager
def each() -> Iterator[None]:
    """Do one entry: where problems are collected, a DataError in it is kept, and the next entry's turn comes."""
    try:
        yield
    except DataError as error:
        problems = _collected.get()
        if problems is None:
            raise
        problems.append(error)


@contextmanager
def collecting() -> Iterator[list[DataError]]:
    """Collect the DataErrors of entries, in the order found; one outside of any entry is kept too, and ends it."""
    problems: list[DataError] = []
    token = _collected.set(problems)
    try:
        with each():
            yield problems
    finally:
        _collected.reset(token)
