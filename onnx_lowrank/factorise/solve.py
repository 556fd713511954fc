"""One layer solved: the regression with its alternation, and then all factors refined together."""

from dataclasses import replace

from onnx_lowrank.factorise.activations import Activation
from onnx_lowrank.factorise.descent import Chain, refine
from onnx_lowrank.factorise.fit import Fit, Rows, fit
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
    regressors = form.regressors(rows.regressors)
    best = fit(replace(rows, regressors=regressors), form.prior, form.rank, activation, nonlinear=nonlinear)
    if nonlinear and rows.judges.any() and not rows.judges.all():
        # From the state that knows nothing of the judging rows, or they would not see it overfit.
        refined = refine(form.chain(best.judged), rows, activation)
        if refined.epochs:
            return refined.chain, replace(best, error_nonlinear=refined.error, epochs=refined.epochs)
    return form.chain(best.map), best
