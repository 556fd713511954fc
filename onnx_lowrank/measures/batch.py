"""What a network was fed and what it answered, sample by sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

COLOURS = (1, 3, 4)
"""The numbers of channels that an image has."""


@dataclass(frozen=True)
class Batch:
    """One run of a network.

    Attributes
    ----------
    samples
        The number of samples.
    inputs, outputs
        The arrays by name, with the samples along the first dimension where they have one for them.
    """

    samples: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def each(self, name: str, axes: int) -> list[Array] | None:
        """Return an output of every sample.

        Parameters
        ----------
        name
            The name of the output.
        axes
            The number of dimensions that it has for one sample.

        Returns
        -------
        list[Array] or None
            An array for every sample; None if the output has another number of dimensions, or is none of numbers.
        """
        return each(self.outputs.get(name), self.samples, axes)

    @property
    def images(self) -> list[Array] | None:
        """The image of every sample, [channels, height, width]; None unless exactly one input takes images."""
        found = []
        for value in self.inputs.values():
            images = each(value, self.samples, 3)
            if images is not None and (channels := channel_axis(images[0].shape)) is not None:
                found.append([np.moveaxis(image, channels, 0) for image in images])
        return found[0] if len(found) == 1 else None


def each(value: object, samples: int, axes: int) -> list[Array] | None:
    """Return the parts of an array that belong to the samples; a single sample may have no dimension of its own."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return None
    if value.ndim == axes + 1 and len(value) == samples:
        return list(value)
    return [value] if value.ndim == axes and samples == 1 else None


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of an image holds the colours: the first or the last of three; None if it is no image."""
    first, height, last = shape
    if first in COLOURS and min(height, last) > 4:
        return 0
    return 2 if last in COLOURS and min(first, height) > 4 else None
