"""What went wrong in one image, and why: missed, false, of a wrong class, poorly outlined, merged, split.

The reasons follow from which segments match (`overlaps`) and where the others lie. The official figures are left
to `metrics`, counts over all images to `details`, drawing to `drawing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from eomt.config import TaskName
from eomt.evaluation.overlaps import Overlaps, class_pixels, painted, things_of
from eomt.types import ANY_CLASS, Prediction, Segments

__all__ = ["LEAST_SCORE", "PIXELS", "Outcome", "Reason", "judge_image", "pixel_errors", "shown"]

LEAST_SCORE = 0.5
"""Instances below are not shown: each query is one, however unlikely."""

Reason = Literal["missed", "false", "wrong class", "poor outline", "merged", "split"]
PIXELS = ("right", "missed", "false", "wrong class", "wrong object", "not judged")
"""What `pixel_errors` tells of a pixel, by its code."""
POOR = 0.1
"""Least IoU of a pair that is called a poor outline, not a missed and a false segment."""


@dataclass(frozen=True)
class Outcome:
    """How one image was judged."""

    image_id: str
    index: int
    """Its place in the data set."""
    quality: float
    """From 0 to 1. Objects: PQ of the image, all classes as one; semantic: the share of pixels that are right."""
    annotated: int
    """Segments that are to be found: without crowds."""
    found: int
    right: int
    """Segments that match one of their class; semantic: classes with an IoU above 0.5."""
    reasons: dict[Reason, int]
    """How many segments each reason concerns; semantic: pixels."""
    confused: tuple[int, int] | None = None
    """The pair of classes, annotated and found, that is mixed up most; None where none is."""

    @property
    def errors(self) -> int:
        """Segments that are not right, or pixels."""
        return sum(self.reasons.values())

    def why(self, names: Sequence[str], task: TaskName) -> str:
        """Say what is wrong, the most frequent first, in one line."""
        present = sorted(
            ((count, reason) for reason, count in self.reasons.items() if count), key=lambda each: -each[0]
        )
        if not present:
            return "nothing is wrong" if self.quality > 0.999 else "outlines differ a little"
        pair = "" if self.confused is None else f" ({names[self.confused[0]]} taken for {names[self.confused[1]]})"
        parts = [
            f"{_amount(count, reason, task)}{pair if reason == 'wrong class' else ''}" for count, reason in present
        ]
        return ", ".join(parts) + ("" if task == "semantic" else f"; {self.right} of {self.annotated} right")


def _amount(count: int, reason: Reason, task: TaskName) -> str:
    if task == "semantic":
        return f"{count} pixels {'without a class' if reason == 'missed' else 'of a wrong class'}"
    words = {
        "missed": "missed",
        "false": "false",
        "wrong class": "of a wrong class",
        "poor outline": "poorly outlined",
        "merged": "merged into another",
        "split": "found in pieces",
    }
    return f"{count} {words[reason]}"


def shown(prediction: Prediction, task: TaskName) -> Prediction:
    """Give what of a prediction is meant to be seen: all, or the instances that are likely."""
    if task != "instance":
        return prediction
    return prediction.select(np.flatnonzero(prediction.scores >= LEAST_SCORE).tolist())


def judge_image(
    prediction: Prediction, segments: Segments, task: TaskName, image_id: str = "", index: int = 0
) -> Outcome:
    """Judge one image and tell the reasons. `segments` have the labels of the prediction's categories."""
    if task == "semantic":
        return _of_pixels(prediction, segments, image_id, index)
    overlaps = _overlaps(shown(prediction, task), segments, task)
    matches, renamed = overlaps.matches(), overlaps.matches(of_any_class=True)
    wrong_class = renamed & ~matches
    missed, extra = overlaps.missed(matches), overlaps.extra(matches)
    right, ious = int(matches.sum()), overlaps.both[matches] / overlaps.union[matches]
    weight = right + (int(missed.sum()) + int(extra.sum())) / 2
    pairs = np.argwhere(wrong_class)
    confused = [(int(overlaps.true_labels[t]), int(overlaps.found_labels[f])) for t, f in pairs]
    return Outcome(
        image_id,
        index,
        float(ious.sum() / weight) if weight else 1.0,
        int((~overlaps.crowd & (overlaps.true_areas > 0)).sum()),
        int((overlaps.found_areas > 0).sum()),
        right,
        _reasons(overlaps, wrong_class, missed & ~renamed.any(1), extra & ~renamed.any(0)),
        max(confused, key=confused.count) if confused else None,
    )


