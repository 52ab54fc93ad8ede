"""Make ready what a run needs, and say what is about to happen: all that can fail before it costs anything.

Settings are checked, data opened, the task chosen, the model made, the device taken. Training is left to `loop`.
"""

import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from eomt.config import (
    DataConfig,
    OptimConfig,
    Recipe,
    checked_thresholds,
    choose_task,
    num_masked_layers,
    to_json,
)
from eomt.data.detect import changed, find_format
from eomt.data.loader import cut_validation, share, steps_per_epoch
from eomt.devices import choose_device, choose_precision
from eomt.errors import ConfigError, DataError
from eomt.files import write_aside
from eomt.inference.tiles import lay
from eomt.models import ladder
from eomt.models.ladder import Model
from eomt.tasks import TASKS
from eomt.training.provenance import compare_data, record_changes, record_data, record_settings
from eomt.training.rendezvous import join_again
from eomt.training.trackers import check_tracker
from eomt.types import Dataset
from eomt.weights import checkpoint, source
from eomt.weights.checkpoint import ModelInfo

__all__ = [
    "announce",
    "build",
    "build_accelerator",
    "change_run",
    "check",
    "check_same_data",
    "check_shares",
    "choose_data",
    "open_run",
    "settled",
]

log = logging.getLogger("eomt")


def check(recipe: Recipe, folder: Path, may_be_there: bool = False) -> None:
    """Refuse settings that cannot be meant and a run folder that is in use, before anything is read."""
    if not may_be_there and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"run folder {folder}: it holds something already; give another --out, or go on with --resume {folder}"
        )
    if isinstance(recipe.data.micro_batch, int) and recipe.data.micro_batch < 1:
        raise ConfigError(f"data.micro_batch {recipe.data.micro_batch}: at least 1 image, or auto")
    if recipe.steps is not None and recipe.steps < 1:
        raise ConfigError(f"steps {recipe.steps}: at least 1")
    if recipe.steps is None and not recipe.epochs > 0:
        raise ConfigError(f"epochs {recipe.epochs}: more than 0")
    if not recipe.evaluate_every > 0:
        raise ConfigError(f"evaluate_every {recipe.evaluate_every}: more than 0 epochs")
    if not 0 < recipe.augment.scale[0] <= recipe.augment.scale[1]:
        raise ConfigError(f"augment.scale {recipe.augment.scale}: two factors above 0, the smaller one first")
    if recipe.model.zoom is not None:
        lay((1, 1), recipe.model.image_size, recipe.model.zoom)
    if recipe.data.balance is not None and not 0 < recipe.data.balance <= 1:
        raise ConfigError(f"data.balance {recipe.data.balance}: a share of the images above 0, such as 0.1")
    checked_thresholds(recipe.thresholds)
    check_tracker(recipe.track)
    if recipe.loss.num_points < 1:
        raise ConfigError(f"loss.num_points {recipe.loss.num_points}: at least 1")
    if recipe.optim.masked_attention == "never" and recipe.model.masked_inference:
        raise ConfigError(
            "optim.masked_attention never, but model.masked_inference: a model that is trained without masked "
            "attention predicts without it; drop --model.masked-inference"
        )
    check_kind(recipe)
    check_adapters(recipe.optim)
    if recipe.optim.ema is not None and not 0 < recipe.optim.ema < 1:
        raise ConfigError(f"optim.ema {recipe.optim.ema}: a decay between 0 and 1, such as 0.999")
    if recipe.patience is not None and recipe.patience < 1:
        raise ConfigError(f"patience {recipe.patience}: at least 1 evaluation")
    if not recipe.optim.lr > 0:
        raise ConfigError(f"optim.lr {recipe.optim.lr}: more than 0")


def check_kind(recipe: Recipe) -> None:
    """Refuse what only EoMT has, of the paper's steps to it."""
    kind = recipe.model.kind
    if kind == "eomt":
        return
    if recipe.optim.masked_attention == "never":
        raise ConfigError(f"optim.masked_attention never: a model of kind {kind} always confines queries to masks")
    if recipe.model.masked_inference:
        raise ConfigError(f"model.masked_inference: a model of kind {kind} has it by itself; leave it out")
    if recipe.optim.freeze == "early_blocks":
        raise ConfigError(
            f"optim.freeze early_blocks: a model of kind {kind} has no joint blocks, before which they would be; "
            "freeze the backbone, or nothing"
        )


