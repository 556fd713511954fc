"""Which samples are taken, and in which order.

The order is a seeded permutation, so every prefix and every stride of a chosen set is a fair mixture of the classes,
however the folder was sorted.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import UsageError


def choose(available: int, count: int | None, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` of ``available`` samples without replacement, in a seeded random order.

    Parameters
    ----------
    available
        How many samples there are.
    count
        How many are wanted; all of them if there are fewer. None takes all in their own order.
    seed
        Seed of the choice, not negative.

    Returns
    -------
    NDArray[np.int64]
        Sample numbers, shape [min(available, count)].

    Raises
    ------
    UsageError
        If ``count`` is below 1 or ``seed`` is negative.
    """
    if count is None:
        return np.arange(available, dtype=np.int64)
    if count < 1:
        raise UsageError(f"{count} calibration samples were asked for: at least 1 is needed")
    if seed < 0:
        raise UsageError(f"the seed is {seed}: give a number that is not negative")
    return np.random.default_rng(seed).permutation(available)[:count].astype(np.int64)


def counted(chosen: int, available: int, things: str) -> str:
    """Say "300 of 2500 images", or "300 images" where that is all there is."""
    return f"{chosen} {things}" if chosen == available else f"{chosen} of {available} {things}"


def once(on_warning: Callable[[str], None]) -> Callable[[str], None]:
    """Pass each distinct warning on a single time, however many files cause it."""
    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            on_warning(text)

    return warn
