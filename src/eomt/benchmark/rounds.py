"""Time contestants in turns, so that what else the machine does falls on all alike. Free of torch.

What is timed names its own stages (`eomt.timing`).
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eomt.timing import measuring

__all__ = ["CLOCKS", "WHOLE", "Clock", "Elsewhere", "Stages", "Times", "ratios", "time_interleaved"]

WHOLE = "whole"
"""The stage that holds all others, and what lies between them."""

Clock = Literal["wall", "processor"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""wall: what a user waits; processor: what this process was given of it, in all threads, which on a busy machine
says more of the program."""


@dataclass(frozen=True)
class Times:
    """Figures of rounds, one each: seconds, or ratios of them."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one: a round that was disturbed does not move it."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the rounds."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def over(self, other: "Times") -> "Times":
        """Divide round by round: both sides of a round had the same machine."""
        return Times(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def to_json(self, factor: float = 1.0) -> dict[str, Any]:
        """Give median and quartiles, times a factor, and the number of rounds."""
        low, high = self.quartiles
        return {
            "median": self.median * factor,
            "quartiles": [low * factor, high * factor],
            "rounds": len(self.values),
        }


class Elsewhere(dict[str, float]):
    """Seconds of stages, and of the whole, that another process measured: a run may give them instead."""


Stages = dict[str, Times]
"""The seconds of each stage, and of the whole."""


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    wait: Callable[[], None] = lambda: None,
    clock: Clock = "wall",
    show: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Stages]:
    """Run the contestants in turns and give the seconds of each, stage by stage and as a whole.

    Every other round runs backwards, so that none always has the caches that the same other one left. `warm_up`
    rounds come first and are not counted; `wait` waits for what a device was given; `show` is told how many rounds
    are done.
    """
    for _, run in _in_turns(runs, warm_up):
        run()
        wait()
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    for done, (name, run) in enumerate(_in_turns(runs, rounds)):
        show(done // len(runs), rounds)
        for stage, value in _seconds(run, wait, CLOCKS[clock]).items():
            seconds[name].setdefault(stage, []).append(value)
    return {
        name: {stage: Times(tuple(values)) for stage, values in stages.items()} for name, stages in seconds.items()
    }


def ratios(stages: Stages, baseline: Stages) -> Stages:
    """Divide the stages that both have; where only one side has any, nothing is left."""
    return {name: times.over(baseline[name]) for name, times in stages.items() if name in baseline}


def _in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> Iterator[tuple[str, Callable[[], object]]]:
    for number in range(rounds):
        yield from runs.items() if number % 2 == 0 else reversed(list(runs.items()))


def _seconds(run: Callable[[], object], wait: Callable[[], None], clock: Callable[[], float]) -> dict[str, float]:
    with measuring(wait, clock) as seconds:
        started = clock()
        result = run()
        wait()
        whole = clock() - started
    return result if isinstance(result, Elsewhere) else {**seconds, WHOLE: whole}
