"""What merging tokens saves and changes: python benchmarks/token_merging.py --data PATH [--weights FILE].

The forward pass of a ViT-S/14 with views of 644 pixels runs on real images with and without merging, in turns:
multiply-adds, time, and how far the patches' features move (cosine similarity with those without merging). Without
`--weights` the backbone is random, and its tokens are not those of a trained one. What it does to the figures of a
trained model is printed by `eomt eval --merge 0.98`.
"""

import argparse
import statistics
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from eomt.benchmark.costs import multiply_adds
from eomt.benchmark.rounds import WHOLE, ratios, time_interleaved
from eomt.config import ModelConfig
from eomt.data.detect import open_data
from eomt.devices import choose_device, choose_precision, computing
from eomt.inference.geometry import plan, split
from eomt.models.eomt import EoMT

VIEW = (644, 644)


def read(path: str, name: str, count: int) -> list[Tensor]:
    data = open_data(path, name)
    images = [data[index].image for index in range(0, len(data), max(len(data) // count, 1))][:count]
    return [split(image, plan((image.shape[1], image.shape[2]), VIEW, "contain", None)) for image in images]


@torch.inference_mode()
def features(model: EoMT, view: Tensor, threshold: float | None, precision: torch.dtype) -> Tensor:
    model.merge_tokens(threshold)
    with computing(torch.device("cpu"), precision):
        return model(view)[-1].features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set as eomt reads it")
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", default="none", help="of vit_small_patch14_dinov2, under timm's names")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.98, 0.95, 0.9])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig("vit_small_patch14_dinov2", options.weights, VIEW, patch_size=14, num_queries=100)
    model = EoMT(config, 19).eval()
    precision = choose_precision("auto", choose_device("cpu"))
    views = read(options.data, options.split, options.images)

    print(f"{len(views)} images of {options.data}, {precision}, one thread; medians over the images")
    print(f"{'merged at':>10} {'GMAC':>8} {'of plain':>9} {'time of plain':>14} {'likeness of features':>21}")
    operations = [multiply_adds(partial(features, model, view, None, torch.float32)) for view in views]
    print(f"{'no':>10} {statistics.median(operations) / 1e9:8.1f}")
    for threshold in options.thresholds:
        counts, times, likeness = [], [], []
        for view, plain in zip(views, operations, strict=True):
            counts.append(multiply_adds(partial(features, model, view, threshold, torch.float32)) / plain)
            runs = {
                "plain": partial(features, model, view, None, precision),
                "merged": partial(features, model, view, threshold, precision),
            }
            found = time_interleaved(runs, options.rounds, clock="processor")
            times.append(ratios(found["merged"], found["plain"])[WHOLE].median)
            one, other = (features(model, view, each, torch.float32) for each in (None, threshold))
            likeness.append(float(functional.cosine_similarity(one, other, dim=1).mean()))
        share = statistics.median(counts)
        print(
            f"{threshold:10} {share * statistics.median(operations) / 1e9:8.1f} {share:9.2f} "
            f"{statistics.median(times):14.2f} {statistics.median(likeness):21.3f}"
        )


if __name__ == "__main__":
    main()
