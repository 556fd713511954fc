"""One layer solved: the linear regression, then all factors refined together, or the alternation.

Where samples are plenty, the refinement (``descent``) goes on to its end and beats the alternation of §2.3, from which
it would even end higher (measured on VGG-16's third and fourth block: it begins at the linear solution). Where they
are few for so many unknowns, as in the last layers, the judges stop it early; the alternation, whose regression a ridge
holds back, runs too, and the judges take the better of the two. It runs alone where a pass of the refinement would take
too long.
"""

from dataclasses import replace

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import EXACT, Fit, Fitter
from onnx_lowrank.factorise.solve.descent import EPOCHS, finish, refine


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
    regressed = replace(rows, regressors=form.regressors(rows.regressors))
    fitter = Fitter(regressed, form.prior, form.rank, activation, form.gram)
    best = linear = fitter.linear()
    if not nonlinear or linear.error_linear <= EXACT:
        return form.chain(linear.map), linear
    refined = None
    if rows.judges.any() and not rows.judges.all():
        # From the state that knows nothing of the judging rows, or they would not see it overfit.
        refined = refine(form.chain(linear.judged), rows, activation)
    if refined is None or refined.epochs < EPOCHS:  # few samples, for which the alternation, with its ridge, is better
        best = fitter.nonlinear()
    reached = best.error_linear if best.error_nonlinear is None else min(best.error_linear, best.error_nonlinear)
    if refined and refined.epochs and refined.error < reached:
        # What the report says is where the refinement began: at the linear solution.
        found = replace(linear, error_nonlinear=refined.error, epochs=refined.epochs)
        return finish(refined, rows, activation), found
    return form.chain(best.map), best
