"""Properties of how many threads the linear algebra uses."""

from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onnx_lowrank.runtime import blas_threads


def counts() -> dict[str, int]:
    """Threads of every linear algebra library by its file."""
    return {
        library["filepath"]: library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


def test_scipys_own_library_and_no_other_is_limited_and_released() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with blas_threads.one_for_scipy():
            within = counts()
        assert counts() == before
    for library, number in within.items():
        assert number == (1 if blas_threads.ships_with_scipy(Path(library)) else before[library])


def test_it_is_released_when_the_context_fails() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with pytest.raises(ZeroDivisionError), blas_threads.one_for_scipy(), blas_threads.for_shape((3, 3)):
            raise ZeroDivisionError
        assert counts() == before


@pytest.mark.parametrize(
    ("shape", "limited"), [((3, 64), True), ((64, blas_threads.SMALL - 1), True), ((3, 512), False)]
)
def test_small_matrices_are_multiplied_on_one_thread(shape: tuple[int, int], limited: bool) -> None:
    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with blas_threads.for_shape(shape):
            assert counts() == (dict.fromkeys(before, 1) if limited else before)
        assert counts() == before


def test_a_library_that_both_share_is_not_limited() -> None:
    assert not blas_threads.ships_with_scipy(Path("/envs/scipy-1/lib/libopenblas.so.0"))
    assert not blas_threads.ships_with_scipy(Path("/site-packages/numpy.libs/libscipy_openblas64_-1.so"))
    assert blas_threads.ships_with_scipy(Path("/site-packages/scipy.libs/libscipy_openblas-1.so"))
    assert blas_threads.ships_with_scipy(Path("/site-packages/scipy/.dylibs/libscipy_openblas.dylib"))
