"""Metrics on seeded random scenes against their references; `python tests/parity/equality.py` takes many more."""

import numpy as np
import pytest
from equality import (
    CATEGORIES,
    judge,
    mask_ap_difference,
    mean_iou_difference,
    panoptic_difference,
    random_scenes,
    with_told_areas,
)

from eomt.evaluation.metrics import MaskAP, MeanIoU, PanopticQuality


@pytest.mark.parametrize(
    ("seed", "max_detections", "disjoint", "objects"),
    [
        *[(seed, 100, False, 9) for seed in range(4)],
        (4, 100, True, 9),
        (5, 5, False, 40),
        (6, 100, False, 300),  # more than 100 of a class in an image
        (6, 500, False, 300),
    ],
)
def test_mask_ap_is_that_of_pycocotools(seed, max_detections, disjoint, objects) -> None:
    scenes = with_told_areas(random_scenes(seed, 12 if objects < 100 else 3, disjoint, objects), seed)
    assert mask_ap_difference(scenes, max_detections) <= 1e-9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("disjoint", [True, False])
def test_panoptic_quality_is_the_definition(seed, disjoint) -> None:
    assert panoptic_difference(random_scenes(seed, 6, disjoint)) <= 1e-12


@pytest.mark.parametrize(
    ("seed", "suffix", "expected"),
    [
        (0, "", (0.43241982296524756, 0.7601299908002105, 0.5714285714285714)),
        (0, "_things", (0.4377784242117862, 0.7422698601773258, 0.5952380952380952)),
        (0, "_stuff", (0.42438192109543965, 0.7869201867345377, 0.5357142857142857)),
        (5, "", (0.19920177659115712, 0.5123888795570212, 0.2333333333333333)),
        (5, "_things", (0.22658985557215647, 0.5377421496890523, 0.27777777777777773)),
        (5, "_stuff", (0.1581196581196581, 0.47435897435897434, 0.16666666666666666)),
        (3, "", (0.14157162553685826, 0.37227358285780554, 0.22666666666666666)),
        (8, "", (0.557462443849787, 0.7068071976323635, 0.6399999999999999)),
        (9, "", (0.27113574566044196, 0.6260345238760504, 0.34820512820512817)),
        (10, "", (0.13867382386066762, 0.2305933170688089, 0.20833333333333334)),
        (11, "", (0.2383138312484603, 0.535887664108791, 0.29343434343434344)),
        (26, "", (0.4062007878521756, 0.7871382878308946, 0.5181818181818182)),
    ],
)
def test_panoptic_quality_is_what_panopticapi_printed(seed, suffix, expected) -> None:
    """Written down from panopticapi 7bb4655, which read these scenes from PNG and JSON files.

    None of them has two crowds of a class in an image, of which panopticapi knows the last one only.
    """
    figures = judge(PanopticQuality(CATEGORIES), random_scenes(seed, 6, disjoint=True)).figures
    assert tuple(figures[name + suffix] for name in ("PQ", "SQ", "RQ")) == pytest.approx(
        expected, rel=0, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disjoint", [True, False])
def test_mean_iou_is_the_definition(seed, disjoint) -> None:
    assert mean_iou_difference(random_scenes(seed, 6, disjoint)) == 0


@pytest.mark.parametrize("kind", [MaskAP, PanopticQuality, MeanIoU])
@pytest.mark.parametrize("shards", [2, 4])
def test_figures_do_not_depend_on_shards_and_order(kind, shards) -> None:
    scenes = random_scenes(7, 16)
    expected = repr(judge(kind(CATEGORIES), scenes))
    rng = np.random.default_rng(shards)
    for _ in range(3):
        shuffled = [scenes[i] for i in rng.permutation(len(scenes))]
        metrics = []
        for shard in range(shards):
            metric = kind(CATEGORIES)
            judge(metric, shuffled[shard::shards])
            metrics.append(metric)
        first, *others = [metrics[i] for i in rng.permutation(shards)]
        for other in others:
            first.merge(other)
        assert repr(first.compute()) == expected
