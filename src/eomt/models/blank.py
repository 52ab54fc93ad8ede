"""Build a model whose weights will be loaded: no random values are drawn, which takes seconds for large ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Blank"]

DRAWS = {
    Tensor.uniform_,
    Tensor.normal_,
    Tensor.erfinv_,  # the second step of timm's truncated normal distribution
    torch.nn.init.uniform_,
    torch.nn.init.normal_,
    torch.nn.init.xavier_uniform_,
    torch.nn.init.kaiming_uniform_,
}


class Blank(TorchFunctionMode):
    """Within this context, parameters keep whatever the memory held. All of them must be loaded afterwards.

    Torch's own `trunc_normal_`, which no mode sees, would wait for ever for values in its range: use timm's.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Leave tensors that would be drawn as they are."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
