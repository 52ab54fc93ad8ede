"""What the machine grants this process: cores and memory, within what a container is given. Free of torch."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "allowed_cores",
    "memory",
    "peak_resident",
    "processor",
    "reset_peak_resident",
    "resident",
    "told",
]

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def allowed_cores() -> float:
    """Count the cores that this process may use: by affinity, and by the share that a container is given."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for group in _control_groups("cpu"):
        one = told(group / "cpu.max").split()  # version 2: quota and period in one file
        quota, period = one if len(one) == 2 else (told(group / f"cpu.cfs_{of}_us") for of in ("quota", "period"))
        if _number(quota) and _number(period):
            cores = min(cores, _number(quota) / _number(period))
    return cores


def processor() -> str:
    """Give the name that the processor goes by."""
    model = re.search(r"^model name\s*:\s*(.+)$", told(PROC / "cpuinfo"), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def memory() -> tuple[int, int]:
    """Give total and available bytes: the least of the machine's and of each control group's; 0 where not told."""
    lines = dict(line.split(":", 1) for line in told(PROC / "meminfo").splitlines() if ":" in line)
    total, free = (1024 * _number(lines.get(key, "").removesuffix("kB")) for key in ("MemTotal", "MemAvailable"))
    if not total and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in _control_groups("memory"):
        limit = _number(told(group / "memory.max") or told(group / "memory.limit_in_bytes"))
        used = _number(told(group / "memory.current") or told(group / "memory.usage_in_bytes"))
        reclaimable = re.search(r"^(?:total_)?inactive_file (\d+)$", told(group / "memory.stat"), re.MULTILINE)
        if 0 < limit < total:
            spare = limit - used + (int(reclaimable[1]) if reclaimable else 0)
            total, free = limit, max(0, min(free, spare))
    return total, free


def reset_peak_resident() -> None:
    """Let `peak_resident` start from what is resident now; where the system cannot, it goes on from the start."""
    try:
        (PROC / "self/clear_refs").write_text("5")
    except OSError:
        return


def peak_resident() -> int:
    """Give the most bytes of memory that this process has held at once; 0 where the system does not tell."""
    if held := _held("VmHWM"):
        return held
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> int:
    """Give the bytes of memory that this process holds; where the system does not tell, the most that it held."""
    return _held("VmRSS") or peak_resident()


def _held(what: str) -> int:
    line = re.search(rf"^{what}:\s*(\d+) kB$", told(PROC / "self/status"), re.MULTILINE)
    return 1024 * int(line[1]) if line else 0


def told(path: Path) -> str:
    """Read what the system tells in a file, nothing where it does not."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _control_groups(controller: str) -> Iterator[Path]:
    """Give the folders of the control groups, of both versions, that this process is in: its own and all above."""
    for line in told(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        bases = [CGROUPS / controllers, CGROUPS / controller] if controllers else [CGROUPS, CGROUPS / "unified"]
        own = Path(path.lstrip("/"))
        yield from (base / folder for base in dict.fromkeys(bases) for folder in (own, *own.parents))


def _number(text: str) -> int:
    """Read a limit; 0 where there is none (`max`, -1, an empty file)."""
    return int(text) if text.strip().isdecimal() else 0
