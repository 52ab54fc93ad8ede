"""Files that are whole or as they were: written aside, brought to disk, renamed. Free of torch."""

import os
from pathlib import Path

__all__ = ["write_aside"]


def write_aside(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader, or a crash, finds the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
