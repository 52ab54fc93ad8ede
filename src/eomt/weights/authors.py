"""The authors' files: Lightning checkpoints and the released `pytorch_model.bin`, in and out.

Their DINOv3 files are differences from DINOv3's own weights ("deltas"), those that one trains oneself are not, and
nothing in a file says which it is. It is measured here. A file names no task, classes, thresholds or view.
"""

import io
import logging
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from eomt.categories import class_table
from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError
from eomt.files import write_aside
from eomt.models.backbone import Backbone, pixel_statistics
from eomt.weights.architecture import (
    BACKBONES,
    KNOWN_CLASSES,
    annealing,
    class_weights,
    is_masked,
    num_classes,
    recognise,
)
from eomt.weights.checkpoint import ModelInfo
from eomt.weights.names import AUTHORS, AUTHORS_DINOV3, DINOV3, VIT, State, from_ours, to_ours, with_biases
from eomt.weights.tensors import read_tensors

__all__ = ["BaseNeededError", "Kind", "read", "tell_kind", "write"]

log = logging.getLogger("eomt")

Kind = Literal["auto", "delta", "absolute"]
MEAN, STD = "network.encoder.pixel_mean", "network.encoder.pixel_std"
JOINT_BLOCKS = {384: 3, 768: 3, 1024: 4, 1280: 4, 1536: 5}
"""Of the published models, by width; a file without the annealing buffer does not say."""
NORM_OF_DELTA, MEAN_OF_DELTA = 0.1, 0.01
"""The weights of a trained backbone's norms are of the order of one; pixels' means are 0.4 to 0.5 (of 1)."""


class BaseNeededError(ModelError):
    """A file holds differences from weights that are not at hand."""


def read(
    path: Path, base: str | None = None, kind: Kind = "auto", image_size: tuple[int, int] | None = None
) -> tuple[ModelInfo, State]:
    """Read a file of the authors' into our names.

    `base` says where DINOv3's own weights are, for a delta file (see `read_base`). What the file does not tell
    stays open in the result: no task, no categories. Raises ModelError.
    """
    theirs = {name.replace("._orig_mod", ""): value for name, value in read_tensors(path).items()}
    if not any(name.startswith("network.") for name in theirs):
        raise ModelError(
            f"model {path}: no weights of EoMT under the authors' names (network.*); ours and Hugging "
            "Face's lie beside their config.json"
        )
    dinov3 = any(name.endswith(".layer_scale1.lambda1") for name in theirs)
    state = to_ours(theirs, AUTHORS_DINOV3 if dinov3 else AUTHORS)
    probabilities = theirs.get("network.attn_mask_probs")
    model = recognise(state, path, _joint_blocks(state, probabilities, path), image_size)
    state = {name: value.float() for name, value in state.items()}
    if kind == "delta" and not dinov3:
        raise ConfigError(f"model {path}: not a DINOv3 model, so it cannot be a delta")
    own = read_base(base, model) if dinov3 and base is not None else None
    found = settle_kind(state, own, kind, theirs.get(MEAN), path) if dinov3 else "absolute"
    if found == "delta":  # its buffers are differences too; all published models are annealed
        state = add_base(state, own, path)
    else:
        model = replace(model, masked_inference=is_masked(probabilities, path))
        if MEAN in theirs and STD in theirs:
            _check_pixels(theirs[MEAN], theirs[STD], model, path)
    table, task = KNOWN_CLASSES.get(num_classes(state), (None, None))
    if table is not None:
        log.info("%s: %d classes, taken for those of %s", path, num_classes(state), table)
    return ModelInfo(task, () if table is None else class_table(table), model), state


def read_base(source: str, model: ModelConfig) -> State:
    """Read the pre-trained backbone that a delta file belongs to, under our names.

    `auto` is timm's copy (fetched, and said); else a safetensors file, or a folder with `model.safetensors`,
    under Hugging Face's or timm's names. Raises ModelError.
    """
    if source == "auto":
        tensors = Backbone(replace(model, weights="auto")).state_dict()
        return with_biases({f"backbone.{name}": value for name, value in tensors.items()})
    path = Path(source)
    tensors = read_tensors(path / "model.safetensors" if path.is_dir() else path)
    tensors = {name.removeprefix("model.").replace("layers.", "layer."): value for name, value in tensors.items()}
    if any(name.startswith("layer.") for name in tensors):
        renamed = to_ours(tensors, DINOV3)
    else:
        renamed = {f"{VIT}.{name}": value for name, value in tensors.items()}
    return with_biases({name: value.float() for name, value in renamed.items()})


