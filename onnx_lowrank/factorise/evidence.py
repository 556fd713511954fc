"""The evidence about one layer on which the choice of its form and ranks rests."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.energy import eigenvalues, held_out_spectrum, spectrum
from onnx_lowrank.factorise.forms.preparation import Preparation, PreparedKernel

Array = NDArray[Any]
P = TypeVar("P", bound=Preparation)


@dataclass(frozen=True)
class Evidence:
    """The weights of a layer and, where it was profiled, samples of its responses.

    Attributes
    ----------
    kernels
        The kernel [d, c, *sizes] of every group.
    prepared
        The preparations of the kernel of every group, for the forms that may be chosen.
    rows
        [n, d of all groups], the sampled responses, or their sums with a shortcut; None where nothing was sampled.
    covariance
        [d, d], the covariance of the responses without the shortcut where the rows are sums; else None.
    """

    kernels: tuple[Array, ...]
    prepared: tuple[PreparedKernel, ...] = ()
    rows: Array | None = None
    covariance: Array | None = None

    def preparations(self, kind: type[P]) -> list[P]:
        """Return the preparations of one class, one for every group."""
        return [cast(P, prepared[kind]) for prepared in self.prepared]

    @cached_property
    def spectrum(self) -> Array:
        """The PCA energies of the responses, [d], descending.

        All groups have the same rank and lose their i-th components together, so their energies are added up. A
        shortcut is left out, because only the responses are of low rank. Where a layer has one row per sample, the
        energies are those of held-out rows, or it would seem to need no more components than there are samples.
        Where nothing was sampled, the energies are those of the weights.
        """
        if self.rows is None:
            parts = [weight_energies(kernel) for kernel in self.kernels]
        elif self.kernels[0].ndim == 2:
            return held_out_spectrum(self.rows, gram(self.kernels[0]))
        elif self.covariance is None:
            parts = [spectrum(rows) for rows in np.split(self.rows, len(self.kernels), axis=1)]
        else:
            groups = np.split(np.arange(len(self.covariance)), len(self.kernels))
            parts = [eigenvalues(self.covariance[np.ix_(filters, filters)]) for filters in groups]
        return np.asarray(np.sum(parts, axis=0))


def gram(kernel: Array) -> Array:
    """Return W Wᵀ, [d, d], where W is the kernel [d, c, *sizes] as a d×ckl matrix."""
    W = kernel.reshape(len(kernel), -1)
    return np.asarray(W @ W.T)


def weight_energies(kernel: Array) -> Array:
    """Return the squared singular values [d] of the kernel [d, c, *sizes] as a d×ckl matrix, descending."""
    return eigenvalues(gram(kernel))
