"""A convolution that stays one convolution, with new weights.

A layer that has lost some of its channels, or reads what others have changed, is fitted again as a layer is factorised,
by the same regression on the same rows, with full rank: the regressors are the columns of the patches, H₀ is the kernel
that it has. It is no kind of form, since it has no ranks to choose and saves nothing itself.
"""

from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.factors import LinkShape, compose
from onnx_lowrank.factorise.forms.form import Form

Array = NDArray[Any]


def whole(kernel: Array) -> Form:
    """Return the regression problem of a kernel [d, c, *sizes] that stays as it is but for its values."""
    d, c, *sizes = kernel.shape
    links = (LinkShape(d, c, (True,) * len(sizes)),)
    return Form(
        inputs=lambda patches: patches.reshape(len(patches), 1, -1),
        first=None,
        prior=kernel.reshape(d, -1),
        rank=d,
        chain=lambda solution: Chain(solution.right, (solution.left,), solution.bias),
        compose=lambda chain: compose(links, sizes, (chain.rest[0] @ chain.first,), chain.bias),
    )
