"""Train EoMT: the loop in plain sight, over accelerate.

Forward, loss, backward, step; every so often, evaluate and save. Each part has its own module: `setup`,
`data.loader`, `models`, `loss`, `optim`, `state`, `evaluation`, `weights`. Nothing here is called back.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from eomt.config import LossConfig, Recipe
from eomt.data.loader import steps_per_epoch, train_loader
from eomt.errors import ConfigError, DataError, NonFiniteError
from eomt.evaluation.evaluate import evaluate, match_categories
from eomt.files import needing_room
from eomt.inference.segmenter import Segmenter
from eomt.models.eomt import EoMT
from eomt.tasks import TASKS
from eomt.training import state
from eomt.training.adapt import adapt, averaged, merged
from eomt.training.capture import Capture, Pass, describe_machine
from eomt.training.capture import save as save_capture
from eomt.training.loss import LossTerms, amounts, segmentation_loss
from eomt.training.optim import build_optimizer, learning_rate, mask_probabilities, set_learning_rates
from eomt.training.setup import announce, build, build_accelerator, check, choose_data, open_run, settled
from eomt.training.stop import Stop, Stopped
from eomt.training.track import Track
from eomt.types import Batch, Dataset, Target
from eomt.weights.checkpoint import ModelInfo

__all__ = ["TrainResult", "train"]

log = logging.getLogger("eomt")

SECONDS_BETWEEN_STATES = 600.0
"""A state is saved at least so often, beside those at evaluations."""


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
    evaluate_every: float
    """Epochs between evaluations."""
    step: int = 0
    """Optimiser steps that were taken."""
    judged: int = 0
    """The step at which it was evaluated last."""
    waiting: int = 0
    """Evaluations since the best one."""
    best: dict[str, float] = field(default_factory=dict)
    """Figures of the best evaluation."""

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""
        return self.step / self.steps_per_epoch

    @property
    def is_due(self) -> bool:
        """Whether the model is to be evaluated before the next step."""
        every = max(1, round(self.evaluate_every * self.steps_per_epoch))
        return self.judged < self.step and (self.step % every == 0 or self.step == self.steps)


@dataclass
class Run:
    """What a run holds."""

    recipe: Recipe
    folder: Path
    accelerator: Accelerator
    model: torch.nn.Module
    """As accelerate prepared it."""
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    images: int
    """To train on: a run goes on with as many only."""
    segmenter: Segmenter
    """With the model that is judged and saved: the average, where there is one."""
    val_data: Dataset
    progress: Progress
    track: Track
    stop: Stop


def train(
    recipe: Recipe,
    out: str | Path,
    train_data: Dataset | None = None,
    val_data: Dataset | None = None,
    init_from: str | Path | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train a model as the recipe says and leave a run folder.

    The data come from `recipe.data.root`, or from the two arguments: anything with the `Dataset` protocol. Where
    there is no validation split, a part of the training split is cut off, and said. `init_from` starts from a
    trained model, anything that `Segmenter.from_pretrained` takes: its backbone, queries and joint blocks are then
    used; view and patches stay the recipe's, to which its positions and patches are resampled; its class head is
    kept only if the classes are the same. The recipe in the run folder is the one that ran.

    `resume` goes on with the run in `out` from its newest state that is whole, as if it had never stopped: with
    the same data and recipe to the same weights, bit by bit on the same machine.

    Raises ConfigError when `out` holds something already, DataError, ModelError, and NonFiniteError when the
    loss or a gradient is not finite. Nothing is written before data and model are at hand. Ctrl-C and SIGTERM end
    a run after the step at hand, with its state saved, and are passed on as KeyboardInterrupt.
    """
    folder = Path(out)
    check(recipe, folder, resume)
    set_seed(recipe.seed)
    accelerator = build_accelerator(recipe)
    train_data, val_data = choose_data(recipe, train_data, val_data)
    if resume:
        recipe = replace(recipe, model=replace(recipe.model, weights="none"))  # they are in the state
    bare, info = build(recipe, train_data, init_from)
    recipe = settled(recipe, info)
    adapt(bare, recipe.optim)
    average = None if recipe.optim.ema is None else averaged(bare, recipe.optim.ema).to(accelerator.device)
    model, optimizer = accelerator.prepare(bare, build_optimizer(bare, recipe.optim))
    epoch = steps_per_epoch(len(train_data), recipe.data.batch_size)
    progress = Progress(recipe.steps or max(1, round(recipe.epochs * epoch)), epoch, recipe.evaluate_every)
    if resume:
        load_state(folder, bare, optimizer, average, progress, info, len(train_data))
    judged: Any = bare if average is None else average.module
    segmenter = Segmenter(judged, info, accelerator.device)
    match_categories(val_data.categories, info.categories, [segmenter.task])
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}

    if accelerator.is_main_process and not resume:
        open_run(folder, recipe)
    with (
        needing_room(
            f"run {folder}", f"its states are whole: make room, then go on with eomt train --resume {folder}"
        ),
        closing(train_loader(train_data, recipe, start_step=progress.step, **place)) as batches,
        Track(folder, progress.steps, accelerator.is_main_process) as track,
        Stop() as stop,
    ):
        run = Run(
            recipe,
            folder,
            accelerator,
            model,
            optimizer,
            average,
            len(train_data),
            segmenter,
            val_data,
            progress,
            track,
            stop,
        )
        if resume:
            track.go_on_from(progress.step, progress.judged)
            log.info("going on after step %d", progress.step)
        else:
            if init_from is not None:
                log.info(
                    "starting from %s: its backbone, queries and joint blocks; view and patches are the recipe's",
                    init_from,
                )
            announce(recipe, info, accelerator, bare, train_data, val_data, progress.steps)
            save_state(run)
        try:
            fit(run, batches)
        except Stopped:
            usable(segmenter).save(folder / "last")
            log.info("stopped after step %d; go on with: eomt train --resume %s", progress.step, folder)
            raise
    accelerator.wait_for_everyone()
    return TrainResult(Segmenter.from_pretrained(folder / "best", str(accelerator.device)), progress.best, folder)


