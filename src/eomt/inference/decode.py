"""Turn what the queries say about the views of one image into segments in original pixels, for each task.

Masks are computed for the queries that count only, and enlarged block by block; nothing of size queries x pixels
or classes x pixels of the original ever exists. Views are laid in `geometry`; thresholds come from the caller.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from eomt.categories import Category
from eomt.config import Thresholds
from eomt.errors import ModelError, NonFiniteError
from eomt.inference.geometry import Enlargement, Tiling, assemble
from eomt.masks import IdMap, Outlines, Rle, RleMasks, mask_iou
from eomt.timing import stage
from eomt.types import Prediction, QueryLogits

__all__ = ["confidence", "instance", "panoptic", "semantic"]


@stage("decode")
@torch.no_grad()
def semantic(
    logits: QueryLogits, tiling: Tiling, categories: tuple[Category, ...], thresholds: Thresholds
) -> Prediction:
    """Give every pixel its likeliest class (EoMT reference, section 3.1). Thresholds play no part.

    A class's value at a pixel is the sum over queries of class probability x mask probability, computed at view
    resolution, averaged where views overlap, and enlarged. One segment per class that is present, in order of
    labels; its score is the mean over its pixels of its share in the sum of all classes' values.
    """
    values = assemble(_class_values(logits, tiling, categories), tiling)
    total = values.sum(0, keepdim=True)
    enlarge = Enlargement([(tiling.scaled, tiling.image)], values.device)
    lower, upper = enlarge.bounds(values)
    possible = (upper >= lower.amax(0)).cpu().numpy()  # others lose to one class everywhere in the block

    label_map = np.empty(tiling.image, dtype=np.int32)
    areas, shares = np.zeros(len(categories), dtype=np.int64), np.zeros(len(categories))
    for block in enlarge.blocks():
        classes = np.flatnonzero(possible[:, block.row, block.column])
        best, winner = enlarge(values[torch.from_numpy(classes).to(values.device)], block).max(0)
        share = best / enlarge(total, block)[0].clamp(min=torch.finfo(torch.float32).tiny)
        labels = classes[winner.cpu().numpy()]
        label_map[block.rows, block.columns] = labels
        areas += np.bincount(labels.ravel(), minlength=len(categories))
        shares += np.bincount(labels.ravel(), share.cpu().numpy().ravel(), minlength=len(categories))

    present = np.flatnonzero(areas)
    ids = np.zeros(len(categories), dtype=np.int32)
    ids[present] = np.arange(1, len(present) + 1)
    _relabel(label_map, ids)
    return Prediction(IdMap(label_map, len(present)), present, shares[present] / areas[present], categories)


@stage("decode")
@torch.no_grad()
def confidence(logits: QueryLogits, tiling: Tiling, categories: tuple[Category, ...]) -> Float[np.ndarray, "h w"]:
    """Tell of every pixel how sure the model is of its likeliest class, from 0 to 1.

    That is the greatest sum over queries of class probability x mask probability, at most 1: what no query claims
    is near 0, and so is what is claimed as no known class.
    """
    values = assemble(_class_values(logits, tiling, categories), tiling)
    enlarge = Enlargement([(tiling.scaled, tiling.image)], values.device)
    sure = np.empty(tiling.image, dtype=np.float32)
    for block in enlarge.blocks():
        sure[block.rows, block.columns] = enlarge(values, block).amax(0).clamp(0, 1).cpu().numpy()
    return sure


def _class_values(
    logits: QueryLogits, tiling: Tiling, categories: tuple[Category, ...]
) -> Float[Tensor, "v classes H W"]:
    """Sum class probability x mask probability over the queries, 16 at a time, at view resolution."""
    probabilities = _probabilities(logits, tiling, categories)[..., :-1]
    views, queries, classes = probabilities.shape
    values = probabilities.new_zeros((views, classes, tiling.view[0] * tiling.view[1]))
    for view in range(views):
        for chosen in torch.split(torch.arange(queries, device=probabilities.device), 16):
            masks = torch.nn.functional.interpolate(
                _masks(logits, view, chosen)[None], size=tiling.view, mode="bilinear"
            )[0]
            values[view].addmm_(probabilities[view, chosen].T, masks.sigmoid_().flatten(1))
    return values.view(views, classes, *tiling.view)


@stage("decode")
@torch.no_grad()
def panoptic(
    logits: QueryLogits, tiling: Tiling, categories: tuple[Category, ...], thresholds: Thresholds
) -> Prediction:
    """Give every pixel to at most one segment (EoMT reference, section 3.3).

    A query is kept when its likeliest class is not no-object and has a probability over `thresholds.score`. A
    pixel goes to the kept query with the greatest class probability x mask probability, and is void when that
    query's mask probability is less than `thresholds.mask`. A query that wins less than `thresholds.overlap` of
    its own mask gets nothing. Stuff of one class becomes one segment, with the score of its first query; segments
    are in the order of queries. Expects a tiling with one view.
    """
    probabilities = _probabilities(logits, tiling, categories, views=1)[0]
    scores, labels = probabilities.max(-1)
    kept = torch.nonzero((labels < len(categories)) & (scores > thresholds.score))[:, 0]
    scores = scores[kept]
    codes, won, shown, own = _compete(_masks(logits, 0, kept), scores, tiling, thresholds.mask)

    valid = (shown > 0) & (won / own.clip(1) >= thresholds.overlap)
    kept_labels = labels[kept].cpu().numpy()
    table = np.zeros(2 * len(kept) + 1, dtype=np.int32)
    first: list[int] = []
    stuff: dict[int, int] = {}
    for index in np.flatnonzero(valid).tolist():
        label = int(kept_labels[index])
        segment = None if categories[label].is_thing else stuff.get(label)
        if segment is None:
            first.append(index)
            segment = stuff[label] = len(first)
        table[2 * index + 1] = segment
    _relabel(codes, table)
    return Prediction(
        IdMap(codes, len(first)), kept_labels[first], scores.cpu().numpy()[first].astype(np.float64), categories
    )


def _compete(
    masks: Float[Tensor, "k lh lw"], scores: Float[Tensor, " k"], tiling: Tiling, threshold: float
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Let queries compete for pixels, by score x mask probability; the first wins a tie.

    Returns a map [h w] of 2 k where query k won the pixel outside of its own mask and 2 k + 1 inside of it, and
    per query the pixels that it won, those among them inside of its mask, and those of its mask.
    """
    count = len(scores)
    codes = np.zeros(tiling.image, dtype=np.int32)
    own, wins = np.zeros(count, dtype=np.int64), np.zeros((count, 2), dtype=np.int64)
    if count == 0:
        return codes, wins[:, 0], wins[:, 1], own
    enlarge = _enlargement(masks, tiling)
    lower, upper = (bound.sigmoid() for bound in enlarge.bounds(masks))
    weights = scores[:, None, None]
    # Most queries are far from most blocks: they neither win a pixel there nor have one in their mask.
    may_win = (weights * upper) * 1.00001 + 1e-37 >= (weights * lower).amax(0)
    relevant = (may_win | (upper * 1.00001 >= threshold)).cpu().numpy()

    for block in enlarge.blocks():
        queries = np.flatnonzero(relevant[:, block.row, block.column])
        chosen = torch.from_numpy(queries).to(masks.device)
        probabilities = enlarge(masks[chosen], block).sigmoid_()
        inside = probabilities >= threshold
        winner = (probabilities * weights[chosen]).max(0).indices
        code = 2 * chosen[winner] + inside.gather(0, winner[None])[0]
        codes[block.rows, block.columns] = code.cpu().numpy()
        own[queries] += inside.sum((1, 2)).cpu().numpy()
        wins += np.bincount(codes[block.rows, block.columns].ravel(), minlength=2 * count).reshape(-1, 2)
    return codes, wins.sum(1), wins[:, 1], own


