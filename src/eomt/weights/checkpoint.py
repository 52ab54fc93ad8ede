"""Our checkpoints: a folder with `config.json` and safetensors weights, whole or absent.

`config.json` names the weights file and its sha256 and is replaced last and at once, so that a reader finds the
old checkpoint or the new one. Weights may be stored in 8 bits; they are fp32 in memory. Other projects' formats
are left to `authors` and `hugging_face`.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from eomt.categories import Category
from eomt.config import ModelConfig, TaskName, Thresholds, checked_thresholds, from_json, to_json
from eomt.errors import ConfigError, ModelError
from eomt.files import write_aside
from eomt.models import ladder
from eomt.models.blank import Blank
from eomt.models.ladder import Model
from eomt.weights.hub import BUNDLED, BUNDLED_FOLDER
from eomt.weights.names import State
from eomt.weights.tensors import first_line

__all__ = [
    "ModelInfo",
    "Storage",
    "build",
    "find",
    "info_from_json",
    "info_to_json",
    "load",
    "read",
    "save",
    "store_thresholds",
]

FORMAT = 1
SCALE = ":scale"
LISTED = 8
"""So many names of weights that do not fit are listed."""
Storage = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, beside its weights.

    Files of other projects may leave open what they are for: then there is no task, or there are no categories.
    """

    task: TaskName | None
    categories: tuple[Category, ...]
    model: ModelConfig
    thresholds: Thresholds = field(default_factory=Thresholds)


def save(model: Model, info: ModelInfo, folder: Path, storage: Storage = "fp32") -> None:
    """Write a checkpoint; one that is there already is replaced at once, when all is written.

    Raises ConfigError for a model of which task or categories are not known.
    """
    if info.task is None or not info.categories:
        raise ConfigError(
            "a model is saved with its task and its categories, which its file did not tell: give task= and "
            "classes= (--task, --classes)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = save_safetensors(_encode(state, storage))
    digest = hashlib.sha256(weights).hexdigest()
    name = f"model-{digest[:8]}.safetensors"
    config = {"format": FORMAT, **info_to_json(info), "weights": {"file": name, "sha256": digest}}
    write_aside(folder / name, weights)
    write_aside(folder / "config.json", json.dumps(config, indent=1).encode())
    for stale in folder.glob("model-*.safetensors"):
        if stale.name != name:
            stale.unlink()


def store_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Replace the thresholds of a checkpoint; its weights stay as they are. Raises ModelError where it is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _parse(config)
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise ModelError(
            f"model {folder}: its config.json is not of our layout ({error}); eomt convert makes such a folder"
        ) from error
    config["thresholds"] = to_json(checked_thresholds(thresholds))
    write_aside(path, json.dumps(config, indent=1).encode())


def read(source: str | Path) -> tuple[ModelInfo, State]:
    """Read a checkpoint: the bundled one, a checkpoint folder, or a run folder (its best, else its last).

    Raises ModelError when it is absent or damaged.
    """
    folder = find(source)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        info, file, digest = _parse(config)
        weights = (folder / file).read_bytes()
    except KeyError as error:
        raise ModelError(f"model {folder}: config.json lacks {error}") from error
    except FileNotFoundError as error:
        raise ModelError(f"model {error.filename}: config.json names this file, but it is not there") from error
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"model {folder}: config.json cannot be used ({error})") from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ModelError(
            f"model {folder / file}: its content is not what config.json promises (sha256); copy it anew"
        )
    try:
        return info, _decode(load_safetensors(weights))
    except SafetensorError as error:
        raise ModelError(f"model {folder / file}: not a safetensors file ({error})") from error


def load(source: str | Path) -> tuple[Model, ModelInfo]:
    """Read a checkpoint and make its model. Raises ModelError when it is absent, damaged or of another shape."""
    info, state = read(source)
    return build(info, state, source), info


