"""How much of a layer's response a rank keeps: the PCA energy of rank selection (§2.5, eq. 13)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.moments import Moments

Array = NDArray[Any]


def spectrum(responses: Array) -> Array:
    """Eigenvalues of the responses' covariance, [d], descending, for responses [n, d]."""
    centred = responses - responses.mean(axis=0, dtype=np.float64).astype(responses.dtype)
    return eigenvalues((centred.T @ centred).astype(np.float64) / len(centred))


def eigenvalues(covariance: Array) -> Array:
    """Those of a covariance [d, d], [d], descending."""
    return np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)


def held_out_spectrum(responses: Array, gram: Array) -> Array:
    """What each principal component of a half of the responses [n, d], with W Wᵀ [d, d], holds of the other half, [d].

    Added up over both halves. Of a single row W Wᵀ alone has to tell.
    """
    halves = responses[::2], responses[1::2]
    if not len(halves[1]):
        return eigenvalues(gram)
    held = np.zeros(responses.shape[1])
    for own, other in (halves, halves[::-1]):
        moments = Moments.of(own, own).with_weights(gram)
        components = np.linalg.eigh(moments.yy)[1][:, ::-1]
        held += np.square((other - moments.y_mean) @ components).sum(axis=0)
    return held


def log_shares(values: Array) -> Array:
    """log E(r) for r = 1..d, [d]: the share of the spectrum [d] that the first r eigenvalues hold.

    A layer without any response loses nothing at any rank: zeros.
    """
    total = values.sum()
    if total <= 0:
        return np.zeros(len(values))
    # Round-off may push the last share above 1. On held-out samples the first component may hold nothing.
    return np.asarray(np.log(np.clip(np.cumsum(values) / total, np.finfo(np.float64).tiny, 1.0)))
