"""Pictures that a command is given or asked for: what is wrong with their files is told before any work."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from eomt.cli.console import note
from eomt.errors import ConfigError, DataError
from eomt.files import write_aside

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["check_photo", "check_picture", "write_picture"]


def check_photo(photo: Path | None) -> None:
    """Raise DataError where `--photo` is no file."""
    if photo is not None and not photo.is_file():
        raise DataError(f"--photo {photo}: no such file; check the path")


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
