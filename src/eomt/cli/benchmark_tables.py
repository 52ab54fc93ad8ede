"""What the tables of `eomt benchmark` and its actions share."""

from typing import TYPE_CHECKING, Any

from eomt.cli.console import counted

if TYPE_CHECKING:
    from eomt.benchmark.rounds import Stages

__all__ = ["machine_line", "milliseconds", "span"]


def machine_line(facts: dict[str, Any]) -> str:
    """Say in a line where figures were taken."""
    threads = counted(facts["threads"], "thread")
    return f"{facts['device_name']}, {threads}, torch {facts['versions']['torch']}"


def milliseconds(times: "Stages", stage: str) -> list[str]:
    """Write the median of a stage and its quartiles; nothing where a side does not have the stage."""
    found = times.get(stage)
    if found is None:
        return ["", ""]
    low, high = found.quartiles
    return [f"{found.median * 1e3:.4g}", span(low * 1e3, high * 1e3, 1)]


def span(low: float, high: float, digits: int) -> str:
    """Write where the middle half of the rounds lies."""
    return f"{low:.{digits}f} to {high:.{digits}f}"
