"""Boxes of heads that give one for every place of a grid: the few that score, after those that repeat them are gone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.boxes import Boxes, from_centres
from onnx_lowrank.measures.heads.head import LEAST_SCORE

Array = NDArray[Any]

MOST_CANDIDATES = 3000
"""The largest number of boxes that are compared with each other, those with the highest scores."""


def dense_boxes(corners: Array, scores: Array) -> Boxes:
    """Return the boxes of an image, each with its best class.

    Parameters
    ----------
    corners
        Shape [A, 4].
    scores
        By class, shape [A, classes].
    """
    classes = scores.argmax(axis=1)
    best = np.take_along_axis(scores, classes[:, None], axis=1)[:, 0]
    boxes = Boxes(corners.astype(np.float64), best.astype(np.float64), classes.astype(np.int64))
    return boxes.best(LEAST_SCORE, MOST_CANDIDATES).suppressed()


def decoded_boxes(rows: Array) -> Boxes:
    """Return the boxes of rows [A, 5 + classes]: centre, width, height in pixels, objectness, scores of the classes."""
    return dense_boxes(from_centres(rows[:, :4]), rows[:, 4:5] * rows[:, 5:])
