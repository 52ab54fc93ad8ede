"""Hugging Face's layout of `eomt` and `eomt_dinov3`: safetensors, the model's and the processor's configuration.

What their configuration cannot say (task, things and stuff, thresholds) is written under the key `eomt`, which
transformers keeps and passes by; without it, it is inferred where that is certain and left open where not.
"""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from eomt.categories import Category, class_table, distinct_color
from eomt.config import ModelConfig, num_upscale_blocks
from eomt.errors import ConfigError, ModelError
from eomt.files import write_aside
from eomt.models.backbone import pixel_statistics
from eomt.weights import hub
from eomt.weights.architecture import (
    BACKBONES,
    KNOWN_CLASSES,
    annealing,
    class_weights,
    is_masked,
    num_classes,
    recognise,
)
from eomt.weights.card import card
from eomt.weights.checkpoint import ModelInfo, info_from_json, info_to_json
from eomt.weights.names import HUGGING_FACE, HUGGING_FACE_DINOV3, VIT, State, from_ours, to_ours
from eomt.weights.tensors import read_tensors

__all__ = ["MODEL_TYPES", "read", "their_config", "their_processor", "their_state", "write"]

log = logging.getLogger("eomt")

MODEL_TYPES = {"eomt": HUGGING_FACE, "eomt_dinov3": HUGGING_FACE_DINOV3}
NORM_EPS = {"eomt": 1e-6, "eomt_dinov3": 1e-5}
"""Of the backbones as timm has them."""
INDEX = "model.safetensors.index.json"
UNTOLD = ("zoom", "drop_path", "rope_rescale", "gradient_checkpointing")
"""What our key adds to an architecture that the weights tell."""
OURS = "eomt"
"""Key of what is ours in their configuration."""


def read(folder: Path) -> tuple[ModelInfo, State]:
    """Read a folder with `config.json`, weights and (if it is there) `preprocessor_config.json`.

    Raises ModelError for a file that cannot be used, or a setting that the model here does not have.
    """
    config = _read_json(folder / "config.json")
    theirs = _read_weights(folder)
    _check_sum(folder, config)
    layout = MODEL_TYPES[config["model_type"]]
    _refuse_other_kinds(config, folder)
    state = _with_position_of_class_token(to_ours(theirs, layout))
    model = recognise(state, folder, int(config["num_blocks"]), _view(config))
    _check_sizes(config, model, state, folder)
    eps = float(config["layer_norm_eps"])
    model = replace(
        model,
        norm_eps=None if eps == NORM_EPS[config["model_type"]] else eps,
        masked_inference=is_masked(theirs.get("attn_mask_probs"), folder),
    )
    processor = _read_json(folder / "preprocessor_config.json", optional=True)
    info = _info(config, processor, model, num_classes(state), folder)
    _check_pixels(processor, info.model, folder)
    return info, {name: value.float() for name, value in state.items()}


def write(state: State, info: ModelInfo, folder: Path) -> None:
    """Write a folder that transformers loads as it is, with a model card.

    Raises ConfigError for a model that transformers has no place for.
    """
    config = their_config(info, num_classes(state))
    weights = save_safetensors(their_state(state, info, config), metadata={"format": "pt"})
    config[OURS] = {**config.get(OURS, {}), "sha256": hashlib.sha256(weights).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "model.safetensors", weights)
    write_aside(folder / "preprocessor_config.json", _dump(their_processor(info)))
    write_aside(folder / "README.md", card(info, "transformers").encode())
    write_aside(folder / "config.json", _dump(config))


