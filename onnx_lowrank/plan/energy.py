"""How much of a layer's response a rank keeps: the PCA energy of rank selection (§2.5, eq. 13)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def spectrum(responses: Array) -> Array:
    """Eigenvalues of the responses' covariance, [d], descending, for responses [n, d]."""
    centred = responses - responses.mean(axis=0, dtype=np.float64).astype(responses.dtype)
    return eigenvalues((centred.T @ centred).astype(np.float64) / len(centred))


def eigenvalues(covariance: Array) -> Array:
    """Those of a covariance [d, d], [d], descending."""
    return np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)


def log_energies(values: Array) -> Array:
    """log E(r) for r = 1..d, [d]: the share of the spectrum [d] that the first r eigenvalues hold.

    A layer without any response loses nothing at any rank: zeros.
    """
    total = values.sum()
    if total <= 0:
        return np.zeros(len(values))
    # Round-off may push the last share above 1; E = 0 (leading zeros cannot occur in a descending spectrum).
    return np.asarray(np.log(np.minimum(np.cumsum(values) / total, 1.0)))
