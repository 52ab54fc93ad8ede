"""Messages are for people: one that a file's contents have swollen is cut, and says where and what to do still."""

import pytest

from eomt.errors import DataError


@pytest.mark.parametrize("size", [100, 4000, 4001, 10**7])
def test_a_message_is_never_longer_than_a_page(size: int) -> None:
    words = str(DataError(f"a.json: {'x' * (size - 20)}; correct it"))
    assert len(words) == min(size, 4000)
    assert words.startswith("a.json: x")
    assert words.endswith("x; correct it")
