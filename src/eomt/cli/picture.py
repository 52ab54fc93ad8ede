"""A picture that a command is asked for: whether its file can be written is told before any work is done."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from eomt.cli.console import note
from eomt.errors import ConfigError
from eomt.files import write_aside

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["check_picture", "write_picture"]


def check_picture(picture: Path | None) -> None:
    """Raise ConfigError where `--picture` cannot become a new file."""
    if picture is None:
        return
    if picture.suffix.lower() != ".png":
        raise ConfigError(f"--picture {picture}: the picture is a PNG file; give it a name that ends with .png")
    if picture.exists():
        raise ConfigError(f"--picture {picture}: this file is there already; give another name, or remove it")
    if not picture.parent.is_dir():
        raise ConfigError(f"--picture {picture}: there is no folder {picture.parent}; make it first")


def write_picture(image: "Image", picture: Path, what: str) -> None:
    """Write the file, and say what is in it."""
    content = io.BytesIO()
    image.save(content, "PNG")
    write_aside(picture, content.getvalue())
    note(f"{what} in {picture}")
