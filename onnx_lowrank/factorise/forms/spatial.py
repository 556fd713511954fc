"""The spatial form (§2.6; Jaderberg, Vedaldi, Zisserman, BMVC 2014): k×1 c→d'' and then 1×l d''→d.

Write the kernel W (d, c, k, l) as a matrix of its columns, A (l·d, c·k): A[(x, o), (c, y)] = W[o, c, y, x]. A rank d''
factorisation A ≈ H V makes V (d'', c·k) the k×1 kernel and H (l·d, d'') the 1×l kernel. What counts is not the kernel's
error but the responses': with the covariance S of the patch columns (c·k × c·k), S = L Lᵀ,

    min ‖(A − H V) L‖²,     A L = U Σ Qᵀ,     V = Q_{d''}ᵀ L⁻¹,     H = U_{d''} Σ_{d''}

(the columns of a patch are taken as independent; S = I is Jaderberg's data-free scheme). This is the spatial cut.

With V fixed, the 1×l convolution and what follows it are a linear map of f = (V·column_x)_x, l·d'' numbers that come
from the same patch. So the data-driven refit of the 1×l kernel, and the 1×1 behind it (the 3D form), are the same
reduced-rank regression as the channel form, on these regressors, with H as the prior.

A kernel with three spatial axes is cut behind the first one along which it extends, k×1×1 and 1×l×m, as in the (2+1)D
networks (Tran et al., CVPR 2018): seen as k×(l·m) it is the same problem.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.energy import eigenvalues, log_shares
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.moments import RowCovariance, root
from onnx_lowrank.factorise.regression import LowRankMap

Array = NDArray[Any]

FACTORS = 4
"""The number of matrices of the size of S that are held at once: S, L, A L and the axes of A L."""


def first_axes(sizes: Sequence[int]) -> int:
    """Count the spatial axes of a kernel that belong to the first link; the others belong to the second."""
    return next((axis for axis, size in enumerate(sizes[:-1]) if size > 1), 0) + 1


def two_sizes(sizes: Sequence[int]) -> tuple[int, int]:
    """Return (k, l), the sizes of a kernel seen as two-dimensional.

    Both exceed 1 where the kernel extends in two directions.
    """
    behind = first_axes(sizes)
    return math.prod(sizes[:behind]), math.prod(sizes[behind:])


def as_planes(array: Array) -> Array:
    """View kernels or patches [n, c, *sizes] as [n, c, k, l]."""
    return array.reshape(*array.shape[:2], *two_sizes(array.shape[2:]))


class ColumnMoments:
    """The covariance S of the columns of patches, which come in batches [n, c, *sizes]."""

    def __init__(self) -> None:
        self._columns = RowCovariance()

    def add(self, patches: Array) -> None:
        """Accumulate patches [n, c, *sizes], float32."""
        columns = columns_of(patches)
        self._columns.add(columns.reshape(-1, columns.shape[2]))

    @property
    def covariance(self) -> Array:
        """S, [c·k, c·k], about the columns' mean, which the bias takes up."""
        return self._columns.covariance


