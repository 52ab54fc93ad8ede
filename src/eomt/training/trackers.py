"""Send a run's figures and pictures where the user asks: TensorBoard, Weights & Biases, MLflow, trackio.

accelerate's trackers do it; nothing leaves the machine unless a service is named. A service that fails later does
not end the run: its own folder has everything.
"""

import json
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import tracking
from jaxtyping import UInt8

from eomt.config import TrackConfig
from eomt.errors import ConfigError
from eomt.files import write_aside

__all__ = ["Tracker", "check_tracker", "open_tracker"]

log = logging.getLogger("eomt")

EVENTS = "tensorboard"
"""Folder of a run that holds TensorBoard's files."""
TENSORBOARD = ("tensorboard", "tensorboardX")
"""Packages that write them; the first also shows them."""


def _has(*packages: str) -> bool:
    return any(find_spec(package) is not None for package in packages)


def check_tracker(config: TrackConfig) -> None:
    """Raise ConfigError where the service that is named is not installed."""
    if config.images < 0:
        raise ConfigError(f"track.images {config.images}: use 0 (no pictures of predictions) or more")
    packages = TENSORBOARD if config.to == "tensorboard" else (config.to,)
    if config.to not in ("auto", "none") and not _has(*packages):
        raise ConfigError(f"track.to {config.to}: not installed; pip install 'eomt[{config.to}]'")


class Tracker:
    """A service that is given rows and pictures, until it fails."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._failed = False

    def figures(self, values: Mapping[str, Any], step: int, group: str) -> None:
        """Record what of a row is a finite number, under GROUP/name."""
        finite = {
            f"{group}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._try(lambda: self._service.log(finite, step=step))

    def picture(self, name: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """Record a picture, where the service takes any."""
        if hasattr(self._service, "log_images"):
            form = {"dataformats": "NHWC"} if self._service.name == "tensorboard" else {}
            self._try(lambda: self._service.log_images({name: image[None]}, step=step, **form))

    def close(self) -> None:
        """Bring the last rows to where they belong."""
        self._try(self._service.finish)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # of other people's software, over a network: worth a line, not a run
            self._failed = True
            log.warning(
                "track.to %s: it failed (%s) and is left out from here on; the run folder has every figure",
                self._service.name,
                _in_short(error),
            )


def open_tracker(config: TrackConfig, folder: Path, settings: Mapping[str, Any], step: int) -> Tracker | None:
    """Open the service that a run reports to, from this step on; None where there is none.

    A run that goes on is the same one there, too. Raises ConfigError where the service cannot be started.
    """
    to = config.to
    if to == "auto":
        if not _has(*TENSORBOARD):
            if step == 0:
                log.info("TensorBoard is not installed: no event files (pip install 'eomt[tensorboard]')")
            return None
        to = "tensorboard"
    if to == "none":
        return None
    options = _options(to, config, folder, step)
    try:
        service: Any = tracking.LOGGER_TYPE_TO_CLASS[to](**options)
        service.start()
        if to == "mlflow":
            _remember(folder, to, service.tracker.info.run_id)
        if step == 0 and to != "tensorboard":  # there it would be a run of its own beside the curves
            service.store_init_configuration({name: _simple(value) for name, value in settings.items()})
    except Exception as error:
        if config.to == "auto":  # nobody asked for it
            log.warning("TensorBoard cannot be started (%s): no event files", _in_short(error))
            return None
        raise ConfigError(
            f"track.to {to}: it cannot be started ({_in_short(error)}); "
            "see that service's own settings (wandb login or WANDB_MODE=offline, MLFLOW_TRACKING_URI), or leave "
            "it out: --track.to none"
        ) from error
    return Tracker(service)


def _options(to: str, config: TrackConfig, folder: Path, step: int) -> dict[str, Any]:
    """Give what the tracker's constructor takes."""
    name, known = folder.resolve().name, _known(folder, to)
    if to == "tensorboard":  # rows of steps that are taken again are dropped
        return {"run_name": EVENTS, "logging_dir": str(folder), "purge_step": step + 1 if step else None}
    if to == "mlflow":
        return {"experiment_name": config.project, "run_name": name, "run_id": known}
    id = known or f"{name}-{uuid.uuid4().hex[:8]}"
    if known is None:
        _remember(folder, to, id)
    if to == "wandb":
        return {"run_name": config.project, "name": name, "id": id, "resume": "allow", "dir": str(folder)}
    return {"run_name": config.project, "name": id, "resume": "allow"}


def _known(folder: Path, to: str) -> str | None:
    """Give the id that a run has in a service."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "tracked.json").read_text(encoding="utf-8")).get(to)
        return found if isinstance(found, str) else None
    return None


def _remember(folder: Path, to: str, id: str) -> None:
    write_aside(folder / "tracked.json", json.dumps({to: id}).encode())


def _in_short(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:300]}"


def _simple(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
