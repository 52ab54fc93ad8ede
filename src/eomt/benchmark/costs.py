"""What a model costs beside time: parameters, multiply-adds, and the most memory that a run takes."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from eomt import machine
from eomt.benchmark.subject import BareViT, Setting, build, prepare
from eomt.config import ModelConfig
from eomt.errors import ResourceError
from eomt.training import memory
from eomt.types import QueryLogits

__all__ = ["Peak", "Size", "counter", "measure_size", "multiply_adds", "peak_memory", "peak_of"]


def _attention_operations(
    queries: torch.Size, keys: torch.Size, values: torch.Size, *others: Any, out_shape: Any = None, **options: Any
) -> int:
    return int(sdpa_flop_count(queries, keys, values))  # type: ignore[no-untyped-call]


SLACK = 2**20
"""Bytes that may come between two looks at what is held."""
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
"""The processor's kernel, which torch does not count."""


@dataclass(frozen=True)
class Size:
    """What an architecture holds and computes."""

    parameters: int
    multiply_adds: int
    """Of one view, attention included; products of matrices and convolutions count, sums, norms and interpolations
    don't."""


def counter() -> FlopCounterMode:
    """Give what counts operations, two a multiply-add; its `flop_registry` says how many one takes."""
    return FlopCounterMode(display=False, custom_mapping=_ATTENTION)


def multiply_adds(run: Callable[[], object]) -> int:
    """Count the multiply-adds of what is run: half of the operations that torch counts."""
    with counter() as counted, torch.no_grad():
        run()
    return int(counted.get_total_flops()) // 2


def measure_size(config: ModelConfig, num_classes: int, *, bare: bool = False, masks: bool = True) -> Size:
    """Count an architecture's parameters and its multiply-adds for a view. No memory is taken for it.

    `bare` leaves out all but the ViT. `masks` counts the masks of all queries, as the paper does; a prediction
    makes those of a few, when it decodes.
    """
    with torch.device("meta"):
        model = build(replace(config, gradient_checkpointing=False), num_classes).eval()
        view = torch.zeros(1, 3, *config.image_size, dtype=torch.uint8)
    if bare:
        vit: nn.Module = BareViT(model.backbone)
        return Size(_parameters(vit), multiply_adds(lambda: vit(view)))
    return Size(_parameters(model), multiply_adds(lambda: _logits(model(view)[-1], masks)))


def _logits(logits: QueryLogits, masks: bool) -> object:
    return logits.mask_logits if masks else logits.class_logits


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Peak:
    """Bytes of memory: on a processor, all that the process holds; on CUDA, what PyTorch reserves there."""

    before: int
    """Held between runs: the model, the pictures, the libraries."""
    most: int
    """Held at once during the run."""

    @property
    def above(self) -> int:
        """What the run itself takes."""
        return max(0, self.most - self.before)

    def to_json(self) -> dict[str, float]:
        """Give all three in MiB."""
        return {name: getattr(self, name) / 2**20 for name in ("before", "most", "above")}


def peak_memory(
    prepared: Callable[..., Callable[[], object]], *arguments: Any, device: torch.device | None = None
) -> Peak | None:
    """Measure the memory that a run takes, in a process of its own: memory freed earlier is not used again there.

    `prepared` is a function of a module; with the arguments, it gives what is run: once to warm up, once measured.
    None where the system does not tell the most that was held. Raises what it raises, and ResourceError where the
    system ends the process.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, spawn, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        try:
            return pool.submit(_measure, prepared, arguments, device or torch.device("cpu")).result()
        except BrokenProcessPool as error:
            raise ResourceError(
                "the process that measured memory was ended by the system: there was too little of it; leave the "
                "measurement out with --no-memory, or take a smaller model, view or batch"
            ) from error


def peak_of(setting: Setting, device: torch.device) -> Peak | None:
    """Measure the memory that a subject's run takes, in a process of its own."""
    return peak_memory(prepare, setting, device=device)


def _measure(prepared: Callable[..., Callable[[], object]], arguments: Any, device: torch.device) -> Peak | None:
    run = prepared(*arguments)
    run()
    gc.collect()
    _trim()
    memory.reset_peak(device)
    before = torch.cuda.memory_reserved(device) if device.type == "cuda" else machine.resident()
    if not 0 < memory.peak(device) <= before + SLACK:  # it is not told, or it goes on from what loading took
        return None
    run()
    return Peak(before, memory.peak(device))


def _trim() -> None:
    """Give back to the system what the C library keeps of freed memory: it would hide what is taken next."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
