"""One layer solved: the linear regression, then all factors refined together, or the alternation.

Where samples are plenty, the refinement (``descent``) goes on to its end and beats the alternation of §2.3. It begins
at the linear solution; from the alternation's it would end higher (measured on VGG-16's third and fourth block). Where
samples are few for so many unknowns, as in the last layers, the judges stop it early; the alternation, whose regression
a ridge holds back, runs as well, and the judges take the better of the two. The alternation runs alone where a pass of
the refinement would take too long.
"""

from dataclasses import replace

import numpy as np

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import Fitter
from onnx_lowrank.factorise.solve.descent import EPOCHS, finish, refine
from onnx_lowrank.factorise.solve.fit import EXACT, Fit


def solve_briefly(form: Form, rows: Rows, activation: Activation | None, ridge: float) -> tuple[Chain, Fit]:
    """Return the factors of the linear regression with this ridge, for a rehearsal; see ``solve``.

    Rows that judge take no part, unless there are no others.
    """
    solving = ~rows.judges if not rows.judges.all() else rows.judges
    shortcut = None if rows.shortcut is None else rows.shortcut[solving]
    regressors = form.regressors(rows.regressors[solving])
    own = Rows(regressors, rows.targets[solving], np.zeros(len(regressors), np.bool_), shortcut)
    best = Fitter(own, form.prior, form.rank, activation, form.gram, (ridge,)).linear()
    return form.chain(best.map), best


def solve(form: Form, rows: Rows, activation: Activation | None, *, nonlinear: bool) -> tuple[Chain, Fit]:
    """Return the factors of one layer and how they were chosen.

    Parameters
    ----------
    form
        The regression problem.
    rows
        The samples, with the form's columns u, [n, s, q], as regressors.
    activation
        The function behind the layer.
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
    if refined and refined.epochs and refined.error < best.error:
        # The report shows the settings with which the refinement began, those of the linear solution.
        refinement = replace(linear, error_nonlinear=refined.error, epochs=refined.epochs)
        return finish(refined, rows, activation), refinement
    return form.chain(best.map), best
