"""A grouped convolution: small convolutions side by side, each with its own channels, patches and targets.

The map from the patches to the responses is block-diagonal, so every group is a layer of its own and is solved as one.
What follows the layer is elementwise, so it divides in the same way.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.piecewise import PiecewiseLinear
from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.fit import Fit
from onnx_lowrank.factorise.solve.layer import solve, solve_briefly

Array = NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """The errors of a layer's solution, over all its groups, and its description; see ``Fit``."""

    error_linear: float
    error_nonlinear: float | None
    description: str


def solve_groups(
    forms: Sequence[Form],
    inputs: Sequence[Array],
    rows: Rows,
    activation: Activation | None,
    *,
    nonlinear: bool,
    ridge: float | None = None,
) -> tuple[Factorization, Outcome, tuple[Chain, ...]]:
    """Return the convolutions of a layer, how they were chosen, and the factors of every group.

    Parameters
    ----------
    forms, inputs
        For every group, its form and the columns [n, s, q] that this form reads of the group's patches.
    rows
        The samples of all groups, whose regressors do not matter.
    activation
        The function behind the layer.
    nonlinear
        Whether to go beyond the linear regression; see ``solve``.
    ridge
        The ridge of a solution that only rehearses (``solve_briefly``); None for a solution to keep.
    """
    d = rows.targets.shape[1] // len(forms)
    chains, fits, weights = [], [], []
    for number, (form, columns) in enumerate(zip(forms, inputs, strict=True)):
        filters = slice(number * d, (number + 1) * d)
        shortcut = None if rows.shortcut is None else rows.shortcut[:, filters]
        group = Rows(columns, rows.targets[:, filters], rows.judges, shortcut)
        own_activation = restrict(activation, filters)
        if ridge is None:
            chain, fit = solve(form, group, own_activation, nonlinear=nonlinear)
        else:
            chain, fit = solve_briefly(form, group, own_activation, ridge)
        chains.append(chain)
        fits.append(fit)
        judging = group.targets[rows.judges] if rows.judges.any() else group.targets
        weights.append(float(np.square(apply(own_activation, judging), dtype=np.float64).sum()))
    parts = [form.compose(chain) for form, chain in zip(forms, chains, strict=True)]
    return side_by_side(parts), combine(fits, weights), tuple(chains)


def restrict(activation: Activation | None, channels: slice) -> Activation | None:
    """Return the part of an activation that acts on some channels, where it may differ from channel to channel."""
    if not isinstance(activation, PiecewiseLinear):
        return activation
    pieces = (replace(p, slope=p.slope[channels] if len(p.slope) > 1 else p.slope) for p in activation.pieces)
    return replace(activation, pieces=tuple(pieces))


def combine(fits: Sequence[Fit], weights: Sequence[float]) -> Outcome:
    """Combine the fits of all groups into one outcome.

    The relative errors are weighted by the Σ r(y)² of each group, to which they are relative.
    """
    if len(fits) == 1:
        return Outcome(fits[0].error_linear, fits[0].error_nonlinear, fits[0].description)
    shares = np.asarray(weights) / (sum(weights) or 1.0)
    linear = np.array([fit.error_linear for fit in fits])
    nonlinear = [fit.error_linear if fit.error_nonlinear is None else fit.error_nonlinear for fit in fits]
    tried = any(fit.error_nonlinear is not None for fit in fits)
    ((description, count),) = Counter(fit.description for fit in fits).most_common(1)
    return Outcome(
        float(shares @ linear),
        float(shares @ nonlinear) if tried else None,
        f"{count} of {len(fits)} groups: {description}",
    )
