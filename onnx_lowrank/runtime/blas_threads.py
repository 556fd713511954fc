"""How many threads the linear algebra uses.

OpenBLAS's threads wait for their next call by spinning. Where they gain nothing, they take the processor from whatever
else runs.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy  # noqa: F401, for the library that it loads
import scipy.linalg  # noqa: F401, likewise
from threadpoolctl import ThreadpoolController

SMALL = 256
"""Rows and columns below which one thread multiplies as fast as several."""


@contextmanager
def for_shape(shape: Sequence[int]) -> Iterator[None]:
    """One thread in the context, or function, where the matrices are small; as many as otherwise where not."""
    with _libraries().limit(limits=1 if max(shape) < SMALL else None, user_api="blas"):
        yield


@contextmanager
def one_for_scipy() -> Iterator[None]:
    """SciPy's linear algebra on one thread in the context, or function, where it has a library beside NumPy's.

    It solves triangular systems here, between NumPy's products, and the threads of either library would spin while the
    other one works: a product and a Cholesky factorisation (4608×512×568 and 568×568) take 40 ms on two cores, 15 ms
    with this, and 21 ms where all are limited to one thread.
    """
    own = [library["filepath"] for library in _libraries().info() if _is_scipys(Path(library["filepath"]))]
    with _libraries().select(filepath=own).limit(limits=1):
        yield


def _is_scipys(library: Path) -> bool:
    """Whether a shared library came in SciPy's wheel: in scipy.libs, or in scipy/.dylibs on macOS."""
    return library.parent.name == "scipy.libs" or library.parent.parent.name == "scipy"


@functools.cache
def _libraries() -> ThreadpoolController:
    # Looking for them takes a while, so it happens once. Those of NumPy and SciPy are loaded with this module.
    return ThreadpoolController()
