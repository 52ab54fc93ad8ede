"""Time of a training step, and of matching and loss alone, beside Hugging Face's EoMT, whose loss is the authors'.

    python benchmarks/training_step.py [--json] [--batch 4] [--rounds 3] [--loss-rounds 3]

ViT-S at 640 x 640, 200 queries, four joint blocks with masked attention, 133 classes, 20 targets an image, 12,544
points, fp32, the same random weights. A step is forward, matching and loss of all five layers, backward, clipping
and AdamW. Matching and loss alone, of four images, start from what the heads give: Hugging Face's from its masks,
ours from embeddings and features, so that the product of the two is in our time only.

First both draw the same points, and loss and gradients have to agree; then each draws its own. Both run on one
thread in interleaved pairs, and what is counted is the processor's time: what other programs take does not matter.
Images and targets are made floating-point numbers for Hugging Face before the clock runs.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.eomt import modeling_eomt as reference

from eomt.config import LossConfig, ModelConfig, OptimConfig
from eomt.models.eomt import EoMT
from eomt.training import matching
from eomt.training.loss import segmentation_loss
from eomt.training.optim import build_optimizer
from eomt.types import QueryLogits, Target
from eomt.weights.names import HUGGING_FACE, to_ours

SIDE, WIDTH, QUERIES, JOINT, CLASSES, TARGETS = 640, 384, 200, 4, 133, 20
LOSS, OPTIM, LOSS_BATCH = LossConfig(), OptimConfig(), 4
GOALS = {"step": 0.78, "matching and loss": 0.6}
TOLERANCES = {"loss": 1e-5, "gradients": 1e-3}
"""Relative. Both compute in fp32, but in another order: a mask logit near zero may fall on either side of it."""


class Sides(NamedTuple):
    """What is run on each side."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def models() -> tuple[EoMT, Any]:
    """Build both with the same random weights, large enough to make every part count."""
    config = reference.EomtConfig(
        hidden_size=WIDTH,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=SIDE,
        num_queries=QUERIES,
        num_blocks=JOINT,
        num_labels=CLASSES,
    )
    theirs = reference.EomtForUniversalSegmentation(config)
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
        if "norm" in name and name.endswith("weight"):
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    ours = EoMT(
        ModelConfig("vit_small_patch14_reg4_dinov2", "none", (SIDE, SIDE), num_joint_blocks=JOINT), CLASSES
    )
    ours.load_state_dict(to_ours(theirs.state_dict(), HUGGING_FACE))
    return ours.train(), theirs.train()


