"""Which device computes, in which precision, and how to wait for it."""

from collections.abc import Callable, Iterable

import torch

from eomt.config import Precision
from eomt.errors import ConfigError

__all__ = ["choose_device", "choose_precision", "computing", "waiting"]


def choose_device(name: str) -> torch.device:
    """Turn auto, cpu, cuda, cuda:1 or mps into a device. auto prefers an accelerator. Raises ConfigError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch goes on about kernels and their makers
        raise ConfigError(
            f"device {name!r} cannot be used ({reason}); give auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return device


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Give the type that matrix products are computed in; auto takes bf16 only where the processor has it.

    A processor without bf16 instructions emulates them, measured at a hundredth of the speed of fp32.
    """
    if precision == "auto":
        return torch.bfloat16 if _computes_in_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def computing(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Give the context in which models, whose weights stay in fp32, compute products in this type."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def waiting(devices: Iterable[torch.device]) -> Callable[[], None]:
    """Give what waits until these devices have done what they were given."""
    accelerators = {device for device in devices if device.type in ("cuda", "mps")}

    def wait() -> None:
        for device in accelerators:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            else:
                torch.mps.synchronize()

    return wait


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        names = ("amx_bf16", "avx512_bf16", "bf16")  # the last is Arm's
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(bool(capabilities.get(name)) for name in names)
    return False