def fit(run: Run, batches: Iterator[Batch]) -> None:
    """Run all steps that are left, or until the figure has not risen for long enough."""
    progress, saved = run.progress, time.monotonic()
    run.model.train()
    try:
        while True:
            if progress.is_due:
                judge(run)
                save_state(run)
                saved = time.monotonic()
            if progress.step >= progress.steps or out_of_patience(run):
                break
            values = optimizer_step(run, batches)
            progress.step += 1
            run.track.step(progress.step, progress.epoch, values)
            run.stop.check()
            if time.monotonic() - saved > SECONDS_BETWEEN_STATES:
                save_state(run)
                saved = time.monotonic()
    except Stopped:
        save_state(run)
        raise
    figure = TASKS[run.segmenter.task].figure
    log.info("best %s %.4f: %s", figure, progress.best[figure], run.folder / "best")


def judge(run: Run) -> None:
    """Evaluate, record, and save what is to be used: the last model, and the best."""
    progress, task = run.progress, run.segmenter.task
    run.model.eval()
    segmenter = usable(run.segmenter)
    if run.accelerator.is_main_process:
        segmenter.save(run.folder / "last")
    share = run.accelerator.process_index, run.accelerator.num_processes
    result = evaluate(
        segmenter,
        run.val_data,
        [task],
        precision=run.recipe.precision,
        skip_bad=run.recipe.data.on_bad_sample == "skip",
        share=share,
        gather=gather_object if share[1] > 1 else None,
        progress=lambda done, images: run.stop.check(),
    )
    run.model.train()
    run.track.evaluation(progress.step, progress.epoch, result.figures | {"val_seconds": result.seconds})
    progress.judged, figure = progress.step, TASKS[task].figure
    is_best = not progress.best or better(result.figures[figure], progress.best[figure])
    progress.waiting = 0 if is_best else progress.waiting + 1
    if is_best:
        progress.best = result.figures
        if run.accelerator.is_main_process:
            segmenter.save(run.folder / "best")


def usable(segmenter: Segmenter) -> Segmenter:
    """Give what is judged and saved: a model with plain weights, into which adapters are merged."""
    return Segmenter(merged(segmenter.model), segmenter.info, segmenter.device)


def out_of_patience(run: Run) -> bool:
    """Tell whether the figure has not risen for as many evaluations as the recipe waits."""
    patience, waiting = run.recipe.patience, run.progress.waiting
    if patience is None or waiting < patience:
        return False
    log.info("stopped early: %d evaluations without a better figure", waiting)
    return True


def save_state(run: Run) -> None:
    """Save all that the steps to come depend on."""
    if run.accelerator.is_main_process:
        model = run.accelerator.unwrap_model(run.model)
        values = {
            "step": run.progress.step,
            "judged": run.progress.judged,
            "waiting": run.progress.waiting,
            "best": run.progress.best,
            "images": run.images,
            "classes": [category.name for category in run.segmenter.categories],
        }
        state.save(run.folder, run.progress.step, state.pack(model, run.optimizer, run.average), values)


def load_state(
    folder: Path,
    model: EoMT,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    progress: Progress,
    info: ModelInfo,
    images: int,
) -> None:
    """Put a run back to its newest state. Raises ConfigError where there is none, DataError for other data."""
    found = state.newest(folder)
    if found is None:
        raise ConfigError(f"run {folder}: it has no state to go on from")
    tensors, values = found
    classes = [category.name for category in info.categories]
    if (values["images"], values["classes"]) != (images, classes):
        raise DataError(
            f"run {folder}: it was trained on {values['images']} images of {', '.join(values['classes'])[:200]}; "
            f"now there are {images} of {', '.join(classes)[:200]}. Go on with the same data, or start a new run "
            f"with --init-from {folder}"
        )
    state.unpack(tensors, model, optimizer, average)
    progress.step, progress.judged = values["step"], values["judged"]
    progress.waiting, progress.best = values["waiting"], values["best"]


