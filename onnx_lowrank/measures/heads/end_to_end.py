"""Heads that end in finished boxes, a row for each: [samples, boxes, 6], or without samples, or with 7 columns.

A row holds the corners, a score and a class, in an order that differs between exporters, and of seven columns the first
numbers the image. The values tell the order: classes are whole numbers, scores lie between 0 and 1 and are no whole
numbers, and of the corners the second is not above or to the left of the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch, each
from onnx_lowrank.measures.boxes import Boxes, numbers_of
from onnx_lowrank.measures.heads.grid import in_unit
from onnx_lowrank.measures.heads.head import LEAST_SCORE, Head, HeadKind
from onnx_lowrank.measures.heads.pixels import Scale, scale_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Order:
    """The columns that hold the first of the four coordinates, the score and the class."""

    corners: int
    score: int
    number: int


ORDERS = {
    6: (Order(0, 4, 5), Order(0, 5, 4), Order(2, 1, 0)),
    7: (Order(1, 6, 5), Order(1, 5, 6), Order(3, 2, 1)),
}
"""The orders that exporters use, by the number of columns."""

MOST_ROWS = 2000
"""The largest number of rows; what has more is no list of finished boxes."""


@dataclass(frozen=True)
class EndToEnd:
    """The head with its output, the order of the columns, and the unit of the coordinates."""

    output: str
    order: Order
    scale: Scale

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        rows = _rows(batch, self.output)
        if rows is None or any(self.order not in ORDERS[each.shape[1]] for each in rows):
            return None
        return [self._image(each, factor) for each, factor in zip(rows, self.scale.factors(batch), strict=True)]

    def _image(self, rows: Array, factor: Array) -> Boxes:
        order = self.order
        corners = self.scale.pixels(rows[:, order.corners : order.corners + 4], factor)
        boxes = Boxes(corners, rows[:, order.score].astype(np.float64), numbers_of(rows[:, order.number]))
        return boxes[boxes.classes >= 0].best(LEAST_SCORE)


def _rows(batch: Batch, name: str) -> list[Array] | None:
    """Return the rows of every image, [boxes, 6 or 7]; None if the output holds none."""
    value = batch.outputs.get(name)
    if isinstance(value, np.ndarray) and value.ndim == 4 and value.shape[:2] == (1, 1):
        value = value[0]
    rows = each(value, batch.samples, 2)
    return rows if rows is not None and rows[0].shape[1] in ORDERS else None


def find(batches: Sequence[Batch], sure: bool) -> Head | None:
    """Look for an output whose rows are finished boxes."""
    for name in batches[0].outputs:
        found = [_rows(batch, name) for batch in batches]
        rows = [image for images in found if images is not None for image in images]
        if not rows or any(images is None for images in found) or max(map(len, rows)) > MOST_ROWS:
            continue
        values = np.concatenate(rows)
        fitting = [order for order in ORDERS[values.shape[1]] if _fits(values, order)]
        if sure and len(fitting) != 1:
            continue
        order = fitting[0] if fitting else ORDERS[values.shape[1]][0]
        return EndToEnd(name, order, scale_of(values[:, order.corners : order.corners + 4]))
    return None


def _fits(rows: Array, order: Order) -> bool:
    """Return whether the values are of that order."""
    scores, numbers = rows[:, order.score], rows[:, order.number]
    some = (scores >= LEAST_SCORE) & (numbers >= 0)
    if some.sum() < 3 or not in_unit(scores[scores >= 0]) or (np.rint(numbers) != numbers).any():
        return False
    corners = rows[some, order.corners : order.corners + 4]
    ordered = (corners[:, 2:] >= corners[:, :2]).all(axis=1).mean()
    return bool(ordered > 0.99 and (np.rint(scores[some]) != scores[some]).mean() > 0.5)


END_TO_END = HeadKind("end-to-end", "an output [samples, boxes, 6] of corners, score and class", find)