def their_config(info: ModelInfo, classes: int) -> dict[str, Any]:
    """Say what a model is in the words of their configuration."""
    model = info.model
    if model.kind != "eomt":
        raise ConfigError(f"Hugging Face's EoMT cannot hold a model of kind {model.kind}: save it as --to eomt")
    name = model.backbone.partition(".")[0]  # without the tag of its weights
    shape = BACKBONES.get(name) or BACKBONES.get(name + "_qkvb")
    if shape is None:
        raise ConfigError(f"Hugging Face's EoMT has no backbone {model.backbone}; it has {', '.join(BACKBONES)}")
    if shape.dinov3 and shape.gated:
        raise ConfigError(
            f"Hugging Face's EoMT gives the heads the activation of the backbone's MLP, and so cannot hold "
            f"{model.backbone}, whose MLP is gated by another"
        )
    if model.image_size[0] != model.image_size[1]:
        raise ConfigError(
            f"Hugging Face's EoMT sees squares, this model {model.image_size[0]}x{model.image_size[1]} pixels: "
            "give --image-size SIDE SIDE, to which its positions are resampled"
        )
    names = {str(label): category.name for label, category in enumerate(info.categories)}
    names = names or {str(label): f"LABEL_{label}" for label in range(classes)}
    kind = "eomt_dinov3" if shape.dinov3 else "eomt"
    config: dict[str, Any] = {
        "architectures": [
            "EomtDinov3ForUniversalSegmentation" if shape.dinov3 else "EomtForUniversalSegmentation"
        ],
        "model_type": kind,
        "dtype": "float32",
        "hidden_size": shape.width,
        "num_hidden_layers": model.depth or shape.depth,
        "num_attention_heads": shape.width // 64,
        "num_register_tokens": shape.registers,
        "layer_norm_eps": model.norm_eps or NORM_EPS[kind],
        "image_size": model.image_size[0],
        "patch_size": model.patch_size,
        "num_queries": model.num_queries,
        "num_blocks": model.num_joint_blocks,
        "num_upscale_blocks": num_upscale_blocks(model),
        "id2label": names,
        "label2id": {name: int(label) for label, name in names.items()},
    }
    if shape.dinov3:
        rope = {"rope_theta": 100.0, "rope_type": "default"}
        config |= {"intermediate_size": shape.hidden, "rope_parameters": rope}
    else:
        config["use_swiglu_ffn"] = shape.gated
    if info.categories:
        config[OURS] = info_to_json(info)
    return config


def their_state(state: State, info: ModelInfo, config: dict[str, Any]) -> State:
    """Give a model's weights under their names, for the model that their configuration describes."""
    theirs = from_ours(_without_position_of_class_token(state), MODEL_TYPES[config["model_type"]])
    return theirs | {"attn_mask_probs": annealing(info.model), "criterion.empty_weight": class_weights(state)}


def their_processor(info: ModelInfo) -> dict[str, Any]:
    """Say how images are shown to the model in the words of their processor."""
    pixels, side = pixel_statistics(info.model.backbone), info.model.image_size[0]
    semantic = info.task == "semantic"
    return {
        "image_processor_type": "EomtImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side, "longest_edge": None if semantic else side},
        "resample": 2,  # bilinear
        "do_split_image": semantic,
        "do_pad": not semantic,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
    }


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise ModelError(f"model {path.parent}: no {path.name} in it") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"model {path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"model {path}: expected an object with named values")
    return content


def _read_weights(folder: Path) -> State:
    """Read the weights, in one file or cut into several; safetensors where there are both."""
    if (folder / "model.safetensors").is_file():
        return read_tensors(folder / "model.safetensors")
    if not (folder / INDEX).is_file():
        return read_tensors(folder / "pytorch_model.bin")
    parts = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(parts, dict) or any(Path(str(name)).name != name for name in parts.values()):
        raise ModelError(f"model {folder / INDEX}: it names no files beside it")
    tensors: State = {}
    for name in sorted(set(parts.values())):
        tensors |= read_tensors(folder / name)
    return tensors


def _check_sum(folder: Path, config: dict[str, Any]) -> None:
    """Notice weights that are not the ones that were written with our key; others' files carry no sum."""
    promised, file = hub.promised(config).get(hub.WHOLE), folder / hub.WHOLE
    if promised is None or not file.is_file():
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != promised:
        raise ModelError(f"model {file}: its content is not what config.json promises (sha256); copy it anew")


