"""Take a captured step again, to the bit, and say where its numbers first go wrong: module, term, gradient."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eomt.errors import DataError
from eomt.models import ladder
from eomt.training.adapt import adapt
from eomt.training.capture import Capture, describe_machine
from eomt.training.loop import judged_batch
from eomt.training.loss import LossTerms
from eomt.training.setup import build_accelerator

__all__ = ["Finding", "Replay", "replay"]

Stage = Literal["weights", "forward", "loss", "gradients", "norm"]


@dataclass(frozen=True)
class Finding:
    """The first place of a stage at which numbers are not finite."""

    stage: Stage
    where: str
    """Name of a weight or a module; `model` is the whole."""
    what: str
    micro_batch: int | None = None
    """From 0 on, in those of the process."""


@dataclass(frozen=True)
class Replay:
    """What came of a step that was taken again."""

    losses: tuple[float, ...]
    """Of each micro-batch."""
    grad_norm: float | None
    """None for one of several processes: it is the norm of the gradients of all."""
    findings: tuple[Finding, ...]
    """In the order in which they arose: none where all numbers are finite."""
    is_same: bool
    """Whether losses and norm are those that were recorded, to the bit."""
    differences: tuple[str, ...]
    """In what this machine differs from the one that recorded."""


def replay(capture: Capture, device: str | None = None) -> Replay:
    """Take the step again, on the kind of device that it was taken on unless another is named.

    Raises DataError where the weights do not fit the recipe.
    """
    recipe = replace(capture.recipe, model=replace(capture.recipe.model, weights="none"))
    recipe = replace(recipe, device=device or capture.machine.get("device", "auto"))
    with _threads(int(capture.machine.get("threads", 0))):
        accelerator = build_accelerator(recipe)
        model = ladder.build(recipe.model, capture.num_classes)
        adapt(model, recipe.optim)
        try:
            model.load_state_dict(capture.weights)
        except RuntimeError as error:
            raise DataError(f"capture: its weights are of another model ({str(error).splitlines()[0]})") from error
        prepared = accelerator.prepare(model.train())
        watch = _Watch(model)
        losses = []
        for number, each in enumerate(capture.passes):
            watch.micro_batch = number
            terms = judged_batch(
                accelerator,
                prepared,
                each.batch,
                each.chance,
                capture.mask_probabilities,
                recipe.loss,
                capture.divisors.to(accelerator.device),
            )
            losses.append(float(terms.total.detach()))
            watch.loss(terms)
            accelerator.backward(terms.total)
        norm = float(accelerator.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm))
        watch.norm(norm)
        here = describe_machine(accelerator.device)
    told, found = [each.loss.item() for each in capture.passes], list(losses)
    if capture.world_size == 1:
        told, found = [*told, capture.grad_norm], [*found, norm]
    return Replay(
        tuple(losses),
        norm if capture.world_size == 1 else None,
        tuple(watch.findings.values()),
        list(map(repr, told)) == list(map(repr, found)),
        tuple(
            f"{name} {here.get(name, '?')} instead of {value}"
            for name, value in capture.machine.items()
            if here.get(name) != value
        ),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with as many threads: sums come out otherwise in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Watch:
    """Looks at all that flows through a model, and notes the first thing of each stage that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.findings: dict[Stage, Finding] = {}
        self.micro_batch: int | None = None
        for name, value in model.state_dict().items():
            self._look("weights", name, [value], "{}")
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            module.register_forward_hook(self._after(name))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient(name))  # type: ignore[no-untyped-call]

    def loss(self, terms: LossTerms) -> None:
        """Look at the loss, term by term, layer by layer."""
        for layer, values in enumerate(terms.layers):
            where = f"layer {layer}" if layer < len(terms.layers) - 1 else "final layer"
            for term, value in zip(("mask", "dice", "class"), values, strict=True):
                self._look("loss", f"{term} term of the {where}", [value], "{}")
        self._look("loss", "total", [terms.total.detach()], "{}")

    def norm(self, value: float) -> None:
        """Look at the norm of all gradients: it may be infinite where each of them is finite."""
        if not math.isfinite(value):
            self._note("norm", "all gradients", f"their norm is {value}")

    def _before(self, name: str) -> Callable[..., None]:
        parent = name.rpartition(".")[0] or "model"

        def hook(module: nn.Module, arguments: Any, options: Any) -> None:
            self._look("forward", parent, [arguments, options], f"{{}}, in what it gives to its part {name}")

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            self._look("forward", name or "model", [output], "{}, in its output")

        return hook

    def _gradient(self, name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._look("gradients", name, [parameter.grad], "{}")

        return hook

    def _look(self, stage: Stage, where: str, values: Iterable[Any], words: str) -> None:
        if stage not in self.findings:
            for value in _tensors(values):
                if not bool(value.isfinite().all()):
                    self._note(stage, where, words.format(_count(value)))
                    return

    def _note(self, stage: Stage, where: str, what: str) -> None:
        micro_batch = None if stage in ("weights", "norm") else self.micro_batch
        self.findings.setdefault(stage, Finding(stage, where, what, micro_batch))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _count(value: Tensor) -> str:
    nan, infinite = int(value.isnan().sum()), int(value.isinf().sum())
    told = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(told)} of {value.numel()} numbers"
