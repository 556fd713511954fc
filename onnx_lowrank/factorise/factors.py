"""A convolution written as a chain of smaller ones.

Every form of the paper is a chain of stages. Each stage is a convolution without non-linearity; the original's
vertical geometry (stride, padding, dilation along the height) belongs to one stage and its horizontal geometry to one:

    channel (§2.2)   k×k c→d'  (rows, columns)   1×1 d'→d
    spatial          k×1 c→d'  (rows)            1×k d'→d (columns)
    3d (§2.5)        k×1 c→d'' (rows)            1×k d''→d' (columns)   1×1 d'→d

The bias b of the factorisation (§2.2, after eq. 3) sits on the last stage alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One convolution of the chain.

    Attributes
    ----------
    kernel
        [filters, channels, height, width].
    rows, columns
        Whether this stage carries the original's stride, padding and dilation along the height and the width;
        where it does not, it has stride 1, no padding, and its kernel has size 1 in that direction.
    """

    kernel: Array
    rows: bool
    columns: bool


@dataclass(frozen=True)
class Factorization:
    """A chain of stages that replaces one convolution c→d with a kernel of h×w.

    Attributes
    ----------
    form
        "channel", "spatial" or "3d".
    stages
        From the input to the output.
    bias
        [d], on the last stage.
    """

    form: str
    stages: tuple[Stage, ...]
    bias: Array

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of channels between the stages."""
        return tuple(stage.kernel.shape[0] for stage in self.stages[:-1])

    def dense(self) -> Array:
        """The one kernel [d, c, h, w] to which the chain composes, in float64."""
        kernel = self.stages[0].kernel.astype(np.float64)
        for stage in self.stages[1:]:
            # Each direction is carried by one stage only, so the composed kernel is an outer product in space.
            kernel = np.einsum("omij,mcyx->ociyjx", stage.kernel.astype(np.float64), kernel)
            o, c, i, y, j, x = kernel.shape
            kernel = kernel.reshape(o, c, i * y, j * x)
        return kernel

    def parameters(self) -> int:
        """The number of stored weights, biases included."""
        return sum(stage.kernel.size for stage in self.stages) + self.bias.size
