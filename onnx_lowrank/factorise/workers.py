"""Independent parts of a computation on several threads that wait without spinning.

The BLAS library runs on one thread (see ``runtime``), and what is large is divided here. A rule that looks at shapes
alone decides into which parts, and parts are put together in their order. So no bit of a result depends on the number
of workers, and there may be none at all: then everything runs in the caller's thread.
"""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")
R = TypeVar("R")

LEAST_WORK = 1 << 25
"""The multiply-accumulates of a part that is worth the way to another thread: about half a millisecond."""

LEAST_SIDE = 128
"""The fewest rows or columns of a part of a product. Each part reads the whole other matrix once more."""

MOST_PARTS = 8
"""A product is divided into so many parts at most."""

_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("_POOL", default=None)
"""The workers of the run in this thread, whose number is known to the run alone; None where there are none."""

_END: ContextVar[threading.Event | None] = ContextVar("_END", default=None)
"""In a worker, what is set when its run ends; None in other threads."""


@contextlib.contextmanager
def workers(count: int, prepare: Callable[[], object] | None = None) -> Iterator[None]:
    """Let what this thread computes in the body run on several threads.

    Parameters
    ----------
    count
        The number of workers; with fewer than two everything runs in this thread.
    prepare
        Called once in every worker before its first part.
    """
    if count < 2:
        yield
        return

    end = threading.Event()

    def begin() -> None:
        _END.set(end)
        _POOL.set(None)  # A part that is divided once more runs where it is, or workers would wait for one another.
        if prepare:
            prepare()

    pool = ThreadPoolExecutor(count, "onnx-lowrank", begin)
    token = _POOL.set(pool)
    try:
        yield
    finally:
        _POOL.reset(token)
        end.set()
        pool.shutdown(cancel_futures=True)


def stop_at_end() -> None:
    """Raise CancelledError in a worker whose run has been interrupted; what takes seconds asks now and then."""
    end = _END.get()
    if end and end.is_set():
        raise CancelledError


def in_order(
    function: Callable[[T], R], items: Iterable[T], work: float = math.inf, at_once: int | None = None
) -> Iterator[R]:
    """Yield the results of a function of every item, in the order of the items.

    Only a few results wait until they are asked for, so the items may be many and the results large.

    Parameters
    ----------
    function
        Called in any thread, with several items at a time.
    items
        The items, which are fetched in this thread.
    work
        The multiply-accumulates for the largest item, about. Small items stay in this thread.
    at_once
        The most items that are computed at the same time, for the memory that this takes; None for no limit.
    """
    pool = _POOL.get()
    if pool is None or work < LEAST_WORK or at_once == 1:
        yield from map(function, items)
        return
    # One result may wait while all workers are busy.
    most = pool._max_workers + 1 if at_once is None or at_once >= pool._max_workers else at_once
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(waiting) >= most:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def product(A: Array, B: Array) -> Array:
    """Return A B for matrices A [m, k] and B [k, n].

    The longer side of a large product is divided, and never the sum over k.
    """
    (m, k), n = A.shape, B.shape[1]
    side = max(m, n)
    parts = min(int(m * k * n / LEAST_WORK), side // LEAST_SIDE, MOST_PARTS)
    if parts < 2:
        return np.asarray(A @ B)
    result = np.empty((m, n), np.result_type(A, B))
    bounds = [part * side // parts for part in range(parts + 1)]

    def compute(part: int) -> None:
        own = slice(bounds[part], bounds[part + 1])
        if m >= n:
            np.matmul(A[own], B, out=result[own])
        else:
            np.matmul(A, B[:, own], out=result[:, own])

    for _ in in_order(compute, range(parts)):
        pass
    return result