def draw_targets(count: int) -> list[Target]:
    """Share out the pixels of each view among 20 centres."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(0, 1, SIDE)
    pixels = torch.cartesian_prod(axis, axis)
    targets = []
    for _ in range(count):
        nearest = torch.cdist(pixels, torch.rand(TARGETS, 2, generator=generator)).argmin(1).view(SIDE, SIDE)
        labels = torch.randint(CLASSES, (TARGETS,), generator=generator)
        masks = nearest == torch.arange(TARGETS)[:, None, None]
        targets.append(Target(masks, labels, torch.zeros(TARGETS, dtype=torch.bool)))
    return targets


def steps(count: int) -> Sides:
    """Prepare a whole step of each side, after checking that loss and gradients agree."""
    model, other = models()
    targets = draw_targets(count)
    masks, labels = [target.masks.float() for target in targets], [target.labels for target in targets]
    images = torch.randint(
        0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    pixels = (images - model.backbone.pixel_mean) / model.backbone.pixel_std

    def our_loss() -> Tensor:
        return segmentation_loss(model(images, [1.0] * JOINT), targets, LOSS).total

    def their_loss() -> Tensor:
        loss: Tensor = other(pixels, mask_labels=masks, class_labels=labels).loss
        return loss

    with same_points(count):
        losses = our_loss(), their_loss()
    for loss in losses:
        loss.backward()
    gradients, others = ({name: part.grad for name, part in side.named_parameters()} for side in (model, other))
    expected = to_ours(other.state_dict() | others, HUGGING_FACE)
    check("step", losses, gradients.values(), [expected[name] for name in gradients])

    def step(model: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()

    return Sides(
        partial(step, model, our_loss, build_optimizer(model, OPTIM)),
        partial(step, other, their_loss, torch.optim.AdamW(other.parameters(), OPTIM.lr)),
    )


def losses(count: int) -> Sides:
    """Prepare matching and loss of each side, after checking that they agree, gradients too."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def layer() -> QueryLogits:
        smooth = functional.interpolate(random(count, WIDTH, 20, 20), (SIDE // 4, SIDE // 4), mode="bilinear")
        features = smooth.contiguous(memory_format=torch.channels_last)  # as the head lays them out
        parts = random(count, QUERIES, CLASSES + 1), random(count, QUERIES, WIDTH) / 10, features
        return QueryLogits(*(part.requires_grad_() for part in parts))

    outputs, targets = [layer() for _ in range(JOINT + 1)], draw_targets(count)
    masks, labels = [target.masks.float() for target in targets], [target.labels for target in targets]
    criterion = models()[1].criterion
    weights = {
        "loss_mask": LOSS.mask_weight,
        "loss_dice": LOSS.dice_weight,
        "loss_cross_entropy": LOSS.class_weight,
    }

    def ours() -> Tensor:
        return segmentation_loss(outputs, targets, LOSS).total

    def theirs(maps: Sequence[Tensor]) -> Tensor:
        terms = [criterion(m, output.class_logits, masks, labels) for m, output in zip(maps, outputs, strict=True)]
        return torch.stack([weights[name] * value for term in terms for name, value in term.items()]).sum()

    with same_points(count):
        totals = ours(), theirs([output.mask_logits for output in outputs])
    inputs = [part for output in outputs for part in output]
    check("matching and loss", totals, *(torch.autograd.grad(total, inputs) for total in totals))
    maps = [output.mask_logits.detach().requires_grad_() for output in outputs]
    return Sides(ours, partial(theirs, maps))


@contextmanager
def same_points(images: int) -> Iterator[None]:
    """Make both sides draw the same points of each image, in every layer."""

    def points(image: int, count: int) -> Tensor:
        return torch.rand(count, 2, generator=torch.Generator().manual_seed(1000 * image + count))

    candidates = int(LOSS.num_points * LOSS.oversample_ratio)
    uniform = LOSS.num_points - int(LOSS.num_points * LOSS.importance_sample_ratio)
    asked = iter(range(10**6))

    def ours(images: int, count: int, *_: Any) -> Tensor:
        parts = [count] if count == LOSS.num_points else [candidates, uniform]
        return torch.stack([torch.cat([points(image, part) for part in parts]) for image in range(images)])

    def theirs(rows: int, count: int, *_: Any, **__: Any) -> Tensor:
        if rows == 1:  # the matcher asks image by image, layer by layer
            return points(next(asked) % images, count)[None]
        return torch.stack([points(row // TARGETS, count) for row in range(rows)])

    namespace = SimpleNamespace(**{**vars(torch), "rand": theirs})
    with patch.object(matching, "draw_points", ours), patch.object(reference, "torch", namespace):
        yield


def check(what: str, totals: Sequence[Tensor], ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    """Leave where the losses or the gradients, all as one vector, differ."""
    mine, other = (torch.cat([part.flatten() for part in parts]) for parts in (ours, theirs))
    loss, expected = (float(total.detach()) for total in totals)
    differences = {"loss": abs(loss / expected - 1), "gradients": float((mine - other).norm() / other.norm())}
    print(f"{what}: loss {loss:.6g} and {expected:.6g}, relative differences {differences}", file=sys.stderr)
    for name, value in differences.items():
        if not value <= TOLERANCES[name]:
            raise SystemExit(f"{what}: {name} differ by {value:.2g}: the times would be of two different things")


def medians(sides: Sides, rounds: int) -> dict[str, float]:
    """Time interleaved pairs."""
    pairs = [[seconds(run) for run in sides] for _ in range(rounds)]
    return {
        "ours_s": statistics.median(ours for ours, _ in pairs),
        "theirs_s": statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
    }


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--batch", type=int, default=4, help="images in a step; four take 16 GB of memory")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved pairs of steps; 0: none")
    parser.add_argument("--loss-rounds", type=int, default=3, help="interleaved pairs of losses; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows: dict[str, dict[str, float]] = {}
    if arguments.loss_rounds:
        alone = losses(LOSS_BATCH)
        rows["matching and loss"] = medians(alone, arguments.loss_rounds)
        del alone
    if arguments.rounds:
        rows["step"] = medians(steps(arguments.batch), arguments.rounds)
    if arguments.json:
        print(json.dumps({**machine(), "batch": arguments.batch, "goals": GOALS, "figures": rows}, indent=2))
        return
    print(
        f"\nstep of {arguments.batch}, one thread;",
        *(f"{name} {value}" for name, value in machine().items()),
        "\n",
    )
    print(f"{'':20}{'ours':>10}{'theirs':>12}{'ratio':>8}")
    for name, row in rows.items():
        verdict = "met" if row["ratio"] <= GOALS[name] else "MISSED"
        times = f"{row['ours_s']:8.2f} s{row['theirs_s']:10.2f} s"
        print(f"{name:20}{times}{row['ratio']:8.3f}   goal at most {GOALS[name]}: {verdict}")


if __name__ == "__main__":
    main()
