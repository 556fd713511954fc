"""The number of threads that the linear algebra of NumPy and SciPy uses.

The threads of OpenBLAS wait for their next call by spinning. Where they gain nothing, they take the processor from
whatever else runs. Both functions here work as contexts and as decorators.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy  # noqa: F401, loads its linear algebra library
import scipy.linalg  # noqa: F401, the same
from threadpoolctl import ThreadpoolController

SMALL = 256
"""One thread multiplies matrices with fewer rows and columns than this as fast as several threads do."""


@contextmanager
def for_shape(shape: Sequence[int]) -> Iterator[None]:
    """Limit the linear algebra to one thread if matrices of this shape are small; change nothing otherwise."""
    with _libraries().limit(limits=1 if max(shape) < SMALL else None, user_api="blas"):
        yield


@contextmanager
def one_for_scipy() -> Iterator[None]:
    """Limit SciPy's linear algebra to one thread where SciPy has a library of its own beside NumPy's.

    SciPy solves triangular systems here, between NumPy's products, and the threads of either library would spin while
    the other one works. A product and a Cholesky factorisation (4608×512×568 and 568×568) take 40 ms on two cores, 15
    ms with this limit, and 21 ms where both libraries are limited to one thread.
    """
    own = [library["filepath"] for library in _libraries().info() if ships_with_scipy(Path(library["filepath"]))]
    with _libraries().select(filepath=own).limit(limits=1):
        yield


def ships_with_scipy(library: Path) -> bool:
    """Return whether a shared library came in SciPy's wheel: in scipy.libs, or in scipy/.dylibs on macOS."""
    return library.parent.name == "scipy.libs" or library.parent.parent.name == "scipy"


@functools.cache
def _libraries() -> ThreadpoolController:
    """Return the linear algebra libraries that this module's imports loaded; to find them takes a while."""
    return ThreadpoolController()
