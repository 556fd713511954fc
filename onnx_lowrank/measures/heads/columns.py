"""Columns of boxes in pixels, [samples, 4 + classes, A].

A column holds the centre, width and height in pixels of the input, and the scores of the classes. Where a second output
[samples, P, h, w] holds prototypes of masks, the last P rows are their coefficients, which are no scores. Some exports
turn rows and columns round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes, from_centres
from onnx_lowrank.measures.heads.dense import dense_boxes
from onnx_lowrank.measures.heads.grid import grid_of, in_unit, on_their_cells
from onnx_lowrank.measures.heads.head import Head, HeadKind
from onnx_lowrank.measures.heads.objectness import has_objectness

Array = NDArray[Any]


@dataclass(frozen=True)
class BoxColumns:
    """The head with its output, its number of classes, and whether a box is a row instead of a column."""

    output: str
    classes: int
    rows: bool

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        maps = batch.each(self.output, 2)
        if maps is None:
            return None
        rows = [each if self.rows else each.T for each in maps]
        if any(each.shape[1] < 4 + self.classes for each in rows):
            return None
        return [dense_boxes(from_centres(each[:, :4]), each[:, 4 : 4 + self.classes]) for each in rows]


def find(batches: Sequence[Batch], sure: bool) -> Head | None:
    """Look for an output whose columns are decoded boxes on a grid."""
    images = [image for batch in batches for image in batch.images or ()]
    for name in batches[0].outputs:
        maps = [each for batch in batches for each in batch.each(name, 2) or ()]
        if not maps:
            continue
        wide = maps[0].shape[0] < maps[0].shape[1]
        rows = [each.T if wide else each for each in maps]
        classes = rows[0].shape[1] - 4 - _prototypes(batches[0], rows[0].shape[1] - 5)
        if classes < 1:
            continue
        if not sure or (len(images) == len(rows) and _proven(rows, images, classes, wide)):
            return BoxColumns(name, classes, not wide)
    return None


def _prototypes(batch: Batch, most: int) -> int:
    """Return the number of prototypes of masks, at most ``most``; 0 where no output holds any."""
    counts = [maps[0].shape[0] for name in batch.outputs if (maps := batch.each(name, 3))]
    return next((count for count in counts if 8 <= count <= most), 0)


def _proven(rows: Sequence[Array], images: Sequence[Array], classes: int, wide: bool) -> bool:
    """Return whether the values are those of such a head."""
    for each, image in zip(rows, images, strict=True):
        grid = grid_of(image.shape[1:], len(each))
        if grid is None or not on_their_cells([each[:, :2]], grid):
            return False
        if not in_unit(each[:, 4 : 4 + classes]) or np.quantile(each[:, 2:4], 0.01) < 0:
            return False
    return wide or not has_objectness(rows)


COLUMNS = HeadKind("columns", "an output [samples, 4 + classes, boxes] in pixels", find)
