"""What can go wrong through no fault of the program, in the user's words. Free of torch.

A message says what was found, where, what was expected and what to do. The command line prints it without a
traceback and ends with the class's exit code.
"""

import errno

__all__ = [
    "CheckError",
    "ConfigError",
    "DataError",
    "EomtError",
    "ModelError",
    "NonFiniteError",
    "ResourceError",
    "is_lost_process",
    "is_out_of_memory",
]

_MOST_WORDS = 4000


class EomtError(Exception):
    """Base of all errors that the user can act on."""

    exit_code = 1

    def __str__(self) -> str:
        """Give the message; of one that a file's contents have swollen, its two ends."""
        words = super().__str__()
        return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1005]} ... {words[-1000:]}"


class ConfigError(EomtError, ValueError):
    """A setting, option or argument is not usable."""

    exit_code = 2


class DataError(EomtError, ValueError):
    """An image, a mask, an annotation file or a data set is not usable."""

    exit_code = 3

    def __init__(self, *words: object, file: str = ""):
        super().__init__(*words)
        self.file = file
        """The file at fault, by its name in the data set; empty where it is none, or not known (yet)."""


class ModelError(EomtError, ValueError):
    """A model or a checkpoint is not usable."""

    exit_code = 4


class ResourceError(EomtError, RuntimeError):
    """Memory or disk does not suffice."""

    exit_code = 5


class NonFiniteError(EomtError, ArithmeticError):
    """A loss, a gradient or a weight is not a finite number."""

    exit_code = 6


class CheckError(EomtError):
    """A check that was asked for did not pass."""

    exit_code = 7


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the processor or on an accelerator, without importing torch for it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = ("can't allocate memory", "MPS backend out of memory")
    return "OutOfMemoryError" in kinds or ("RuntimeError" in kinds and any(words in str(error) for words in said))


def is_lost_process(error: BaseException) -> bool:
    """Tell whether another of the processes that compute together has ended, without importing torch for it."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return "DistError" in kinds or (
        "RuntimeError" in kinds and "gloo" in str(error) and any(words in str(error) for words in said)
    )
