"""The bias of one layer among several that share their factors.

The factors serve all of these layers, but each has a bias of its own. With the predictions ŷ of the shared solution,

    min over δ   Σ (r(y) − r(ŷ + δ))²      over the rows of this layer alone,

by Gauss–Newton steps, δ ← δ + Σ (r(y) − r(ŷ + δ)) r′ / Σ r′², one for every channel. It matters where a layer's inputs
hardly vary, as on a map of a few pixels: there a bias does most of what the factors of the others cannot.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply, slope

Array = NDArray[Any]

STEPS = 5
"""The number of Gauss–Newton steps."""

WORTH = 0.01
"""The share of the error by which the judging rows have to gain."""


def own_bias(predictions: Array, targets: Array, judges: NDArray[np.bool_], activation: Activation | None) -> Array:
    """Return δ, [d]; zeros where rows that took no part in it do not gain.

    Parameters
    ----------
    predictions
        ŷ, [n, d], float32, with a shortcut where one joins.
    targets
        y, [n, d], float32.
    judges
        [n], the rows that judge.
    activation
        r.
    """
    zeros = np.zeros(targets.shape[1])
    if judges.all() or not judges.any():
        return zeros
    behind = apply(activation, targets)
    solving, delta = predictions[~judges], zeros
    for _ in range(STEPS):
        response = solving + delta.astype(np.float32)
        steep = slope(activation, response)
        missing = behind[~judges] - apply(activation, response)
        curvature = np.square(steep, dtype=np.float64).sum(axis=0)
        step = (missing * steep).sum(axis=0, dtype=np.float64) / np.where(curvature > 0, curvature, 1)
        delta = delta + step

    def error(shift: Array) -> float:
        difference = apply(activation, predictions[judges] + shift.astype(np.float32)) - behind[judges]
        return float(np.square(difference, dtype=np.float64).sum())

    return delta if error(delta) < (1 - WORTH) * error(zeros) else zeros
