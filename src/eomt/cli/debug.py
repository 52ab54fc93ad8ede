"""`eomt debug`: look into a step whose numbers went wrong. Taking it again is left to `training.replay`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eomt.cli.console import print_json, printable
from eomt.cli.options import Switch, parse, run_action
from eomt.errors import CheckError

if TYPE_CHECKING:
    from eomt.training.capture import Capture
    from eomt.training.replay import Replay

__all__ = ["run"]

PURPOSE = """\
When a loss or a gradient is not finite, training ends before the weights are
touched, and keeps the step in the run folder (debug/capture)."""

DESCRIPTION = """\
Take a captured step again, bit by bit, and say where its numbers first go
wrong: in the weights, in which module, in which term of the loss, in the
gradient of which parameter. Exit code 7 where the numbers that come out are not
those that were recorded: another machine, or other versions.

Example: eomt debug replay runs/first"""


@dataclass(frozen=True)
class ReplayArguments:
    """What `eomt debug replay` accepts."""

    capture: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
    """The run folder, or the capture in it."""
    rank: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Of several processes, the one whose part is taken again."""
    device: Annotated[
        str | None, tyro.conf.arg(metavar="DEVICE", help_behavior_hint="(default: the same kind)")
    ] = None
    """Another device: auto, cpu, cuda, cuda:1, mps."""
    json: Switch = False
    """Print one JSON object, with the keys capture, step, rank, world_size, is_same, recorded, replayed, first,
    findings, differences."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Run the action that the first argument names and give the exit code."""
    actions = {"replay": (_replay, "Take a step again whose numbers were not finite, and say where that arose.")}
    return run_action("debug", PURPOSE, actions, arguments)


def _replay(arguments: Sequence[str]) -> int:
    options = parse(ReplayArguments, arguments, "eomt debug replay", DESCRIPTION)
    from eomt.training.capture import read
    from eomt.training.replay import replay

    capture = read(options.capture, options.rank)
    found = replay(capture, options.device)
    if options.json:
        print_json({"capture": str(options.capture), **_as_json(capture, found)})
    else:
        _print(capture, found)
    return 0 if found.is_same else CheckError.exit_code


def _as_json(capture: "Capture", found: "Replay") -> dict[str, object]:
    """Floats are words, so that those that are not finite remain what they are."""
    findings = [asdict(finding) for finding in found.findings]
    return {
        "step": capture.step,
        "rank": capture.rank,
        "world_size": capture.world_size,
        "is_same": found.is_same,
        "recorded": {
            "losses": [repr(each.loss.item()) for each in capture.passes],
            "grad_norm": repr(capture.grad_norm),
        },
        "replayed": {
            "losses": [repr(loss) for loss in found.losses],
            "grad_norm": None if found.grad_norm is None else repr(found.grad_norm),
        },
        "first": findings[0] if findings else None,
        "findings": findings,
        "differences": list(found.differences),
    }


def _print(capture: "Capture", found: "Replay") -> None:
    lines = [
        f"step {capture.step}, process {capture.rank} of {capture.world_size}",
        *(
            f"loss {number}: recorded {each.loss.item()!r}, now {loss!r}"
            for number, (each, loss) in enumerate(zip(capture.passes, found.losses, strict=True))
        ),
        "the same numbers, to the bit" if found.is_same else "not the numbers that were recorded",
        *(f"this machine: {difference}" for difference in found.differences),
    ]
    for place, finding in enumerate(found.findings):
        where = "" if finding.micro_batch is None else f", micro-batch {finding.micro_batch}"
        lines.append(f"{'then' if place else 'first'}: {finding.stage}{where}: {finding.where}: {finding.what}")
    if not found.findings:
        lines.append("all numbers are finite: weights, modules, loss and gradients")
    for line in lines:
        print(printable(line))
