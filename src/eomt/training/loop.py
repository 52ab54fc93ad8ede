"""Train EoMT: the loop in plain sight, over accelerate.

Forward, loss, backward, step; every so often, evaluate and save. Each part has its own module: `setup`,
`data.loader`, `models`, `loss`, `optim`, `state`, `evaluation`, `weights`. Nothing here is called back.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from eomt.training.pictures import predictions, training_views
from eomt.training.provenance import data_facts, memory_gib, record_environment, record_result
from eomt.training.setup import (
    announce,
    build,
    build_accelerator,
    check,
    check_same_data,
    choose_data,
    open_run,
    settled,
)
from eomt.training.shard import shard, together, whole, whole_model
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
    """The run folder, as docs/training.md lists it."""


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
    saved: float = field(default_factory=time.monotonic)
    """When its state was saved last, by the clock."""
    save_is_due: bool = False
    """Whether that is long ago, as all processes agreed in the last step."""

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""
        return self.step / self.steps_per_epoch

    @property
    def steps_between(self) -> int:
        """Steps from one evaluation to the next."""
        return max(1, round(self.evaluate_every * self.steps_per_epoch))

    @property
    def is_due(self) -> bool:
        """Whether the model is to be evaluated before the next step."""
        return self.judged < self.step and (self.step % self.steps_between == 0 or self.step == self.steps)


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
    unspread: EoMT | None
    """Where the model is spread over the processes: as it was before."""
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
    resume: bool | Literal["auto"] = False,
    change: bool = False,
    origins: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train a model as the recipe says and leave a run folder.

    The data come from `recipe.data.root`, or from the two arguments: anything with the `Dataset` protocol. Where
    there is no validation split, a part of the training split is cut off, and said. `init_from` starts from a
    trained model, anything that `Segmenter.from_pretrained` takes: its backbone, queries and joint blocks are then
    used; view and patches stay the recipe's, to which its positions and patches are resampled; its class head is
    kept only if the classes are the same. The recipe in the run folder is the one that ran.

    `resume` goes on with the run in `out` from its newest state that is whole, as if it had never stopped: with
    the same data and recipe to the same weights, bit by bit on the same machine. `"auto"` does so where it has a
    state, and else begins it. Data files of other names or sizes are refused, unless `change`. `origins` says
    where settings come from, by dotted name, for the run's settings.json.

    Raises ConfigError when `out` holds something already, DataError, ModelError, and NonFiniteError when the
    loss or a gradient is not finite. Nothing is written before data and model are at hand. Ctrl-C and SIGTERM end
    a run after the step at hand, with its state saved, and are passed on as KeyboardInterrupt.
    """
    folder = Path(out)
    may_be_there = bool(resume)
    if resume == "auto":
        resume = state.is_in(folder)
        may_be_there = (folder / "recipe.json").is_file()  # it may have been killed before its first state
    check(recipe, folder, may_be_there)
    set_seed(recipe.seed)
    accelerator = build_accelerator(recipe)
    train_data, val_data = choose_data(recipe, train_data, val_data)
    if resume:
        recipe = replace(recipe, model=replace(recipe.model, weights="none"))  # they are in the state
    bare, info = build(recipe, train_data, init_from)
    given, recipe = recipe, settled(recipe, info)
    adapt(bare, recipe.optim)
    average = None if recipe.optim.ema is None else averaged(bare, recipe.optim.ema)
    judged: Any = bare if average is None else average.module
    unspread = None
    if recipe.shard and accelerator.num_processes > 1:
        unspread = copy.deepcopy(bare)
        for spread in dict.fromkeys((bare, judged)):
            shard(spread, accelerator.device)
        model, optimizer = bare, accelerator.prepare(build_optimizer(bare, recipe.optim))
    else:
        judged.to(accelerator.device)
        model, optimizer = accelerator.prepare(bare, build_optimizer(bare, recipe.optim))
    epoch = steps_per_epoch(len(train_data), recipe.data.batch_size)
    progress = Progress(recipe.steps or max(1, round(recipe.epochs * epoch)), epoch, recipe.evaluate_every)
    if resume:
        load_state(folder, bare, optimizer, average, progress, info, len(train_data))
        stand_together(folder, progress.step)
    segmenter = Segmenter(judged, info, accelerator.device)
    match_categories(val_data.categories, info.categories, [segmenter.task])
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}

    facts = data_facts(recipe, train_data, val_data)
    if resume:
        check_same_data(folder, facts, change)
    elif accelerator.is_main_process:
        open_run(folder, given, recipe, origins, facts)
    with (
        needing_room(
            f"run {folder}", f"its states are whole: make room, then go on with eomt train --resume {folder}"
        ),
        closing(train_loader(train_data, recipe, start_step=progress.step, **place)) as batches,
        Track(
            folder,
            recipe,
            progress.steps,
            progress.steps_between,
            accelerator.is_main_process,
            progress.step,
            progress.judged if resume else None,
        ) as track,
        Stop(alone=accelerator.num_processes == 1) as stop,
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
            unspread,
            val_data,
            progress,
            track,
            stop,
        )
        if accelerator.is_main_process:
            record_environment(folder, progress.steps, accelerator)
        if resume:
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
            last = usable(run)
            if accelerator.is_main_process:
                last.save(folder / "last")
            log.info("stopped after step %d; go on with: eomt train --resume %s", progress.step, folder)
            accelerator.wait_for_everyone()  # a launcher gives the others little time where one has ended
            raise
    if accelerator.is_main_process:
        record_result(folder, TASKS[segmenter.task].figure, progress.best, progress.step)
    accelerator.wait_for_everyone()
    return TrainResult(Segmenter.from_pretrained(folder / "best", str(accelerator.device)), progress.best, folder)


