"""Decoding beside Hugging Face's post-processing of EoMT and beside full-size definitions.

Tolerance: ids and labels equal in every pixel. (The two may part where two values differ in the last bit, since
Hugging Face's enlargement rounds a multiplication less; no such pixel occurs in these scenes.) Scores to 1e-6.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.inference import decode
from eomt.inference.geometry import plan, stitch
from eomt.types import QueryLogits

CLASSES, THINGS = 20, 12
CATEGORIES = tuple(Category(f"class {index}", index < THINGS, index, (0, 0, 0)) for index in range(CLASSES))
VIEW = 160

# Where rounding (ours, the reference's) and truncation (Hugging Face's) scale to the same size.
SIZES = [(120, 160), (240, 320), (427, 640), (333, 250), (500, 500)]


def scene(seed: int, views: int = 1, queries: int = 50, confident: int = 16) -> QueryLogits:
    """Discs of stuff and things that overlap, each seen by one confident query; the other queries are unsure."""
    generator = torch.Generator().manual_seed(seed)
    down, across = torch.meshgrid(*(torch.linspace(0, 1, VIEW // 4),) * 2, indexing="ij")
    center, radius = (
        torch.rand(views, confident, 2, 1, 1, generator=generator),
        torch.rand(views, confident, 1, 1, generator=generator),
    )
    distance = ((down - center[:, :, 0]) ** 2 + (across - center[:, :, 1]) ** 2).sqrt()
    features = ((0.05 + 0.3 * radius**2 - distance) * 50).clamp(-9, 9)
    embeddings = torch.randn(views, queries, confident, generator=generator) * 0.1
    class_logits = torch.randn(views, queries, CLASSES + 1, generator=generator) * 0.5
    class_logits[..., -1] += 6
    for view in range(views):
        order = torch.randperm(queries, generator=generator)[:confident]
        embeddings[view, order] = torch.eye(confident)
        labels = torch.randint(0, CLASSES, (confident,), generator=generator)
        class_logits[view, order, labels] += 11 + torch.rand(confident, generator=generator)
    return QueryLogits(class_logits, embeddings, features)


def outputs(logits: QueryLogits, offsets: list[tuple[int, int, int]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        masks_queries_logits=logits.mask_logits, class_queries_logits=logits.class_logits, patch_offsets=offsets
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_panoptic_equals_hugging_face(size, seed):
    processor = EomtImageProcessor(size={"shortest_edge": VIEW, "longest_edge": VIEW}, do_pad=True)
    logits = scene(seed)
    stuff = list(range(THINGS, CLASSES))
    theirs = processor.post_process_panoptic_segmentation(outputs(logits), [size], stuff_classes=stuff)[0]
    ours = decode.panoptic(logits, plan(size, (VIEW, VIEW), "contain"), CATEGORIES, Thresholds())
    assert np.array_equal(ours.id_map().ids, theirs["segmentation"].numpy() + 1)  # their void is -1
    assert ours.labels.tolist() == [segment["label_id"] for segment in theirs["segments_info"]]
    assert ours.scores == pytest.approx([segment["score"] for segment in theirs["segments_info"]], abs=1e-6)
    assert len(ours) > 2


# (427, 640) covers a view with 240 columns, rounded as in the reference; Hugging Face truncates to 239.
@pytest.mark.parametrize("size", [(320, 600) if size == (427, 640) else size for size in SIZES])
@pytest.mark.parametrize("seed", range(2))
def test_semantic_equals_hugging_face(size, seed):
    processor = EomtImageProcessor(size={"shortest_edge": VIEW, "longest_edge": None}, do_split_image=True)
    tiling = plan(size, (VIEW, VIEW), "cover")
    logits = scene(seed, views=len(tiling))
    offsets = [(0, max(corner), max(corner) + VIEW) for corner in tiling.corners]
    (theirs,) = processor.post_process_semantic_segmentation(outputs(logits, offsets), [size])
    ours = decode.semantic(logits, tiling, CATEGORIES, Thresholds())
    assert np.array_equal(ours.label_map(), theirs.numpy())
    assert len(ours) > 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_instance_equals_its_description_at_full_size(size, seed):
    """Section 3.4 with full-size tensors, all queries and all classes at once. Masks equal in every pixel."""
    logits, tiling = scene(seed), plan(size, (VIEW, VIEW), "contain")
    masks = torch.nn.functional.interpolate(logits.mask_logits, size=(VIEW, VIEW), mode="bilinear")
    masks = stitch(masks, tiling)
    probabilities = logits.class_logits[0].softmax(-1)[:, :-1]
    scores, pairs = probabilities.flatten().topk(60)
    found = []
    for score, pair in zip(scores.tolist(), pairs.tolist(), strict=True):
        query, label = divmod(pair, CLASSES)
        mask = (masks[query] > 0).float()
        confidence = float((masks[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6))
        if mask.sum() > 0:
            found.append((score * confidence, label, mask.bool().numpy()))
    found.sort(key=lambda entry: -entry[0])

    things = tuple(category._replace(is_thing=True) for category in CATEGORIES)
    ours = decode.instance(logits, tiling, things, Thresholds(max_detections=60))
    assert ours.labels.tolist() == [label for _, label, _ in found]
    np.testing.assert_allclose(ours.scores, [score for score, _, _ in found], rtol=1e-5)
    for segment, (_, _, mask) in zip(ours, found, strict=True):
        assert np.array_equal(segment.mask, mask)
