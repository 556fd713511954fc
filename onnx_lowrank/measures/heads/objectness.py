"""Whether rows of a head have a score of the object before those of the classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SCORES = 0.3
"""A score that says that there is something."""


def has_objectness(rows: Sequence[Array]) -> bool:
    """Return whether the fifth column says that there is an object, and is not just the first of the classes.

    Where there is an object, one of the classes scores as well; where a class scores, other classes rarely do.
    """
    values = np.concatenate(rows)[:, 4:]
    some = values[values[:, 0] >= SCORES]
    return bool(not len(some) or np.median(some[:, 1:].max(axis=1)) >= SCORES)
