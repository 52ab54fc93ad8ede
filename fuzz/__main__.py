"""Run a fuzzer, or read again what it saved. Ends with 1 where something is wrong."""

import argparse
import sys
import time
from pathlib import Path

from fuzz.runner import KINDS, fuzz, replay


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same one makes the same cases")
    parser.add_argument("--seconds", type=float, help="stop each kind after so many seconds")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="folder (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a case that was saved")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        done = replay(arguments.replay)
        print(
            done.fault or ("used" if done.used else "refused"), f"in {done.seconds:.2f} s", done.details, sep="\n"
        )
        return int(bool(done.fault))
    if not arguments.kinds or not set(arguments.kinds) <= set(KINDS):
        parser.error(f"give some of {', '.join(KINDS)}, or --replay FILE")
    return max([_report(kind, arguments) for kind in arguments.kinds])


def _report(kind: str, arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    summary = fuzz(kind, arguments.count, arguments.seed, arguments.seconds, arguments.findings)
    print(f"{kind}: {summary.cases} cases in {time.monotonic() - start:.0f} s, {summary.used} of them can be used")
    if summary.slowest is not None and summary.largest is not None:
        print(f"  slowest  {summary.slowest.seconds:.2f} s of processor time (case {summary.slowest.index})")
        print(f"  memory   {summary.largest.growth / 2**20:.0f} MiB at most (case {summary.largest.index})")
    print(f"  findings {summary.faults.total()}")
    for fault, count in summary.faults.most_common():
        print(f"  {count:8} x {fault}: {', '.join(map(str, summary.saved[fault]))}")
    return int(bool(summary.faults))


if __name__ == "__main__":
    sys.exit(main())
