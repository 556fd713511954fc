"""Activations of straight pieces, whose z-step is exact.

On a piece [a, b] where r(z) = sz + o, the cost (r(y) − r(z))² + λ (z − ŷ)² is a parabola in z, least at

    z = (s (r(y) − o) + λŷ) / (s² + λ),      clipped to [a, b];

the cheapest of the pieces' solutions is the minimum. Slopes may differ from channel to channel.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import RELU, Activation

Array = NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """A piece r(z) = slope·z + offset for lower ≤ z ≤ upper.

    ``slope`` has one value, or one for each of the d channels.
    """

    lower: float
    upper: float
    slope: tuple[float, ...]
    offset: float


@dataclass(frozen=True)
class PiecewiseLinear:
    """A continuous function of straight pieces, in ascending order; channels are on the last axis of its argument."""

    name: str
    pieces: tuple[Piece, ...]

    def apply(self, y: Array) -> Array:
        """Return r(y); see ``Activation``."""
        result = _line(self.pieces[0], y)
        for piece in self.pieces[1:]:
            np.copyto(result, _line(piece, y), where=y > piece.lower)
        return result

    def z_step(self, target: Array, prediction: Array, weight: float) -> Array:
        """Return z in closed form; see ``Activation``."""
        best, least = _on_piece(self.pieces[0], target, prediction, weight)
        for piece in self.pieces[1:]:
            z, cost = _on_piece(piece, target, prediction, weight)
            np.copyto(best, z, where=cost < least)
            np.minimum(least, cost, out=least)
        return best


def _on_piece(piece: Piece, target: Array, prediction: Array, weight: float) -> tuple[Array, Array]:
    """Return the best z that lies on a piece, and its cost."""
    s = np.asarray(piece.slope, prediction.dtype)
    z: Array = (target - piece.offset) * (s / (s * s + weight))
    z += prediction * (weight / (s * s + weight))
    np.clip(z, piece.lower, piece.upper, out=z)
    cost = np.square(target - _line(piece, z))
    cost += weight * np.square(z - prediction)
    return z, cost


def _line(piece: Piece, z: Array) -> Array:
    """Return slope·z + offset, on the piece or beyond its ends."""
    return np.asarray(z * np.asarray(piece.slope, z.dtype) + piece.offset, z.dtype)


def clip(lower: float, upper: float) -> Activation:
    """Return the function that clips to [lower, upper], either of which may be infinite.

    ReLU6 clips to [0, 6]; what clips to [0, ∞] is the ReLU itself.
    """
    if (lower, upper) == (0, math.inf):
        return RELU
    pieces = [Piece(lower, upper, (1.0,), 0.0)]
    if lower > -math.inf:
        pieces.insert(0, Piece(-math.inf, lower, (0.0,), lower))
    if upper < math.inf:
        pieces.append(Piece(upper, math.inf, (0.0,), upper))
    return PiecewiseLinear("Clip", tuple(pieces))


def leaky_relu(alpha: float) -> Activation:
    """Return the leaky ReLU, which is z for z ≥ 0 and αz below."""
    return PiecewiseLinear("LeakyRelu", _two_slopes((alpha,)))


def prelu(slopes: tuple[float, ...]) -> Activation:
    """Return the leaky ReLU with a slope for each of the d channels, or one for all."""
    return PiecewiseLinear("PRelu", _two_slopes(slopes))


def _two_slopes(below: tuple[float, ...]) -> tuple[Piece, ...]:
    """Return the pieces of a function with these slopes below 0 and slope 1 above."""
    return (Piece(-math.inf, 0.0, below, 0.0), Piece(0.0, math.inf, (1.0,), 0.0))


def hard_sigmoid(alpha: float, beta: float) -> Activation:
    """Return max(0, min(1, αz + β)) for α > 0."""
    low, high = -beta / alpha, (1 - beta) / alpha
    pieces = (
        Piece(-math.inf, low, (0.0,), 0.0),
        Piece(low, high, (alpha,), beta),
        Piece(high, math.inf, (0.0,), 1.0),
    )
    return PiecewiseLinear("HardSigmoid", pieces)
