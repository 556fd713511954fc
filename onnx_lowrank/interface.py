"""Inputs and outputs of a model as plain data, which the graph, the runtime and the calibration share."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Feeds: TypeAlias = dict[str, NDArray[Any]]
"""One batch: an array for every input of the model, by the input's name."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes
    ----------
    name
        The tensor's name.
    dtype
        The NumPy type of its elements.
    shape
        One entry for each dimension: its size, the name of a symbolic size, or None if nothing is known of it. None
        in place of the tuple means that the number of dimensions is unknown as well.
    axis
        The dimension that counts the samples of a run; None if none does, as that of a flag or of an image without a
        batch.
    read
        Whether a node reads the input. One that none reads has to be fed all the same, but its values do not matter.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None
    axis: int | None = 0
    read: bool = True
