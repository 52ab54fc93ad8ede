"""What the tables of `eomt benchmark` and its actions share."""

from typing import TYPE_CHECKING, Any

from eomt.cli.console import counted

if TYPE_CHECKING:
    from eomt.benchmark.rounds import Clock, Stages, Times

__all__ = ["machine_line", "milliseconds", "number", "span"]


def machine_line(facts: dict[str, Any], clock: "Clock") -> str:
    """Say in a line where figures were taken, and what time they are."""
    threads = counted(facts["threads"], "thread")
    time = {"wall": "", "processor": ", processor time"}[clock]
    return f"{facts['device_name']}, {threads}, torch {facts['versions']['torch']}{time}"


def milliseconds(times: "Stages", stage: str) -> list[str]:
    """Write the median of a stage and its quartiles; nothing where a side does not have the stage."""
    found = times.get(stage)
    if found is None:
        return ["", ""]
    return [number(found.median * 1e3), span(found, 1e3)]


def span(times: "Times", factor: float = 1.0) -> str:
    """Write where the middle half of the rounds lies; a dash where there are too few to have one."""
    if len(times.values) < 3:
        return "–"
    return " to ".join(number(each * factor) for each in times.quartiles)


def number(value: float) -> str:
    """Write three digits and more: all those before the point, but no power of ten."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
