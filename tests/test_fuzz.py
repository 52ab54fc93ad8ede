"""A short dose of each fuzzer. More of it: `python -m fuzz images --count 10000`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = ("images", "annotations", "archives", "configurations")


def test_damaged_files_raise_nothing_else(tmp_path: Path) -> None:
    arguments = [*KINDS, "--count", "60", "--findings", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("  findings 0") == len(KINDS)
    assert result.stdout.count(": 60 cases in ") == len(KINDS)