@dataclass(frozen=True)
class Columns:
    """The spatial cut of one kernel at every rank; its factors are computed when they are first asked for.

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
    def moments(cls) -> ColumnMoments:
        """Return empty statistics of the columns of patches."""
        return ColumnMoments()

    @classmethod
    def of(cls, kernel: Array, moments: ColumnMoments | None) -> Self:
        """Cut a kernel [d, c, *sizes] for the covariance S of its patch columns, or for S = I (None)."""
        return cls.weighted_by(kernel, moments.covariance if moments else None)

    @classmethod
    def weighted_by(cls, kernel: Array, covariance: Array | None) -> Self:
        """Cut a kernel [d, c, *sizes] for a covariance S [c·k, c·k], or for S = I (None)."""
        d, c, k, width = as_planes(kernel).shape
        A = as_planes(kernel).transpose(3, 0, 1, 2).reshape(width * d, c * k)
        L = root(np.eye(c * k) if covariance is None else covariance)
        return cls(A @ L, L, width)

    def quick(self) -> Self:
        """Return the cut itself, which takes little time at any rank."""
        return self

    def brief(self) -> Self:
        """Return the cut itself; see ``quick``."""
        return self

    @cached_property
    def energies(self) -> Array:
        """Σ² [m], descending: what each column filter contributes to the responses."""
        tall = self.weighted if len(self.weighted) >= len(self.root) else self.weighted.T
        return eigenvalues(tall.T @ tall)

    @cached_property
    def _axes(self) -> Array:
        """Q, [c·k, m], from the Gram matrix of A L; then U Σ = A L Q."""
        return np.asarray(np.linalg.eigh(self.weighted.T @ self.weighted)[1][:, ::-1][:, : min(self.weighted.shape)])

    @cached_property
    def filters(self) -> Array:
        """V at full rank, [m, c·k]."""
        return np.asarray(scipy.linalg.solve_triangular(self.root, self._axes, lower=True, trans="T").T)

    @cached_property
    def horizontal(self) -> Array:
        """H at full rank, [m, d, l]."""
        H = (self.weighted @ self._axes).reshape(self.width, -1, self._axes.shape[1])
        return np.asarray(H.transpose(2, 1, 0))

    def prior(self, rank: int) -> Array:
        """Return H at rank d'' as a map of the regressors, [d, l·d'']."""
        kernel = self.horizontal[:rank].transpose(1, 2, 0)
        return kernel.reshape(len(kernel), -1)


class SpatialForm(FormKind):
    """k×1 c→d'', 1×l d''→d."""

    name = "spatial"
    summary = "k×1 c→d'', 1×k d''→d"
    rank_names = ("d''",)
    needs = "a Conv with a kernel that extends in two directions"
    preparation = Columns

    def takes(self, shape: ConvShape) -> bool:
        """Tell whether k×1 and 1×l are both smaller than the kernel; transposed ones have better forms."""
        return not shape.transposed and min(two_sizes(shape.kernel)) > 1

    def statistics_bytes(self, shape: ConvShape) -> int:
        """Return the bytes of ``FACTORS`` matrices [c·k, c·k] for every group."""
        return FACTORS * 8 * shape.group * (shape.channels * two_sizes(shape.kernel)[0]) ** 2

    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return min(l·d, c·k), the highest rank of A."""
        k, width = two_sizes(shape.kernel)
        return (min(shape.channels * k, width * shape.filters),)

    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return d''·(c·k·between + l·d·positions); ``vertical_macs`` explains the first term."""
        horizontal = two_sizes(shape.kernel)[1] * shape.filters * shape.positions
        return np.asarray(ranks[:, 0] * (vertical_macs(shape) + horizontal))

    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the log-share of the responses' energy that the first d'' column filters contribute."""
        shares = column_shares(evidence)
        return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])

    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Columns) -> Form:
        """Return the regression on V of every column, at full rank, with the 1×l kernel of the cut as H₀."""
        links, rank = self.links(kernel.shape, ranks), len(kernel)
        return column_form(prepared, links, kernel.shape[2:], (ranks[0], rank), lambda x: (x.left @ x.right,))

    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return a link that carries the first axes and one that carries the others."""
        d, c, *sizes = kernel
        vertical = tuple(axis < first_axes(sizes) for axis in range(len(sizes)))
        horizontal = tuple(not own for own in vertical)
        return LinkShape(ranks[0], c, vertical), LinkShape(d, ranks[0], horizontal)


SPATIAL = SpatialForm()


def column_shares(evidence: Evidence) -> Array:
    """Return log E_s(d'') for d'' = 1.., [m], over all groups, which lose their i-th column filters together."""
    return log_shares(np.sum([columns.energies for columns in evidence.preparations(Columns)], axis=0))


def vertical_macs(shape: ConvShape) -> int:
    """Return the multiply-accumulates of one k×1 filter, c·k·between.

    The filter has the original's stride and padding along its own axes alone, so that its output has the original's
    output size along them and the input's size along the others.
    """
    behind = first_axes(shape.kernel)
    between = shape.group * math.prod(shape.output[:behind] + shape.input[behind:])
    return shape.channels * two_sizes(shape.kernel)[0] * between


def columns_of(patches: Array) -> Array:
    """Return the columns of patches [n, c, *sizes] as [n, l, c·k]."""
    n, c, k, width = as_planes(patches).shape
    return np.ascontiguousarray(as_planes(patches).transpose(0, 3, 1, 2)).reshape(n, width, c * k)


def column_form(
    cut: Columns,
    links: Sequence[LinkShape],
    sizes: Sequence[int],
    ranks: tuple[int, int],
    rest: Callable[[LowRankMap], tuple[Array, ...]],
) -> Form:
    """Return the regression on V of every column, with the 1×l kernel of the cut as H₀.

    Parameters
    ----------
    cut
        The spatial cut of the kernel.
    links
        A k×1 link, a 1×l link, and further ones that carry no axis.
    sizes
        The sizes of the kernel along the spatial axes.
    ranks
        d'', and the rank of the map from V of every column to the responses.
    rest
        Maps the solution to H₁.., the factors behind V.
    """
    first = cut.filters[: ranks[0]]

    def factorization(chain: Chain) -> Factorization:
        # H₁ is [·, l·d''] and the kernel of the 1×l convolution [·, d'', l].
        horizontal = chain.rest[0].reshape(len(chain.rest[0]), two_sizes(sizes)[1], -1).transpose(0, 2, 1)
        return compose(links, sizes, (chain.first, horizontal, *chain.rest[1:]), chain.bias)

    return Form(
        inputs=columns_of,
        first=first,
        prior=cut.prior(ranks[0]),
        rank=ranks[1],
        chain=lambda solution: Chain(first, rest(solution), solution.bias),
        compose=factorization,
    )
