"""Decoded photos in memory, of one size or each of its own, as long as they fit."""

import math

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.photos.image_input import ImageInput


class KeptPixels:
    """The pixels of photos, as long as they take at most some bytes."""

    def __init__(self, photos: int, target: ImageInput, most: int) -> None:
        self._shapes: list[tuple[int, ...]] = []
        self._left, self._open = most, None in target.size
        self._list: list[NDArray[np.uint8]] | None = [] if self._open else None
        self._array: NDArray[np.uint8] | None = None
        shape = (photos, *target.made_size, target.channels)
        if not self._open and math.prod(shape) <= most:
            self._array = np.empty(shape, np.uint8)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of the next photo, shape [height, width, channels]."""
        if self._array is not None:
            self._array[len(self._shapes)] = pixels
        self._left -= pixels.nbytes
        if self._list is not None:
            self._list.append(pixels)
            self._list = self._list if self._left >= 0 else None
        self._shapes.append(pixels.shape)

    @property
    def pixels(self) -> NDArray[np.uint8] | list[NDArray[np.uint8]] | None:
        """The pixels of all photos; None where they took too many bytes."""
        return self._array[: len(self._shapes)] if self._array is not None else self._list

    @property
    def sizes(self) -> NDArray[np.int64] | None:
        """The heights and widths, [n, 2]; None where the photos have one size."""
        several = self._open and len(set(self._shapes)) > 1
        return np.array(self._shapes, np.int64)[:, :2] if several else None
