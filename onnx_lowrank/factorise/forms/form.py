"""One form of one convolution, at ranks that are chosen: the regression problem that solves it.

Every form takes regressors that its first kernel makes of a patch, a rank, and the map H₀ that the weights alone give.
The solution becomes a chain of factors, which may be refined together, and then a chain of convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain, features
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.regression import LowRankMap, leading_subspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One form of one convolution, ready to be solved.

    Attributes
    ----------
    inputs
        Maps patches [n, c, *sizes] to what the form reads of them, [n, s, q]: s columns of q numbers.
    first
        [r, q], the fixed first factor, which makes the regressors; None where the inputs are the regressors.
    prior
        H₀, [d, p].
    rank
        The rank of the map from the p regressors to the d responses.
    chain
        Turns the solved map into all factors.
    compose
        Turns the factors into the chain of convolutions.
    gram
        W Wᵀ, [d, d], where samples are so few that it has to stand in for more of them (see ``Fitter``); else None.
    taps
        [s, r], how the columns are weighted where they are added up; else None.
    """

    inputs: Callable[[Array], Array]
    first: Array | None
    prior: Array
    rank: int
    chain: Callable[[LowRankMap], Chain]
    compose: Callable[[Chain], Factorization]
    gram: Array | None = None
    taps: Array | None = None

    def regressors(self, inputs: Array) -> Array:
        """The rows [n, p] for inputs [n, s, q]."""
        return inputs.reshape(len(inputs), -1) if self.first is None else features(inputs, self.first, self.taps)


def from_weights(form: Form, kernel: Array, bias: Array) -> Factorization:
    """Factorise from the weights alone: the prior, projected on the kernel's leading left singular vectors.

    For the channel form this is the truncated SVD of the kernel as a d×ckl matrix (Denton et al., NIPS 2014), for the
    spatial form the scheme of Jaderberg et al. (BMVC 2014): baselines that look at no data.
    """
    d = len(kernel)
    W = kernel.reshape(d, -1)
    U = leading_subspace(W @ W.T, form.rank)
    return form.compose(form.chain(LowRankMap(U, U.T @ form.prior, bias)))