def check_adapters(config: OptimConfig) -> None:
    """Refuse adapters that cannot be, or that the package which makes them is not there for."""
    if config.lora is None:
        return
    if config.lora < 1:
        raise ConfigError(f"optim.lora {config.lora}: a rank of at least 1, such as 8")
    if config.freeze == "backbone":
        raise ConfigError(
            "optim.lora trains adapters in the backbone, which optim.freeze backbone leaves as it is: "
            "drop one of them"
        )
    if find_spec("peft") is None:
        raise ConfigError("optim.lora needs the package peft: pip install 'eomt[lora]'")


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Choose device and precision, and join the processes that a launcher started, if any.

    Raises ConfigError where the device is absent, or the batch cannot be shared among the processes.
    """
    device = choose_device(recipe.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    # Its state outlives a run: another one in this process may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    # DDP warns from torch 2.14 on of an option whose new name earlier ones lack.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # It warns, too, of gradients whose axes of length one have other strides, which are as good in memory; strides
    # of other axes are always the parameter's, as autograd sees to it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    # The model's buffers are constants; a step that is taken again must not wait for others to send theirs.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    join_again(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if choose_precision(recipe.precision, device) == torch.bfloat16 else "no",
        kwargs_handlers=[parallel],
    )
    if accelerator.distributed_type in (
        DistributedType.FSDP,
        DistributedType.DEEPSPEED,
        DistributedType.MEGATRON_LM,
    ):
        raise ConfigError(
            f"the launcher asks for {accelerator.distributed_type.value}: start without it (torchrun, or "
            "accelerate launch --multi_gpu), and give --shard to spread the model over the processes"
        )
    check_shares(recipe, accelerator.num_processes)
    return accelerator


def check_shares(recipe: Recipe, processes: int) -> None:
    """Refuse a batch that has no image for some process, and shares of it that a spread model cannot take."""
    data = recipe.data
    largest, smallest = (len(share(data.batch_size, rank, processes)) for rank in (0, processes - 1))
    if not recipe.shard or processes == 1:
        return
    if data.micro_batch == "auto":
        raise ConfigError(
            "data.micro_batch auto: not with --shard, whose processes wait for one another in every pass; give a "
            "number"
        )
    if data.micro_batch and math.ceil(largest / data.micro_batch) > math.ceil(smallest / data.micro_batch):
        raise ConfigError(
            f"batch size {data.batch_size} on {processes} processes, in micro-batches of {data.micro_batch}: some "
            "have one more than others, which --shard cannot do; take a multiple of the processes"
        )


def settled(recipe: Recipe, info: ModelInfo) -> Recipe:
    """Put into the recipe what was settled since it was given: the task, its fit, the model, and its masks."""
    assert info.task is not None  # build chose it
    fit = recipe.augment.fit or TASKS[info.task].fit
    optim = recipe.optim
    if info.model.kind != "eomt":  # check_kind refused what is not meant
        optim = replace(optim, masked_attention="always")
    return replace(recipe, task=info.task, model=info.model, augment=replace(recipe.augment, fit=fit), optim=optim)


def open_run(
    folder: Path, given: Recipe, recipe: Recipe, origins: Mapping[str, str] | None, facts: Mapping[str, Any]
) -> None:
    """Make the run folder and write into it what is to run: the recipe, where each setting is from, the data."""
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "recipe.json", json.dumps(to_json(recipe), indent=1).encode())
    record_settings(folder, given, recipe, origins)
    record_data(folder, facts)


def change_run(folder: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write into the run folder with what a run goes on from now on, where that may have been changed."""
    write_aside(folder / "recipe.json", json.dumps(to_json(recipe), indent=1).encode())
    record_changes(folder, recipe)
    record_data(folder, facts)


def check_same_data(folder: Path, facts: Mapping[str, Any], change: bool) -> None:
    """Raise DataError where a run would go on with other data than it began with, unless that is wanted."""
    difference = compare_data(folder, facts)
    if difference is None:
        return
    if not change:
        raise DataError(
            f"run {folder}: {difference}. Go on with the same data, add --change to go on all the same, or start "
            f"a new run with --init-from {folder}"
        )
    log.warning("%s; it goes on all the same, as another run than was begun", difference)


def choose_data(recipe: Recipe, train_data: Dataset | None, val_data: Dataset | None) -> tuple[Dataset, Dataset]:
    """Open the two splits; without a validation split, cut one off the training split, and say so."""
    data, absent = recipe.data, ""
    if train_data is None:
        if data.root is None:
            raise ConfigError("no data: give --data PATH (data.root), or a data set from Python")
        found = find_format(data.root, data.format)
        log.info("data %s: %s, with the splits %s", data.root, found.format.name, ", ".join(found.splits))
        train_data = changed(found.open(data.train), data.class_map)
        if val_data is None and data.val is not None:
            asked_for = data.val != DataConfig.val
            if found.name_of(data.val) == found.name_of(data.train):
                absent = f" other than {found.name_of(data.train)}, which is trained on"
            elif found.name_of(data.val) or asked_for:  # raises where it is absent
                val_data = changed(found.open(data.val), data.class_map)
            else:
                absent = f" {data.val!r}"
    if len(train_data) == 0:
        raise DataError(f"the training split {data.train!r} has no images")
    if val_data is None:
        train_data, val_data = cut_validation(train_data, data.val_fraction, recipe.seed)
        log.warning(
            "no validation split%s: %d of %d training images are held out to judge on",
            absent,
            len(val_data),
            len(train_data) + len(val_data),
        )
    return train_data, val_data


