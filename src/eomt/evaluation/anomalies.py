"""Can a model tell what it has never seen? Figures of a confidence map against a mask of anomalies.

Unknown objects should get a low confidence: how well it ranks pixels is told without any threshold, by the area
under the precision-recall curve (AUPRC) and under the ROC curve (AUROC), and by the share of known pixels that are
below the threshold that finds 95 % of the unknown ones (FPR95). Anomalies are the positives. The paper's out-of-
distribution experiment (BRAVO, arXiv 2503.19108, table 8) measures these; its code is not published.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

__all__ = ["AnomalyScores"]


class AnomalyScores:
    """Count confidences of known and of unknown pixels, in bins: memory does not grow with the images.

    Confidences in one bin count as equal. With the default bins (2^16 of equal width), they are those of 16 bits.
    """

    def __init__(self, bins: int = 2**16) -> None:
        self.counts = np.zeros((2, bins), dtype=np.int64)  # known, unknown

    def update(
        self,
        confidence: Float[np.ndarray, "h w"],
        anomaly: Bool[np.ndarray, "h w"],
        judged: Bool[np.ndarray, "h w"] | None = None,
    ) -> None:
        """Count one image: a confidence from 0 to 1 and whether it is an anomaly, for each pixel that is judged.

        Raises ValueError for confidences outside of 0 to 1.
        """
        if not (confidence.min(initial=0) >= 0 and confidence.max(initial=0) <= 1):
            raise ValueError(f"confidences from {confidence.min()} to {confidence.max()}; expected 0 to 1")
        bins = self.counts.shape[1]
        places = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        for kind in (False, True):
            chosen = anomaly == kind if judged is None else (anomaly == kind) & judged
            self.counts[int(kind)] += np.bincount(places[chosen], minlength=bins)

    def merge(self, other: "AnomalyScores") -> None:
        """Add the counts of another one."""
        self.counts += other.counts

    def compute(self) -> dict[str, float]:
        """Give AUPRC, AUROC and FPR95; NaN where there are no anomalies, or nothing else."""
        known, unknown = self.counts.cumsum(1)  # below the threshold after each bin
        if not known[-1] or not unknown[-1]:
            return dict.fromkeys(("AUPRC", "AUROC", "FPR95"), math.nan)
        recall, false = unknown / unknown[-1], known / known[-1]
        precision = unknown / np.maximum(known + unknown, 1)
        return {
            "AUPRC": float((np.diff(recall, prepend=0) * precision).sum()),
            "AUROC": _trapezoids(false, recall),
            "FPR95": float(false[np.searchsorted(recall, 0.95)]),
        }


def _trapezoids(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Give the area under a curve from (0, 0)."""
    heights = (y + np.concatenate([[0.0], y[:-1]])) / 2
    return float((np.diff(x, prepend=0) * heights).sum())
