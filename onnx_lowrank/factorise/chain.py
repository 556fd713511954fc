"""A chain of factors: what a form makes of a patch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Chain:
    """ŷ = rest[-1] @ … @ rest[0] @ (first @ u_1, …, first @ u_s) + bias.

    With ``taps`` the columns are added up: ŷ = rest[-1] @ … @ rest[0] @ Σ_x taps[x] ∘ (first @ u_x) + bias.

    Attributes
    ----------
    first
        V, [r, q].
    rest
        H₁.., the matrices applied in turn, [·, s·r] ([·, r] with taps) and so on up to [d, ·].
    bias
        [d].
    taps
        S, [s, r], the depthwise kernel; None where there is none.
    """

    first: Array
    rest: tuple[Array, ...]
    bias: Array
    taps: Array | None = None

    def __call__(self, inputs: Array) -> Array:
        """Predictions [n, d], float32, for inputs [n, s, q]."""
        rows = features(inputs, self.first, self.taps)
        for matrix in self.rest:
            rows = rows @ matrix.T.astype(np.float32)
        return np.asarray(rows + self.bias.astype(np.float32))


def features(inputs: Array, first: Array, taps: Array | None = None) -> Array:
    """f, [n, s·r]: the first factor [r, q] on every column of the inputs [n, s, q]; with taps, [s, r], their sum."""
    n, s, q = inputs.shape
    if taps is not None:
        return np.asarray(inputs.reshape(n, s * q) @ khatri_rao(first, taps).T.astype(inputs.dtype))
    rows = inputs.reshape(n * s, q) @ first.T.astype(inputs.dtype)
    return np.asarray(rows.reshape(n, s * len(first)))


def khatri_rao(first: Array, taps: Array) -> Array:
    """The kernels [r, s·q] that a 1×1 convolution [r, q] and a depthwise one with taps [s, r] make together."""
    return np.asarray((taps.T[:, :, None] * first[:, None, :]).reshape(len(first), -1))
