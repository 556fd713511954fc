"""The samples of one layer, as its solvers take them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """The samples of one layer.

    Attributes
    ----------
    regressors
        X, [n, p], float32.
    targets
        Y, [n, d], float32: the original's responses before the activation, with its shortcut where one joins.
    judges
        [n], bool: rows that judge and take no part in the solution.
    shortcut
        ŝ, [n, d], float32: what is added to the predictions before the activation; None where nothing is.
    """

    regressors: Array
    targets: Array
    judges: NDArray[np.bool_]
    shortcut: Array | None = None
