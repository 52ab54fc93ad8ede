"""What the documentation shows runs: Python as it stands, commands as far as their options."""

import re
import shlex
from pathlib import Path

import pytest

from eomt import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for code in blocks(page, "python"):
        namespace = {"__name__": "__documentation__"}
        exec(compile(code, str(page), "exec"), namespace)
        for thing in list(namespace.values()):  # a data set that a page defines can be read
            if getattr(thing, "__module__", "") == "__documentation__" and hasattr(thing, "__getitem__"):
                assert thing()[0].image.shape[0] == 3


@pytest.mark.parametrize(
    "command",
    sorted(
        {
            line
            for page in PAGES
            for code in blocks(page, "bash")
            for line in code.replace("\\\n", " ").splitlines()
            if line.startswith("eomt ")
        }
    ),
)
def test_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option that a page names is known: a usage error would exit with 2 before anything is read."""
    _, *arguments = shlex.split(command)
    # An option of no command, so that parsing stops after it has found all that it does not know.
    code = cli.main([*arguments, "--no-such-option"])
    unknown = capsys.readouterr().err
    assert code == 2
    assert "no-such-option" in unknown
    assert unknown.count("has no option") == 1, unknown


def test_links() -> None:
    """Files that the pages point to are there."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