@stage("decode")
@torch.no_grad()
def instance(
    logits: QueryLogits, tiling: Tiling, categories: tuple[Category, ...], thresholds: Thresholds
) -> Prediction:
    """Find things, each with its own mask; masks may overlap (EoMT reference, section 3.4).

    The `thresholds.max_detections` best pairs of a query and a thing category become segments, so a query may
    appear under several labels; stuff categories are left out. Of those of one label that agree by more than
    `thresholds.duplicate`, the best is kept. A mask is where its probability is over
    `thresholds.mask`; the score is the class probability times the mean mask probability inside the mask. Pairs
    whose mask is empty are dropped. Segments come in order of falling score. Expects a tiling with one view.
    """
    probabilities = _probabilities(logits, tiling, categories, views=1)[0]
    things = np.array([label for label, category in enumerate(categories) if category.is_thing], dtype=np.int64)
    pairs = probabilities[:, torch.from_numpy(things).to(probabilities.device)].flatten()
    top = pairs.topk(min(thresholds.max_detections, len(pairs)))
    chosen, scores = top.indices.cpu().numpy(), top.values.cpu().numpy().astype(np.float64)
    queries, owner = np.unique(chosen // max(len(things), 1), return_inverse=True)
    labels = things[chosen % max(len(things), 1)]

    masks = _masks(logits, 0, torch.from_numpy(queries).to(probabilities.device))
    rles, confidences = _trace(masks, tiling, thresholds.mask)
    scores = scores * confidences[owner]
    order = np.argsort(-scores, kind="stable")
    order = order[confidences[owner[order]] > 0]
    if thresholds.duplicate < 1:
        order = order[_first([rles[index] for index in owner[order]], labels[order], thresholds.duplicate)]
    return Prediction(
        RleMasks(tiling.image, tuple(rles[index] for index in owner[order])),
        labels[order],
        scores[order],
        categories,
    )


def _first(rles: list[Rle], labels: NDArray[np.int64], agreement: float) -> NDArray[np.bool_]:
    """Say which masks, best first, agree by no more than this with a kept one of their label before them, [n]."""
    agree = (mask_iou(rles, rles) > agreement) & (labels[:, None] == labels)
    kept = np.ones(len(rles), dtype=np.bool_)
    for index in range(len(rles)):
        if kept[index]:
            kept[index + 1 :] &= ~agree[index, index + 1 :]
    return kept


TRACED = 16
"""Masks are enlarged so many at a time in each block, which then fit the cache."""


def _trace(
    masks: Float[Tensor, "k lh lw"], tiling: Tiling, threshold: float
) -> tuple[list[Rle], NDArray[np.float64]]:
    """Enlarge and encode masks block by block, with their mean probability inside (0 where one is empty).

    Only blocks in which a mask can reach the threshold are computed for it; the host waits once for each block.
    """
    if len(masks) == 0:
        return [], np.zeros(0)
    enlarge = _enlargement(masks, tiling)
    bound = (
        float(np.log(threshold) - np.log1p(-threshold)) if 0 < threshold < 1 else float(np.inf * (threshold - 0.5))
    )
    reached = (enlarge.bounds(masks)[1] > bound).cpu().numpy()
    outlines, sums = Outlines(len(masks), tiling.image), torch.zeros(reached.shape, device=masks.device)
    for block in enlarge.blocks():
        chosen = np.flatnonzero(reached[:, block.row, block.column])
        shown = []
        for some in torch.split(torch.from_numpy(chosen).to(masks.device), TRACED):
            values = enlarge(masks[some], block)
            shown.append(values > bound)
            sums[some, block.row, block.column] = values.sigmoid_().mul_(shown[-1]).sum((1, 2))
        outlines.add(chosen, torch.cat(shown).cpu().numpy(), (block.rows.start, block.columns.start))
    rles, totals = outlines.encode(), sums.cpu().numpy().sum((1, 2), dtype=np.float64)
    return rles, totals / RleMasks(tiling.image, tuple(rles)).areas().clip(1)


def _probabilities(
    logits: QueryLogits, tiling: Tiling, categories: Sequence[Category], views: int | None = None
) -> Float[Tensor, "v q classes"]:
    """Give class probabilities, no-object last; check that logits, tiling and categories belong together."""
    shown, _, classes = logits.class_logits.shape
    if shown != len(tiling) or (views is not None and shown != views):
        raise ValueError(
            f"logits of {shown} views, a tiling with {len(tiling)}, and this task decodes {views or 'all'}"
        )
    if classes != len(categories) + 1:
        raise ModelError(
            f"the model tells {classes - 1} classes apart, but {len(categories)} categories are given; "
            "give the categories that it was trained with"
        )
    probabilities = logits.class_logits.float().softmax(-1)
    if probabilities.isnan().any():
        raise NonFiniteError(
            "the model's class logits are not finite numbers; its weights or its input are damaged"
        )
    return probabilities


def _masks(logits: QueryLogits, view: int, queries: Int[Tensor, " k"]) -> Float[Tensor, "k lh lw"]:
    """Compute the mask logits of chosen queries, in float32."""
    masks = logits.masks(view, queries).float()
    if masks.isnan().any():
        raise NonFiniteError(
            "the model's mask logits are not finite numbers; its weights or its input are damaged"
        )
    return masks


def _enlargement(masks: Float[Tensor, "k lh lw"], tiling: Tiling) -> Enlargement:
    """Enlarge as the reference does: to the view, cut the padding off, then to the original image."""
    low = int(masks.shape[1]), int(masks.shape[2])
    return Enlargement([(low, tiling.view), (tiling.scaled, tiling.image)], masks.device)


def _relabel(ids: NDArray[np.int32], table: NDArray[np.int32]) -> None:
    """Replace each id by its row of a table, in place, a few rows at a time: the lookup needs wide indices."""
    for start in range(0, len(ids), 64):
        ids[start : start + 64] = table[ids[start : start + 64]]
