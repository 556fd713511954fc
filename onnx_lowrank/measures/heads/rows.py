"""Rows of boxes in pixels, [samples, A, 5 + classes].

A row holds the centre, width and height in pixels of the input, the score of the object and those of the classes, all
of them probabilities. The score of a box is the product of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.measures.heads.dense import decoded_boxes
from onnx_lowrank.measures.heads.grid import grid_of, in_unit, on_their_cells
from onnx_lowrank.measures.heads.head import Head, HeadKind
from onnx_lowrank.measures.heads.objectness import has_objectness

Array = NDArray[Any]


@dataclass(frozen=True)
class BoxRows:
    """The head with its output."""

    output: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        rows = batch.each(self.output, 2)
        if rows is None or any(each.shape[1] < 6 for each in rows):
            return None
        return [decoded_boxes(each) for each in rows]


def find(batches: Sequence[Batch], sure: bool) -> Head | None:
    """Look for an output whose rows are decoded boxes on a grid."""
    for name in batches[0].outputs:
        rows = [each for batch in batches for each in batch.each(name, 2) or ()]
        if not rows or rows[0].shape[1] < 6 or len(rows[0]) <= rows[0].shape[1]:
            continue
        images = [image for batch in batches for image in batch.images or ()]
        if not sure or (len(images) == len(rows) and _proven(rows, images)):
            return BoxRows(name)
    return None


def _proven(rows: Sequence[Array], images: Sequence[Array]) -> bool:
    """Return whether the values are those of such a head."""
    for each, image in zip(rows, images, strict=True):
        grid = grid_of(image.shape[1:], len(each))
        if grid is None or not on_their_cells([each[:, :2]], grid) or not in_unit(each[:, 4:]):
            return False
    return has_objectness(rows)


ROWS = HeadKind("rows", "an output [samples, boxes, 5 + classes] in pixels", find)
