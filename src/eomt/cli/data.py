"""`eomt data`: inspect a data set, check, convert, split it, take a sample of it. Each action has its module."""

import importlib
from collections.abc import Sequence
from functools import partial

from eomt.cli.options import run_action

__all__ = ["run"]

PURPOSE = """\
Data sets in any layout that is known: a folder, or a zip or tar as it is. Nothing
is ever changed in the source."""

ACTIONS: dict[str, tuple[str, str]] = {}
"""Name of an action, the module whose `run` does it, and what it does."""


def run(arguments: Sequence[str]) -> int:
    """Run the action that the first argument names and give the exit code."""
    actions = {name: (partial(_run, module), does) for name, (module, does) in ACTIONS.items()}
    return run_action("data", PURPOSE, actions, arguments)


def _run(module: str, arguments: Sequence[str]) -> int:
    code: int = importlib.import_module(module).run(arguments)
    return code
