"""The channels between two convolutions in a basis that rounding hurts least.

Where nothing but a convolution reads the response z of another one, z may be exchanged for z' = M (z − m) if the first
makes z' and the second reads M⁻¹ z' + m: nothing changes but what rounding does. All channels of z' share one grid. If
channel k reaches to ±aₖ and the weights that read it are wₖ, then brought to one range the rounded channels change the
second response by a mean square proportional to

    J = Σₖ aₖ² ‖wₖ‖².

Factors that a solver has found may cancel one another: their products are far larger than their sum, and so is J. In a
basis in which the channels do not depend on one another, J is no more than the size of the response itself times the
square of aₖ in standard deviations, which is small where the values follow a bell curve, as mixtures of many do. With
single factors in place of M this is the cross-layer equalisation of M. Nagel et al. (Data-Free Quantization through
Weight Equalization and Bias Correction, ICCV 2019); rotations against outliers are those of S. Ashkboos et al. (QuaRot,
NeurIPS 2024).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FARTHEST = 8.0
"""The number of standard deviations beyond which values do not count for the range of a channel."""

FLOOR = 1e-6
"""The share of the largest variance below which a direction counts as this much."""

NARROWEST = 1e-3
"""A channel counts as reaching to at least this share of what the others do."""

ROTATIONS = 4
"""The number of random rotations that are tried."""


@dataclass(frozen=True)
class Basis:
    """Another basis for the channels of a tensor.

    Attributes
    ----------
    forward
        M, [c, c].
    backward
        M⁻¹.
    offset
        m, [c].
    """

    forward: Array
    backward: Array
    offset: Array

    def of(self, values: Array) -> Array:
        """Return values [n, c] in this basis."""
        return (values - self.offset) @ self.forward.T


def best_basis(values: Array, reading: Array, *, moves: bool) -> Basis:
    """Return the basis in which rounding hurts least.

    Parameters
    ----------
    values
        A sample of z, [n, c].
    reading
        The weights that read every channel, [c, m].
    moves
        Whether the mean may be taken away, which it may not where the second convolution pads its input with zeros.
    """
    z = values.astype(np.float64)
    offset = z.mean(axis=0) if moves else np.zeros(z.shape[1])
    z = z - offset
    forward, backward = min(_candidates(z), key=lambda pair: _harm(z @ pair[0].T, pair[1].T @ reading))
    factors = to_one_range(z @ forward.T)
    return Basis(factors[:, None] * forward, backward / factors, offset)


def _candidates(z: Array) -> Iterator[tuple[Array, Array]]:
    """Yield matrices with their inverses."""
    c = z.shape[1]
    yield np.eye(c), np.eye(c)
    variances, directions = np.linalg.eigh(z.T @ z / len(z))
    deviations = np.sqrt(np.maximum(variances, FLOOR * max(float(variances[-1]), 1e-300)))
    white, colour = directions.T / deviations[:, None], directions * deviations
    rng = np.random.default_rng(0)
    rotations = [np.eye(c), directions, *(np.linalg.qr(rng.normal(size=(c, c)))[0] for _ in range(ROTATIONS))]
    yield from ((rotation @ white, colour @ rotation.T) for rotation in rotations)


def _harm(z: Array, reading: Array) -> float:
    """Return J for channels z [n, c] and the weights [c, m] that read them."""
    return float(np.square(_reach(z)) @ np.square(reading).sum(axis=1))


def to_one_range(z: Array, *, signed: bool = True) -> Array:
    """Return the factor of every channel, [c], by which its values z [n, c] reach to 1.

    A factor is negative, if it may be, where the longer tail is the lower one. So the longer tails of all channels lie
    on the same side, where a grid that is not symmetric has room for them.
    """
    reach = _reach(z)
    reach = np.maximum(reach, NARROWEST * reach.max(initial=0.0))
    signs = np.where(-z.min(axis=0, initial=0.0) > z.max(axis=0, initial=0.0), -1.0, 1.0) if signed else 1.0
    return np.asarray(signs / np.where(reach > 0.0, reach, 1.0))


def _reach(z: Array) -> Array:
    """Return how far the values of every channel reach from zero, [c], without rare outliers."""
    deviations = np.sqrt(np.square(z).mean(axis=0))
    return np.asarray(np.minimum(np.abs(z).max(axis=0, initial=0.0), FARTHEST * deviations))