def optimizer_step(run: Run, batches: Iterator[Batch]) -> dict[str, float]:
    """Take one step on `batch_size` images, in micro-batches, of which each process has its share.

    Gives what is worth recording. All chance in it follows from the seed, the step and the micro-batch's number.
    """
    recipe, accelerator, progress = run.recipe, run.accelerator, run.progress
    started = time.monotonic()
    set_learning_rates(run.optimizer, progress.step, progress.steps, recipe.optim)
    probabilities = mask_probabilities(progress.step, progress.steps, recipe.optim, recipe.model.num_joint_blocks)
    micro_batches = [next(batches) for _ in range(accelerator.gradient_accumulation_steps)]
    # Each mask and each query count alike, whichever micro-batch and process they came in.
    held = [amounts(batch.targets, recipe.model.num_queries, recipe.loss) for batch in micro_batches]
    divisors = across(accelerator, torch.stack(held).sum(0)) / (len(micro_batches) * accelerator.num_processes)
    sums = torch.zeros(6, device=accelerator.device)
    taken: list[Pass] = []
    for place, batch in enumerate(micro_batches):
        chance = (recipe.seed, progress.step, accelerator.process_index * len(micro_batches) + place)
        with accelerator.accumulate(run.model):
            terms = judged_batch(accelerator, run.model, batch, chance, probabilities, recipe.loss, divisors)
            accelerator.backward(terms.total)
        taken.append(Pass(chance, batch, terms.total.detach()))
        share = torch.stack([terms.total.detach(), *terms.layers.sum(0)]) / len(micro_batches)
        sums += torch.cat([share, share.new_tensor([terms.replaced_costs, terms.costs])])
    norm = accelerator.clip_grad_norm_(run.model.parameters(), recipe.optim.clip_norm)
    *losses, replaced, costs = across(accelerator, sums).tolist()
    names = ("loss", "mask", "dice", "class")
    values = {name: value / accelerator.num_processes for name, value in zip(names, losses, strict=True)}
    values["grad_norm"] = float(norm if norm is not None else math.nan)
    try:
        check_finite(values, progress.step + 1, int(replaced), int(costs))
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}. {keep_step(run, taken, probabilities, divisors, values)}") from None
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update_parameters(accelerator.unwrap_model(run.model))
    return values | {
        "lr": learning_rate(progress.step, progress.steps, recipe.optim, "new"),
        "masked_attention": sum(probabilities) / len(probabilities) if probabilities else 0.0,
        "replaced_costs": int(replaced),
        "images_per_second": recipe.data.batch_size / (time.monotonic() - started),
    }


def judged_batch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batch: Batch,
    chance: tuple[int, ...],
    probabilities: tuple[float, ...] | None,
    config: LossConfig,
    divisors: Tensor,
) -> LossTerms:
    """Send a micro-batch through the model and judge it; all that is random in it follows from `chance`."""
    batch = to_device(batch, accelerator.device)
    torch.manual_seed(int(np.random.SeedSequence(chance).generate_state(1)[0]))
    with accelerator.autocast():
        outputs = model(batch.images, probabilities)
    return segmentation_loss(outputs, batch.targets, config, divisors)


def keep_step(
    run: Run,
    taken: list[Pass],
    probabilities: tuple[float, ...] | None,
    divisors: Tensor,
    values: Mapping[str, float],
) -> str:
    """Keep a step whose numbers are not finite in the run folder, each process its part; say where."""
    accelerator = run.accelerator
    weights = accelerator.unwrap_model(run.model).state_dict()
    capture = Capture(
        run.recipe,
        run.progress.step + 1,
        len(run.segmenter.categories),
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.gradient_accumulation_steps,
        probabilities,
        divisors,
        tuple(taken),
        values["grad_norm"],
        weights,
        describe_machine(accelerator.device),
    )
    if save_capture(run.folder, capture) is None:
        return "It could not be kept"
    return f"The step is kept in the run folder: eomt debug replay {run.folder} says where it goes wrong"


def across(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Sum values over all processes."""
    summed: Tensor = accelerator.reduce(values.to(accelerator.device), "sum")
    return summed


def check_finite(values: Mapping[str, float], step: int, replaced: int, costs: int) -> None:
    """Raise NonFiniteError where a figure of the step is not finite, before it updates anything."""
    if replaced:
        log.warning(
            "step %d: %d of %d costs of the matching are not finite; if it goes on, the model diverges",
            step,
            replaced,
            costs,
        )
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {step}: {name} is {value}; nothing was updated by it. "
                "Lower --optim.lr, lengthen --optim.warmup, or use --precision fp32"
            )


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
