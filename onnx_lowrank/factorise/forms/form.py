"""One form of one convolution at chosen ranks, as the regression problem that solves it.

Every form reduces to one problem. Its first factor makes regressors x of a patch, and a map B of rank r from x to the
responses is sought, near the map H₀ that the weights alone give. The solution is a chain of factors, which may be
refined together, and finally becomes a chain of convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain, features
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.regression import LowRankMap, leading_subspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One form of one convolution at chosen ranks.

    Attributes
    ----------
    inputs
        Maps patches [n, c, *sizes] to s columns u of q numbers each, [n, s, q], which are all that the form reads.
    first
        V, [r, q], the fixed first factor, which makes the regressors; None where the columns are the regressors.
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
        S, [s, r], the weights with which the columns are added up (see ``Chain``); None where they are not.
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
        """Return the regressors [n, p] for columns [n, s, q]."""
        return inputs.reshape(len(inputs), -1) if self.first is None else features(inputs, self.first, self.taps)


def compact(form: Form) -> Form:
    """Return the same form, reading the p regressors of a patch in place of its columns, which may be far larger.

    The first factor, and the depthwise one of a form that has it, then stay as they are when all others are refined.
    """
    if form.first is None:
        return form
    return replace(
        form,
        inputs=lambda patches: form.regressors(form.inputs(patches))[:, None, :],
        first=None,
        chain=lambda solution: Chain(solution.right, (solution.left,), solution.bias),
        compose=lambda chain: form.compose(form.chain(LowRankMap(chain.rest[0], chain.first, chain.bias))),
        taps=None,
    )


def from_weights(form: Form, kernel: Array, bias: Array) -> Factorization:
    """Factorise a kernel [d, c, *sizes] without data: H₀ projected on the kernel's leading left singular vectors.

    For the channel form this is the truncated SVD of the kernel as a d×ckl matrix (Denton et al., NIPS 2014), for the
    spatial form the scheme of Jaderberg et al. (BMVC 2014): baselines that look at no data.
    """
    W = kernel.reshape(len(kernel), -1)
    U = leading_subspace(W @ W.T, form.rank)
    return form.compose(form.chain(LowRankMap(U, U.T @ form.prior, bias)))


def pixels_of(patches: Array) -> Array:
    """View patches [n, c, *sizes] as the pixels under every tap, [n, s, c]."""
    n, c = patches.shape[:2]
    return patches.reshape(n, c, -1).transpose(0, 2, 1)
