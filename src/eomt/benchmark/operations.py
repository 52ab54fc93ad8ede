"""What a forward pass is made of: its operations by kind, how many, their time, and how fast they compute.

Beside them stands how fast the machine multiplies large matrices: the limit of what could be gained.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from eomt.benchmark.costs import counter
from eomt.benchmark.rounds import CLOCKS, Clock
from eomt.benchmark.subject import Subject
from eomt.devices import computing, waiting

__all__ = ["KINDS", "Kind", "Operations", "Profile", "products_rate", "profile"]

KINDS = {
    "attention": ("scaled_dot_product", "softmax"),
    "convolutions": ("convolution",),
    "norms": ("norm",),
    "activations": ("gelu", "relu", "silu", "sigmoid"),
    "copies and casts": ("copy", "clone", "cat", "stack", "repeat"),
    "matrix products": ("mm",),
    "sums, products and the rest": ("",),
}
"""What the names of operations hold; the first kind that fits is theirs."""
SIDES = {"cpu": 2048}
"""Of the square matrices that are multiplied to see how fast a processor is; an accelerator gets larger ones."""


@dataclass
class Kind:
    """What was seen of operations of one kind in a pass."""

    calls: int = 0
    seconds: float = 0.0
    multiply_adds: int = 0

    def to_json(self) -> dict[str, float | int]:
        """Give all by name; time in milliseconds."""
        return {"calls": self.calls, "milliseconds": self.seconds * 1e3, "multiply_adds": self.multiply_adds}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that run inside it. Views, which compute nothing, are left out."""

    def __init__(self, clock: Clock = "wall", wait: Callable[[], None] = lambda: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: dict[str, Kind] = {}
        self._clock, self._wait, self._counts = CLOCKS[clock], wait, counter().flop_registry

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._wait()
        started = self._clock()
        found = function(*args, **kwargs)
        self._wait()
        seconds = self._clock() - started
        if not function.is_view and not function.overloadpacket.__name__.endswith("view"):
            kind = self.kinds.setdefault(kind_of(function), Kind())
            kind.calls += 1
            kind.seconds += seconds
            if count := self._counts.get(function.overloadpacket):
                kind.multiply_adds += int(count(*args, **kwargs, out_val=found)) // 2
        return found


def kind_of(function: Any) -> str:
    """Tell an operation's kind by its name."""
    name = function.overloadpacket.__name__
    return next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))


@dataclass(frozen=True)
class Profile:
    """What a forward pass is made of."""

    kinds: dict[str, Kind]
    """The longest first."""
    rate: float
    """Operations a second, two a multiply-add, of the machine's products of large matrices in this precision."""

    def to_json(self) -> dict[str, Any]:
        """Give all by name."""
        kinds = {name: kind.to_json() for name, kind in self.kinds.items()}
        return {"operations": kinds, "products_per_second": self.rate}


def profile(subject: Subject, rounds: int = 3, clock: Clock = "wall") -> Profile:
    """Look at forward passes of a subject's views, after one to warm up: the median time of each kind."""
    device = subject.segmenter.device
    model, views, wait = subject.segmenter.model, subject.views()[: subject.setting.batch], waiting([device])
    seen = []
    for _ in range(rounds + 1):
        # Not inference_mode: it shows linear layers and attention whole, as nothing that torch counts.
        with torch.no_grad(), computing(device, subject.dtype), Operations(clock, wait) as operations:
            model.forward(views)  # hooks, which replace what random weights say, are passed by
        seen.append(operations.kinds)
    del seen[0]
    kinds = {
        name: Kind(kind.calls, statistics.median(each[name].seconds for each in seen), kind.multiply_adds)
        for name, kind in seen[0].items()
    }
    by_time = dict(sorted(kinds.items(), key=lambda item: -item[1].seconds))
    return Profile(by_time, products_rate(subject.dtype, device, clock))


@torch.inference_mode()
def products_rate(dtype: torch.dtype, device: torch.device, clock: Clock = "wall", rounds: int = 5) -> float:
    """Measure how many operations a second the product of two large square matrices takes, at best."""
    side, wait, now = SIDES.get(device.type, 8192), waiting([device]), CLOCKS[clock]
    layer = nn.Linear(side, side, device=device, dtype=dtype)
    rows = torch.randn(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(rounds + 1):
        wait()
        started = now()
        layer(rows)
        wait()
        seconds.append(now() - started)
    return float(2 * side**3 / min(seconds[1:]))
