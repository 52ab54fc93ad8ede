"""Faults of entries end the run, or only the entry where they are collected."""

import pytest

from eomt.data.problems import collecting, each
from eomt.errors import DataError


def read(entries: list[int]) -> list[int]:
    good = []
    for entry in entries:
        with each():
            if entry < 0:
                raise DataError(f"entry {entry}")
            good.append(entry)
    if not good:
        raise DataError("no good entries")
    return good


def test_a_fault_ends_the_reading() -> None:
    with pytest.raises(DataError, match="entry -1"):
        read([1, -1, 2, -2])


def test_faults_are_collected() -> None:
    with collecting() as problems:
        assert read([1, -1, 2, -2]) == [1, 2]
    assert [str(problem) for problem in problems] == ["entry -1", "entry -2"]
    with collecting() as problems:
        read([-3])
    assert [str(problem) for problem in problems] == ["entry -3", "no good entries"]
    with pytest.raises(DataError):  # and no longer
        read([-1])


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), collecting(), each():
        _ = 1 / 0
