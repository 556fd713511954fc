"""One layer solved: the regression with its alternation, and then all factors refined together."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.descent import Chain, refine
from onnx_lowrank.factorise.fit import Fit, Rows, fit
from onnx_lowrank.factorise.forms import Form

Array = NDArray[Any]


def solve(
    form: Form, inputs: Array, targets: Array, judges: NDArray[np.bool_], activation: str | None, *, nonlinear: bool
) -> tuple[Chain, Fit]:
    """The factors of one layer, and how they were found.

    Parameters
    ----------
    form
        How the layer is split.
    inputs
        What the form reads of the sampled patches, [n, s, q], float32.
    targets
        Y, [n, d], float32: the original's responses before the activation.
    judges
        [n], bool: rows that judge and take no part in the solution.
    activation
        What follows the layer.
    nonlinear
        Whether to go beyond the linear regression, to the objective behind the activation.
    """
    best = fit(Rows(form.regressors(inputs), targets, judges), form.prior, form.rank, activation, nonlinear=nonlinear)
    chain = form.chain(best.map)
    if nonlinear and judges.any() and not judges.all():
        # From the state that knows nothing of the judges, or they would not see it overfit.
        refined = refine(form.chain(best.judged), inputs, targets, judges, activation)
        if refined.epochs:
            chain, best = refined.chain, replace(best, error_nonlinear=refined.error, epochs=refined.epochs)
    return chain, best
