"""The average precision of boxes as COCO defines it, from the hits and misses of every image.

In an image, boxes take their turns by descending score. Each hits the true box of its class that it overlaps most, by
at least a threshold, and that none before it has hit; all others are misses. Over all images, again by descending
score, the boxes up to any score have a recall and a precision. The precision at a recall is the highest one at this
recall or above, and its mean over the recalls 0, 0.01, …, 1 is the average precision of a class. Classes without a
true box do not count, and the others count the same. On a few images most classes have a box or two, which then weigh
as much as all boxes of a common class; so the boxes of all classes may be ranked together instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.boxes import Boxes, overlaps

Array = NDArray[Any]

RECALLS = np.linspace(0, 1, 101)

MOST_AT_ONCE = 1 << 20
"""The largest number of boxes, counted in every draw, that are ranked at once."""

HIT, MISS, NEITHER = 1, 0, -1


@dataclass(frozen=True)
class Matches:
    """What became of the boxes in an image.

    Attributes
    ----------
    scores, classes
        Of the boxes, by descending score, shape [m].
    outcomes
        ``HIT``, ``MISS`` or ``NEITHER`` by the threshold of the overlap, shape [thresholds, m].
    true_classes
        The classes of the true boxes that are to be found.
    """

    scores: Array
    classes: NDArray[np.int64]
    outcomes: NDArray[np.int8]
    true_classes: NDArray[np.int64]


def match(truth: Boxes, found: Boxes, thresholds: Sequence[float]) -> Matches:
    """Match boxes, in descending order of their scores, with true ones."""
    outcomes = np.zeros((len(thresholds), len(found)), np.int8)
    for number in np.unique(found.classes):
        own = np.flatnonzero(found.classes == number)
        true = truth[truth.classes == number]
        true = true[np.argsort(true.ignored, kind="stable")]  # what is to be found is hit first
        shared = overlaps(found.corners[own], true.corners, true.ignored)
        for row, threshold in enumerate(thresholds):
            outcomes[row, own] = _outcomes(shared, true.ignored, threshold)
    return Matches(found.scores, found.classes, outcomes, truth.classes[~truth.ignored])


def _outcomes(shared: Array, ignored: NDArray[np.bool_], threshold: float) -> NDArray[np.int8]:
    """Return the outcomes of boxes [m] of one class by their overlaps [m, n] with the true ones."""
    free = np.ones(shared.shape[1], np.bool_)
    outcomes: NDArray[np.int8] = np.full(len(shared), MISS, np.int8)
    for index, row in enumerate(shared):
        for group, outcome in ((~ignored & free, HIT), (ignored, NEITHER)):
            places = np.flatnonzero(group & (row >= min(threshold, 1 - 1e-10)))
            if len(places):
                outcomes[index] = outcome
                if outcome == HIT:
                    free[places[np.argmax(row[places])]] = False
                break
    return outcomes


def average_precision(
    images: Sequence[Matches], weights: NDArray[np.float64], threshold: int, *, by_class: bool = True
) -> NDArray[np.float64]:
    """Return the mean over all classes of the average precision.

    Parameters
    ----------
    images
        The matches of n images.
    weights
        How often every image counts, shape [draws, n].
    threshold
        The place of the threshold among those that were matched by.
    by_class
        Whether every class is ranked for itself; otherwise all are ranked together.

    Returns
    -------
    NDArray[np.float64]
        Shape [draws]; NaN where no class has a true box.
    """
    image = np.repeat(np.arange(len(images)), [len(matches.scores) for matches in images])
    scores = np.concatenate([matches.scores for matches in images])
    order = np.argsort(-scores, kind="stable")
    image = image[order]
    classes, *true_classes = (
        numbers if by_class else np.zeros_like(numbers)
        for numbers in (
            np.concatenate([matches.classes for matches in images])[order],
            *(matches.true_classes for matches in images),
        )
    )
    outcomes = np.concatenate([matches.outcomes[threshold] for matches in images])[order]
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(np.concatenate(true_classes)):
        true = weights @ np.array([(numbers == number).sum() for numbers in true_classes], np.float64)
        own = np.flatnonzero((classes == number) & (outcomes != NEITHER))
        hits = outcomes[own] == HIT
        end = int(np.flatnonzero(hits)[-1]) + 1 if hits.any() else 0  # misses behind the last hit cost nothing
        own, hits = own[:end], hits[:end]
        precisions = np.zeros(len(weights))
        together = max(1, MOST_AT_ONCE // max(1, end))
        for start in range(0, len(weights), together):
            some = slice(start, start + together)
            precisions[some] = _class_precision(hits, weights[some][:, image[own]], true[some])
        total += np.where(true > 0, precisions, 0)
        counted += true > 0
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def _class_precision(hits: NDArray[np.bool_], weights: NDArray[np.float64], true: Array) -> NDArray[np.float64]:
    """Return the average precision of one class by draw: hits [m] in order, weights [draws, m], true boxes [draws]."""
    if not hits.any():
        return np.zeros(len(weights))
    found = np.cumsum(weights * hits, axis=1)
    precision = found / np.maximum(np.cumsum(weights, axis=1), 1e-12)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / np.where(true > 0, true, 1)[:, None]
    results = np.empty(len(weights))
    for draw in range(len(weights)):
        places = np.searchsorted(recall[draw], RECALLS)
        results[draw] = precision[draw, places[places < len(hits)]].sum() / len(RECALLS)
    return results
