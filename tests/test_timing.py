"""Stages are measured where somebody asks, and cost nothing elsewhere."""

import time

from eomt.timing import measuring, stage


@stage("work")
def work() -> int:
    time.sleep(0.01)
    return 7


def test_stages_add_up_while_they_are_measured() -> None:
    waited: list[str] = []
    with measuring(lambda: waited.append("wait")) as seconds:
        assert (work(), work()) == (7, 7)
        with stage("rest"):
            pass
        assert seconds["work"] >= 0.02 > seconds["rest"]
    assert len(waited) == 6  # before and after each
    before = dict(seconds)
    work()
    assert seconds == before
