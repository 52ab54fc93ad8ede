"""Every setting of a model and of a training run, as frozen dataclasses. Free of torch.

A recipe is complete: what it says is what runs. It is saved as JSON beside the weights; no value names code.
"""

import contextlib
import dataclasses
import json
import sys
import types
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eomt.categories import Category
from eomt.errors import ConfigError

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "Kind",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "Recipe",
    "TaskName",
    "Thresholds",
    "TrackConfig",
    "checked_thresholds",
    "choose_task",
    "flat",
    "from_json",
    "num_masked_layers",
    "num_upscale_blocks",
    "to_json",
]

TaskName = Literal["semantic", "instance", "panoptic"]
Precision = Literal["auto", "fp32", "bf16"]
Kind = Literal[
    "eomt", "mask2former_vit_adapter", "mask2former", "mask2former_no_pixel_decoder", "mask2former_single_scale"
]
DECODER_LAYERS = 9
"""Of Mask2Former's Transformer decoder."""


@dataclass(frozen=True)
class ModelConfig:
    """A plain ViT with queries."""

    kind: Kind = field(default="eomt", kw_only=True)
    """eomt, or a step of the paper's way to it from Mask2Former on a ViT-Adapter: on a simple feature pyramid,
    without the pixel decoder, on a single scale (docs/ladder.md)."""
    backbone: str = "vit_small_patch14_reg4_dinov2"
    """timm name of a plain ViT."""
    weights: str = "auto"
    """Where the backbone's weights come from: auto (timm's hub), none (random), or a safetensors file."""
    image_size: tuple[int, int] = (640, 640)
    """Height and width of the view that the model sees, in pixels; multiples of the patch size."""
    zoom: float | None = None
    """Pixels of the view for each pixel of the image: one magnification for images of all sizes, larger ones being
    seen in overlapping tiles. None: each image is scaled to the view, however large it is."""
    patch_size: int = 16
    """Side of a patch; another one than the backbone's is reached by the FlexiViT resize."""
    depth: int | None = None
    """Keep only the first so many blocks of the backbone; all when None."""
    num_queries: int = 200
    """Learned tokens, each of which proposes one segment."""
    num_joint_blocks: int = 4
    """eomt: the last so many blocks see queries and patches together (L2 in the paper)."""
    num_upscale_blocks: int | None = None
    """Doublings of the patch grid's resolution for the masks; None: the paper's, a quarter of the view's
    resolution with patches of 16 pixels. Objects smaller than a few cells of that map cannot be outlined."""
    masked_inference: bool = False
    """eomt: keep masked attention in prediction, for models trained with it to the end (slower; the paper's
    ablation). It goes with --optim.masked-attention always."""
    norm_eps: float | None = None
    """Epsilon of the backbone's layer norms; None: the backbone's own. Some published files use another."""
    rope_rescale: float | None = None
    """Training scales the coordinates of a rotary embedding by a factor that is drawn from 1/this to this for each
    batch. The published DINOv3 models had 2; None: not at all."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; earlier blocks have less, linearly."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


def num_upscale_blocks(config: ModelConfig) -> int:
    """Count the doublings from the patch grid to the mask map (section 3.1; from 14 pixels, only one)."""
    if config.num_upscale_blocks is not None:
        return config.num_upscale_blocks
    return max(1, config.patch_size.bit_length() - 3)


def num_masked_layers(config: ModelConfig) -> int:
    """Count the layers in which queries may be confined to their masks; before each they are supervised."""
    return config.num_joint_blocks if config.kind == "eomt" else DECODER_LAYERS


@dataclass(frozen=True)
class Thresholds:
    """When a query counts, and which of its pixels. They belong to a model; calls may override them."""

    score: float = 0.8
    """Panoptic: least class probability of a query that is kept."""
    mask: float = 0.5
    """Least mask probability of a pixel that belongs to the query."""
    overlap: float = 0.8
    """Panoptic: least share of its mask that a query must win to be kept."""
    duplicate: float = 1.0
    """Instance: of two segments of one class whose masks agree by more than this (intersection over union), the
    better one is kept. 1: both are, as published; less where a model finds things twice."""
    max_detections: int = 100
    """Instance: so many (query, class) pairs of the highest scores are returned."""


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from and how they are fed."""

    root: str | None = None
    """Folder or zip of the data set."""
    train: str = "train"
    """Split to train on."""
    val: str | None = "val"
    """Split to judge on; when the data have none, `val_fraction` of the training split is cut off."""
    val_fraction: float = 0.1
    """Share of the training split that is held out where there is no validation split."""
    batch_size: int = 16
    """Images an optimiser step, over all devices and micro-batches."""
    micro_batch: int | Literal["auto"] | None = None
    """Images that go through the model at once, on each device; gradients are accumulated up to `batch_size`.
    None: all; auto: as many as memory holds, which is measured before training. Where memory runs out while
    training, half as many."""
    workers: int = 2
    """Processes that read and augment samples; 0 does it in the main process."""
    format: str | None = None
    """Layout of the data set's files; None: it is recognised."""
    class_map: str | None = None
    """YAML or JSON file that merges, renames, drops or ignores classes (docs/data.md)."""
    balance: float | None = None
    """Share of the images, such as 0.1, that a class should be in: images of rarer classes come up up to
    sqrt(this / their share) times as often as others (LVIS's repeat factors). None: all alike."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What an image or annotation that cannot be read does in training: end it, or be logged and replaced."""
    max_bad_share: float = 0.05
    """Share of the training images that may be skipped so; with more, training ends."""