def _refuse_other_kinds(config: dict[str, Any], folder: Path) -> None:
    """Refuse settings that would change what the model computes and that the model here does not have."""
    rope = config.get("rope_parameters") or {}
    settings = {
        "hidden_act": (config.get("hidden_act", "gelu"), "gelu"),
        "use_gated_mlp": (config.get("use_gated_mlp", False), False),  # its activation would be the heads' too
        "num_channels": (config.get("num_channels", 3), 3),
        "width of a head": (config["hidden_size"] // config["num_attention_heads"], 64),
        "rope_theta": (float(rope.get("rope_theta", config.get("rope_theta", 100.0))), 100.0),
        "key_bias": (config.get("key_bias", False), False),
    }
    for name, (found, known) in settings.items():
        if found != known:
            raise ModelError(
                f"model {folder}: config.json has another {name} ({found}) than the one known ({known})"
            )


def _without_position_of_class_token(state: State) -> State:
    """Add the class token's position to the token: DINOv2 without registers has one, they have no place for it."""
    table, token, registers = f"{VIT}.pos_embed", f"{VIT}.cls_token", f"{VIT}.reg_token"
    if registers in state or table not in state:
        return state
    none = state[token].new_zeros(1, 0, state[token].shape[-1])
    return {**state, token: state[token] + state[table][:, :1], table: state[table][:, 1:], registers: none}


def _with_position_of_class_token(state: State) -> State:
    """Give the class token of a model without registers a position, zero, as timm's has one."""
    table, registers = f"{VIT}.pos_embed", f"{VIT}.reg_token"
    if table not in state or registers not in state or state[registers].shape[-2] > 0:
        return state
    position = state[table].new_zeros(1, 1, state[table].shape[-1])
    kept = {name: value for name, value in state.items() if name != registers}
    return kept | {table: torch.cat([position, state[table]], dim=1)}


def _check_sizes(config: dict[str, Any], model: ModelConfig, state: State, folder: Path) -> None:
    """Refuse a configuration that was not written for these weights."""
    registers = state.get(f"{VIT}.reg_token")
    sizes = {
        "hidden_size": state["queries.weight"].shape[-1],
        "num_hidden_layers": model.depth or BACKBONES[model.backbone].depth,
        "num_register_tokens": 0 if registers is None else registers.shape[-2],
        "num_queries": model.num_queries,
        "patch_size": model.patch_size,
    }
    for name, found in sizes.items():
        if config.get(name, found) != found:
            raise ModelError(
                f"model {folder}: config.json says {name} {config[name]!r}, its weights {found}; one of the files "
                "is of another model"
            )


def _view(config: dict[str, Any]) -> tuple[int, int]:
    size = config.get("image_size", 640)
    height, width = size if isinstance(size, list) else (size, size)
    return int(height), int(width)


def _check_pixels(processor: dict[str, Any], model: ModelConfig, folder: Path) -> None:
    """Refuse pixels that are scaled or normalised otherwise than the backbone's own."""
    ours = their_processor(ModelInfo(None, (), model))
    for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"):
        found, wanted = np.asarray(processor.get(name, ours[name]), float), np.asarray(ours[name], float)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-3, atol=0):
            raise ModelError(
                f"model {folder}: preprocessor_config.json has {name} {processor[name]}, its backbone "
                f"{ours[name]}; such a model is not known here"
            )


def _info(
    config: dict[str, Any], processor: dict[str, Any], model: ModelConfig, classes: int, folder: Path
) -> ModelInfo:
    """Say what the model is for: as was written under our key, or as far as it can be inferred."""
    told_names = config.get("id2label") or {}
    names = [str(told_names.get(str(label), f"LABEL_{label}")) for label in range(classes)]
    if len(told_names) not in (0, classes):
        log.warning("%s: config.json names %d classes, its weights have %d", folder, len(told_names), classes)
    written = config.get(OURS)
    if isinstance(written, dict) and [c["name"] for c in written.get("categories", ())] == names:
        told = _written(written, folder)  # but where somebody fine-tuned it to other classes since
        training = {name: getattr(told.model, name) for name in UNTOLD}
        return replace(
            told, model=replace(model, backbone=_tagged(told.model.backbone, model.backbone), **training)
        )
    table, task = KNOWN_CLASSES.get(classes, (None, None))
    known = () if table is None else class_table(table)
    generic = all(name == f"LABEL_{label}" for label, name in enumerate(names))
    if table is None or not (generic or [category.name for category in known] == names):
        task = None
        known = () if generic else _as_things(names, folder)
    elif generic:
        log.info("%s: %d classes without names, taken for those of %s", folder, classes, table)
    return ModelInfo("semantic" if processor.get("do_split_image") else task, known, model)


def _written(values: dict[str, Any], folder: Path) -> ModelInfo:
    try:
        return info_from_json(values)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"model {folder}: what config.json says under {OURS} cannot be used ({error!r}); a newer version may "
            "have written it"
        ) from error


def _tagged(told: str, recognised: str) -> str:
    """Give the recognised backbone the tag of the one told, if it is the same one: pixels may depend on it."""
    name, dot, tag = told.partition(".")
    return f"{recognised}{dot}{tag}" if recognised in (name, name + "_qkvb") else recognised


def _as_things(names: list[str], folder: Path) -> tuple[Category, ...]:
    """Make categories of names; transformers too keeps segments of one class apart if not told what is stuff."""
    log.info("%s: config.json does not say which classes are stuff: all are taken for things", folder)
    return tuple(Category(name, True, label, distinct_color(label)) for label, name in enumerate(names))


def _dump(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
