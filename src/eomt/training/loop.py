"""Train EoMT: the loop in plain sight, over accelerate.

Forward, loss, backward, step; every so often, evaluate and save. Each part has its own module: `setup`,
`data.loader`, `models`, `loss`, `optim`, `state`, `evaluation`, `weights`. Nothing here is called back.
"""

import copy
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
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

from eomt.config import LossConfig, Recipe, num_masked_layers
from eomt.data.loader import share, steps_per_epoch, train_loader
from eomt.errors import ConfigError, DataError, NonFiniteError, is_out_of_memory
from eomt.evaluation.evaluate import evaluate, match_categories
from eomt.evaluation.report import examine, write_report
from eomt.files import needing_room
from eomt.inference.segmenter import Segmenter
from eomt.models.ladder import Model
from eomt.tasks import TASKS
from eomt.training import memory, state
from eomt.training.adapt import adapt, averaged, merged
from eomt.training.capture import Capture, Pass, describe_machine
from eomt.training.capture import save as save_capture
from eomt.training.loss import LossTerms, amounts, segmentation_loss
from eomt.training.micro_batches import cut, fewer, fullest, joined
from eomt.training.optim import build_optimizer, learning_rate, mask_probabilities, set_learning_rates
from eomt.training.pictures import predictions, training_views
from eomt.training.provenance import data_facts, memory_gib, record_environment, record_result
from eomt.training.runs import read_run
from eomt.training.setup import (
    announce,
    build,
    build_accelerator,
    change_run,
    check,
    check_same_data,
    check_shares,
    choose_data,
    open_run,
    settled,
)
from eomt.training.shard import shard, together, whole, whole_model
from eomt.training.stop import Stop, Stopped
from eomt.training.track import Track
from eomt.types import Batch, Dataset, Target

__all__ = ["TrainResult", "train"]

log = logging.getLogger("eomt")

