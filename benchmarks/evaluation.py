"""Time of evaluation an image beside torchmetrics, from the same predictions: PQ and mask AP.

    python benchmarks/evaluation.py [--json] [--images 8] [--size 960 1280]

Images of 24 segments in 133 classes, void between some of them, and predictions whose segments are moved, renamed
or missing; no crowds, which torchmetrics' PQ does not know. Both run on one thread, image by image in turn; the
figure of an image is the median of the updates, plus a share in the final computation. torchmetrics is fed what it
takes: maps of (class, number) for PQ, dense masks for AP; making them is not counted.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from eomt.categories import Category
from eomt.evaluation.metrics import MaskAP, PanopticQuality
from eomt.masks import IdMap, RleMasks
from eomt.types import Prediction, Segments

THINGS, CLASSES, SEGMENTS = 80, 133, 24
CATEGORIES = tuple(Category(f"class {index}", index < THINGS, index + 1, (0, 0, 0)) for index in range(CLASSES))
GOAL = 0.1
"""Of torchmetrics' time, at most."""

Scene = tuple[Prediction, Segments]


def scene(seed: int, size: tuple[int, int]) -> Scene:
    """Draw cells round random centres, some of them void, and a prediction that is near to them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0] : 8, : size[1] : 8]
    centers = rng.uniform(0, 1, (SEGMENTS + 2, 2)) * size
    nearest = np.argmin([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centers], axis=0)
    ids = np.repeat(np.repeat(nearest, 8, axis=0), 8, axis=1)[: size[0], : size[1]] + 1
    ids = np.where(ids > SEGMENTS, 0, ids).astype(np.int32)
    labels = rng.permutation(CLASSES)[:SEGMENTS]  # each once: stuff has one segment
    shift = rng.integers(-size[0] // 30, size[0] // 30, size=2)
    found = np.roll(ids, shift, (0, 1)) * (rng.random(SEGMENTS + 1) < 0.9)[ids]
    kept = np.unique(found)[1:]
    table = np.zeros(SEGMENTS + 1, dtype=np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    renamed = np.where(rng.random(SEGMENTS) < 0.15, rng.permutation(labels), labels)
    renamed = np.array(
        [label if list(renamed).count(label) == 1 else labels[i] for i, label in enumerate(renamed)]
    )
    masks = IdMap(table[found], len(kept))
    prediction = Prediction(masks, renamed[kept - 1].astype(np.int64), rng.random(len(kept)), CATEGORIES)
    no_crowd = torch.zeros(SEGMENTS, dtype=torch.bool)
    return prediction, Segments(IdMap(ids, SEGMENTS), torch.from_numpy(labels), no_crowd)


def as_map(masks: IdMap, labels: np.ndarray) -> torch.Tensor:
    """Give class and number of each pixel, [1 h w 2]; the class after the last is void."""
    table = np.concatenate([[CLASSES], labels])
    return torch.from_numpy(np.stack([table[masks.ids], masks.ids], axis=-1))[None]


def as_dense(masks: IdMap, labels: np.ndarray, scores: np.ndarray | None = None) -> dict[str, torch.Tensor]:
    """Give the things as dense masks [n h w]."""
    things = np.flatnonzero(labels < THINGS)
    dense = np.stack([masks.mask(int(index)) for index in things]) if len(things) else np.zeros((0, *masks.size))
    given = {"masks": torch.from_numpy(dense.astype(bool)), "labels": torch.from_numpy(labels[things])}
    return given if scores is None else given | {"scores": torch.from_numpy(scores[things])}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def per_image(updates: list[float], final: float) -> float:
    return (statistics.median(updates) + final / len(updates)) * 1000


def panoptic(scenes: list[Scene]) -> dict[str, float]:
    from torchmetrics.detection import PanopticQuality as Theirs

    ours = PanopticQuality(CATEGORIES)
    theirs = Theirs(
        things=set(range(THINGS)),
        stuffs=set(range(THINGS, CLASSES)),
        allow_unknown_preds_category=True,
        return_per_class=True,
    )
    times: tuple[list[float], list[float]] = [], []
    for number, (prediction, segments) in enumerate(scenes):
        assert isinstance(prediction.masks, IdMap)
        assert isinstance(segments.masks, IdMap)
        maps = as_map(prediction.masks, prediction.labels), as_map(segments.masks, segments.labels.numpy())
        times[0].append(timed(lambda: ours.update(prediction, segments, str(number)))[0])  # noqa: B023
        times[1].append(timed(lambda: theirs.update(*maps))[0])  # noqa: B023
    final, metrics = timed(ours.compute)
    their_final, classes = timed(theirs.compute)
    rows = np.array([row["PQ"] for row in metrics.per_class.values()])
    known = ~np.isnan(rows)
    return {
        "ours_ms": per_image(times[0], final),
        "torchmetrics_ms": per_image(times[1], their_final),
        "ours": metrics.figures["PQ"],
        "torchmetrics": float(classes.numpy()[0][known].mean()),
    }


def mask_ap(scenes: list[Scene]) -> dict[str, float]:
    from torchmetrics.detection import MeanAveragePrecision

    ours, theirs = MaskAP(CATEGORIES), MeanAveragePrecision(iou_type="segm")
    times: tuple[list[float], list[float]] = [], []
    for number, (prediction, segments) in enumerate(scenes):
        assert isinstance(prediction.masks, IdMap)
        assert isinstance(segments.masks, IdMap)
        found = [as_dense(prediction.masks, prediction.labels, prediction.scores)]
        true = [as_dense(segments.masks, segments.labels.numpy())]
        encoded = Prediction(  # as a model's prediction comes
            RleMasks(prediction.size, tuple(prediction.masks.rle(i) for i in range(len(prediction)))),
            prediction.labels,
            prediction.scores,
            CATEGORIES,
        )
        times[0].append(timed(lambda: ours.update(encoded, segments, f"{number:06}"))[0])  # noqa: B023
        times[1].append(timed(lambda: theirs.update(found, true))[0])  # noqa: B023
    final, metrics = timed(ours.compute)
    their_final, figures = timed(theirs.compute)
    return {
        "ours_ms": per_image(times[0], final),
        "torchmetrics_ms": per_image(times[1], their_final),
        "ours": metrics.figures["AP"],
        "torchmetrics": float(figures["map"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(960, 1280), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    scenes = [scene(seed, tuple(options.size)) for seed in range(options.images)]
    results = {"PQ": panoptic(scenes), "AP": mask_ap(scenes)}
    for result in results.values():
        result["ratio"] = result["ours_ms"] / result["torchmetrics_ms"]
    if options.json:
        print(json.dumps(results))
    else:
        for name, result in results.items():
            print(
                f"{name}: {result['ours_ms']:.1f} ms an image, torchmetrics {result['torchmetrics_ms']:.1f} ms: "
                f"{result['ratio']:.3f} of its time (goal: {GOAL}); figures {result['ours']:.9f} and "
                f"{result['torchmetrics']:.9f}"
            )
    return int(any(result["ratio"] > GOAL for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
