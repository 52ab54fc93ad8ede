"""Train EoMT: the loop in plain sight, over accelerate.

Forward, loss, backward, step; every so often, evaluate and save. Each part has its own module: `data.loader`,
`models`, `loss`, `optim`, `evaluation`, `weights`. Nothing here is called back.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor

from eomt.config import DataConfig, Recipe, checked_thresholds, choose_task, to_json
from eomt.data.detect import changed, find_format
from eomt.data.loader import cut_validation, steps_per_epoch, train_loader
from eomt.devices import choose_device, choose_precision
from eomt.errors import ConfigError, DataError, NonFiniteError
from eomt.evaluation.evaluate import Evaluation, evaluate, match_categories
from eomt.files import write_aside
from eomt.inference.segmenter import Segmenter
from eomt.models.eomt import EoMT
from eomt.tasks import TASKS
from eomt.training.loss import count_masks, segmentation_loss
from eomt.training.optim import build_optimizer, learning_rate, mask_probabilities, set_learning_rates
from eomt.training.track import Track
from eomt.types import Batch, Dataset, Target
from eomt.weights import checkpoint, source
from eomt.weights.checkpoint import ModelInfo

__all__ = ["TrainResult", "train"]

log = logging.getLogger("eomt")


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    segmenter: Segmenter
    """The best model by the task's figure."""
    metrics: dict[str, float]
    """Its figures on the validation split."""
    folder: Path
    """The run folder: recipe.json, metrics.jsonl, metrics.csv, log.txt, best/, last/."""


@dataclass
class Progress:
    """Where a run stands."""

    steps: int
    steps_per_epoch: int
    step: int = 0

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""
        return self.step / self.steps_per_epoch


def train(
    recipe: Recipe,
    out: str | Path,
    train_data: Dataset | None = None,
    val_data: Dataset | None = None,
    init_from: str | Path | None = None,
) -> TrainResult:
    """Train a model as the recipe says and leave a run folder.

    The data come from `recipe.data.root`, or from the two arguments: anything with the `Dataset` protocol. Where
    there is no validation split, a part of the training split is cut off, and said. `init_from` starts from a
    trained model, anything that `Segmenter.from_pretrained` takes: its backbone, queries and joint blocks are then
    used; view and patches stay the recipe's, to which its positions and patches are resampled; its class head is
    kept only if the classes are the same. The recipe in the run folder is the one that ran.

    Raises ConfigError when `out` holds something already, DataError, ModelError, and NonFiniteError when the
    loss or a gradient is not finite. Nothing is written before data and model are at hand. Ctrl-C leaves the last
    state in `last/` and is passed on.
    """
    folder = Path(out)
    check(recipe, folder)
    set_seed(recipe.seed)
    accelerator = build_accelerator(recipe)
    train_data, val_data = choose_data(recipe, train_data, val_data)
    model, info = build(recipe, train_data, init_from)
    recipe = settled(recipe, info)
    optimizer = build_optimizer(model, recipe.optim)
    model, optimizer = accelerator.prepare(model, optimizer)
    epoch = steps_per_epoch(len(train_data), recipe.data.batch_size)
    progress = Progress(recipe.steps or max(1, round(recipe.epochs * epoch)), epoch)
    segmenter = Segmenter(accelerator.unwrap_model(model), info, accelerator.device)
    match_categories(val_data.categories, info.categories, [segmenter.task])

    with (
        closing(train_loader(train_data, recipe)) as batches,
        Track(open_run(folder, recipe), progress.steps) as track,
    ):
        if init_from is not None:
            log.info(
                "starting from %s: its backbone, queries and joint blocks; view and patches are the recipe's",
                init_from,
            )
        precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        announce(recipe, info, segmenter, train_data, val_data, progress, precision)
        try:
            best = fit(recipe, accelerator, model, optimizer, batches, val_data, segmenter, progress, track)
        except KeyboardInterrupt:
            segmenter.save(folder / "last")
            log.info("interrupted at step %d: the state is in %s", progress.step, folder / "last")
            raise
    return TrainResult(Segmenter.from_pretrained(folder / "best", str(accelerator.device)), best.figures, folder)


