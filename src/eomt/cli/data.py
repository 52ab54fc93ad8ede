"""`eomt data`: inspect a data set, check, convert, split it, take a sample of it. Each action has its module."""

import importlib
from collections.abc import Sequence
from functools import partial

from eomt.cli.options import run_action

__all__ = ["run"]

PURPOSE = """\
Data sets in any layout that is known: a folder, or a zip or tar as it is. Nothing
is ever changed in the source."""

ACTIONS: dict[str, tuple[str, str]] = {
    "inspect": (
        "eomt.cli.data_inspect",
        "Show what a data set holds: layout, splits, classes, sizes; draw some of it.",
    ),
    "validate": ("eomt.cli.data_validate", "Find everything that is wrong with it, before it is trained on."),
    "convert": ("eomt.cli.data_convert", "Write a data set in another layout, and say what that one cannot hold."),
    "split": ("eomt.cli.data_split", "Write it with new splits, each class on every side where possible."),
    "sample": ("eomt.cli.data_sample", "Write a few images that show all classes, to try a recipe on."),
}
"""Name of an action, the module whose `run` does it, and what it does."""


def run(arguments: Sequence[str]) -> int:
    """Run the action that the first argument names and give the exit code."""
    actions = {name: (partial(_run, module), does) for name, (module, does) in ACTIONS.items()}
    return run_action("data", PURPOSE, actions, arguments)


def _run(module: str, arguments: Sequence[str]) -> int:
    code: int = importlib.import_module(module).run(arguments)
    return code
