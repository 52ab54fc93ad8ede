"""Figures of confidences against anomalies: by hand, and by comparing all pairs."""

import math

import numpy as np
import pytest

from eomt.evaluation.anomalies import AnomalyScores


def scored(confidence, anomaly, judged=None, bins: int = 64) -> dict[str, float]:
    scores = AnomalyScores(bins)
    scores.update(np.array([confidence]), np.array([anomaly], dtype=bool), judged)
    return scores.compute()


def test_what_is_told_apart_wholly_and_not_at_all() -> None:
    assert scored([0.1, 0.2, 0.8, 1.0], [1, 1, 0, 0]) == {"AUPRC": 1.0, "AUROC": 1.0, "FPR95": 0.0}
    assert scored([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0]) == {"AUPRC": 0.5, "AUROC": 0.5, "FPR95": 1.0}
    assert scored([0.1, 0.3, 0.2], [1, 1, 0]) == pytest.approx(
        {"AUPRC": (1 + 2 / 3) / 2, "AUROC": 0.5, "FPR95": 1.0}
    )
    assert all(math.isnan(value) for value in scored([0.1, 0.2], [0, 0]).values())


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anomaly = rng.random((20, 30)) < 0.1
    confidence = np.clip(rng.normal(0.6 - 0.3 * anomaly, 0.2), 0, 1).round(1) * 0.99  # ties
    judged = rng.random(anomaly.shape) < 0.8
    halves = AnomalyScores(200), AnomalyScores(200)
    for half, rows in zip(halves, (slice(0, 7), slice(7, None)), strict=True):
        half.update(confidence[rows], anomaly[rows], judged[rows])
    halves[0].merge(halves[1])
    result = halves[0].compute()

    unknown, known = confidence[anomaly & judged], confidence[~anomaly & judged]
    pairs = (unknown[:, None] < known) + 0.5 * (unknown[:, None] == known)
    assert result["AUROC"] == pytest.approx(pairs.mean())
    recalls, steps, false = [0.0], [], []
    for threshold in np.unique(confidence):
        right, wrong = (unknown <= threshold).sum(), (known <= threshold).sum()
        recalls.append(right / len(unknown))
        steps.append((recalls[-1] - recalls[-2]) * right / max(right + wrong, 1))
        false.append(wrong / len(known))
    assert result["AUPRC"] == pytest.approx(sum(steps))
    assert result["FPR95"] == pytest.approx(
        next(share for recall, share in zip(recalls[1:], false, strict=True) if recall >= 0.95)
    )


def test_what_is_no_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidences from -1\.0 to 2\.0; expected 0 to 1"):
        scored([-1.0, 2.0], [0, 1])
