"""A chain of factors, through which a form maps a patch to the responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.workers import product

Array = NDArray[Any]


@dataclass(frozen=True)
class Chain:
    """The map ŷ = H_m ⋯ H₁ f + b of the s columns u_1..u_s that a form reads of a patch.

    The first factor V acts on every column, f = (V u_1, …, V u_s). In a form with a depthwise convolution its kernel S
    adds the columns up: f = Σ_x S_x ∘ V u_x.

    Attributes
    ----------
    first
        V, [r, q].
    rest
        H₁..H_m; H₁ is [·, s·r], or [·, r] with taps, and H_m is [d, ·].
    bias
        b, [d].
    taps
        S, [s, r]; None where the columns are not added up.
    """

    first: Array
    rest: tuple[Array, ...]
    bias: Array
    taps: Array | None = None

    @property
    def factors(self) -> tuple[Array, ...]:
        """V, S where there is one, H₁..H_m and b."""
        return (self.first, *(() if self.taps is None else (self.taps,)), *self.rest, self.bias)

    def with_factors(self, factors: Sequence[Array]) -> "Chain":
        """Return a chain of the same structure with other factors, in the order of ``factors``."""
        first, *rest, bias = factors
        taps = None if self.taps is None else rest.pop(0)
        return Chain(first, tuple(rest), bias, taps)

    def __call__(self, inputs: Array) -> Array:
        """Return the predictions ŷ [n, d], float32, for columns [n, s, q]."""
        rows = features(inputs, self.first, self.taps)
        for matrix in self.rest:
            rows = product(rows, matrix.T.astype(np.float32))
        return np.asarray(rows + self.bias.astype(np.float32))


def features(inputs: Array, first: Array, taps: Array | None = None) -> Array:
    """Return f, [n, s·r], for columns [n, s, q] and V [r, q]; with taps S [s, r] it is [n, r]."""
    n, s, q = inputs.shape
    if taps is not None:
        return product(inputs.reshape(n, s * q), khatri_rao(first, taps).T.astype(inputs.dtype))
    return product(inputs.reshape(n * s, q), first.T.astype(inputs.dtype)).reshape(n, s * len(first))


def khatri_rao(first: Array, taps: Array) -> Array:
    """Compose a 1×1 convolution V [r, q] and a depthwise one with taps S [s, r] into one kernel, [r, s·q]."""
    return np.asarray((taps.T[:, :, None] * first[:, None, :]).reshape(len(first), -1))
