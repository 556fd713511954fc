"""The grid on which heads of detectors predict boxes: one or several for each cell of maps of several strides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STRIDES = ((8, 16, 32), (16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (32,), (16,), (8,), (4,), (8, 16))
"""The pixels between cells, by map, in heads that are known."""

REPEATS = (1, 3, 2)
"""How many boxes a cell predicts."""

NEAR = 0.8
"""The correlation of the centres of boxes with their cells above which they are decoded to pixels."""


@dataclass(frozen=True)
class Grid:
    """The cells of all maps in order.

    Attributes
    ----------
    cells
        The column and row of every cell in its map, shape [A, 2].
    strides
        The pixels between the cells of its map, shape [A, 1].
    repeats
        The number of boxes of a cell.
    """

    cells: Array
    strides: Array
    repeats: int

    @property
    def centres(self) -> Array:
        """The middle of every cell in pixels, shape [A, 2]."""
        result: Array = (self.cells + 0.5) * self.strides
        return result


def grid_of(size: tuple[int, int], count: int) -> Grid | None:
    """Return the grid of so many boxes on an image of this height and width; None if no known grid has as many."""
    for repeats in REPEATS:
        for strides in STRIDES:
            maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]
            if repeats * sum(height * width for height, width in maps) == count:
                return _grid(maps, strides, repeats)
    return None


def _grid(maps: Sequence[tuple[int, int]], strides: Sequence[int], repeats: int) -> Grid:
    cells, spacings = [], []
    for (height, width), stride in zip(maps, strides, strict=True):
        rows, columns = np.mgrid[:height, :width]
        places = np.tile(np.stack([columns, rows], axis=2).reshape(-1, 2), (repeats, 1))
        cells.append(places)
        spacings.append(np.full((len(places), 1), stride))
    return Grid(np.concatenate(cells).astype(np.float64), np.concatenate(spacings).astype(np.float64), repeats)


def on_their_cells(centres: Sequence[Array], grid: Grid) -> bool:
    """Return whether the centres of boxes, [A, 2] for every image, lie about the middles of their cells in pixels."""
    middles = grid.centres
    for axis in (0, 1):
        if np.ptp(middles[:, axis]) == 0:
            return False
        correlations = [_correlation(image[:, axis], middles[:, axis]) for image in centres]
        spreads = [np.std(image[:, axis]) / np.std(middles[:, axis]) for image in centres]
        # In fractions of the image they are as well correlated, but not in pixels.
        if not correlations or min(correlations) < NEAR or not 0.5 < float(np.median(spreads)) < 2:
            return False
    return True


def _correlation(one: Array, other: Array) -> float:
    one, other = one.astype(np.float64) - one.mean(dtype=np.float64), other - other.mean()
    scale = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / scale if scale > 0 and np.isfinite(scale) else 0.0


def in_unit(values: Array) -> bool:
    """Return whether all values are probabilities but for rounding."""
    return bool(values.size and values.min() >= -1e-3 and values.max() <= 1 + 1e-3)
