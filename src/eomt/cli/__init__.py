"""The command line: find the command, run it, and end with a message and an exit code that say what happened.

What a command accepts and does stands in its own module; nothing heavy is imported before its arguments are read.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from eomt.cli.console import report as report_error

__all__ = ["main"]

COMMANDS = {
    "train": ("eomt.cli.train", "Train or fine-tune a model on your data set."),
    "eval": ("eomt.cli.evaluate", "Measure a model on an annotated data set: PQ, mask AP, mIoU."),
    "report": (
        "eomt.cli.report",
        "Show why a run is as good as it is, on one page: errors, worst images, curves.",
    ),
    "convert": (
        "eomt.cli.convert",
        "Read a model in any layout, write it in another: ours, Hugging Face's, the authors'.",
    ),
    "data": ("eomt.cli.data", "Look at a data set, check it, convert it, split it, take a sample of it."),
    "predict": ("eomt.cli.predict", "Segment images: overlays, label maps, panoptic PNG and COCO files."),
    "recipes": ("eomt.cli.recipes", "List the recipes that `eomt train` knows; show one."),
    "config": ("eomt.cli.config", "Show every setting of a training run, and where it comes from."),
    "runs": ("eomt.cli.runs", "List runs; show one; set several side by side."),
    "models": ("eomt.cli.models", "List the published models; fetch, check and remove their files."),
    "debug": ("eomt.cli.debug", "Take a training step again whose numbers went wrong, and say where they did."),
    "benchmark": (
        "eomt.cli.benchmark",
        "Measure what a model costs: time of each stage, memory, operations; compare.",
    ),
    "doctor": ("eomt.cli.doctor", "Check whether this machine is ready, and say what to do where it is not."),
}
"""Name of a command, the module whose `run` does it, and what it does."""

HELP = """\
usage: eomt <command> [options]

Image segmentation with a plain Vision Transformer (semantic, instance, panoptic).

commands:
{commands}

options:
  -h, --help     show this message; `eomt <command> --help` shows a command's options
  --version      show the version
  --traceback    with any command: show where in the program an error arose (or set EOMT_TRACEBACK=1)

examples:
  eomt predict photo.jpg                        segment an image with the bundled model
  eomt eval --data my-data --split val          measure the bundled model on a data set
  eomt train --data my-data --out runs/first    train on a data set
  eomt predict photos/ --model runs/first       use what was trained

exit codes: 0 done, 1 fault of the program, 2 usage, 3 data, 4 model, 5 memory or disk, 6 numbers not finite,
7 a check failed, 130 interrupted, 143 terminated
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `eomt` and give its exit code. `arguments` are those of the process when None."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with_traceback = os.environ.get("EOMT_TRACEBACK", "0") not in ("", "0") or "--traceback" in arguments
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stopped:
        print("interrupted", file=sys.stderr)
        return getattr(stopped, "exit_code", 130)
    except BrokenPipeError:  # `eomt ... | head`: the reader has what it wanted
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report_error(error, with_traceback)


def _dispatch(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    given = [argument for argument in arguments if argument != "--traceback"]
    first = given[0] if given else ""
    if first in COMMANDS:
        command: Any = importlib.import_module(COMMANDS[first][0])
        code: int = command.run(given[1:])
        return code
    if first == "--version":
        from importlib.metadata import version

        print(f"eomt {version('eomt')}")
        return 0
    commands = "\n".join(f"  {name:<14} {purpose}" for name, (_, purpose) in COMMANDS.items())
    text = HELP.format(commands=commands)
    if first in ("-h", "--help", "help"):
        print(text, end="")
        return 0
    if not first:
        print(text, end="", file=sys.stderr)
        return 2
    near = get_close_matches(first.lstrip("-"), [*COMMANDS, "evaluate", "version", "help"], n=1)
    hint = f"; did you mean {'eval' if near[0] == 'evaluate' else near[0]}?" if near else ""
    print(f"error: eomt has no command {first}{hint}", file=sys.stderr)
    print(f"  commands: {', '.join(COMMANDS)}; see eomt --help", file=sys.stderr)
    return 2
