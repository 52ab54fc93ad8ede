"""Matching and loss against transformers' Mask2Former on the same points.

Terms agree to 1e-5 relative: both compute in fp32, in another order. Matched pairs are equal.
"""

from types import SimpleNamespace

import pytest
import torch
from transformers.models.mask2former import modeling_mask2former as reference

from eomt.config import LossConfig
from eomt.training import matching
from eomt.training.loss import segmentation_loss
from eomt.types import QueryLogits, Target

CLASSES, SIZE = 5, (48, 64)
CONFIG = LossConfig(num_points=1600)


def scene(counts, layers, seed, queries=12, width=16, grid=(12, 16)):
    """Random logits of some layers for len(counts) images, whose i-th has counts[i] targets: blocks of pixels."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    outputs = [
        QueryLogits(
            random(len(counts), queries, CLASSES + 1).requires_grad_(),
            random(len(counts), queries, width).requires_grad_(),
            random(len(counts), width, *grid).requires_grad_(),
        )
        for _ in range(layers)
    ]
    targets = []
    for count in counts:
        blocks = random(count, 1, *(side // 8 for side in SIZE)) > 0.5
        masks = torch.nn.functional.interpolate(blocks.float(), SIZE)[:, 0] > 0
        labels = torch.randint(CLASSES, (count,), generator=generator)
        targets.append(Target(masks, labels, torch.zeros(count, dtype=torch.bool)))
    return outputs, targets


@pytest.fixture
def same_points(monkeypatch):
    """Make both sides draw, of a request for so many points an image, the same ones; images differ."""

    def points(image, count):
        return torch.rand(count, 2, generator=torch.Generator().manual_seed(1000 * image + count))

    def install(counts):
        candidates = int(CONFIG.num_points * CONFIG.oversample_ratio)
        uniform = CONFIG.num_points - int(CONFIG.num_points * CONFIG.importance_sample_ratio)
        asked = iter(range(10**6))

        def ours(images, count, device, generator=None):
            if count == CONFIG.num_points:
                return torch.stack([points(image, count) for image in range(images)])
            assert count == candidates + uniform
            both = [torch.cat([points(image, candidates), points(image, uniform)]) for image in range(images)]
            return torch.stack(both)

        def theirs(rows, count, two, device=None):
            if count == CONFIG.num_points:  # the matcher asks image by image, layer by layer
                return points(next(asked) % len(counts), count)[None]
            assert rows == sum(counts)
            return torch.stack([points(image, count) for image, n in enumerate(counts) for _ in range(n)])

        monkeypatch.setattr(matching, "draw_points", ours)
        monkeypatch.setattr(reference, "torch", SimpleNamespace(**{**vars(torch), "rand": theirs}))

    return install


def reference_loss():
    return reference.Mask2FormerLoss(
        SimpleNamespace(
            num_labels=CLASSES,
            no_object_weight=CONFIG.no_object_weight,
            train_num_points=CONFIG.num_points,
            oversample_ratio=CONFIG.oversample_ratio,
            importance_sample_ratio=CONFIG.importance_sample_ratio,
            class_weight=CONFIG.class_weight,
            mask_weight=CONFIG.mask_weight,
            dice_weight=CONFIG.dice_weight,
        ),
        {},
    )


@pytest.mark.parametrize(
    ("counts", "layers"),
    [
        ((3,), 1),
        ((4, 2, 7), 1),  # images of different points
        ((5, 0, 3), 2),  # an image without targets
        ((1, 12), 4),  # as many targets as queries; several layers
    ],
)
def test_terms_and_gradients_equal_the_reference(same_points, counts, layers):
    outputs, targets = scene(counts, layers, seed=sum(counts))
    inputs = [tensor for output in outputs for tensor in output]
    same_points(counts)

    terms = segmentation_loss(outputs, targets, CONFIG)
    gradients = torch.autograd.grad(terms.total, inputs)

    labels = [target.labels for target in targets]
    masks = [target.masks.float() for target in targets]
    criterion = reference_loss()
    expected = []
    for output in outputs:
        losses = criterion(output.mask_logits, output.class_logits, masks, labels)
        weighted = [5 * losses["loss_mask"], 5 * losses["loss_dice"], 2 * losses["loss_cross_entropy"]]
        expected.append(torch.stack(weighted))
    total = torch.stack(expected).sum()

    torch.testing.assert_close(terms.layers, torch.stack(expected).detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(terms.total, total, rtol=1e-5, atol=0)
    for ours, theirs in zip(gradients, torch.autograd.grad(total, inputs), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("counts", [(3,), (4, 0, 7), (20, 6)])  # the last: more targets than queries
@pytest.mark.parametrize("grid", [(12, 16), (60, 80)])  # fewer cells than points, and more
def test_matches_equal_the_reference(same_points, counts, grid):
    outputs, targets = scene(counts, 3, seed=7, grid=grid)
    same_points(counts)
    matches = matching.match(outputs, targets, CONFIG)

    matcher = reference_loss().matcher
    for output, found in zip(outputs, matches.layers, strict=True):
        expected = matcher(
            output.mask_logits,
            output.class_logits,
            [target.masks.float() for target in targets],
            [target.labels for target in targets],
        )
        for ours, (queries, columns) in zip(found, expected, strict=True):
            assert ours.queries.tolist() == queries.tolist()
            assert ours.targets.tolist() == columns.tolist()
