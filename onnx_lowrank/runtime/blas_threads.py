"""The linear algebra of NumPy and SciPy on one thread for the time of a run.

The threads of OpenBLAS and other libraries wait for one another, and for their next call, by spinning. Beside other
processes they wait for threads that do not run, and a call may take a hundred times as long. So one thread computes
here, and the mathematics divides what is large among workers that wait without spinning (see ``factorise.workers``).
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy  # noqa: F401, loads its linear algebra library
import scipy.linalg  # noqa: F401, the same
from threadpoolctl import ThreadpoolController

from onnx_lowrank.factorise.workers import workers

MOST_WORKERS = 8
"""More workers than this would wait for what cannot be divided."""

_LOCK = threading.Lock()
_holders: dict[object, Mapping[Any, int]] = {}
"""The bodies that run under the limit, in their order, with the threads that each of them found."""


@contextlib.contextmanager
def without_spinning() -> Iterator[None]:
    """Limit the linear algebra of this process to one thread, and let workers take the place of the others.

    There are as many workers as the libraries had threads, so what limits these, such as OPENBLAS_NUM_THREADS or the
    calling program, limits the workers as well. Where several bodies run at the same time, in several threads, the
    libraries get their threads back when the last one ends.

    Works as a context and as a decorator.
    """
    holder, libraries = object(), _libraries()
    with _LOCK:
        found = {library: library.num_threads or 1 for library in libraries}
        if _holders:  # The limit of the whole process is in force, and says nothing about what was before it.
            first = next(iter(_holders.values()))
            found |= {library: first[library] for library in libraries if not _counts_by_thread(library)}
        _holders[holder] = found
        _set_threads(dict.fromkeys(libraries, 1))
    try:
        with workers(min(max(found.values(), default=1), MOST_WORKERS), prepare=_limit_this_thread):
            yield
    finally:
        with _LOCK:
            del _holders[holder]
            _set_threads({library: n for library, n in found.items() if not _holders or _counts_by_thread(library)})


def _limit_this_thread() -> None:
    """Limit the libraries that count by thread, for the rest of this thread's life."""
    _set_threads({library: 1 for library in _libraries() if _counts_by_thread(library)})


def _counts_by_thread(library: Any) -> bool:
    """Return whether a library has a number of threads for each thread that calls it, and not one for the process."""
    return library.internal_api == "openblas" and getattr(library, "threading_layer", None) == "openmp"


def _set_threads(numbers: Mapping[Any, int]) -> None:
    """Set the number of threads of libraries."""
    for library, number in numbers.items():
        # From version 3.8 on, threadpoolctl ignores whoever sets the number while another thread does. The last body
        # to end may run in another thread than the first one to begin.
        take_over = getattr(library, "clear_controlling_thread", None)
        if take_over:
            take_over(force=True)
        library.set_num_threads(number)


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """Return the linear algebra libraries that this module's imports loaded; to find them takes a while."""
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)
