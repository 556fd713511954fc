"""Which convolutions can be factorised, and why the others are left alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ConvSite:
    """A convolution that can be factorised: names, arrays and attributes, never node objects.

    Attributes
    ----------
    name
        The node's name; the output tensor's name if the node has none.
    input, output
        Names of the tensors that the convolution reads and makes (before the non-linearity).
    kernel
        [filters d, channels c, height, width], float64.
    bias
        [d], float64; zeros where the model has none.
    dtype
        The weights' type in the model, to which the factors are written back.
    strides, dilations
        (vertical, horizontal).
    pads
        (top, left, bottom, right), as stored; None where ``auto_pad`` decides.
    auto_pad
        "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
    activation
        "Relu" where a Relu is the only reader of the output, else None.
    """

    name: str
    input: str
    output: str
    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int] | None
    auto_pad: str
    activation: str | None


@dataclass(frozen=True)
class Skip:
    """A convolution that is left alone, and the reason in a few words."""

    name: str
    reason: str
