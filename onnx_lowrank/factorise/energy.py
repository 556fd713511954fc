"""The PCA energy of rank selection: the share of a layer's response that a rank keeps (§2.5, eq. 13)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.moments import Moments

Array = NDArray[Any]


def spectrum(responses: Array) -> Array:
    """Return the eigenvalues [d] of the covariance of responses [n, d], descending."""
    centred = responses - responses.mean(axis=0, dtype=np.float64).astype(responses.dtype)
    return eigenvalues((centred.T @ centred).astype(np.float64) / len(centred))


def eigenvalues(covariance: Array) -> Array:
    """Return the eigenvalues [d] of a covariance [d, d], descending and without the negative ones of round-off."""
    return np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)


def held_out_spectrum(responses: Array, gram: Array) -> Array:
    """Return the energies [d] of principal components on rows that did not take part in finding them, descending.

    The components of either half of the responses are applied to the other half, and the energies of both are added up.
    A single row cannot be divided: the energies are then the eigenvalues of W Wᵀ.

    Parameters
    ----------
    responses
        [n, d], float32.
    gram
        W Wᵀ, [d, d], which completes the moments of so few rows (see ``moments``).
    """
    halves = responses[::2], responses[1::2]
    if not len(halves[1]):
        return eigenvalues(gram)
    held_out = np.zeros(responses.shape[1])
    for own, other in (halves, halves[::-1]):
        moments = Moments.of(own, own).with_weights(gram)
        components = np.linalg.eigh(moments.yy)[1][:, ::-1]
        held_out += np.square((other - moments.y_mean) @ components).sum(axis=0)
    return held_out


def log_shares(energies: Array) -> Array:
    """Return log E(r) for r = 1..m, [m]: the share of all energies [m] that the first r hold.

    A layer without any response loses nothing at any rank: its shares are 1 and their logarithms 0.
    """
    total = energies.sum()
    if total <= 0:
        return np.zeros(len(energies))
    # Round-off may push the last share above 1. On held-out samples the first component may hold nothing.
    return np.asarray(np.log(np.clip(np.cumsum(energies) / total, np.finfo(np.float64).tiny, 1.0)))
