"""The spatial cut (§2.6; Jaderberg, Vedaldi, Zisserman, BMVC 2014): k×1 c→d'' and then 1×l d''→d.

Write the kernel W (d, c, k, l) as a matrix of its columns, A (l·d, c·k): A[(x, o), (c, y)] = W[o, c, y, x]. A rank d''
factorisation A ≈ H V makes V (d'', c·k) the k×1 kernel and H (l·d, d'') the 1×l kernel. What counts is not the kernel's
error but the responses': with the covariance S of the patch columns (c·k × c·k), S = L Lᵀ,

    min ‖(A − H V) L‖²,     A L = U Σ Qᵀ,     V = Q_{d''}ᵀ L⁻¹,     H = U_{d''} Σ_{d''}

(the columns of a patch are taken as independent; S = I is Jaderberg's data-free scheme).

With V fixed, the 1×l convolution and what follows it are a linear map of f = (V·column_x)_x, l·d'' numbers that come
from the same patch. So the data-driven refit of the 1×l kernel, and the 1×1 behind it (the 3D form), are the same
reduced-rank regression as the channel form, on these regressors, with H as the prior.

A kernel with three spatial axes is cut behind the first one along which it extends, k×1×1 and 1×l×m, as in the (2+1)D
networks (Tran et al., CVPR 2018): seen as k×(l·m) it is the same problem.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind, LinkShape
from onnx_lowrank.factorise.moments import root

Array = NDArray[Any]


def first_axes(sizes: Sequence[int]) -> int:
    """Count the spatial axes of a kernel that belong to the first link; the others belong to the second."""
    return next((axis for axis, size in enumerate(sizes[:-1]) if size > 1), 0) + 1


def two_sizes(sizes: Sequence[int]) -> tuple[int, int]:
    """(k, l) as which a kernel of these sizes is seen; both exceed 1 where it extends in two directions."""
    behind = first_axes(sizes)
    return math.prod(sizes[:behind]), math.prod(sizes[behind:])


def as_planes(array: Array) -> Array:
    """View kernels or patches [n, c, *sizes] as [n, c, k, l]."""
    return array.reshape(*array.shape[:2], *two_sizes(array.shape[2:]))


@dataclass(frozen=True)
class Columns:
    """The spatial cut of one kernel at every rank; the factors are made when they are first asked for.

    Attributes
    ----------
    weighted
        A L, [l·d, c·k].
    root
        L, [c·k, c·k].
    width
        l.
    """

    weighted: Array
    root: Array
    width: int

    @classmethod
    def moments(cls) -> "ColumnMoments":
        """Empty statistics of the columns of patches."""
        return ColumnMoments()

    @classmethod
    def of(cls, kernel: Array, moments: "ColumnMoments | None") -> "Columns":
        """Cut a kernel [d, c, *sizes], for the covariance S of its patch columns, or for S = I (None)."""
        return cls.weighted_by(kernel, moments.covariance if moments else None)

    @classmethod
    def weighted_by(cls, kernel: Array, covariance: Array | None) -> "Columns":
        """Cut a kernel [d, c, *sizes], for a covariance S [c·k, c·k], or for S = I (None)."""
        d, c, k, width = as_planes(kernel).shape
        A = as_planes(kernel).transpose(3, 0, 1, 2).reshape(width * d, c * k)
        L = root(np.eye(c * k) if covariance is None else covariance)
        return cls(A @ L, L, width)

    def quick(self) -> "Columns":
        """The cut itself: no rank of it takes long."""
        return self

    @cached_property
    def energies(self) -> Array:
        """[m], Σ² descending: what each column filter contributes to the responses."""
        tall = self.weighted if len(self.weighted) >= len(self.root) else self.weighted.T
        return np.maximum(np.linalg.eigvalsh(tall.T @ tall)[::-1], 0)

    @cached_property
    def _axes(self) -> Array:
        """Q, [c·k, m]: the Gram matrix of A L gives it, and from it U Σ = A L Q."""
        return np.asarray(np.linalg.eigh(self.weighted.T @ self.weighted)[1][:, ::-1][:, : min(self.weighted.shape)])

    @cached_property
    def filters(self) -> Array:
        """[m, c·k], the rows of V at full rank."""
        return np.asarray(scipy.linalg.solve_triangular(self.root, self._axes, lower=True, trans="T").T)

    @cached_property
    def horizontal(self) -> Array:
        """[m, d, l], H at full rank."""
        H = (self.weighted @ self._axes).reshape(self.width, -1, self._axes.shape[1])
        return np.asarray(H.transpose(2, 1, 0))

    def prior(self, rank: int) -> Array:
        """H as a map of the regressors, [d, l·d'']: the 1×l kernel that the weights alone give."""
        kernel = self.horizontal[:rank].transpose(1, 2, 0)
        return kernel.reshape(len(kernel), -1)


class ColumnMoments:
    """Mean and covariance of the columns of patches, which come in batches [n, c, *sizes]."""

    def __init__(self, *batches: Array) -> None:
        self._n = 0
        for patches in batches:
            self.add(patches)

    def add(self, patches: Array) -> None:
        """Count in patches [n, c, *sizes], float32."""
        n, c, k, width = as_planes(patches).shape
        columns = as_planes(patches).transpose(0, 3, 1, 2).reshape(n * width, c * k)
        if not self._n:
            # Squares of large means would leave nothing of a small variance in float32. One reference serves all.
            self._shift = columns.mean(axis=0, dtype=np.float64).astype(columns.dtype)
            self._total, self._squares = np.zeros(c * k), np.zeros((c * k, c * k))
        shifted = columns - self._shift
        self._n += n * width
        self._total += shifted.sum(axis=0, dtype=np.float64)
        self._squares += shifted.T @ shifted

    @property
    def covariance(self) -> Array:
        """S, [c·k, c·k]; the columns' mean is the bias's business."""
        mean = self._total / self._n
        return np.asarray(self._squares / self._n - np.outer(mean, mean))


class SpatialForm(FormKind):
    """k×1 c→d'', 1×l d''→d."""

    name = "spatial"
    summary = "k×1 c→d'', 1×k d''→d"
    rank_names = ("d''",)
    needs = "a kernel that extends in two directions"
    preparation = Columns

    def takes(self, shape: ConvShape) -> bool:
        """Whether k×1 and 1×l are smaller than the kernel."""
        return min(two_sizes(shape.kernel)) > 1

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """The rank of the kernel as a matrix of its columns, c·k by l·d."""
        k, width = two_sizes(shape.kernel)
        return (min(shape.channels * k, width * shape.filters),)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """d''·(c·k·between + l·d·positions)."""
        horizontal = two_sizes(shape.kernel)[1] * shape.filters * shape.positions
        return np.asarray(ranks[:, 0] * (vertical_macs(shape) + horizontal))

    def log_energies(self, evidence: Evidence) -> Energies:
        """The share of what the kernel's columns contribute to the responses."""
        shares = column_shares(evidence)
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Columns) -> Form:
        """The regression on V of every column, at full rank, with the 1×l kernel of the cut as H₀."""
        first = prepared.filters[: ranks[0]]
        return Form(
            columns_of,
            first,
            prepared.prior(ranks[0]),
            len(kernel),
            lambda solution: Chain(first, (solution.left @ solution.right,), solution.bias),
            lambda chain: compose(chain, kernel.shape[2:], self.name),
        )

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Either convolution carries its own axes."""
        d, c, *sizes = kernel
        vertical, horizontal = shared_axes(sizes)
        return LinkShape(ranks[0], c, vertical), LinkShape(d, ranks[0], horizontal)


SPATIAL = SpatialForm()


def column_shares(evidence: Evidence) -> Array:
    """log E_s(d'') for d'' = 1.., over all groups together: they lose their i-th column filters together."""
    return log_shares(np.sum([columns.energies for columns in evidence.preparations(Columns)], axis=0))


def vertical_macs(shape: ConvShape) -> int:
    """The multiply-accumulates of one k×1 filter: it pads its own axes alone, so its output is as wide as the input."""
    behind = first_axes(shape.kernel)
    between = shape.group * math.prod(shape.output[:behind] + shape.input[behind:])
    return shape.channels * two_sizes(shape.kernel)[0] * between


def shared_axes(sizes: Sequence[int]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """The axes that the first and the second link carry."""
    first = tuple(axis < first_axes(sizes) for axis in range(len(sizes)))
    return first, tuple(not own for own in first)


def columns_of(patches: Array) -> Array:
    """The columns of patches [n, c, *sizes], as [n, l, c·k]."""
    n, c, k, width = as_planes(patches).shape
    return np.ascontiguousarray(as_planes(patches).transpose(0, 3, 1, 2)).reshape(n, width, c * k)


def compose(chain: Chain, sizes: Sequence[int], form: str) -> Factorization:
    """The convolutions that factors on the columns stand for: k×1, 1×l, and 1×1 where there is a third factor."""
    axes, behind = len(sizes), first_axes(sizes)
    first = chain.first.reshape(len(chain.first), -1, *sizes[:behind], *(1,) * (axes - behind))
    # [o, l·d''] as the kernel of a 1×l convolution.
    second = chain.rest[0].reshape(len(chain.rest[0]), two_sizes(sizes)[1], -1).transpose(0, 2, 1)
    second = second.reshape(*second.shape[:2], *(1,) * behind, *sizes[behind:])
    vertical, horizontal = shared_axes(sizes)
    links = [Link(first, vertical), Link(second, horizontal)]
    for last in chain.rest[1:]:
        links.append(Link(last.reshape(*last.shape, *(1,) * axes), (False,) * axes))
    return Factorization(form, tuple(links), chain.bias)
