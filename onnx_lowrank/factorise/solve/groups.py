"""A grouped convolution: small convolutions side by side, each with its own channels, patches and targets.

The map from the patches to the responses is block-diagonal, so every group is a layer of its own and is solved as one.
What follows the layer is elementwise, so it falls apart in the same way.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.piecewise import PiecewiseLinear
from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import Fit
from onnx_lowrank.factorise.solve.layer import solve

Array = NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """How well a layer was solved: as ``Fit`` has it, over all groups together."""

    error_linear: float
    error_nonlinear: float | None
    description: str


def solve_groups(
    forms: Sequence[Form], inputs: Sequence[Array], rows: Rows, activation: Activation | None, *, nonlinear: bool
) -> tuple[Factorization, Outcome]:
    """The chain of a layer, and how it was found.

    Parameters
    ----------
    forms, inputs
        Of every group, how it is split and what that form reads of its patches, [n, s, q].
    rows
        The samples of all groups; the regressors are not looked at.
    activation
        What follows the layer.
    nonlinear
        See ``solve``.
    """
    d = rows.targets.shape[1] // len(forms)
    parts, fits, weights = [], [], []
    for number, (form, read) in enumerate(zip(forms, inputs, strict=True)):
        own = slice(number * d, (number + 1) * d)
        shortcut = None if rows.shortcut is None else rows.shortcut[:, own]
        of_group = Rows(read, rows.targets[:, own], rows.judges, shortcut)
        behind = of_channels(activation, own)
        chain, best = solve(form, of_group, behind, nonlinear=nonlinear)
        parts.append(form.compose(chain))
        fits.append(best)
        judging = of_group.targets[rows.judges] if rows.judges.any() else of_group.targets
        weights.append(float(np.square(apply(behind, judging), dtype=np.float64).sum()))
    return side_by_side(parts), together(fits, weights)


def of_channels(activation: Activation | None, own: slice) -> Activation | None:
    """What some channels go through, where the activation may differ from channel to channel."""
    if not isinstance(activation, PiecewiseLinear):
        return activation
    pieces = (replace(p, slope=p.slope[own] if len(p.slope) > 1 else p.slope) for p in activation.pieces)
    return replace(activation, pieces=tuple(pieces))


def together(fits: Sequence[Fit], weights: Sequence[float]) -> Outcome:
    """One outcome of those of all groups; relative errors are weighed by Σ r(y)², over which they are taken."""
    if len(fits) == 1:
        return Outcome(fits[0].error_linear, fits[0].error_nonlinear, fits[0].description)
    share = np.asarray(weights) / (sum(weights) or 1.0)
    linear = np.array([fit.error_linear for fit in fits])
    others = [fit.error_linear if fit.error_nonlinear is None else fit.error_nonlinear for fit in fits]
    tried = any(fit.error_nonlinear is not None for fit in fits)
    ((most, count),) = Counter(fit.description for fit in fits).most_common(1)
    return Outcome(
        float(share @ linear), float(share @ others) if tried else None, f"{count} of {len(fits)} groups: {most}"
    )
