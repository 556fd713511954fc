"""The channel form (§2.2): k×k c→d' and then 1×1 d'→d.

The regressors are the layer's own responses, x = W·patch, so a map M = P Qᵀ of them gives the kernels QᵀW (d', c, k, k)
and P (d, d', 1, 1). Working on d responses in place of c·k·k inputs keeps the number of unknowns small.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.factors import Factorization, Link

Array = NDArray[Any]


def responses(patches: Array, kernel: Array) -> Array:
    """The layer's responses without bias, [n, d], for patches [n, c, *sizes] and its kernel [d, c, *sizes]."""
    return np.asarray(patches.reshape(len(patches), -1) @ kernel.reshape(len(kernel), -1).T.astype(patches.dtype))


def compose(kernel: Array, chain: Chain) -> Factorization:
    """The two convolutions that factors of a map of the responses stand for."""
    d, axes = len(kernel), kernel.ndim - 2
    first = (chain.first @ kernel.reshape(d, -1)).reshape(-1, *kernel.shape[1:])
    second = chain.rest[0].reshape(d, -1, *(1,) * axes)
    return Factorization("channel", (Link(first, (True,) * axes), Link(second, (False,) * axes)), chain.bias)


def gram(kernel: Array) -> Array:
    """W Wᵀ, [d, d], for the kernel as a d×ckk matrix W."""
    W = kernel.reshape(len(kernel), -1)
    return np.asarray(W @ W.T)


def weight_energies(kernel: Array) -> Array:
    """Squared singular values of the kernel as a d×ckk matrix, descending, [d]."""
    return np.maximum(np.linalg.eigvalsh(gram(kernel))[::-1], 0)