def write(state: State, info: ModelInfo, path: Path) -> None:
    """Write our state as the authors' code reads it (absolute weights): safetensors by its suffix, else PyTorch's.

    Raises ConfigError for a backbone that their code does not have.
    """
    if info.model.kind != "eomt":
        raise ConfigError(
            f"the authors' layout cannot hold a model of kind {info.model.kind}: save it as --to eomt"
        )
    name = info.model.backbone.partition(".")[0]
    dinov3 = "dinov3" in name
    if not {name, f"{name}_qkvb"} & BACKBONES.keys():
        raise ConfigError(f"the authors' layout is known for {', '.join(BACKBONES)} only, not for {name}")
    if not dinov3 and info.model.image_size[0] != info.model.image_size[1]:
        raise ConfigError(
            "a file of the authors' does not tell its view, which is taken for a square: give --image-size SIDE "
            "SIDE, to which positions are resampled"
        )
    if info.model.depth is not None:
        log.warning("the authors' code builds all blocks of %s, and cannot load these %d", name, info.model.depth)
    if info.model.norm_eps is not None:
        raise ConfigError(
            f"the authors' code has no place for the epsilon of the layer norms, here {info.model.norm_eps}"
        )
    theirs = from_ours(state, AUTHORS_DINOV3 if dinov3 else AUTHORS)
    pixels = pixel_statistics(info.model.backbone)
    theirs |= {
        "network.attn_mask_probs": annealing(info.model),
        MEAN: torch.tensor(pixels["mean"]).view(1, 3, 1, 1),
        STD: torch.tensor(pixels["std"]).view(1, 3, 1, 1),
        "criterion.empty_weight": class_weights(state),
    }
    content = io.BytesIO()
    if path.suffix == ".safetensors":
        content.write(save_safetensors(theirs))
    else:
        torch.save(theirs, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, content.getvalue())


def settle_kind(
    state: State, base: State | None, kind: Kind, pixel_mean: Tensor | None, path: Path
) -> Literal["delta", "absolute"]:
    """Settle whether weights are absolute or differences. Raises ModelError where it is unclear."""
    found = kind if kind != "auto" else tell_kind(state, base, pixel_mean)
    if found is None:
        raise ModelError(
            f"model {path}: it is not clear whether its weights are absolute or differences from DINOv3's own; "
            f"say it: eomt convert {path} DIR --kind absolute (a model that you trained), or --kind delta --base "
            "PATH (a released one)"
        )
    log.info(
        "%s: %s", path, "absolute weights" if found == "absolute" else "differences from DINOv3's own weights"
    )
    return found


def add_base(state: State, base: State | None, path: Path) -> State:
    """Add DINOv3's own weights to the backbone of a delta. Raises ModelError where they are not those."""
    if base is None:
        raise BaseNeededError(
            f"model {path}: its weights are differences from DINOv3's own, which are needed too: eomt convert "
            f"{path} DIR --base PATH (base=) with a folder or safetensors file of facebook/dinov3-... (accept its "
            "licence on huggingface.co first), or --base auto to fetch timm's copy"
        )
    strange = [name for name in state if name.startswith(VIT) and not _same_shape(state, base, name)]
    if strange:
        raise ModelError(
            f"model {path}: --base is another backbone: {', '.join(strange[:5])} are not in it, or of other shapes"
        )
    return {name: value + base[name] if name.startswith(VIT) else value for name, value in state.items()}


def tell_kind(state: State, base: State | None, pixel_mean: Tensor | None) -> Literal["delta", "absolute"] | None:
    """Tell differences from absolute weights; None where it is unclear.

    With DINOv3's own weights at hand it is measured: a fine-tuned backbone is closer to them than half their
    length, a difference is shorter than that, and nothing can be both. Without them: a difference has norms about
    zero and nothing of the pixels' mean, an absolute file has both.
    """
    if base is not None:
        shared = [name for name in base if _same_shape(state, base, name)]
        half = _length(base[name] for name in shared) / 2
        if half > 0 and _length(state[name] - base[name] for name in shared) < half:
            return "absolute"
        return "delta" if half > 0 and _length(state[name] for name in shared) < half else None
    own = re.compile(rf"{VIT}\..*norm\d?\.weight")
    norms = [float(value.abs().mean()) for name, value in state.items() if own.fullmatch(name)]
    norm, mean = sum(norms) / max(len(norms), 1), None if pixel_mean is None else float(pixel_mean.abs().max())
    if norm < NORM_OF_DELTA and (mean is None or mean < MEAN_OF_DELTA):
        return "delta"
    return "absolute" if norm > 3 * NORM_OF_DELTA and mean is not None and mean > MEAN_OF_DELTA else None


def _same_shape(state: State, base: State, name: str) -> bool:
    return name in state and name in base and state[name].shape == base[name].shape


def _length(tensors: Iterable[Tensor]) -> float:
    """Give the Euclidean length of all tensors as one vector."""
    return math.sqrt(sum(float(tensor.float().square().sum()) for tensor in tensors))


def _joint_blocks(state: State, probabilities: Tensor | None, path: Path) -> int:
    """Count the joint blocks by the annealing buffer; without it, guess by published models of this width."""
    if probabilities is not None:
        return len(probabilities)
    width = state["queries.weight"].shape[-1] if "queries.weight" in state else 0
    guess = JOINT_BLOCKS.get(width, 4)
    log.warning(
        "%s: it does not say how many joint blocks it has; %d, as published models of its width", path, guess
    )
    return guess


def _check_pixels(mean: Tensor, std: Tensor, model: ModelConfig, path: Path) -> None:
    """Refuse pixels that are normalised otherwise than the backbone's own."""
    known = pixel_statistics(model.backbone)
    for name, found in (("mean", mean), ("std", std)):
        values = found.flatten().tolist()
        if len(values) != 3 or max(abs(a - b) for a, b in zip(values, known[name], strict=True)) > 1e-3:
            raise ModelError(
                f"model {path}: it normalises pixels by a {name} of {values}, its backbone by {known[name]}; such "
                "a model is not known here"
            )
