"""A model's inputs and outputs as plain data, shared by the graph, the runtime and the calibration."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Feeds: TypeAlias = dict[str, NDArray[Any]]
"""One batch: an array for every input of the model, by name."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes
    ----------
    name
        The tensor's name.
    dtype
        Its NumPy element type.
    shape
        One entry a dimension: a number, the name of a symbolic dimension, or None where nothing is known;
        None in place of the tuple if even the number of dimensions is unknown.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None
