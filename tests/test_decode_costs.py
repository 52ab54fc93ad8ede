"""What decoding may not cost, counted rather than timed: products, sizes of tensors, waits for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.inference import decode
from eomt.inference.geometry import BLOCK, plan
from eomt.types import QueryLogits
from test_step import Reads

CATEGORIES = tuple(Category(f"class {index}", index < 3, index, (0, 0, 0)) for index in range(5))
WIDTH, LOW, VIEW, IMAGE = 16, 32, 128, (480, 640)
TILING = plan(IMAGE, (VIEW, VIEW), "contain")


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return found


def scene(queries: int, sure: int) -> QueryLogits:
    """Build logits of one view in which some queries are sure, each of another stripe of the image."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, WIDTH, LOW, LOW, generator=generator) * 0.1
    for index in range(sure):
        features[0, index] -= 5
        features[0, index, :, index * LOW // sure : (index + 1) * LOW // sure] += 10
    embeddings = torch.randn(1, queries, WIDTH, generator=generator) * 0.01
    embeddings[0, :sure] += torch.eye(sure, WIDTH)
    class_logits = torch.zeros(1, queries, len(CATEGORIES) + 1)
    class_logits[0, :, -1] = 12
    for index in range(sure):
        class_logits[0, index, index % len(CATEGORIES)] = 24
    return QueryLogits(class_logits, embeddings, features)


def test_panoptic_masks_are_computed_of_sure_queries_only() -> None:
    for queries in (8, 64):
        logits = scene(queries, 4)
        with FlopCounterMode(display=False) as counter:
            decode.panoptic(logits, TILING, CATEGORIES, Thresholds())
        assert counter.get_total_flops() == 2 * 4 * WIDTH * LOW**2


def test_instance_masks_are_computed_once_a_query_however_often_it_is_among_the_best() -> None:
    """64 queries and three things are 192 pairs, but 64 masks."""
    logits = scene(64, 4)
    for pairs, queries in ((192, 64), (3, 3)):
        with FlopCounterMode(display=False) as counter:
            decode.instance(logits, TILING, CATEGORIES, Thresholds(max_detections=pairs))
        assert 0 < counter.get_total_flops() <= queries * 2 * WIDTH * LOW**2


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_no_tensor_has_the_size_of_the_image_times_queries(task: str) -> None:
    """At most a block of each sure query (16 at a time: instances), or their masks as the model gives them."""
    logits, run = scene(64, 8), getattr(decode, task)
    limits = Thresholds(max_detections=8)
    with Largest() as largest:
        prediction = run(logits, TILING, CATEGORIES, limits)
    assert len(prediction) > 0
    assert largest.elements <= 8 * max(BLOCK[0] * BLOCK[1], LOW**2)
    assert largest.elements < 8 * IMAGE[0] * IMAGE[1]


@pytest.mark.parametrize(("task", "reads"), [("panoptic", 3), ("instance", 1)])
def test_the_host_waits_as_often_for_many_queries_as_for_few(task: str, reads: int) -> None:
    """Neither queries nor instances cost a round trip; blocks do, a fixed number each."""
    counts = []
    for queries in (8, 64):
        logits, run = scene(queries, 4), getattr(decode, task)
        with Reads() as found:
            run(logits, TILING, CATEGORIES, Thresholds())
        counts.append(len(found.found))
    blocks = -(-IMAGE[0] // BLOCK[0]) * -(-IMAGE[1] // BLOCK[1])
    assert counts[0] == counts[1] <= 12 + reads * blocks


def test_the_largest_tensor_is_noticed() -> None:
    with Largest() as largest:
        torch.ones(3, 4).sum()
    assert largest.elements == 12
