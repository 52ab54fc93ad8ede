"""The paper's steps from ViT-Adapter + Mask2Former to EoMT, and its sizes: what each costs, measured alike.

Forward passes are timed, on one view, in turns. Models of one size share the tensors of their ViT, so that all
stand in memory at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from eomt import recipes
from eomt.benchmark.costs import Peak, Size, measure_size, peak_memory
from eomt.benchmark.model import machine_facts
from eomt.benchmark.published import SIZES, STEPS, Figures, Step
from eomt.benchmark.rounds import WHOLE, Clock, Times, time_interleaved
from eomt.benchmark.scene import draw_photo
from eomt.benchmark.subject import Compile, build
from eomt.config import ModelConfig, Precision
from eomt.devices import choose_device, choose_precision, computing, waiting

__all__ = ["CLASSES", "Climb", "Rung", "climb", "config_of", "ladder_rungs", "size_rungs"]

CLASSES = 133
"""Of COCO panoptic."""


@dataclass(frozen=True)
class Rung:
    """A model to be measured, beside what the paper says of it."""

    name: str
    config: ModelConfig
    published: Figures | None


@dataclass(frozen=True)
class Row:
    """What was measured of a rung."""

    rung: Rung
    size: Size
    times: Times
    """Seconds of forward passes."""
    memory: Peak | None

    def to_json(self) -> dict[str, Any]:
        """Give all by name; times in milliseconds, memory in MiB."""
        return {
            "name": self.rung.name,
            "kind": self.rung.config.kind,
            "backbone": self.rung.config.backbone,
            "parameters": self.size.parameters,
            "multiply_adds": self.size.multiply_adds,
            "forward_ms": self.times.to_json(1e3),
            "memory_mib": None if self.memory is None else self.memory.to_json(),
            "published": None if self.rung.published is None else self.rung.published._asdict(),
        }


@dataclass(frozen=True)
class Climb:
    """Rungs that were measured in turns."""

    machine: dict[str, Any]
    clock: Clock
    dtype: str
    compile: Compile
    rows: tuple[Row, ...]

    def over_last(self, row: Row) -> float:
        """Divide a rung's median time by that of the last one."""
        return row.times.median / self.rows[-1].times.median

    def to_json(self) -> dict[str, Any]:
        """Give all by name. `step0_over_eomt` compares the first rung with the last."""
        return {
            "machine": self.machine,
            "clock": self.clock,
            "precision": self.dtype,
            "compile": self.compile,
            "step0_over_eomt": self.over_last(self.rows[0]),
            "steps": [row.to_json() for row in self.rows],
        }


def config_of(step: Step, size: str, image_size: tuple[int, int] = (640, 640)) -> ModelConfig:
    """Give the configuration of a step in one size: small, base, large or giant."""
    model = recipes.RECIPES[size]().model
    masked = step.is_masked and step.kind == "eomt"  # the others are masked by themselves
    return replace(model, weights="none", kind=step.kind, masked_inference=masked, image_size=image_size)


def ladder_rungs(size: str, image_size: tuple[int, int] = (640, 640)) -> list[Rung]:
    """Give the six steps; the paper has figures of all six for the large one, at 640."""
    has_figures = image_size == (640, 640)
    ends = dict(zip((STEPS[0].name, STEPS[-1].name), SIZES[size], strict=True))
    return [
        Rung(
            step.name,
            config_of(step, size, image_size),
            (step.large if size == "large" else ends.get(step.name)) if has_figures else None,
        )
        for step in STEPS
    ]


def size_rungs(size: str, image_size: tuple[int, int] = (640, 640)) -> list[Rung]:
    """Give the first and the last step of a size."""
    rungs = ladder_rungs(size, image_size)
    return [rungs[0], rungs[-1]]


def climb(
    rungs: Sequence[Rung],
    rounds: int,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    compile: Compile = "off",
    warm_up: int = 1,
    clock: Clock = "wall",
    with_memory: bool = True,
    show: Callable[[int, int], None] = lambda done, of: None,
) -> Climb:
    """Measure rungs of one size of ViT in turns; `compile` is the mode of torch.compile."""
    where = choose_device(device)
    dtype, facts = choose_precision(precision, where), machine_facts(where, clock)
    runs: dict[str, Callable[[], object]] = {}
    kept: dict[str, nn.Parameter] = {}
    for rung in rungs:
        runs[rung.name] = forward_pass(rung.config, dtype, where, compile, kept)
    if compile != "off":
        warm_up = max(warm_up, 1)  # the first call compiles
    times = time_interleaved(runs, rounds, warm_up=warm_up, wait=waiting([where]), clock=clock, show=show)
    runs.clear()  # the processes that measure memory need it
    kept.clear()
    measured = partial(peak_memory, forward_pass, device=where)
    rows = tuple(
        Row(
            rung,
            measure_size(rung.config, CLASSES),
            times[rung.name][WHOLE],
            measured(rung.config, dtype, where, compile) if with_memory else None,
        )
        for rung in rungs
    )
    return Climb(facts, clock, str(dtype).removeprefix("torch."), compile, rows)


def forward_pass(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    compile: Compile = "off",
    kept: dict[str, nn.Parameter] | None = None,
) -> Callable[[], object]:
    """Give what sends a view through a model with random weights, to the masks of all its queries.

    Parameters that are in `kept` under the same name, in the same shape, are shared; others are added to it.
    """
    model = build(config, CLASSES).eval().to(device)
    for name, parameter in model.named_parameters() if kept is not None else ():
        assert kept is not None
        shared = kept.setdefault(name, parameter) if name.startswith("backbone.vit.") else parameter
        if shared.shape == parameter.shape:
            parameter.data = shared.data
    if compile != "off":
        model.compile(mode=compile)
    view = torch.from_numpy(draw_photo(config.image_size)).permute(2, 0, 1)[None].to(device)

    @torch.inference_mode()
    def run() -> object:
        with computing(device, dtype):
            return model(view)[-1].mask_logits

    return run
