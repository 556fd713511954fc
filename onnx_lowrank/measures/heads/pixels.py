"""The unit of coordinates: pixels of the input, or shares of its width and height."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch

Array = NDArray[Any]

LARGEST_SHARE = 2.0
"""Coordinates that are all below this are shares of the image; a box may reach beyond its edges."""


@dataclass(frozen=True)
class Scale:
    """What turns coordinates to pixels.

    Attributes
    ----------
    shares
        Whether the coordinates are shares of the width and height.
    rows_first
        Whether the vertical coordinate comes first.
    """

    shares: bool
    rows_first: bool = False

    def factors(self, batch: Batch) -> list[Array]:
        """Return the factors of the four coordinates for every image, shape [4]."""
        images = batch.images
        if not self.shares or images is None:  # the overlap of boxes does not depend on the unit
            return [np.ones(4)] * batch.samples
        sides = [image.shape[1:] if self.rows_first else image.shape[:0:-1] for image in images]
        return [np.array([*pair, *pair], np.float64) for pair in sides]

    def pixels(self, places: Array, factor: Array) -> Array:
        """Return coordinates [m, 4] in pixels, the horizontal one first, by the factors of their image."""
        scaled: Array = places.astype(np.float64) * factor
        return scaled[:, [1, 0, 3, 2]] if self.rows_first else scaled


def scale_of(coordinates: Array) -> Scale:
    """Return the unit of some coordinates."""
    finite = coordinates[np.isfinite(coordinates)]
    return Scale(bool(finite.size and np.abs(finite).max() <= LARGEST_SHARE))
