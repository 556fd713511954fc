"""What is known of one layer before its form and ranks are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.energy import eigenvalues, held_out_spectrum, spectrum

Array = NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """The weights of a layer and, where it was profiled, samples of its responses.

    Attributes
    ----------
    kernels
        The kernel [d, c, *sizes] of every group.
    prepared
        What the forms in question have derived from the kernel of every group, by the class of the preparation.
    rows
        [n, d of all groups], the responses that were sampled, or their sums with a shortcut; None where nothing was.
    covariance
        [d, d], the covariance of the responses alone where the rows are sums; else None.
    """

    kernels: tuple[Array, ...]
    prepared: tuple[Mapping[Any, Any], ...] = field(default=())
    rows: Array | None = None
    covariance: Array | None = None

    def preparations(self, kind: type[Any]) -> list[Any]:
        """The preparation of that class, of every group."""
        return [prepared[kind] for prepared in self.prepared]

    @cached_property
    def spectrum(self) -> Array:
        """The PCA energies of the responses without the shortcut, since only they are of low rank, [d], descending.

        All groups have the same rank, so they lose their i-th components together. Where there is one row of every
        sample, the energies are those of held-out rows, or a layer would seem to need no more components than there are
        samples. Where nothing was sampled, the energies are those of the weights.
        """
        if self.rows is None:
            parts = [weight_energies(kernel) for kernel in self.kernels]
        elif self.kernels[0].ndim == 2:
            return held_out_spectrum(self.rows, gram(self.kernels[0]))
        elif self.covariance is None:
            parts = [spectrum(rows) for rows in np.split(self.rows, len(self.kernels), axis=1)]
        else:
            own = np.split(np.arange(len(self.covariance)), len(self.kernels))
            parts = [eigenvalues(self.covariance[np.ix_(filters, filters)]) for filters in own]
        return np.asarray(np.sum(parts, axis=0))


def gram(kernel: Array) -> Array:
    """W Wᵀ, [d, d], for the kernel [d, c, *sizes] as a d×ckl matrix W."""
    W = kernel.reshape(len(kernel), -1)
    return np.asarray(W @ W.T)


def weight_energies(kernel: Array) -> Array:
    """The squared singular values of the kernel as a d×ckl matrix, [d], descending."""
    return np.maximum(np.linalg.eigvalsh(gram(kernel))[::-1], 0)
