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
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.descent import Chain
from onnx_lowrank.factorise.factors import Factorization, Stage
from onnx_lowrank.factorise.moments import root

Array = NDArray[Any]


def cut_behind(sizes: Sequence[int]) -> int:
    """How many of a kernel's spatial axes belong to the first stage; the others belong to the second."""
    return next((axis for axis, size in enumerate(sizes[:-1]) if size > 1), 0) + 1


def two_sizes(sizes: Sequence[int]) -> tuple[int, int]:
    """(k, l) as which a kernel of these sizes is seen; both exceed 1 where it extends in two directions."""
    behind = cut_behind(sizes)
    return math.prod(sizes[:behind]), math.prod(sizes[behind:])


def _seen(array: Array) -> Array:
    """Kernels or patches [n, c, *sizes] as [n, c, k, l]."""
    return array.reshape(*array.shape[:2], *two_sizes(array.shape[2:]))


@dataclass(frozen=True)
class Columns:
    """The spatial cut of one kernel at every rank.

    Attributes
    ----------
    energies
        [m], Σ² descending: what each column filter contributes to the responses.
    filters
        [m, c·k], the rows of V at full rank.
    horizontal
        [m, d, l], H at full rank.
    """

    energies: Array
    filters: Array
    horizontal: Array

    def prior(self, rank: int) -> Array:
        """H as a map of the regressors, [d, l·d'']: the 1×l kernel that the weights alone give."""
        kernel = self.horizontal[:rank].transpose(1, 2, 0)
        return kernel.reshape(len(kernel), -1)


@dataclass(frozen=True)
class ColumnMoments:
    """Sums over the columns of patches, added up over batches: their number, Σ column and Σ column·columnᵀ."""

    n: int = 0
    total: Array | float = 0.0
    squares: Array | float = 0.0

    @classmethod
    def of(cls, patches: Array) -> "ColumnMoments":
        """The sums over patches [n, c, *sizes]."""
        n, c, k, width = _seen(patches).shape
        columns = _seen(patches).transpose(0, 3, 1, 2).reshape(n * width, c * k)
        # Centred before the product: squares of large means would leave nothing of a small variance in float32.
        mean = columns.mean(axis=0, dtype=np.float64).astype(columns.dtype)
        centred = columns - mean
        rest = centred.sum(axis=0, dtype=np.float64)
        shift = mean.astype(np.float64)
        total = rest + n * width * shift
        cross = np.outer(rest, shift)
        squares = (centred.T @ centred).astype(np.float64) + cross + cross.T + n * width * np.outer(shift, shift)
        return cls(n * width, total, squares)

    def __add__(self, other: "ColumnMoments") -> "ColumnMoments":
        return ColumnMoments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def covariance(self) -> Array:
        """S, [c·k, c·k]; the columns' mean is the bias's business."""
        mean = np.asarray(self.total) / self.n
        return np.asarray(self.squares) / self.n - np.outer(mean, mean)


def cut(kernel: Array, covariance: Array | None) -> Columns:
    """The spatial cut of a kernel [d, c, *sizes], for the covariance S of its patch columns, or for S = I (None)."""
    d, c, k, width = _seen(kernel).shape
    A = _seen(kernel).transpose(3, 0, 1, 2).reshape(width * d, c * k)
    L = root(np.eye(c * k) if covariance is None else covariance)
    # The smaller Gram matrix of AL gives Q, and from it U Σ = A L Q.
    energies, Q = np.linalg.eigh((A @ L).T @ (A @ L))
    energies, Q = np.maximum(energies[::-1], 0), Q[:, ::-1]
    m = min(width * d, c * k)
    filters = scipy.linalg.solve_triangular(L, Q[:, :m], lower=True, trans="T").T
    horizontal = (A @ L @ Q[:, :m]).reshape(width, d, m).transpose(2, 1, 0)
    return Columns(energies[:m], filters, horizontal)


def columns_of(patches: Array) -> Array:
    """The columns of patches [n, c, *sizes], as [n, l, c·k]."""
    n, c, k, width = _seen(patches).shape
    return np.ascontiguousarray(_seen(patches).transpose(0, 3, 1, 2)).reshape(n, width, c * k)


def compose(chain: Chain, sizes: Sequence[int], form: str) -> Factorization:
    """The convolutions that factors on the columns stand for: k×1, 1×l, and 1×1 for "3d"."""
    axes, behind = len(sizes), cut_behind(sizes)
    carries = tuple(axis < behind for axis in range(axes))
    first = chain.first.reshape(len(chain.first), -1, *sizes[:behind], *(1,) * (axes - behind))
    # [o, l·d''] as the kernel of a 1×l convolution.
    second = chain.rest[0].reshape(len(chain.rest[0]), two_sizes(sizes)[1], -1).transpose(0, 2, 1)
    second = second.reshape(*second.shape[:2], *(1,) * behind, *sizes[behind:])
    stages = [Stage(first, carries), Stage(second, tuple(not own for own in carries))]
    if form == "3d":
        last = chain.rest[1]
        stages.append(Stage(last.reshape(*last.shape, *(1,) * axes), (False,) * axes))
    return Factorization(form, tuple(stages), chain.bias)