SECONDS_BETWEEN_STATES = 600.0
"""A state is saved at least so often, beside those at evaluations."""
REPORT_IMAGES = 200
"""The report at the end is on at most so many validation images, which it judges again."""


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
    segmenter: Segmenter
    """With the model that is judged and saved: the average, where there is one."""
    unspread: Model | None
    """Where the model is spread over the processes: as it was before."""
    train_data: Dataset
    """A run goes on with as many images only."""
    val_data: Dataset
    progress: Progress
    micro_batch: int
    """At most so many images go through the model at once, on each process."""
    track: Track
    stop: Stop
    writes: bool = False
    """Whether the run folder is its own: a dry run writes nothing."""

    @property
    def place(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return self.accelerator.process_index, self.accelerator.num_processes

    @property
    def share(self) -> range:
        """This process's places in a batch."""
        return share(self.recipe.data.batch_size, *self.place)

    @property
    def largest_share(self) -> int:
        """The most images of a batch that a process has."""
        return len(share(self.recipe.data.batch_size, 0, self.place[1]))


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
    state, and else begins it. Data files of other names or sizes are refused, unless `change`: then the run's data
    and recipe are these from now on. `origins` says where settings come from, by dotted name, for the run's
    settings.json.

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
    run = prepare(recipe, folder, train_data, val_data, init_from, resume)
    accelerator, progress, run.writes = run.accelerator, run.progress, True
    facts = data_facts(run.recipe, run.train_data, run.val_data)
    if resume:
        check_same_data(folder, facts, change)
        if change and accelerator.is_main_process:
            weights = replace(
                run.recipe.model, weights=recipe.model.weights
            )  # in the state, but once they were these
            change_run(folder, replace(run.recipe, model=weights), facts)
    elif accelerator.is_main_process:
        open_run(folder, recipe, run.recipe, origins, facts)
    with (
        needing_room(
            f"run {folder}", f"its states are whole: make room, then go on with eomt train --resume {folder}"
        ),
        closing(read_views(run)) as batches,
        Track(
            folder,
            run.recipe,
            progress.steps,
            progress.steps_between,
            accelerator.is_main_process,
            progress.step,
            progress.judged if resume else None,
        ) as run.track,
        run.stop,
    ):
        if accelerator.is_main_process:
            record_environment(folder, progress.steps, accelerator)
        if resume:
            log.info("going on after step %d", progress.step)
        else:
            if init_from is not None:
                log.info(
                    "starting from %s: its backbone, queries and layers; view and patches are the recipe's",
                    init_from,
                )
            model, info = accelerator.unwrap_model(run.model), run.segmenter.info
            announce(run.recipe, info, accelerator, model, run.train_data, run.val_data, progress.steps)
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
        record_result(folder, TASKS[run.segmenter.task].figure, progress.best, progress.step)
    accelerator.wait_for_everyone()
    best = Segmenter.from_pretrained(folder / "best", str(accelerator.device))
    if accelerator.is_main_process and recipe.track.report:
        report(run, best)
    return TrainResult(best, progress.best, folder)


def report(run: Run, best: Segmenter) -> None:
    """Write the run's report; what goes wrong there is said, and the run is none the worse for it."""
    log.info("judging the best model once more, for the report (--track.no-report leaves it out)")
    try:
        findings = examine(
            best,
            run.val_data,
            images=REPORT_IMAGES,
            precision=run.recipe.precision,
            skip_bad=run.recipe.data.on_bad_sample == "skip",
        )
        log.info("report: %s", write_report(run.folder / "report", findings, read_run(run.folder)))
    except Exception as error:
        log.warning("no report could be made (%s); eomt report %s tries again", error, run.folder)


def prepare(
    recipe: Recipe,
    folder: Path,
    train_data: Dataset | None,
    val_data: Dataset | None,
    init_from: str | Path | None,
    resume: bool,
) -> Run:
    """Bring together all that a run needs, and put it where it stood; nothing is written, or recorded yet."""
    set_seed(recipe.seed)
    accelerator = build_accelerator(recipe)
    train_data, val_data = choose_data(recipe, train_data, val_data)
    if resume:
        recipe = replace(recipe, model=replace(recipe.model, weights="none"))  # they are in the state
    bare, info = build(recipe, train_data, init_from)
    recipe = settled(recipe, info)
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
    segmenter = Segmenter(judged, info, accelerator.device)
    match_categories(val_data.categories, info.categories, [segmenter.task])
    run = Run(
        recipe,
        folder,
        accelerator,
        model,
        optimizer,
        average,
        segmenter,
        unspread,
        train_data,
        val_data,
        progress,
        micro_batch=recipe.data.batch_size,
        track=Track(folder, recipe, progress.steps, progress.steps_between, speaker=False),
        stop=Stop(alone=accelerator.num_processes == 1),
    )
    settle_micro_batch(run, load_state(run) if resume else None)
    return run


def settle_micro_batch(run: Run, before: Mapping[str, Any] | None) -> None:
    """Choose how many images go through the model at once, and put the choice into the recipe.

    A run that goes on does so with what it had `before`, unless another number is asked for.
    """
    asked, held = run.recipe.data.micro_batch, run.largest_share
    if before is not None and asked in ("auto", before["asked"]):
        asked, held = before["asked"], before["held"]
    elif asked == "auto":
        asked = measured_micro_batch(run)
    run.recipe = replace(run.recipe, data=replace(run.recipe.data, micro_batch=asked))
    run.micro_batch = min(run.largest_share, asked or run.largest_share, held)
    at_once = replace(run.recipe, data=replace(run.recipe.data, micro_batch=run.micro_batch))
    check_shares(at_once, run.accelerator.num_processes)


def measured_micro_batch(run: Run) -> int:
    """Choose the largest micro-batch that memory holds, by sending images through the model and back.

    They are those of the first batch that hold most objects. Nothing of it stays: chance is set anew in each step.
    """
    if run.largest_share == 1:
        return 1
    accelerator, recipe = run.accelerator, run.recipe
    alone = replace(recipe, data=replace(recipe.data, workers=0, micro_batch=None))  # one batch, in this process
    with closing(read_views(replace(run, recipe=alone))) as batches:
        views = next(batches)
    model = accelerator.unwrap_model(run.model).train()
    divisors = amounts(views.targets, recipe.model.num_queries, recipe.loss).to(accelerator.device)
    probabilities = mask_probabilities(0, run.progress.steps, recipe.optim, num_masked_layers(recipe.model))

    def through(images: int) -> None:
        chosen = fullest(views, images)
        terms = judged_batch(accelerator, model, chosen, (recipe.seed,), probabilities, recipe.loss, divisors)
        accelerator.backward(terms.total)

    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    need = memory.measure(through, accelerator.device, 2 * trained)  # AdamW's two moments come with the first step
    run.optimizer.zero_grad(set_to_none=True)
    size: int = min(gather_object([need.most(run.largest_share)]))
    if accelerator.is_main_process:
        log.info("micro-batch %d of %d images a process: %s", size, run.largest_share, need)
    return size


def read_views(run: Run) -> Generator[Batch, None, None]:
    """Give this process's views from the step on at which the run stands, without end."""
    rank, world_size = run.place
    start = run.progress.step
    return train_loader(run.train_data, run.recipe, start_step=start, rank=rank, world_size=world_size)


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
            share=run.place,
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
            "images": len(run.train_data),
            "classes": [category.name for category in run.segmenter.categories],
            "micro_batch": {"asked": run.recipe.data.micro_batch, "held": run.micro_batch},
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


def load_state(run: Run) -> dict[str, Any] | None:
    """Put a run back to its newest state; give the micro-batch that was asked for and the one that memory held.

    States of earlier versions do not tell these. Raises ConfigError where there is no state, DataError for other
    data.
    """
    folder, progress = run.folder, run.progress
    found = state.newest(folder)
    if found is None:
        raise ConfigError(f"run {folder}: it has no state to go on from")
    tensors, values = found
    images, classes = len(run.train_data), [category.name for category in run.segmenter.categories]
    if (values["images"], values["classes"]) != (images, classes):
        raise DataError(
            f"run {folder}: it was trained on {values['images']} images of {', '.join(values['classes'])[:200]}; "
            f"now there are {images} of {', '.join(classes)[:200]}. Go on with the same data, or start a new run "
            f"with --init-from {folder}"
        )
    state.unpack(tensors, run.accelerator.unwrap_model(run.model), run.optimizer, run.average)
    progress.step, progress.judged = values["step"], values["judged"]
    progress.waiting, progress.best = values["waiting"], values["best"]
    stand_together(folder, progress.step)
    return values.get("micro_batch")


def optimizer_step(run: Run, batches: Iterator[Batch]) -> dict[str, float]:
    """Take one step on `batch_size` images, in micro-batches, of which each process has its share.

    Gives what is worth recording. All chance in it follows from the seed, the step and the place in the batch of a
    micro-batch's first image.
    """
    recipe, accelerator, progress = run.recipe, run.accelerator, run.progress
    started, micro_batch = time.monotonic(), run.micro_batch
    set_learning_rates(run.optimizer, progress.step, progress.steps, recipe.optim)
    probabilities = mask_probabilities(
        progress.step, progress.steps, recipe.optim, num_masked_layers(recipe.model)
    )
    assert recipe.data.micro_batch != "auto"  # it was settled
    views = joined([next(batches) for _ in run.share[:: recipe.data.micro_batch or len(run.share)]])
    waited = time.monotonic() - started
    if progress.step == 0 and run.track.speaker:
        run.track.picture("train", training_views([views], run.segmenter.categories), 0)
    # Each mask and each query count alike, whichever micro-batch and process they came in.
    held = amounts(views.targets, recipe.model.num_queries, recipe.loss)
    divisors = across(accelerator, held) / accelerator.num_processes
    while (passed := add_gradients(run, views, probabilities, divisors)) is None:
        run.optimizer.zero_grad(set_to_none=True)
        run.micro_batch = fewer(run.micro_batch, progress.step + 1, accelerator.is_main_process)
    sums, taken = passed
    norm = accelerator.clip_grad_norm_(run.model.parameters(), recipe.optim.clip_norm)
    long_ago = time.monotonic() - progress.saved > SECONDS_BETWEEN_STATES
    shared = torch.cat([sums, sums.new_tensor([*run.stop.wishes(), long_ago])])
    *losses, replaced, costs, interrupted, terminated, due = across(accelerator, shared).tolist()
    run.stop.agree([interrupted, terminated])
    progress.save_is_due = due > 0 or run.micro_batch < micro_batch
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
    masked = probabilities or (0.0,) * num_masked_layers(recipe.model)
    groups = run.optimizer.param_groups
    return values | {
        "lr": learning_rate(progress.step, progress.steps, recipe.optim, "new"),
        "lr_backbone": max((group["lr"] for group in groups if group["stage"] == "backbone"), default=0.0),
        "masked_attention": sum(masked) / len(masked),
        **{f"masked_attention_{place}": probability for place, probability in enumerate(masked, 1)},
        "replaced_costs": int(replaced),
        "micro_batch": min(run.micro_batch, len(run.share)),
        "images_per_second": recipe.data.batch_size / seconds,
        "data_share": waited / seconds,
        "memory_gib": memory_gib(accelerator.device),
    }


def add_gradients(
    run: Run, views: Batch, probabilities: tuple[float, ...] | None, divisors: Tensor
) -> tuple[Tensor, list[Pass]] | None:
    """Send a step's views through the model and back; the gradients stay in its parameters.

    Gives the sums of the loss, its terms, and the replaced and all costs of the matching, and what they were made
    of; None where memory did not suffice on some process: the gradients are to be dropped then. Processes wait for
    one another before the last backward pass, which adds up their gradients. Where the model is spread over them
    they wait in every pass, and cannot begin again: the error is passed on.
    """
    recipe, accelerator, alone = run.recipe, run.accelerator, run.accelerator.num_processes == 1
    sums = torch.zeros(6, device=accelerator.device)
    taken: list[Pass] = []
    parts = cut(views, run.micro_batch)
    enough = True
    try:
        for start, batch in parts:
            chance = (recipe.seed, run.progress.step, run.share[start])
            with accelerator.no_sync(run.model):
                terms = judged_batch(accelerator, run.model, batch, chance, probabilities, recipe.loss, divisors)
                if alone or len(taken) < len(parts) - 1:
                    accelerator.backward(terms.total)
            taken.append(Pass(chance, batch, terms.total.detach()))
            losses = torch.stack([terms.total.detach(), *terms.layers.sum(0)])
            sums += torch.cat([losses, losses.new_tensor([terms.replaced_costs, terms.costs])])
    except Exception as error:
        if run.unspread is not None or not is_out_of_memory(error):
            raise
        enough = False
    if not alone:
        enough = across(accelerator, torch.tensor(float(not enough))).item() == 0
        if enough:
            with accelerator.trigger_sync_in_backward(run.model):
                accelerator.backward(terms.total)
    return (sums, taken) if enough else None


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
    if not run.writes:
        return "It was not kept"
    accelerator = run.accelerator
    weights = together(accelerator.unwrap_model(run.model).state_dict(), keep=True)
    capture = Capture(
        run.recipe,
        run.progress.step + 1,
        len(run.segmenter.categories),
        *run.place,
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
