"""The forms of a factorised convolution, each as the one regression problem that solves it.

From a site's sampled patches x̂ (n, c, k, l) and targets, every form takes regressors that its fixed first kernel makes,
a rank, and the map H₀ that the weights alone give; the solution becomes a chain of convolutions:

    form      regressors                    rank   H₀
    channel   W x̂ (d)                       d'     I
    spatial   V on every column (l·d'')     d      the 1×l kernel of the spatial cut
    3d        V on every column (l·d'')     d'     the same
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise import channel, spatial
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.regression import LowRankMap, leading_subspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One form of one convolution, ready to be solved.

    Attributes
    ----------
    regressors
        Patches [n, c, k, l] → rows [n, p].
    prior
        H₀, [d, p].
    rank
        Of the map from the regressors to the d responses.
    compose
        The map → the chain of convolutions.
    """

    regressors: Callable[[Array], Array]
    prior: Array
    rank: int
    compose: Callable[[LowRankMap], Factorization]


def make_form(name: str, kernel: Array, ranks: tuple[int, ...], columns: spatial.Columns | None) -> Form:
    """The form of that name for a kernel [d, c, k, l], at ranks from the input on.

    ``columns`` is the kernel's spatial cut, for the forms that have one.
    """
    d, _, height, width = kernel.shape
    if name == "channel":
        return Form(
            lambda patches: channel.responses(patches, kernel),
            np.eye(d),
            ranks[0],
            lambda solution: channel.compose(kernel, solution),
        )
    assert columns is not None
    vertical = columns.vertical(height, ranks[0])
    return Form(
        lambda patches: spatial.features(patches, vertical),
        columns.prior(ranks[0]),
        ranks[1] if name == "3d" else d,
        lambda solution: spatial.compose(vertical, solution, width, name),
    )


def from_weights(form: Form, kernel: Array, bias: Array) -> Factorization:
    """What the weights alone give: the prior, projected on the kernel's leading left singular vectors.

    For the channel form this is the truncated SVD of the kernel as a d×ckl matrix (Denton et al., NIPS 2014), for the
    spatial form Jaderberg's: baselines that look at no data.
    """
    d = len(kernel)
    W = kernel.reshape(d, -1)
    U = leading_subspace(W @ W.T, form.rank)
    return form.compose(LowRankMap(U, U.T @ form.prior, bias))