def fit(run: Run, batches: Iterator[Batch]) -> None:
    """Run all steps that are left, or until the figure has not risen for long enough."""
    progress = run.progress
    run.model.train()
    try:
        while True:
            if progress.is_due:
                judge(run)
                save_state(run)
            if progress.step >= progress.steps or out_of_patience(run):
                break
            values = optimizer_step(run, batches)
            progress.step += 1
            run.track.step(progress.step, progress.epoch, values)
            run.stop.check()
            if progress.save_is_due:
                save_state(run)
    except Stopped:
        save_state(run)
        raise
    figure = TASKS[run.segmenter.task].figure
    log.info("best %s %.4f: %s", figure, progress.best[figure], run.folder / "best")


def judge(run: Run) -> None:
    """Evaluate, record, and save what is to be used: the last model, and the best."""
    progress, task = run.progress, run.segmenter.task
    run.model.eval()
    segmenter = usable(run)
    if run.accelerator.is_main_process:
        segmenter.save(run.folder / "last")
    try:
        result = evaluate(
            segmenter,
            run.val_data,
            [task],
            precision=run.recipe.precision,
            skip_bad=run.recipe.data.on_bad_sample == "skip",
            share=(run.accelerator.process_index, run.accelerator.num_processes),
            gather=partial(gathered, run),
            progress=lambda done, images: run.stop.check_here(),
        )
    except Stopped:
        if run.stop.agreed is None:  # the others go on, and will wait there
            gathered(run, [])
        raise
    if run.track.speaker and run.recipe.track.images:
        drawn = predictions(segmenter, run.val_data, run.recipe.track.images, run.recipe.precision)
        run.track.picture("val", drawn, progress.step)
    run.model.train()
    run.track.evaluation(progress.step, progress.epoch, result.figures | {"val_seconds": result.seconds})
    progress.judged, figure = progress.step, TASKS[task].figure
    is_best = not progress.best or better(result.figures[figure], progress.best[figure])
    progress.waiting = 0 if is_best else progress.waiting + 1
    if is_best:
        progress.best = result.figures
        if run.accelerator.is_main_process:
            segmenter.save(run.folder / "best")


