"""Time and memory of panoptic decoding beside Hugging Face's post-processing, from the same forward output.

    python benchmarks/panoptic_decoding.py [--json] [--rounds 5]

A 640 x 640 forward of 200 queries and 133 classes (masks of 160 x 160, width 384, fp32), 20 queries confident, is
decoded to 1280 x 960 pixels. Hugging Face gets its mask logits computed. Both run on one thread, in interleaved
pairs, after a check that they give the same ids. Memory is the growth of the peak resident size over the inputs,
each in a process of its own; ours also at 12 megapixels.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.inference import decode
from eomt.inference.geometry import plan
from eomt.types import QueryLogits

VIEW, LOW, WIDTH, QUERIES, CONFIDENT = 640, 160, 384, 200, 20
THINGS, CLASSES = 80, 133
SIZE, LARGE = (960, 1280), (3000, 4000)
CATEGORIES = tuple(Category(f"class {index}", index < THINGS, index, (0, 0, 0)) for index in range(CLASSES))
GOALS = {"time_ratio": 0.25, "ours_mib": 48.0, "ours_12mp_mib": 185.0}

Ids = NDArray[np.integer[Any]]


def forward_output(seed: int = 0) -> QueryLogits:
    """Build logits as a trained model gives them: an image laid out in 20 cells, each claimed by one query."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(0, 1, LOW)
    # 5 x 4 jittered centres; a query's logit is how much nearer a cell's centre is than the next one.
    grid = torch.cartesian_prod((torch.arange(4) + 0.5) / 4 * SIZE[0] / SIZE[1], (torch.arange(5) + 0.5) / 5)
    centers = grid + (torch.rand(CONFIDENT, 2, generator=generator) - 0.5) * 0.12
    distance = torch.cdist(torch.cartesian_prod(axis, axis), centers).T  # [cells, pixels]
    two_nearest, nearest = distance.topk(2, dim=0, largest=False)
    others = two_nearest[0].expand_as(distance).clone()
    others.scatter_(0, nearest[:1], two_nearest[1:])
    features = torch.randn(1, WIDTH, LOW, LOW, generator=generator) * 0.1
    features[0, :CONFIDENT] = ((others - distance) * 100).clamp(-10, 10).view(CONFIDENT, LOW, LOW)
    embeddings = torch.randn(1, QUERIES, WIDTH, generator=generator) * 0.1
    class_logits = torch.randn(1, QUERIES, CLASSES + 1, generator=generator)
    class_logits[..., -1] += 8
    confident = torch.randperm(QUERIES, generator=generator)[:CONFIDENT]
    embeddings[0, confident] = (
        torch.eye(CONFIDENT, WIDTH) + torch.randn(CONFIDENT, WIDTH, generator=generator) * 0.05
    )
    labels = torch.randint(0, CLASSES, (CONFIDENT,), generator=generator)
    class_logits[0, confident, labels] += 14 + torch.rand(CONFIDENT, generator=generator)
    return QueryLogits(class_logits, embeddings, features)


def ours(size: tuple[int, int]) -> Callable[[], Ids]:
    logits, tiling = forward_output(), plan(size, (VIEW, VIEW), "contain")
    return lambda: decode.panoptic(logits, tiling, CATEGORIES, Thresholds()).id_map().ids


def hugging_face(size: tuple[int, int]) -> Callable[[], Ids]:
    from transformers.models.eomt.image_processing_eomt import EomtImageProcessor

    processor = EomtImageProcessor(size={"shortest_edge": VIEW, "longest_edge": VIEW}, do_pad=True)
    logits, stuff = forward_output(), list(range(THINGS, CLASSES))
    outputs = SimpleNamespace(masks_queries_logits=logits.mask_logits, class_queries_logits=logits.class_logits)

    def run() -> Ids:
        result = processor.post_process_panoptic_segmentation(outputs, [size], stuff_classes=stuff)[0]
        ids: Ids = result["segmentation"].numpy() + 1
        return ids

    return run


METHODS = {"ours": (ours, SIZE), "hugging_face": (hugging_face, SIZE), "ours_12mp": (ours, LARGE)}


def seconds(run: Callable[[], Ids]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident(field: str) -> float:
    """Read a memory figure of this process, in MiB: VmRSS (now) or VmHWM (peak since the last reset)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure_memory(method: str) -> float:
    """Decode once in this process and give the growth of its peak resident size, in MiB."""
    build, size = METHODS[method]
    small = build((48, 64))
    small()  # loads what is loaded on first use
    del small
    run = build(size)
    gc.collect()
    # What building the inputs freed goes back to the system: decoding would take it again and look free of cost.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def memory(method: str) -> float:
    """Measure in a fresh process, so that no memory freed earlier is used again."""
    command = [sys.executable, __file__, "--memory", method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs that are timed")
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print(measure_memory(arguments.memory))
        return

    runs = {name: METHODS[name][0](METHODS[name][1]) for name in ("ours", "hugging_face")}
    ids = {name: run() for name, run in runs.items()}
    if not np.array_equal(ids["ours"], ids["hugging_face"]):
        raise SystemExit("ids differ: the figures would compare two different things")
    pairs = [{name: seconds(run) for name, run in runs.items()} for _ in range(arguments.rounds)]
    figures: dict[str, float] = {
        "segments": int(ids["ours"].max()),
        "ours_ms": statistics.median(pair["ours"] for pair in pairs) * 1e3,
        "hugging_face_ms": statistics.median(pair["hugging_face"] for pair in pairs) * 1e3,
        "time_ratio": statistics.median(pair["ours"] / pair["hugging_face"] for pair in pairs),
    }
    del runs, ids
    large = ours(LARGE)
    figures["ours_12mp_ms"] = statistics.median(seconds(large) for _ in range(3)) * 1e3
    figures |= {f"{name}_mib": memory(name) for name in METHODS}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"identical ids, {figures['segments']} segments, {arguments.rounds} interleaved pairs, one thread\n")
    print(f"{'':14}{'1280 x 960':>22}{'4000 x 3000':>22}")
    print(f"{'ours':14}{cell(figures, 'ours'):>22}{cell(figures, 'ours_12mp'):>22}")
    print(f"{'hugging face':14}{cell(figures, 'hugging_face'):>22}{'not run':>22}\n")
    for name, goal in GOALS.items():
        print(f"{name:14} {figures[name]:8.3g}   goal < {goal:g}   {'met' if figures[name] < goal else 'MISSED'}")


def cell(figures: dict[str, float], name: str) -> str:
    return f"{figures[f'{name}_ms']:.0f} ms {figures[f'{name}_mib']:.0f} MiB"


if __name__ == "__main__":
    main()