def build(info: ModelInfo, state: State, where: object) -> Model:
    """Make the model of a state. Raises ModelError with the names of the weights that do not fit.

    They are compared before memory is taken for the model, whose configuration may claim any size.
    """
    try:
        num_classes = len(info.categories) or len(state["class_head.weight"]) - 1
        config = replace(info.model, weights="none")
        with torch.device("meta"):
            wanted = ladder.build(config, num_classes).state_dict()
        _check_fit(state, wanted, info, where)
        with Blank():
            model = ladder.build(config, num_classes)
    except ModelError:
        raise
    except (ConfigError, LookupError, OverflowError, RuntimeError, TypeError) as error:
        raise ModelError(f"model {where}: its configuration cannot be used ({first_line(error)})") from error
    model.load_state_dict(state)
    return model.eval()


def _check_fit(state: State, wanted: State, info: ModelInfo, where: object) -> None:
    complaints = {
        "missing": sorted(set(wanted) - set(state)),
        "not of this model": sorted(set(state) - set(wanted)),
        "of another shape": [
            f"{name} {_shape(state[name])} instead of {_shape(value)}"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    if any(complaints.values()):
        told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in complaints.items() if names)
        raise ModelError(f"model {where}: its weights do not fit its architecture ({info.model.backbone}). {told}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def find(source: str | Path) -> Path:
    """Find the folder with `config.json` that a name or a path means."""
    if source == BUNDLED:
        return BUNDLED_FOLDER
    folder = Path(source)
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return candidate
    there = "no such folder" if not folder.is_dir() else "no config.json in it, in best/ or in last/"
    raise ModelError(
        f"model {source}: {there}; give a checkpoint or a run folder, or leave it out for the bundled model"
    )


def info_to_json(info: ModelInfo) -> dict[str, Any]:
    """Turn what a model is into what `json` can write; `info_from_json` reads it back."""
    return {
        "task": info.task,
        "categories": [category._asdict() for category in info.categories],
        "model": to_json(replace(info.model, weights="none")),  # they are in the file; a path would lead nowhere
        "thresholds": to_json(info.thresholds),
    }


def info_from_json(config: Any) -> ModelInfo:
    """Read what a model is, trusting no value. Raises ConfigError, KeyError, TypeError or ValueError."""
    if config["task"] not in ("semantic", "instance", "panoptic", None):
        raise ConfigError(f"task {config['task']!r} is not semantic, instance or panoptic")
    categories = tuple(
        Category(str(c["name"]), bool(c["is_thing"]), int(c["id"]), (int(r), int(g), int(b)))
        for c in config["categories"]
        for r, g, b in [c["color"]]
    )
    return ModelInfo(
        config["task"],
        categories,
        from_json(ModelConfig, config["model"], "model"),
        checked_thresholds(from_json(Thresholds, config["thresholds"], "thresholds")),
    )


def _parse(config: Any) -> tuple[ModelInfo, str, str]:
    """Read `config.json`: what the model is, and the name and the digest of its weights."""
    if config["format"] != FORMAT:
        raise ConfigError(f"format {config['format']!r}; this version reads format {FORMAT}")
    if config["task"] is None or not config["categories"]:
        raise ConfigError("it says no task or lists no categories")
    file = str(config["weights"]["file"])
    if Path(file).name != file:
        raise ConfigError(f"weights file {file!r} is not a plain file name")
    return info_from_json(config), file, str(config["weights"]["sha256"])


def _encode(state: dict[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Store matrices in fewer bits; vectors and tables (norms, biases, positions) are few and keep theirs."""
    if storage == "fp32":
        return state
    out = {}
    for name, value in state.items():
        if value.dim() < 2 or len(value) == 1 or not value.is_floating_point():
            out[name] = value
        elif storage == "fp16":
            out[name] = value.half()
        else:  # symmetric, one scale a row: the first axis
            rows = value.float().flatten(1)
            scale = rows.abs().amax(1).clamp(min=1e-12) / 127
            out[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape)
            out[name + SCALE] = scale
    return out


def _decode(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring stored weights back to fp32."""
    state = {}
    for name, value in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        state[name] = value.float()
        if scale is not None:
            state[name] = state[name] * scale.view(-1, *[1] * (value.dim() - 1))
    return state
