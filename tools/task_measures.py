"""What the answers of a network are worth for its task, with labels or with the original's own answers as the truth.

A task reads every sample's answer from the outputs of a network, and then compares all answers with the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from onnx_lowrank.stages.difference import Difference

Array = NDArray[Any]
Answers = Sequence[Any]
Labels = Sequence[int]

OVERLAP = 0.5
"""Boxes are the same from this ratio of intersection and union on."""


@dataclass(frozen=True)
class Task:
    """How a task is measured.

    Attributes
    ----------
    name
        What is measured, with its unit.
    read
        Returns the answer of one sample, given its part of the first output.
    compare
        Returns the measure of answers, given those of the original and the labels.
    show
        Formats the measure.
    """

    name: str
    read: Callable[[Array], Any]
    compare: Callable[[Answers, Answers, Labels], float]
    show: Callable[[float], str] = "{:.3f}".format


# ---- classes


def top1(original: Answers, new: Answers, labels: Labels) -> float:
    """Return the share of samples in percent whose class is named."""
    return 100 * float(np.mean(np.asarray(new) == np.asarray(labels)))


TOP1 = Task("top-1, %", lambda scores: int(scores.argmax()), top1, "{:.2f}".format)


# ---- images and other values


def psnr(original: Answers, new: Answers, labels: Labels) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the range of the original's values."""
    truth, answer = np.stack(original).astype(np.float64), np.stack(new).astype(np.float64)
    squared = float(np.square(answer - truth).mean())
    return 10 * float(np.log10((truth.max() - truth.min()) ** 2 / squared)) if squared else float("inf")


def centred_error(original: Answers, new: Answers, labels: Labels) -> float:
    """Return Σ(out − ref)² / Σ(ref − mean)² with the mean of every channel."""
    difference = Difference()
    for truth, answer in zip(original, new, strict=True):
        difference = difference.with_batch(truth[None], answer[None], 1)
    return difference.report("output").centred_error


PSNR = Task("PSNR, dB", np.array, psnr, lambda value: f"{value:.2f}" if np.isfinite(value) else "∞")
CENTRED_ERROR = Task("centred error", np.array, centred_error, "{:.2g}".format)


# ---- boxes, as x0 y0 x1 y1


def overlaps(a: Array, b: Array) -> Array:
    """Return intersection over union [m, n] of boxes [m, 4] and [n, 4]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(z[:, 2:] - z[:, :2], 0, None).prod(axis=1) for z in (a, b)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9))


def text_boxes(output: Array, score: float = 0.4, peak: float = 0.7, pixels: int = 10) -> Array:
    """Return the boxes [n, 4] of connected parts in maps [2, h, w] of text and of links between letters."""
    text, link = output
    parts, _ = scipy.ndimage.label((text > score) | (link > score))
    found = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(parts), 1):
        part = parts[rows, columns] == number
        if part.sum() >= pixels and text[rows, columns][part].max() >= peak:
            found.append((columns.start, rows.start, columns.stop, rows.stop))
    return np.array(found, np.float64).reshape(-1, 4)


def f1(original: Answers, new: Answers, labels: Labels) -> float:
    """Return the F1 of boxes, which are matched greedily by their overlap."""
    matched = 0
    for truth, boxes in zip(original, new, strict=True):
        ratios = overlaps(truth, boxes)
        while ratios.size and ratios.max() >= OVERLAP:
            i, j = np.unravel_index(ratios.argmax(), ratios.shape)
            ratios[i], ratios[:, j] = 0, 0
            matched += 1
    return 2 * matched / max(1, sum(map(len, original)) + sum(map(len, new)))


TEXT_F1 = Task("F1 of text boxes", text_boxes, f1)

TRUE_FROM, TAKEN_FROM = 0.3, 0.02
"""The original's boxes count from this score on, and those that are judged from that score on."""


class Boxes(NamedTuple):
    """The boxes [n, 4] of one sample, with their scores [n] and classes [n]."""

    places: Array
    scores: Array
    kinds: Array

    def above(self, least: float) -> "Boxes":
        """Return the boxes from a score on."""
        kept = self.scores > least
        return Boxes(self.places[kept], self.scores[kept], self.kinds[kept])


def anchor_free_boxes(output: Array, size: int = 416, strides: tuple[int, ...] = (8, 16, 32)) -> Boxes:
    """Read the boxes of a head without anchors, [cells, 4 + 1 + classes], whose boxes are not yet decoded.

    The cells are those of the strides in this order. A centre is (xy + cell)·stride, a size exp(wh)·stride, and a score
    that of an object times that of its class. Of boxes of one class that overlap, the one with the best score stays.
    """
    grids = [np.stack(np.meshgrid(*[np.arange(size // s)] * 2), axis=2).reshape(-1, 2) for s in strides]
    stride = np.concatenate([np.full((len(grid), 1), s) for grid, s in zip(grids, strides, strict=True)])
    centre = (output[:, :2] + np.concatenate(grids)) * stride
    half = np.exp(np.clip(output[:, 2:4], -10, 10)) * stride / 2
    scores = output[:, 4:5] * output[:, 5:]
    boxes = Boxes(np.concatenate([centre - half, centre + half], axis=1), scores.max(axis=1), scores.argmax(axis=1))
    return _suppressed(boxes.above(TAKEN_FROM))


def _suppressed(boxes: Boxes) -> Boxes:
    """Return the boxes without those that overlap a better one of their class."""
    apart = boxes.places + 1e5 * boxes.kinds[:, None]  # boxes of different classes never meet
    order, kept = np.argsort(-boxes.scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[overlaps(apart[best : best + 1], apart[rest])[0] <= OVERLAP]
    return Boxes(*(values[kept] for values in boxes))


def average_precision(original: Answers, new: Answers, labels: Labels) -> float:
    """Return the area under the curve of precision against recall, with the original's sure boxes as the truth."""
    hits: list[tuple[float, bool]] = []
    truths = [boxes.above(TRUE_FROM) for boxes in original]
    for truth, boxes in zip(truths, new, strict=True):
        free = np.ones(len(truth.scores), bool)
        for i in np.argsort(-boxes.scores, kind="stable"):
            there = np.flatnonzero(free & (truth.kinds == boxes.kinds[i]))
            ratios = overlaps(boxes.places[i : i + 1], truth.places[there])[0]
            hit = bool(len(there)) and bool(ratios.max() >= OVERLAP)
            if hit:
                free[there[ratios.argmax()]] = False
            hits.append((float(boxes.scores[i]), hit))
    hits.sort(key=lambda entry: -entry[0])
    right = np.cumsum([hit for _, hit in hits])
    recall = right / max(1, sum(len(truth.scores) for truth in truths))
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


AP50 = Task("AP50", anchor_free_boxes, average_precision)
