"""One layer solved: the linear regression, then all factors refined together, or the alternation.

Where samples are plenty, the refinement (``descent``) goes on to its end and beats the alternation of §2.3, from which
it would even end higher (measured on VGG-16's third and fourth block: it begins at the linear solution). Where they
are few for so many unknowns, as in the last layers, the judges stop it early; the alternation, whose regression a ridge
holds back, is then the better one. The judges see both and take the best.
"""

from dataclasses import replace

import numpy as np

from onnx_lowrank.factorise.activations import Activation
from onnx_lowrank.factorise.descent import EPOCHS, Chain, finish, refine
from onnx_lowrank.factorise.fit import Fit, Fitter, Rows
from onnx_lowrank.factorise.forms import Form


def solve(form: Form, rows: Rows, activation: Activation | None, *, nonlinear: bool) -> tuple[Chain, Fit]:
    """The factors of one layer, and how they were found.

    Parameters
    ----------
    form
        How the layer is split.
    rows
        Samples, with what the form reads of their patches, [n, s, q], for regressors.
    activation
        What follows the layer.
    nonlinear
        Whether to go beyond the linear regression, to the objective behind the activation.
    """
    fitter = Fitter(replace(rows, regressors=form.regressors(rows.regressors)), form.prior, form.rank, activation)
    best = fitter.linear()
    if not nonlinear:
        return form.chain(best.map), best
    refined = None
    if rows.judges.any() and not rows.judges.all():
        # From the state that knows nothing of the judging rows, or they would not see it overfit.
        refined = refine(form.chain(best.judged), rows, activation)
    if refined is None or refined.epochs < EPOCHS:  # few samples, for which the alternation, with its ridge, is better
        best = fitter.nonlinear()
    if refined and refined.epochs and refined.error < (best.error_nonlinear or np.inf):
        best = replace(best, error_nonlinear=refined.error, epochs=refined.epochs, iterations=0)
        return finish(refined, rows, activation), best
    return form.chain(best.map), best
