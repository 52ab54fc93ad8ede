"""Messages are for people: one that a file's contents have swollen is cut, and says where and what to do still."""

import pytest
from torch import distributed

from eomt.cli.console import report
from eomt.errors import DataError, is_lost_process


@pytest.mark.parametrize("size", [100, 4000, 4001, 10**7])
def test_a_message_is_never_longer_than_a_page(size: int) -> None:
    words = str(DataError(f"a.json: {'x' * (size - 20)}; correct it"))
    assert len(words) == min(size, 4000)
    assert words.startswith("a.json: x")
    assert words.endswith("x; correct it")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:5"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:5] Read error [::1]:7: Connection reset by peer"), True),
        (distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (RuntimeError("Connection closed by peer"), False),  # whose words these are is not known
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_process_that_ended_is_no_fault_of_those_that_waited_for_it(error, lost, capsys) -> None:
    assert is_lost_process(error) is lost
    assert report(error, with_traceback=False) == 1
    assert ("fault of the program" in capsys.readouterr().err) is not lost
