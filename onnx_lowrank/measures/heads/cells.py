"""Rows with one box for each cell of a grid, [samples, A, 5 + classes], decoded in the network or not.

Without decoding, the centre is (xy + cell) · stride and the size exp(wh) · stride. The score is that of the object
times that of the class, and both are probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes, from_centres
from onnx_lowrank.measures.heads.dense import decoded_boxes, dense_boxes
from onnx_lowrank.measures.heads.grid import Grid, grid_of, in_unit, on_their_cells
from onnx_lowrank.measures.heads.head import Head, HeadKind
from onnx_lowrank.measures.heads.objectness import has_objectness

Array = NDArray[Any]

FAR = 16.0
"""No cell of a trained network predicts a centre further away than this, in strides, on the average."""

FEWEST_CELLS = 16
"""The smallest number of rows; fewer may be anything, such as the class scores of a single sample."""

LARGEST_LOG = 12.0
"""The largest logarithm of a side in strides, against overflow."""


@dataclass(frozen=True)
class Cells:
    """The head with its output, and whether the network decodes it."""

    output: str
    decoded: bool

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        rows, images = batch.each(self.output, 2), batch.images
        if rows is None or images is None or any(each.shape[1] < 6 for each in rows):
            return None
        if self.decoded:
            return [decoded_boxes(each) for each in rows]
        grid = grid_of(images[0].shape[1:], len(rows[0]))
        return None if grid is None else [_decode(each, grid) for each in rows]


def _decode(rows: Array, grid: Grid) -> Boxes:
    middles = (rows[:, :2] + grid.cells) * grid.strides
    sides = np.exp(np.minimum(rows[:, 2:4], LARGEST_LOG)) * grid.strides
    return dense_boxes(from_centres(np.concatenate([middles, sides], axis=1)), rows[:, 4:5] * rows[:, 5:])


def find(batches: Sequence[Batch], sure: bool) -> Head | None:
    """Look for an output with a row for each cell of a grid."""
    for name in batches[0].outputs:
        rows = [each for batch in batches for each in batch.each(name, 2) or ()]
        images = [image for batch in batches for image in batch.images or ()]
        if not rows or len(rows) != len(images) or rows[0].shape[1] < 6:
            continue
        grids = [grid_of(image.shape[1:], len(each)) for each, image in zip(rows, images, strict=True)]
        if any(grid is None or grid.repeats > 1 for grid in grids):
            continue
        pairs = [(each, grid) for each, grid in zip(rows, grids, strict=True) if grid is not None]
        decoded = all(on_their_cells([each[:, :2]], grid) for each, grid in pairs)
        if not sure or _proven(rows, decoded):
            return Cells(name, decoded)
    return None


def _proven(rows: Sequence[Array], decoded: bool) -> bool:
    """Return whether the values are those of such a head."""
    if len(rows[0]) < FEWEST_CELLS or not all(in_unit(each[:, 4:]) for each in rows):
        return False
    values = np.concatenate(rows)
    if decoded:
        return bool((values[:, 2:4] >= 0).mean() > 0.99) and has_objectness(rows)
    near = np.abs(values[:, :2]).mean() < FAR
    return bool(near and values[:, :4].min() < 0 and np.abs(values[:, 2:4]).max() < LARGEST_LOG)


CELLS = HeadKind("cells", "an output [samples, cells of strides 8, 16 and 32, 5 + classes]", find)
