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
        X, [n, p], float32; before the first factor of a form is applied, its columns [n, s, q].
    targets
        Y, [n, d], float32: the original's responses before the activation, with its shortcut where one joins.
    judges
        [n], bool: the rows that judge solutions and take no part in them.
    shortcut
        ŝ, [n, d], float32: what is added to the predictions before the activation; None where nothing is.
    """

    regressors: Array
    targets: Array
    judges: NDArray[np.bool_]
    shortcut: Array | None = None