def _overlaps(prediction: Prediction, segments: Segments, task: TaskName) -> Overlaps:
    return (Overlaps.of_instances if task == "instance" else Overlaps.of)(prediction, segments)


def _reasons(
    overlaps: Overlaps, wrong_class: NDArray[np.bool_], missed: NDArray[np.bool_], extra: NDArray[np.bool_]
) -> dict[Reason, int]:
    """Explain segments without a match: each once, by the first that holds of merged, split, poor outline."""
    same = overlaps.same_class & ~overlaps.crowd[:, None]
    inside = same & (
        2 * overlaps.both > overlaps.true_areas[:, None]
    )  # an annotated one lies mostly in a found one
    swallowed = same & (2 * overlaps.both > overlaps.found_areas[None])  # the other way round
    merged = missed & (inside & (inside.sum(0) > 1)[None]).any(1)
    split = extra & (swallowed & (swallowed.sum(1) > 1)[:, None]).any(0)
    explained = (inside & merged[:, None]).any(0) | split, (swallowed & split[None]).any(1) | merged
    iou = np.where(same, overlaps.both / np.maximum(overlaps.union, 1), 0)
    poor = (iou > POOR) & (missed & ~explained[1])[:, None] & (extra & ~explained[0])[None]
    poor &= (iou == iou.max(1, initial=0, keepdims=True)) & (iou == iou.max(0, initial=0, keepdims=True))
    return {
        "missed": int((missed & ~explained[1] & ~poor.any(1)).sum()),
        "false": int((extra & ~explained[0] & ~poor.any(0)).sum()),
        "wrong class": int(wrong_class.any(1).sum()),
        "poor outline": int(poor.any(1).sum()),
        "merged": int(merged.sum()),
        "split": int(split.sum()),
    }


def _of_pixels(prediction: Prediction, segments: Segments, image_id: str, index: int) -> Outcome:
    """Judge the classes of pixels."""
    count = len(prediction.categories)
    table = class_pixels(prediction, segments)[:count]  # void is not judged
    correct = table.diagonal()
    union = table.sum(1) + table[:, :count].sum(0) - correct
    off = table[:, :count] * ~np.eye(count, dtype=np.bool_)
    wrong, every = int(off.sum()), int(table.sum())
    row, column = divmod(int(off.argmax()), count) if wrong else (0, 0)
    reasons: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
    reasons |= {"wrong class": wrong, "missed": int(table[:, count].sum())}
    return Outcome(
        image_id,
        index,
        float(correct.sum() / every) if every else 1.0,
        int((table.sum(1) > 0).sum()),
        int((table[:, :count].sum(0) > 0).sum()),
        int((2 * correct > union).sum()),
        reasons,
        (row, column) if wrong else None,
    )


def pixel_errors(prediction: Prediction, segments: Segments, task: TaskName) -> UInt8[NDArray[np.uint8], "h w"]:
    """Tell of each pixel whether it belongs to a segment that is right, or what is wrong: an index in `PIXELS`."""
    prediction = shown(prediction, task)
    if task == "instance":
        segments = things_of(segments, prediction.categories)
    right, missed, false, wrong_class, wrong_object, neutral = range(len(PIXELS))
    true, found = segments.labels.numpy(), prediction.labels
    things = np.array([category.is_thing for category in prediction.categories], dtype=np.bool_)
    codes = np.full((len(true) + 1, len(found) + 1), wrong_class, dtype=np.uint8)
    same = true[:, None] == found[None]
    if task == "semantic":
        codes[1:, 1:][same] = right
        extra = np.zeros(len(found), dtype=np.bool_)
    else:
        overlaps = _overlaps(prediction, segments, task)
        matches = overlaps.matches()
        if things.any():  # a thing where there is none, and the other way round
            thing = things[true][:, None], things[found][None]
            codes[1:, 1:][thing[0] & ~thing[1]] = missed
            codes[1:, 1:][~thing[0] & thing[1]] = false
        codes[1:, 1:][same] = wrong_object
        codes[1:, 1:][matches] = right
        codes[1:, 1:][(segments.is_crowd.numpy()[:, None] & same)] = neutral
        extra = overlaps.extra(matches)
    codes[1:, 0] = missed
    codes[0] = right if task == "instance" else neutral
    codes[0, 1:][extra] = false
    codes[1:][true == ANY_CLASS] = neutral
    errors: NDArray[np.uint8] = codes[painted(segments.masks), prediction.id_map().ids]
    return errors
