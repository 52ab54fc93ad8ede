"""One model, stage by stage, beside a baseline: the same model run otherwise, its bare ViT, or another model."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from eomt import machine
from eomt.benchmark.costs import Peak, Size, measure_size, peak_of
from eomt.benchmark.operations import Profile, profile
from eomt.benchmark.rounds import WHOLE, Clock, Stages, ratios, time_interleaved
from eomt.benchmark.subject import Setting, Subject, prepare
from eomt.config import ModelConfig
from eomt.devices import waiting
from eomt.errors import ConfigError
from eomt.training.provenance import versions

__all__ = ["BASELINES", "Contestant", "Report", "baseline_of", "benchmark", "machine_facts"]

BASELINES: dict[str, Callable[[Setting], Setting]] = {
    "vit": lambda setting: replace(setting, bare=True),
    "fp32": lambda setting: replace(setting, precision="fp32"),
    "bf16": lambda setting: replace(setting, precision="bf16"),
    "unmerged": lambda setting: replace(setting, merge=None),
    "eager": lambda setting: replace(setting, compile="off"),
    "compile": lambda setting: replace(setting, compile="default"),
}
"""What a baseline does otherwise."""


@dataclass(frozen=True)
class Contestant:
    """What was measured of one side."""

    setting: Setting
    dtype: str
    view: tuple[int, int]
    views: int
    """Views in a batch: more than images where these are seen in tiles or windows."""
    size: Size
    first_seconds: float
    """The first call: what is loaded, allocated and compiled."""
    times: Stages
    memory: Peak | None
    profile: Profile | None = None

    @property
    def images_per_second(self) -> float | None:
        """From photo to prediction; None for a bare ViT, which predicts nothing."""
        return None if self.setting.bare else self.setting.batch / self.times[WHOLE].median

    def to_json(self) -> dict[str, Any]:
        """Give all by name; times in milliseconds a batch, memory in MiB."""
        model, setting = self.setting.model, self.setting
        return {
            "model": model.backbone if isinstance(model, ModelConfig) else model,
            "weights": "random" if isinstance(model, ModelConfig) else "own",
            "part": "bare ViT" if setting.bare else "all",
            "view": list(self.view),
            "views": self.views,
            "batch": setting.batch,
            "precision": self.dtype,
            "compile": setting.compile,
            "merge": setting.merge,
            "parameters": self.size.parameters,
            "multiply_adds": self.size.multiply_adds,
            "first_seconds": self.first_seconds,
            "milliseconds": {stage: times.to_json(1e3) for stage, times in self.times.items()},
            "images_per_second": self.images_per_second,
            "memory_mib": None if self.memory is None else self.memory.to_json(),
            "profile": None if self.profile is None else self.profile.to_json(),
        }


@dataclass(frozen=True)
class Report:
    """A model and, where one was asked for, its baseline."""

    machine: dict[str, Any]
    clock: Clock
    measured: Contestant
    baseline: Contestant | None

    @property
    def ratios(self) -> Stages:
        """Measured over baseline, stage by stage; of a bare ViT, its pass is compared with the forward pass."""
        if self.baseline is None:
            return {}
        found = ratios(self.measured.times, self.baseline.times)
        if self.baseline.setting.bare != self.measured.setting.bare:
            found.pop(WHOLE)
        return found

    def to_json(self) -> dict[str, Any]:
        """Give all by name."""
        return {
            "machine": self.machine,
            "clock": self.clock,
            **self.measured.to_json(),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "ratios": {stage: times.to_json() for stage, times in self.ratios.items()},
        }


def baseline_of(word: str, setting: Setting) -> Setting | None:
    """Give the setting that a word means: none, one of `BASELINES`, or another model's name or path."""
    if word == "none":
        return None
    other = BASELINES[word](setting) if word in BASELINES else replace(setting, model=word)
    if other == setting:
        raise ConfigError(f"--baseline {word}: that is what is measured; take another one, or none")
    return other


def benchmark(
    setting: Setting,
    baseline: Setting | None,
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Clock = "wall",
    with_memory: bool = True,
    with_profile: bool = False,
    show: Callable[[int, int], None] = lambda done, of: None,
) -> Report:
    """Measure a model, and its baseline in turns with it; of the model alone, what its forward pass is made of."""
    settings = {"measured": setting} | ({} if baseline is None else {"baseline": baseline})
    subjects: dict[str, Subject] = {}
    for name, each in settings.items():
        subjects[name] = prepare(each, subjects.get("measured"))
    wait = waiting([subject.segmenter.device for subject in subjects.values()])
    facts = machine_facts(subjects["measured"].segmenter.device, clock)
    show(0, rounds)
    first = {name: _first_call(subject, wait) for name, subject in subjects.items()}
    times = time_interleaved(subjects, rounds, warm_up=warm_up, wait=wait, clock=clock, show=show)
    sides = {name: _contestant(subject, first[name], times[name]) for name, subject in subjects.items()}
    if with_profile:
        sides["measured"] = replace(sides["measured"], profile=profile(subjects["measured"], clock=clock))
    if with_memory:
        device = subjects["measured"].segmenter.device
        subjects.clear()  # the processes that measure memory need it
        sides = {name: replace(side, memory=peak_of(side.setting, device)) for name, side in sides.items()}
    return Report(facts, clock, sides["measured"], sides.get("baseline"))


def _first_call(subject: Subject, wait: Callable[[], None]) -> float:
    started = time.perf_counter()
    subject()
    wait()
    return time.perf_counter() - started


def _contestant(subject: Subject, first: float, times: Stages) -> Contestant:
    model = subject.segmenter.info.model
    size = measure_size(
        replace(model, image_size=subject.view),
        subject.segmenter.model.class_head.out_features - 1,
        bare=subject.setting.bare,
        masks=False,
    )
    dtype = str(subject.dtype).removeprefix("torch.")
    return Contestant(subject.setting, dtype, subject.view, subject.view_count, size, first, times, None)


def machine_facts(device: torch.device, clock: Clock) -> dict[str, Any]:
    """Say where figures are taken: processor, threads, device, versions, and how busy the machine is before.

    Raises ConfigError for a clock that says nothing of the device.
    """
    if clock == "processor" and device.type != "cpu":
        raise ConfigError(f"--clock processor: the processor's time says nothing of what {device.type} does")
    return {
        "processor": machine.processor(),
        "cores": machine.allowed_cores(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }
