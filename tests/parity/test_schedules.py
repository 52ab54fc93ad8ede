"""Schedules against the published numbers: annealing within half a step, learning rates to rounding."""

import pytest

from eomt.recipes import PUBLISHED
from eomt.training.optim import annealing_windows, learning_rate, mask_probabilities, warmup_steps

COCO, COCO_2X, ADE, CITYSCAPES, ADE_DINOV3 = 88692, 177384, 39120, 19902, 16300 * 6 // 5

COCO_3 = ([14782, 36955, 59128], [29564, 51737, 73910])
COCO_2X_3 = ([29564, 73910, 118256], [59128, 103474, 147820])
COCO_4 = ([14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910])
COCO_5 = ([14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910])
ADE_4 = ([6520, 13040, 19560, 26080], [13040, 19560, 26080, 32600])
ADE_5 = ([6520, 11410, 16300, 21190, 26080], [13040, 17930, 22820, 27710, 32600])

# Of each published configuration: nominal length of the run, and the annealing's steps a joint block.
STEPS = {
    "coco_panoptic_small_640": (COCO, *COCO_3),
    "coco_panoptic_small_640_2x": (COCO_2X, *COCO_2X_3),
    "coco_panoptic_base_640": (COCO, *COCO_3),
    "coco_panoptic_base_640_2x": (COCO_2X, *COCO_2X_3),
    "coco_panoptic_large_640": (COCO, *COCO_4),
    "coco_panoptic_large_1280": (COCO, *COCO_4),
    "coco_panoptic_giant_640": (COCO, *COCO_5),
    "coco_panoptic_giant_1280": (COCO, *COCO_5),
    "coco_instance_large_640": (COCO, *COCO_4),
    "coco_instance_large_1280": (COCO, *COCO_4),
    "ade20k_panoptic_large_640": (ADE, *ADE_4),
    "ade20k_panoptic_large_1280": (ADE, *ADE_4),
    "ade20k_panoptic_giant_640": (ADE, *ADE_5),
    "ade20k_panoptic_giant_1280": (ADE, *ADE_5),
    "ade20k_semantic_large_512": (ADE, *ADE_4),
    "cityscapes_semantic_large_1024": (CITYSCAPES, [3317, 6634, 9951, 13268], [6634, 9951, 13268, 16585]),
    "coco_instance_large_640_dinov3": (COCO, *COCO_4),
    "coco_instance_large_1280_dinov3": (COCO, *COCO_4),
    # The first block of these five is annealed in the warm-up.
    "coco_panoptic_small_640_2x_dinov3": (COCO_2X, [0, 73910, 118256], [3000, 103474, 147820]),
    "coco_panoptic_base_640_2x_dinov3": (COCO_2X, [0, 73910, 118256], [3000, 103474, 147820]),
    "coco_panoptic_large_640_dinov3": (COCO, [0, 29564, 44346, 59128], [3000, 44346, 59128, 73910]),
    "coco_panoptic_large_1280_dinov3": (COCO, [0, 29564, 44346, 59128], [3000, 44346, 59128, 73910]),
    "ade20k_semantic_large_512_dinov3": (ADE_DINOV3, [0, 6520, 9780, 13040], [3000, 9780, 13040, 16300]),
}


def optim(name):
    return PUBLISHED[name]().optim


def test_all_published_configurations_are_here():
    assert set(STEPS) == set(PUBLISHED)
    assert len(STEPS) == 23
    assert sum(optim(name).anneal_first_in_warmup for name in STEPS) == 5


@pytest.mark.parametrize("name", STEPS)
def test_annealing_steps(name):
    total, starts, ends = STEPS[name]
    config = optim(name)
    assert PUBLISHED[name]().model.num_joint_blocks == len(starts)
    assert warmup_steps(total, config) == config.warmup  # not shortened
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


@pytest.mark.parametrize("name", STEPS)
def test_learning_rates_follow_the_published_formulas(name):
    total, config = STEPS[name][0], optim(name)
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