@dataclass(frozen=True)
class AugmentConfig:
    """The paper's augmentation: flip, large-scale jitter, pad and crop to the view, colour."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip (microscopy, aerial images; 0 in the paper)."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Range of the factor on the scale at which the image fits the view, or on `model.zoom`."""
    fit: Literal["contain", "cover"] | None = None
    """contain: at factor 1 the longest side fits the view; cover: the shortest side fills it. None: as the task
    does in prediction, so that training shows things as large as prediction does."""
    color: bool = False
    """Jitter brightness, contrast, saturation and hue as Mask2Former does."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and point sampling of the mask classification loss (Mask2Former section 3.3)."""

    mask_weight: float = 5.0
    """Weight of the cross-entropy of the masks' pixels."""
    dice_weight: float = 5.0
    """Weight of the Dice loss of the masks."""
    class_weight: float = 2.0
    """Weight of the cross-entropy of the classes."""
    no_object_weight: float = 0.1
    """Weight of the no-object class in the cross-entropy."""
    num_points: int = 12544
    """Points at which masks are compared, in the matching and in the loss."""
    oversample_ratio: float = 3.0
    """So many times `num_points` candidates are drawn, of which the most uncertain are kept."""
    importance_sample_ratio: float = 0.75
    """Share of the points that are chosen by uncertainty; the others are uniform."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with layer-wise decay, a two-stage warm-up and mask annealing; all times are shares of the run."""

    lr: float = 1e-4
    """Learning rate of the new parameters, and of the backbone before `layer_decay`."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    layer_decay: float = 0.8
    """Each block's rate is so many times that of the block after it."""
    undecayed_blocks: int = 0
    """The last so many blocks have the full rate all the same (the joint ones in published DINOv3 runs)."""
    backbone_lr_factor: float = 1.0
    """Factor on the backbone's rate, beside `layer_decay`; undecayed blocks and the final norm do without it."""
    warmup: tuple[int, int] = (500, 1000)
    """Steps in which first the new parameters, then the backbone reach their rate."""
    warmup_limit: float = 0.1
    """The two warm-ups together take at most this share of the run, so that a short run warms up too."""
    poly_power: float = 0.9
    """Rates, and the probability of masked attention, fall as (1 - progress) to this power."""
    clip_norm: float = 0.01
    """Global gradient norm above which gradients are scaled down."""
    masked_attention: Literal["annealed", "always", "never"] = "annealed"
    """In training: annealed away; always, to the end (predict with --model.masked-inference then); or never, when
    only the final layer is supervised too (the paper's ablations). Other kinds than eomt have it always."""
    freeze: Literal["nothing", "early_blocks", "backbone"] = "nothing"
    """Leave the blocks before the joint ones, or the whole backbone, as they are: less memory and time."""
    lora: int | None = None
    """Rank of adapters (LoRA) that are trained instead of the backbone's matrices, such as 8; its norms are, too.
    With `freeze` early_blocks only the joint blocks have them. They are merged into the models that are saved.
    Needs the package peft: pip install 'eomt[lora]'."""
    lora_layers: Literal["attention", "attention_and_mlp"] = "attention"
    """The matrices of each block that have adapters."""
    ema: float | None = None
    """Judge and save a moving average of the weights with this decay, such as 0.999; None: the weights."""
    anneal_first_in_warmup: bool = False
    """The first joint block's window is the warm-up (the published DINOv3 panoptic and semantic runs)."""