def fit(
    recipe: Recipe,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    val_data: Dataset,
    segmenter: Segmenter,
    progress: Progress,
    track: Track,
) -> Evaluation:
    """Run all steps; give the evaluation of the best checkpoint."""
    task = segmenter.task
    figure = TASKS[task].figure
    every = max(1, round(recipe.evaluate_every * progress.steps_per_epoch))
    best: Evaluation | None = None
    model.train()
    while progress.step < progress.steps:
        values = optimizer_step(recipe, accelerator, model, optimizer, batches, progress)
        progress.step += 1
        track.step(progress.step, progress.epoch, values)

        if progress.step % every == 0 or progress.step == progress.steps:
            model.eval()
            result = evaluate(segmenter, val_data, [task], precision=recipe.precision)
            model.train()
            track.evaluation(progress.step, progress.epoch, result.figures | {"val_seconds": result.seconds})
            segmenter.save(track.folder / "last")
            if best is None or better(result.figures[figure], best.figures[figure]):
                best = result
                segmenter.save(track.folder / "best")
    assert best is not None  # the last step is always evaluated
    log.info("best %s %.4f: %s", figure, best.figures[figure], track.folder / "best")
    return best


def optimizer_step(
    recipe: Recipe,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    progress: Progress,
) -> dict[str, float]:
    """Take one step on `batch_size` images, in one or more micro-batches; give what is worth recording."""
    started = time.monotonic()
    set_learning_rates(optimizer, progress.step, progress.steps, recipe.optim)
    probabilities = mask_probabilities(progress.step, progress.steps, recipe.optim, recipe.model.num_joint_blocks)
    sums: dict[str, Tensor] = {}
    costs = replaced = 0
    micro_batches = [next(batches) for _ in range(accelerator.gradient_accumulation_steps)]
    # Each mask counts alike, whichever micro-batch it came in.
    masks = sum(count_masks(batch.targets, recipe.model.num_queries) for batch in micro_batches)
    num_masks = torch.tensor(masks / len(micro_batches), device=accelerator.device)
    for batch in micro_batches:
        batch = to_device(batch, accelerator.device)
        with accelerator.accumulate(model):
            with accelerator.autocast():
                outputs = model(batch.images, probabilities)
            terms = segmentation_loss(outputs, batch.targets, recipe.loss, num_masks)
            accelerator.backward(terms.total)
            costs, replaced = costs + terms.costs, replaced + terms.replaced_costs
            for name, value in zip(
                ("loss", "mask", "dice", "class"), (terms.total, *terms.layers.sum(0)), strict=True
            ):
                share = value.detach() / accelerator.gradient_accumulation_steps
                sums[name] = sums[name] + share if name in sums else share
    norm = accelerator.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
    values = {name: float(value) for name, value in sums.items()} | {
        "grad_norm": float(norm if norm is not None else math.nan)
    }
    if replaced:
        log.warning(
            "step %d: %d of %d costs of the matching are not finite; if it goes on, the model diverges",
            progress.step + 1,
            replaced,
            costs,
        )
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {progress.step + 1}: {name} is {value}; nothing was updated by it. "
                "Lower --optim.lr, lengthen --optim.warmup, or use --precision fp32"
            )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values | {
        "lr": learning_rate(progress.step, progress.steps, recipe.optim, "new"),
        "masked_attention": sum(probabilities) / len(probabilities) if probabilities else 0.0,
        "replaced_costs": replaced,
        "images_per_second": recipe.data.batch_size / (time.monotonic() - started),
    }


