"""How far the channels of a tensor are from the means and variances that a batch normalisation expects.

For a channel with the mean m and the variance v, where μ and σ² are expected, it is the divergence of two normal
distributions in nats,

    D = ½ · [ log(σ²/v) + (v + (m − μ)²)/σ² − 1 ],

which is 0 only for m = μ and v = σ². D is averaged over the channels of a tensor, and over the tensors. A channel that
never says anything has a variance near 0 in training and may be anything afterwards, so a hundredth of the median σ² of
its tensor is added to both of its variances.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.jackknife import Estimate

Floats = NDArray[np.float64]

MOST_POSITIONS = 2048
"""The number of positions of a sample that are looked at; neighbours resemble each other."""

FLOOR = 0.01
"""The share of the median variance that is added to all variances."""


def moments(values: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return the means and the mean squares of channels.

    Parameters
    ----------
    values
        Shape [n, d, ...].

    Returns
    -------
    tuple of arrays
        Shape [n, d] each.
    """
    flat = values.reshape(*values.shape[:2], -1)
    flat = flat[..., :: -(-flat.shape[-1] // MOST_POSITIONS)].astype(np.float64)
    return flat.mean(axis=-1), np.square(flat).mean(axis=-1)


def divergence(measured: Sequence[tuple[Floats, Floats]], expected: Sequence[tuple[Floats, Floats]]) -> Estimate:
    """Return the mean divergence of measured channels from the expected ones, in nats per channel.

    Parameters
    ----------
    measured
        For each tensor the means and mean squares of every sample, [n, d] each.
    expected
        For each tensor the expected means and variances, [d] each.
    """
    count = len(measured[0][0])
    value, without = 0.0, np.zeros(count)
    for (means, squares), (mean, variance) in zip(measured, expected, strict=True):
        floor = max(FLOOR * float(np.median(variance)), 1e-12)
        wanted = (mean, variance, floor)
        sums = (means.sum(axis=0), squares.sum(axis=0))
        value += float(_divergence((sums[0] / count, sums[1] / count), wanted))
        others = ((sums[0] - means) / (count - 1), (sums[1] - squares) / (count - 1))
        without += _divergence(others, wanted)
    return Estimate(value / len(measured), without / len(measured))


def _divergence(found: tuple[Floats, Floats], wanted: tuple[Floats, Floats, float]) -> Floats:
    """Return the divergence, averaged over the last axis.

    Parameters
    ----------
    found
        The means and mean squares of the channels, [..., d] each.
    wanted
        The expected means and variances, [d] each, and what is added to all variances.
    """
    (m, squares), (mean, variance, floor) = found, wanted
    v, expected = np.maximum(squares - np.square(m), 0) + floor, variance + floor
    nats: Floats = (0.5 * (np.log(expected / v) + (v + np.square(m - mean)) / expected - 1)).mean(axis=-1)
    return nats
