"""Schedules against the published numbers: annealing within half a step, learning rates to rounding."""

import pytest

from eomt.config import OptimConfig
from eomt.training.optim import annealing_windows, learning_rate, mask_probabilities

COCO, COCO_2X, ADE, CITYSCAPES, ADE_DINOV3 = 88692, 177384, 39120, 19902, 16300 * 6 // 5

COCO_3 = ([14782, 36955, 59128], [29564, 51737, 73910])
COCO_2X_3 = ([29564, 73910, 118256], [59128, 103474, 147820])
COCO_4 = ([14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910])
COCO_5 = ([14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910])
ADE_4 = ([6520, 13040, 19560, 26080], [13040, 19560, 26080, 32600])
ADE_5 = ([6520, 11410, 16300, 21190, 26080], [13040, 17930, 22820, 27710, 32600])

DINOV2 = OptimConfig()
DINOV3 = OptimConfig(lr=2e-4, warmup=(2000, 3000), warmup_limit=0.3)
IN_WARMUP = OptimConfig(lr=2e-4, warmup=(2000, 3000), warmup_limit=0.3, anneal_first_in_warmup=True)

PUBLISHED = {
    "dinov2/coco/panoptic/small_640": (COCO, DINOV2, *COCO_3),
    "dinov2/coco/panoptic/small_640_2x": (COCO_2X, DINOV2, *COCO_2X_3),
    "dinov2/coco/panoptic/base_640": (COCO, DINOV2, *COCO_3),
    "dinov2/coco/panoptic/base_640_2x": (COCO_2X, DINOV2, *COCO_2X_3),
    "dinov2/coco/panoptic/large_640": (COCO, DINOV2, *COCO_4),
    "dinov2/coco/panoptic/large_1280": (COCO, DINOV2, *COCO_4),
    "dinov2/coco/panoptic/giant_640": (COCO, DINOV2, *COCO_5),
    "dinov2/coco/panoptic/giant_1280": (COCO, DINOV2, *COCO_5),
    "dinov2/coco/instance/large_640": (COCO, DINOV2, *COCO_4),
    "dinov2/coco/instance/large_1280": (COCO, DINOV2, *COCO_4),
    "dinov2/ade20k/panoptic/large_640": (ADE, DINOV2, *ADE_4),
    "dinov2/ade20k/panoptic/large_1280": (ADE, DINOV2, *ADE_4),
    "dinov2/ade20k/panoptic/giant_640": (ADE, DINOV2, *ADE_5),
    "dinov2/ade20k/panoptic/giant_1280": (ADE, DINOV2, *ADE_5),
    "dinov2/ade20k/semantic/large_512": (ADE, DINOV2, *ADE_4),
    "dinov2/cityscapes/semantic/large_1024": (
        CITYSCAPES,
        DINOV2,
        [3317, 6634, 9951, 13268],
        [6634, 9951, 13268, 16585],
    ),
    "dinov3/coco/instance/large_640": (COCO, DINOV3, *COCO_4),
    "dinov3/coco/instance/large_1280": (COCO, DINOV3, *COCO_4),
    # The first block of these five is annealed in the warm-up.
    "dinov3/coco/panoptic/small_640_2x": (COCO_2X, IN_WARMUP, [0, 73910, 118256], [3000, 103474, 147820]),
    "dinov3/coco/panoptic/base_640_2x": (COCO_2X, IN_WARMUP, [0, 73910, 118256], [3000, 103474, 147820]),
    "dinov3/coco/panoptic/large_640": (COCO, IN_WARMUP, [0, 29564, 44346, 59128], [3000, 44346, 59128, 73910]),
    "dinov3/coco/panoptic/large_1280": (COCO, IN_WARMUP, [0, 29564, 44346, 59128], [3000, 44346, 59128, 73910]),
    "dinov3/ade20k/semantic/large_512": (
        ADE_DINOV3,
        IN_WARMUP,
        [0, 6520, 9780, 13040],
        [3000, 9780, 13040, 16300],
    ),
}


def test_all_published_configurations_are_here():
    assert len(PUBLISHED) == 23
    assert sum(config.anneal_first_in_warmup for _, config, _, _ in PUBLISHED.values()) == 5


@pytest.mark.parametrize(("total", "config", "starts", "ends"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_annealing_steps(total, config, starts, ends):
    windows = annealing_windows(len(starts), 3000 / total if config.anneal_first_in_warmup else None)
    for (start, end), published_start, published_end in zip(windows, starts, ends, strict=True):
        assert abs(start * total - published_start) <= 0.5 + 1e-6
        assert abs(end * total - published_end) <= 0.5 + 1e-6
    for block, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert mask_probabilities(start - 1, total, config, len(starts))[block] == 1
        assert mask_probabilities(end + 1, total, config, len(starts))[block] == 0
        middle = (start + end) // 2
        formula = (1 - (middle - start) / (end - start)) ** 0.9
        assert mask_probabilities(middle, total, config, len(starts))[block] == pytest.approx(formula, abs=1e-4)


@pytest.mark.parametrize(
    ("total", "config"),
    [(COCO, DINOV2), (COCO_2X, DINOV2), (CITYSCAPES, DINOV2), (COCO, DINOV3), (ADE_DINOV3, DINOV3)],
)
def test_learning_rates_follow_the_published_formulas(total, config):
    lr, (new, backbone) = config.lr, config.warmup
    for step in (0, 1, new - 1, new, new + 1, new + backbone - 1, new + backbone, total // 2, total - 1, total):
        if step < new:
            expected = lr * step / new, 0.0
        else:
            expected_new = lr * (1 - (step - new) / (total - new)) ** 0.9
            if step < new + backbone:
                expected = expected_new, lr * (step - new) / backbone
            else:
                left = total - new - backbone
                expected = expected_new, lr * (1 - (step - new - backbone) / left) ** 0.9
        rates = learning_rate(step, total, config, "new"), learning_rate(step, total, config, "backbone")
        assert rates == pytest.approx(expected, rel=1e-9)