def build(recipe: Recipe, data: Dataset, init_from: str | Path | None) -> tuple[Model, ModelInfo]:
    """Create the model for the data's classes, new or from a trained one."""
    task = choose_task(recipe.task, data.categories)
    info = ModelInfo(task, data.categories, recipe.model, recipe.thresholds)
    if init_from is None:
        return ladder.build(recipe.model, len(data.categories)), info
    told = source.Told(image_size=recipe.model.image_size, patch_size=recipe.model.patch_size)
    old, state = source.read(init_from, told)
    if old.model.kind != recipe.model.kind:
        raise ConfigError(
            f"init-from {init_from}: a model of kind {old.model.kind} starts no other; give --model.kind "
            f"{old.model.kind}, or leave out --init-from and start from a backbone's weights (--model.weights)"
        )
    # What is no architecture stays the recipe's: how it is trained, and whether prediction masks attention.
    own = replace(
        old.model,
        zoom=recipe.model.zoom,
        drop_path=recipe.model.drop_path,
        rope_rescale=recipe.model.rope_rescale,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        masked_inference=recipe.model.masked_inference,
    )
    info = replace(info, model=own)
    trained = checkpoint.build(replace(old, model=own), state, init_from)
    known, wanted = (
        [(c.name, c.is_thing and task != "semantic") for c in categories]  # semantic models tell no kinds apart
        for categories in (old.categories, data.categories)
    )
    if known == wanted:
        return trained, info
    log.info(
        "the class head of %s is initialised anew: it knew %s, the data have %s",
        init_from,
        _named(known)
        or f"{trained.class_head.out_features - 1} classes without names (eomt convert --classes tells them)",
        _named(wanted),
    )
    trained.reset_classes(len(data.categories))
    return trained, info


def _named(classes: list[tuple[str, bool]]) -> str:
    names = [name for name, _ in classes]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def masking_mismatch(recipe: Recipe) -> str | None:
    """Say where training ends with masked attention and prediction does without, or the reverse."""
    masked_to_the_end = recipe.optim.masked_attention == "always"
    if recipe.model.kind != "eomt" or masked_to_the_end == recipe.model.masked_inference:
        return None
    if masked_to_the_end:
        return (
            "attention is masked to the end of training (optim.masked_attention always), but not in prediction: "
            "scores will be poor (paper, table 7: PQ 27.4 for 56.2); add --model.masked-inference"
        )
    return (
        "attention is masked in prediction (model.masked_inference), but not at the end of training: that costs "
        "time for nothing; add --optim.masked-attention always, or drop --model.masked-inference"
    )


def announce(
    recipe: Recipe,
    info: ModelInfo,
    accelerator: Accelerator,
    model: Model,
    train_data: Dataset,
    val_data: Dataset,
    steps: int,
) -> None:
    """Say what is about to happen, before it costs anything."""
    if not accelerator.is_main_process:
        return
    things = sum(category.is_thing for category in info.categories)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    height, width = info.model.image_size
    log.info(
        "model %s, %.1f M parameters%s, %d queries in %d %s, view %dx%d, %s on %s",
        info.model.backbone if info.model.kind == "eomt" else f"{info.model.kind} on {info.model.backbone}",
        parameters / 1e6,
        f", {trained / 1e6:.1f} M of them trained" if trained < parameters else "",
        info.model.num_queries,
        num_masked_layers(info.model),
        "joint blocks" if info.model.kind == "eomt" else "decoder layers",
        height,
        width,
        "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        accelerator.device,
    )
    log.info(
        "data %d training and %d validation images, %d things and %d stuff; task %s",
        len(train_data),
        len(val_data),
        things,
        len(info.categories) - things,
        recipe.task,
    )
    log.info(
        "%d steps of %d images (%.1f epochs)%s; results in the run folder",
        steps,
        recipe.data.batch_size,
        steps / steps_per_epoch(len(train_data), recipe.data.batch_size),
        f", on {accelerator.num_processes} processes" if accelerator.num_processes > 1 else "",
    )
    mismatch = masking_mismatch(recipe)
    if mismatch:
        log.warning(mismatch)