@dataclass(frozen=True)
class TrackConfig:
    """What a run shows, and where its figures go beside its own folder; nothing here changes a step."""

    log: Literal["auto", "lines", "json"] = "auto"
    """How progress is shown. auto: live on a terminal, else a line every ten seconds; lines: these on a terminal
    too; json: every row of metrics.jsonl on standard output."""
    to: Literal["auto", "none", "tensorboard", "wandb", "mlflow", "trackio"] = "auto"
    """What else records the figures. auto: TensorBoard's event files in the run folder, where it is installed. The
    others send them where their own settings (login, environment) say: only when they are named here."""
    project: str = "eomt"
    """Project, or experiment, that the run belongs to there."""
    images: int = 4
    """Validation images that are drawn with their predictions at each evaluation, always the same; 0: none."""
    report: bool = True
    """At the end, judge the best model once more from all sides and write report/report.html (eomt report RUN)."""


@dataclass(frozen=True)
class Recipe:
    """All that a training run needs to know."""

    task: TaskName | None = None
    """What is judged during training and asked of the model by default. None: as the data are: panoptic with
    things and stuff, instance with things only, semantic with stuff only."""
    epochs: float = 12.0
    """Passes over the training split; ignored when `steps` is given."""
    steps: int | None = None
    """Optimiser steps."""
    evaluate_every: float = 1.0
    """Epochs between evaluations; the end is always evaluated."""
    patience: int | None = None
    """Evaluations without a better figure after which training ends early."""
    precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    shard: bool = False
    """Spread weights, gradients and moments over the processes (FSDP2): for models that one device cannot hold."""
    seed: int = 0
    """Start of all random numbers: the same seed gives the same run on the same machine."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    track: TrackConfig = field(default_factory=TrackConfig)


def checked_thresholds(thresholds: Thresholds) -> Thresholds:
    """Give the thresholds back. Raises ConfigError for one out of range."""
    for name in ("score", "mask", "overlap", "duplicate"):
        value = getattr(thresholds, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value}: expected a number from 0 to 1")
    if thresholds.max_detections < 1:
        raise ConfigError(f"max_detections {thresholds.max_detections}: expected a whole number from 1 on")
    return thresholds


T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """Turn a configuration into what `json` can write; `from_json` reads it back."""
    return dataclasses.asdict(config)


def flat(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Name each setting by its path, with dots, as the command line does."""
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            settings |= flat(value, f"{section}{name}.")
        else:
            settings[section + name] = value
    return settings


def choose_task(asked: TaskName | None, categories: tuple[Category, ...]) -> TaskName:
    """Give the task that is asked for, or the one that the data are made for. Raises ConfigError for neither."""
    kinds = {category.is_thing for category in categories}
    if asked == "instance" and True not in kinds:
        raise ConfigError(
            "task instance, but all classes of the data are stuff: mark those that are countable as things ("
            "is_thing in categories.json, or things: [...] in a class map), or train --task semantic"
        )
    if asked is not None:
        return asked
    return "panoptic" if len(kinds) == 2 else "instance" if True in kinds else "semantic"


def from_json(cls: type[T], values: Any, where: str = "configuration") -> T:
    """Read a configuration dataclass from JSON values.

    Fields that are left out keep their defaults. Raises ConfigError for an unknown field or a value of
    another type, naming its place.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object with named values, found {json.dumps(values)[:80]}")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(hints)}")
    return cls(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    """Check a JSON value against a type hint and turn lists into tuples, objects into dataclasses."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        first, *others = (a for a in arguments if a is not type(None))
        if not others:
            return _read(first, value, where)
        for kind in (first, *others):
            with contextlib.suppress(ConfigError):
                return _read(kind, value, where)
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(
                _read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True))
            )
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: {json.dumps(value)[:80]} is not {_describe(hint)}")


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in get_args(hint) if a is not type(None))
    return str(hint).replace("<class '", "").replace("'>", "")