def usable(run: Run) -> Segmenter:
    """Give what is judged and saved: a model with whole, plain weights, into which adapters are merged."""
    model = run.segmenter.model if run.unspread is None else whole_model(run.segmenter.model, run.unspread)
    return Segmenter(merged(model), run.segmenter.info, run.segmenter.device)


def gathered(run: Run, own: list[Any]) -> list[Any]:
    """Bring the lists of all processes together; raise Stopped in each, where one was asked to stop meanwhile."""
    found = gather_object([(run.stop.wishes(), own)])
    run.stop.agree([sum(column) for column in zip(*(wishes for wishes, _ in found), strict=True)])
    run.stop.check()
    return [part for _, parts in found for part in parts]


def out_of_patience(run: Run) -> bool:
    """Tell whether the figure has not risen for as many evaluations as the recipe waits."""
    patience, waiting = run.recipe.patience, run.progress.waiting
    if patience is None or waiting < patience:
        return False
    log.info("stopped early: %d evaluations without a better figure", waiting)
    return True


def save_state(run: Run) -> None:
    """Save all that the steps to come depend on."""
    model = run.accelerator.unwrap_model(run.model)
    tensors = together(state.pack(model, run.optimizer, run.average), keep=run.accelerator.is_main_process)
    run.progress.saved, run.progress.save_is_due = time.monotonic(), False
    if run.accelerator.is_main_process:
        values = {
            "step": run.progress.step,
            "judged": run.progress.judged,
            "waiting": run.progress.waiting,
            "best": run.progress.best,
            "images": run.images,
            "classes": [category.name for category in run.segmenter.categories],
        }
        state.save(run.folder, run.progress.step, tensors, values)


def stand_together(folder: Path, step: int) -> None:
    """Raise ConfigError where not all processes go on from the same step."""
    steps = sorted(set(gather_object([step])))
    if len(steps) > 1:
        raise ConfigError(
            f"run {folder}: the processes see its states after steps {', '.join(map(str, steps))}; on several "
            "machines the folder must be one that they share"
        )


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
    waited = time.monotonic() - started
    if progress.step == 0 and run.track.speaker:
        run.track.picture("train", training_views(micro_batches, run.segmenter.categories), 0)
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
    long_ago = time.monotonic() - progress.saved > SECONDS_BETWEEN_STATES
    shared = torch.cat([sums, sums.new_tensor([*run.stop.wishes(), long_ago])])
    *losses, replaced, costs, interrupted, terminated, due = across(accelerator, shared).tolist()
    run.stop.agree([interrupted, terminated])
    progress.save_is_due = due > 0
    names = ("loss", "mask", "dice", "class")
    values = {name: value / accelerator.num_processes for name, value in zip(names, losses, strict=True)}
    values["grad_norm"] = float(whole(norm) if norm is not None else math.nan)
    try:
        check_finite(values, progress.step + 1, int(replaced), int(costs))
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}. {keep_step(run, taken, probabilities, divisors, values)}") from None
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update_parameters(accelerator.unwrap_model(run.model))
    seconds = time.monotonic() - started
    masked = probabilities or (0.0,) * recipe.model.num_joint_blocks
    groups = run.optimizer.param_groups
    return values | {
        "lr": learning_rate(progress.step, progress.steps, recipe.optim, "new"),
        "lr_backbone": max((group["lr"] for group in groups if group["stage"] == "backbone"), default=0.0),
        "masked_attention": sum(masked) / len(masked),
        **{f"masked_attention_{place}": probability for place, probability in enumerate(masked, 1)},
        "replaced_costs": int(replaced),
        "images_per_second": recipe.data.batch_size / seconds,
        "data_share": waited / seconds,
        "memory_gib": memory_gib(accelerator.device),
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
    weights = together(accelerator.unwrap_model(run.model).state_dict(), keep=True)
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