def better(figure: float, best: float) -> bool:
    """Say whether a figure is at least as good as the best so far: of equals, the one trained longer.

    NaN, a figure that the data do not define, is replaced by anything, a later NaN too.
    """
    return figure >= best or math.isnan(best)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to where the model is."""
    targets = [
        Target(*(part.to(device, non_blocking=True) for part in (target.masks, target.labels, target.is_crowd)))
        for target in batch.targets
    ]
    return Batch(batch.images.to(device, non_blocking=True), targets, batch.image_ids)


def check(recipe: Recipe, folder: Path) -> None:
    """Refuse settings that cannot be meant and a run folder that is in use, before anything is read."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"run folder {folder}: it holds something already; give another --out")
    micro = recipe.data.micro_batch or recipe.data.batch_size
    if recipe.data.batch_size < 1 or micro < 1 or recipe.data.batch_size % micro:
        raise ConfigError(f"batch size {recipe.data.batch_size} is not a multiple of the micro-batch, {micro}")
    if recipe.steps is not None and recipe.steps < 1:
        raise ConfigError(f"steps {recipe.steps}: at least 1")
    if recipe.steps is None and not recipe.epochs > 0:
        raise ConfigError(f"epochs {recipe.epochs}: more than 0")
    if not recipe.evaluate_every > 0:
        raise ConfigError(f"evaluate_every {recipe.evaluate_every}: more than 0 epochs")
    if not 0 < recipe.augment.scale[0] <= recipe.augment.scale[1]:
        raise ConfigError(f"augment.scale {recipe.augment.scale}: two factors above 0, the smaller one first")
    checked_thresholds(recipe.thresholds)
    if recipe.loss.num_points < 1:
        raise ConfigError(f"loss.num_points {recipe.loss.num_points}: at least 1")
    if recipe.optim.masked_attention == "never" and recipe.model.masked_inference:
        raise ConfigError(
            "optim.masked_attention never, but model.masked_inference: a model that is trained without masked "
            "attention predicts without it; drop --model.masked-inference"
        )
    if not recipe.optim.lr > 0:
        raise ConfigError(f"optim.lr {recipe.optim.lr}: more than 0")


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Choose device and precision. Raises ConfigError where the device is absent, or with several processes."""
    device = choose_device(recipe.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    # Its state outlives a run: another one in this process may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if choose_precision(recipe.precision, device) == torch.bfloat16 else "no",
        gradient_accumulation_steps=recipe.data.batch_size // (recipe.data.micro_batch or recipe.data.batch_size),
    )
    if accelerator.num_processes > 1:
        raise ConfigError(f"{accelerator.num_processes} processes were launched; training runs in one")
    return accelerator


def settled(recipe: Recipe, info: ModelInfo) -> Recipe:
    """Put into the recipe what was settled since it was given: the task, its fit, and the model."""
    assert info.task is not None  # build chose it
    fit = recipe.augment.fit or TASKS[info.task].fit
    return replace(recipe, task=info.task, model=info.model, augment=replace(recipe.augment, fit=fit))


def open_run(folder: Path, recipe: Recipe) -> Path:
    """Make the run folder and write the recipe into it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "recipe.json", json.dumps(to_json(recipe), indent=1).encode())
    return folder


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
            if found.name_of(data.val) or asked_for:  # raises where it is absent
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


def build(recipe: Recipe, data: Dataset, init_from: str | Path | None) -> tuple[EoMT, ModelInfo]:
    """Create the model for the data's classes, new or from a trained one."""
    task = choose_task(recipe.task, data.categories)
    info = ModelInfo(task, data.categories, recipe.model, recipe.thresholds)
    if init_from is None:
        return EoMT(recipe.model, len(data.categories)), info
    told = source.Told(image_size=recipe.model.image_size, patch_size=recipe.model.patch_size)
    old, state = source.read(init_from, told)
    # What is no architecture stays the recipe's: how it is trained, and whether prediction masks attention.
    own = replace(
        old.model,
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
    if masked_to_the_end == recipe.model.masked_inference:
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
    segmenter: Segmenter,
    train_data: Dataset,
    val_data: Dataset,
    progress: Progress,
    precision: str,
) -> None:
    """Say what is about to happen, before it costs anything."""
    things = sum(category.is_thing for category in info.categories)
    parameters = sum(parameter.numel() for parameter in segmenter.model.parameters())
    height, width = info.model.image_size
    log.info(
        "model %s, %.1f M parameters, %d queries in %d joint blocks, view %dx%d, %s on %s",
        info.model.backbone,
        parameters / 1e6,
        info.model.num_queries,
        info.model.num_joint_blocks,
        height,
        width,
        precision,
        segmenter.device,
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
        "%d steps of %d images (%.1f epochs); results in the run folder",
        progress.steps,
        recipe.data.batch_size,
        progress.steps / progress.steps_per_epoch,
    )
    mismatch = masking_mismatch(recipe)
    if mismatch:
        log.warning(mismatch)
