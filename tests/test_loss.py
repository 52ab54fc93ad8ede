"""The loss: values by hand, and targets of every kind that data can bring."""

from dataclasses import replace
from math import log

import pytest
import torch

from eomt.config import LossConfig
from eomt.training.loss import amounts, segmentation_loss
from eomt.types import QueryLogits, Target

CONFIG = LossConfig(num_points=64)
QUERIES, CLASSES = 5, 3


def outputs(images, layers=2, grid=(6, 8), width=4):
    return [
        QueryLogits(
            torch.randn(images, QUERIES, CLASSES + 1, requires_grad=True),
            torch.randn(images, QUERIES, width, requires_grad=True),
            torch.randn(images, width, *grid, requires_grad=True),
        )
        for _ in range(layers)
    ]


def target(masks, labels=None):
    labels = torch.zeros(len(masks), dtype=torch.long) if labels is None else torch.tensor(labels)
    return Target(masks, labels, torch.zeros(len(masks), dtype=torch.bool))


def masks(count, size=(24, 32), pixels=None):
    out = torch.rand(count, *size) > 0.7
    if pixels is not None:
        out[:] = False
        out.flatten(1)[:, :pixels] = True
    return out


TARGETS = {
    "ordinary": [target(masks(3)), target(masks(2))],
    "one pixel": [target(masks(2, pixels=1)), target(masks(1, pixels=1))],
    "empty mask": [target(masks(2, pixels=0)), target(masks(1))],
    "full mask": [target(masks(1, pixels=24 * 32)), target(masks(1))],
    "duplicates": [target(masks(1).expand(4, -1, -1)), target(masks(1))],
    "more than queries": [target(masks(9)), target(masks(1))],
    "one image without": [target(masks(0)), target(masks(2))],
    "none at all": [target(masks(0)), target(masks(0))],
    "1x1 view": [target(masks(1, size=(1, 1))), target(masks(2, size=(1, 1)))],
    "thin view": [target(masks(1, size=(1, 500))), target(masks(2, size=(1, 500)))],
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_any_targets_give_a_finite_loss_and_every_gradient(targets):
    layers = outputs(2)
    terms = segmentation_loss(layers, targets, CONFIG)
    terms.total.backward()
    for output in layers:
        for tensor in output:
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
    assert terms.total.isfinite()
    assert terms.total.item() == pytest.approx((terms.mask + terms.dice + terms.classes).item(), rel=1e-5)
    assert terms.matched == amounts(targets, QUERIES, CONFIG)[0]
    assert terms.replaced_costs == 0
    assert terms.costs == 2 * QUERIES * sum(len(t.labels) for t in targets)


def test_without_targets_only_the_classes_count():
    layers = [QueryLogits(torch.zeros(2, QUERIES, CLASSES + 1), *output[1:]) for output in outputs(2)]
    terms = segmentation_loss(layers, TARGETS["none at all"], CONFIG)
    assert (terms.mask, terms.dice) == (0, 0)
    assert terms.classes.item() == pytest.approx(2 * 2 * log(CLASSES + 1))  # two layers, weight 2, uniform guess


def flat(class_logits, logit):
    """One image, one layer, masks of one constant logit."""
    queries = class_logits.shape[1]
    features = torch.full((1, 1, 4, 4), float(logit))
    return [QueryLogits(class_logits, torch.ones(1, queries, 1), features)]


def test_values_by_hand():
    # A full mask, two queries that say 0 everywhere. Points on the rim would see less than 1: look at the middle.
    full = target(torch.ones(1, 64, 64, dtype=torch.bool), [1])
    with pytest.MonkeyPatch.context() as patch:
        middle = lambda images, count, device, generator=None: torch.rand(images, count, 2) * 0.5 + 0.25  # noqa: E731
        patch.setattr("eomt.training.matching.draw_points", middle)
        terms = segmentation_loss(flat(torch.zeros(1, 2, CLASSES + 1), 0), [full], CONFIG)
    points = CONFIG.num_points
    assert terms.mask.item() == pytest.approx(5 * log(2), rel=1e-5)
    assert terms.dice.item() == pytest.approx(5 * (1 - (points + 1) / (1.5 * points + 1)), rel=1e-5)
    assert terms.classes.item() == pytest.approx(2 * log(CLASSES + 1), rel=1e-5)


def test_no_object_counts_a_tenth():
    # One query of two is matched. Both are sure of class 0: right for one, wrong by 20 for the other.
    logits = torch.zeros(1, 2, CLASSES + 1)
    logits[..., 0] = 20
    full = target(torch.ones(1, 8, 8, dtype=torch.bool), [0])
    terms = segmentation_loss(flat(logits, 0), [full], CONFIG)
    assert terms.classes.item() == pytest.approx(2 * 20 * 0.1 / 1.1, rel=1e-4)


def test_divisors_divide_the_terms():
    layers, targets = outputs(2), TARGETS["ordinary"]
    held = amounts(targets, QUERIES, CONFIG)
    assert held.tolist() == pytest.approx([5, 5 + 0.1 * 5])

    def loss(divisors):
        return segmentation_loss(layers, targets, CONFIG, divisors, torch.Generator().manual_seed(0))

    default, double, tiny = loss(None), loss(held * 2), loss(held * torch.tensor([0.02, 1.0]))
    for name in ("mask", "dice", "classes"):
        torch.testing.assert_close(getattr(double, name), getattr(default, name) / 2)
    torch.testing.assert_close(tiny.mask, default.mask * 50)  # a share of one mask, where processes have none
    assert loss(held).total == default.total


@pytest.mark.parametrize("kind", ["ordinary", "one image without", "none at all"])
def test_micro_batches_add_up_to_the_batch(kind):
    """The same points for both: they would be drawn anew for each micro-batch."""
    whole, targets = outputs(2), TARGETS[kind]
    parts = [[QueryLogits(*(part[[image]] for part in output)) for output in whole] for image in range(2)]
    divisors = amounts(targets, QUERIES, CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        fixed = torch.rand(1, 4096, 2)
        same = lambda images, count, device, generator=None: fixed[:, :count].expand(images, -1, -1)  # noqa: E731
        patch.setattr("eomt.training.matching.draw_points", same)
        together = segmentation_loss(whole, targets, CONFIG)
        apart = [
            segmentation_loss(part, [each], CONFIG, divisors / 2)
            for part, each in zip(parts, targets, strict=True)
        ]
    torch.testing.assert_close(sum(terms.layers for terms in apart) / 2, together.layers)


def test_a_generator_repeats_the_loss():
    layers, targets = outputs(2), TARGETS["ordinary"]
    one, other = (
        segmentation_loss(layers, targets, CONFIG, generator=torch.Generator().manual_seed(5)).total
        for _ in range(2)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("shares", [(3.0, 0.0), (3.0, 1.0), (1.0, 0.75), (0.5, 0.75)])
def test_any_share_of_important_points(shares):
    config = replace(CONFIG, oversample_ratio=shares[0], importance_sample_ratio=shares[1])
    assert segmentation_loss(outputs(2), TARGETS["ordinary"], config).total.isfinite()


def test_a_loss_that_falls_when_the_masks_get_better():
    halves = torch.zeros(2, 16, 16, dtype=torch.bool)
    halves[0, :, :8], halves[1, :, 8:] = True, True
    features = halves[:, ::4, ::4].float()[None] * 2 - 1
    right = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    classes = torch.zeros(1, 2, CLASSES + 1)
    losses = [
        segmentation_loss([QueryLogits(classes, right * scale, features)], [target(halves)], CONFIG).mask.item()
        for scale in (-1, 0, 1, 4)
    ]
    assert losses[1:] == sorted(losses[1:], reverse=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_logits_are_counted_and_seen_in_the_total(value):
    layers = outputs(2)
    with torch.no_grad():
        layers[0].mask_embeddings[0] = value
    terms = segmentation_loss(layers, TARGETS["ordinary"], CONFIG)
    assert terms.replaced_costs == QUERIES * 3
    assert not terms.total.isfinite()


def test_half_precision_and_autocast_keep_the_loss_in_fp32():
    layers = [
        QueryLogits(output.class_logits, output.mask_embeddings.bfloat16(), output.features)
        for output in outputs(2)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = segmentation_loss(layers, TARGETS["ordinary"], CONFIG)
    assert terms.total.dtype == torch.float32
    assert terms.total.isfinite()
