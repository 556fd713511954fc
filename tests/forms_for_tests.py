"""Forms of single kernels and solutions of single layers, for the tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import Fitter
from onnx_lowrank.factorise.solve.fit import Fit
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import SiteReport

Array = NDArray[Any]

every_kind = pytest.mark.parametrize("kind", FORMS.kinds, ids=FORMS.names)
"""Run a test for every kind of the table: a new kind is tested by being listed."""

OF_CONV = tuple(kind for kind in FORMS if kind.takes(ConvShape(4, 4, (3, 3), (1, 1), (1, 1))))
"""The kinds that replace a Conv; there are others for a ConvTranspose alone."""

every_kind_of_conv = pytest.mark.parametrize("kind", OF_CONV, ids=[kind.name for kind in OF_CONV])
"""Run a test for all of them."""


def shape_of(kernel: Array) -> ConvShape:
    """The geometry of a convolution of one group with this kernel [d, c, *sizes], on one pixel."""
    d, c, *sizes = kernel.shape
    return ConvShape(d, c, tuple(sizes), (1,) * len(sizes), (1,) * len(sizes))


def highest_ranks(kind: FormKind, kernel: Array) -> tuple[int, ...]:
    """The ranks at which a kind represents a kernel exactly."""
    return kind.highest_ranks(shape_of(kernel))


def full_rank(sites: Sequence[SiteReport], form: str) -> Plan:
    """A plan that factorises every site and loses nothing; sites that the form does not fit get the channel form."""

    def choice(site: SiteReport) -> SitePlan:
        c, d = site.channels
        shape = ConvShape(d, c, site.kernel, (1, 1), (1, 1))
        kind = FORMS[form] if FORMS[form].takes(shape) else FORMS["channel"]
        return SitePlan(site.name, kind.name, kind.highest_ranks(shape))

    return Plan(tuple(choice(site) for site in sites))


def form_at(kind: FormKind, kernel: Array, ranks: tuple[int, ...], *patches: Array) -> Form:
    """A form of a kernel, prepared for batches of patches [n, c, *sizes] or, without any, for the kernel alone."""
    if kind.preparation is None:
        return kind.form(kernel, ranks, None)
    if not patches:
        return kind.form(kernel, ranks, kind.preparation.of(kernel, None))
    moments = kind.preparation.moments()
    for batch in patches:
        moments.add(batch)
    return kind.form(kernel, ranks, kind.preparation.of(kernel, moments))


def dense(factorization: Factorization) -> Array:
    """The kernel [d, c of a group, *sizes] to which a chain composes, in float64."""
    group = factorization.group

    def full(link: Link) -> Array:
        kernel = link.kernel.astype(np.float64).reshape(group, -1, *link.kernel.shape[1:])
        if not link.depthwise:
            return kernel
        rank = kernel.shape[1]
        diagonal = np.zeros((group, rank, rank, *kernel.shape[3:]))
        diagonal[:, range(rank), range(rank)] = kernel[:, :, 0]
        return diagonal

    composed, *others = map(full, factorization.links)
    for other in others:
        # Every axis is carried by one link, so of two sizes along it one is 1.
        composed = np.einsum("gom...,gmc...->goc...", other, composed)
    return composed.reshape(-1, *composed.shape[2:])


def fit(rows: Rows, prior: Array, rank: int, activation: Activation | None, *, nonlinear: bool) -> Fit:
    """The solution of a layer by the linear regression or by the alternation."""
    fitter = Fitter(rows, prior, rank, activation)
    return fitter.nonlinear() if nonlinear else fitter.linear()


def judging(n: int) -> NDArray[np.bool_]:
    """A fifth of n rows."""
    return np.asarray(np.arange(n) % 5 == 2)
