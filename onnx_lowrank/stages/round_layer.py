"""One layer rounded for what it reads in the network that has been rounded so far."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import RowsQuestion, Shard, SiteRows
from onnx_lowrank.factorise.activations.relu import apply
from onnx_lowrank.factorise.forms.whole import whole
from onnx_lowrank.factorise.moments import RowCovariance
from onnx_lowrank.factorise.rounding.columns import RoundedWeights, round_weights
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.groups import solve_groups
from onnx_lowrank.graph.edit.rewrite import Replacement
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.quantise.integers import LARGEST_BIAS, IntegerLayer
from onnx_lowrank.stages.families import Member, joined_inputs, joined_rows
from onnx_lowrank.stages.one_range import as_one
from onnx_lowrank.stages.roundable import Roundable

Array = NDArray[Any]

BLOCK = 4096
"""The number of rows of which moments are taken at once."""


@dataclass(frozen=True)
class Rounded:
    """A layer that has been rounded.

    Attributes
    ----------
    layer
        The layer as it was.
    weights
        The weights of all filters.
    bias
        [d].
    bias_scale
        The scale of what it reads where the bias is stored as integers; else None.
    error
        The error of its responses behind the activation, on samples that took no part; None where the original's are
        not known.
    """

    layer: Roundable
    weights: RoundedWeights
    bias: Array
    bias_scale: float | None
    error: float | None = None

    @property
    def site(self) -> ConvSite:
        """The layer with its rounded weights, in floating point."""
        site = self.layer.site
        return replace(site, kernel=self.weights.values.reshape(site.kernel.shape), bias=self.bias)

    @property
    def replacement(self) -> Replacement:
        """The layer with its rounded weights in the place of the old ones."""
        return Replacement(self.site, as_one(self.site))

    @property
    def integers(self) -> IntegerLayer:
        """The layer as it is stored."""
        return IntegerLayer(self.layer.site.output, self.weights, self.bias, self.bias_scale)


@dataclass(frozen=True)
class RoundStep:
    """The step that rounds a layer.

    Attributes
    ----------
    layer
        The layer as it stands behind the pairs.
    sampling
        The samples, which decide which rows judge.
    most
        The largest code of a weight.
    input_scale
        The scale of what the layer reads.
    integer_bias
        Whether its bias is stored as integers.
    nonlinear
        Whether it is fitted behind its activation (§2.3).
    """

    layer: Roundable
    sampling: Sampling
    most: int
    input_scale: float
    integer_bias: bool
    nonlinear: bool

    def run(self, shard: Shard, memory: int) -> Rounded:
        """Fit the layer to the original's responses, round it, and let the shard, which may hold ``memory``, use it."""
        site, target = self.layer.site, self.layer.target
        forms = tuple(whole(kernel) for kernel in site.kernels)
        (answer,) = shard.rows([RowsQuestion(site, self.layer.per_sample)], forms, memory)
        rows = None if target is None else joined_rows([Member(site, 0, target)], [answer], self.sampling)
        if rows is not None:
            nonlinear = self.nonlinear and site.activation is not None
            fitted, _, _ = solve_groups(forms, joined_inputs([answer]), rows, site.activation, nonlinear=nonlinear)
            site = replace(site, kernel=fitted.links[0].kernel.reshape(site.kernel.shape), bias=fitted.bias)
        weights, bias = self._rounded(site, answer)
        rounded = Rounded(self.layer, weights, bias, self.input_scale if self.integer_bias else None)
        if rows is not None:
            rounded = replace(rounded, error=_error(rounded, answer, rows))
        shard.round(rounded.replacement, rounded.integers)
        return rounded

    def _rounded(self, site: ConvSite, answer: SiteRows) -> tuple[RoundedWeights, Array]:
        """Return the rounded weights of all groups, and the bias with which the mean response stays the same."""
        least = np.abs(site.bias) / (self.input_scale * LARGEST_BIAS)
        parts, shifts = [], []
        for kernel, columns, own in zip(site.kernels, answer.inputs, np.split(least, site.group), strict=True):
            moments = RowCovariance()
            for start in range(0, len(columns), BLOCK):
                moments.add(columns[start : start + BLOCK, 0])
            weights = kernel.reshape(len(kernel), -1)
            parts.append(round_weights(weights, moments.covariance, self.most, own))
            shifts.append((weights - parts[-1].values) @ moments.mean)
        codes, scales = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales"))
        return RoundedWeights(codes, scales), site.bias + np.concatenate(shifts)


def _error(rounded: Rounded, answer: SiteRows, rows: Rows) -> float:
    """Return the error of the responses behind the activation, relative to how far the original's vary."""
    site = rounded.site
    choose = rows.judges if rows.judges.any() else np.ones(len(rows.judges), np.bool_)
    responses = [
        columns[choose, 0] @ kernel.reshape(len(kernel), -1).T.astype(np.float32)
        for kernel, columns in zip(site.kernels, answer.inputs, strict=True)
    ]
    response = np.concatenate(responses, axis=1) + site.bias.astype(np.float32)
    if rows.shortcut is not None:
        response = response + rows.shortcut[choose]
    wanted, got = apply(site.activation, rows.targets[choose]), apply(site.activation, response)
    varies = np.square(wanted - wanted.mean(axis=0), dtype=np.float64).sum()
    return float(np.square(got - wanted, dtype=np.float64).sum() / (varies or 1.0))
