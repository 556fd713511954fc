"""The forms of a factorised convolution, each as the one regression problem that solves it.

From a site's sampled patches x̂ (n, c, k, l) and targets, every form takes regressors that its first kernel makes, a
rank, and the map H₀ that the weights alone give; the solution becomes a chain of factors, which may be refined
together, and then a chain of convolutions:

    form      regressors                    rank   H₀
    channel   W x̂ (d)                       d'     I
    spatial   V on every column (l·d'')     d      the 1×l kernel of the spatial cut
    3d        V on every column (l·d'')     d'     the same
    cp        r pixels' sums, S ∘ B (r)     d      A of the CP factors
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain, features
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.forms import channel, cp, spatial
from onnx_lowrank.factorise.regression import LowRankMap, leading_subspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One form of one convolution, ready to be solved.

    Attributes
    ----------
    inputs
        Patches [n, c, *sizes] → what the form reads of them, [n, s, q]: s columns of q numbers.
    first
        [r, q], the fixed first factor that makes the regressors; None where the inputs are the regressors.
    prior
        H₀, [d, p].
    rank
        Of the map from the regressors to the d responses.
    chain
        The map → all factors.
    compose
        The factors → the chain of convolutions.
    gram
        See ``Fitter``.
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
        """Rows [n, p] for the inputs [n, s, q]."""
        return inputs.reshape(len(inputs), -1) if self.first is None else features(inputs, self.first, self.taps)


@dataclass(frozen=True)
class Cuts:
    """What is known of one kernel before any rank is chosen, as far as the forms in question need it.

    Attributes
    ----------
    columns
        The spatial cut, for the spatial and the 3D form.
    polyadic
        The CP factors.
    """

    columns: spatial.Columns | None = None
    polyadic: cp.Polyadic | None = None


def make_form(name: str, kernel: Array, ranks: tuple[int, ...], cuts: Cuts = Cuts()) -> Form:
    """The form of that name for a kernel [d, c, *sizes], at ranks from the input on."""
    d, _, *sizes = kernel.shape
    if name == "channel":
        return Form(
            lambda patches: channel.responses(patches, kernel)[:, None, :],
            None,
            np.eye(d),
            ranks[0],
            lambda solution: Chain(solution.right, (solution.left,), solution.bias),
            lambda chain: channel.compose(kernel, chain),
            None if sizes else channel.gram(kernel),  # without positions there is one row of every sample
        )
    if name == "cp":
        assert cuts.polyadic is not None
        A, B, S = cuts.polyadic.factors(ranks[0])
        return Form(
            cp.taps_of,
            B,
            A,
            d,
            lambda solution: Chain(B, (solution.left @ solution.right,), solution.bias, S),
            lambda chain: cp.compose(chain, tuple(sizes)),
            taps=S,
        )
    columns = cuts.columns
    assert columns is not None
    first = columns.filters[: ranks[0]]

    def chain(solution: LowRankMap) -> Chain:
        rest = (solution.right, solution.left) if name == "3d" else (solution.left @ solution.right,)
        return Chain(first, rest, solution.bias)

    return Form(
        spatial.columns_of,
        first,
        columns.prior(ranks[0]),
        ranks[1] if name == "3d" else d,
        chain,
        lambda chain: spatial.compose(chain, sizes, name),
    )


def from_weights(form: Form, kernel: Array, bias: Array) -> Factorization:
    """What the weights alone give: the prior, projected on the kernel's leading left singular vectors.

    For the channel form this is the truncated SVD of the kernel as a d×ckl matrix (Denton et al., NIPS 2014), for the
    spatial form Jaderberg's: baselines that look at no data.
    """
    d = len(kernel)
    W = kernel.reshape(d, -1)
    U = leading_subspace(W @ W.T, form.rank)
    return form.compose(form.chain(LowRankMap(U, U.T @ form.prior, bias)))
