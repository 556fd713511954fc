"""A busy machine: one thread of the linear algebra in a run, workers in place of the others, and the same bytes."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from models_for_tests import classifier, photo, plain, residual
from threadpoolctl import threadpool_info, threadpool_limits

from onnx_lowrank import compress
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.factorise import workers as workers_module
from onnx_lowrank.factorise.workers import in_order, product, stop_at_end, workers
from onnx_lowrank.runtime.blas_threads import without_spinning


def counts() -> dict[str, int]:
    """Threads of every linear algebra library by its file."""
    return {
        library["filepath"]: library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.fixture
def two_threads() -> Iterator[dict[str, int]]:
    """The libraries have two threads, as far as they can; return the threads of each."""
    with threadpool_limits(2, user_api="blas"):
        yield counts()


@pytest.fixture
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that may be divided is divided, however small it is."""
    monkeypatch.setattr(workers_module, "LEAST_WORK", 1)
    monkeypatch.setattr(workers_module, "LEAST_SIDE", 4)


# ---- the limit


def test_the_libraries_have_one_thread_in_a_run_and_theirs_afterwards(two_threads: dict[str, int]) -> None:
    seen = list[dict[str, int]]()
    compress(plain(), photo(1, (12, 3, 12, 10)), 1.5, require="none", progress=lambda *step: seen.append(counts()))
    assert seen and all(set(within.values()) == {1} for within in seen)
    assert counts() == two_threads


@pytest.mark.parametrize("failure", [LowRankError, KeyboardInterrupt])
def test_a_run_that_fails_gives_them_back(two_threads: dict[str, int], failure: type[BaseException]) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "factorise":
            raise failure

    with pytest.raises(failure):
        compress(plain(), photo(1, (12, 3, 12, 10)), 1.5, require="none", progress=fail)
    assert counts() == two_threads


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_of_runs_at_the_same_time_the_last_one_gives_them_back(two_threads: dict[str, int], first_to_end: int) -> None:
    begun, ends = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def run(number: int) -> None:
        with without_spinning():
            begun[number].set()
            ends[number].wait()

    threads = [threading.Thread(target=run, args=[number]) for number in (0, 1)]
    for thread, event in zip(threads, begun, strict=True):
        thread.start()
        event.wait()
    for number in (first_to_end, 1 - first_to_end):
        assert set(counts().values()) == {1}
        ends[number].set()
        threads[number].join()
    assert counts() == two_threads


def test_a_limit_within_a_limit_ends_with_the_outer_one(two_threads: dict[str, int]) -> None:
    with without_spinning():
        with without_spinning():
            assert set(counts().values()) == {1}
        assert set(counts().values()) == {1}
    assert counts() == two_threads


# ---- the workers


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_results_come_in_the_order_of_the_items(count: int, at_once: int | None) -> None:
    with workers(count):
        assert list(in_order(lambda x: x * x, iter(range(50)), at_once=at_once)) == [x * x for x in range(50)]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_items_are_in_hand_than_allowed(most: int) -> None:
    lock, in_hand, largest = threading.Lock(), 0, 0

    def hold(item: int) -> None:
        nonlocal in_hand, largest
        with lock:
            in_hand += 1
            largest = max(largest, in_hand)
        with lock:
            in_hand -= 1

    with workers(4):
        list(in_order(hold, range(100), at_once=most))
    assert largest <= most


def test_items_are_fetched_only_a_few_ahead() -> None:
    fetched = 0

    def items() -> Iterator[int]:
        nonlocal fetched
        for item in range(1000):
            fetched += 1
            yield item

    with workers(2):
        results = in_order(lambda x: x, items())
        assert next(results) == 0
        assert fetched <= 5
        results.close()  # type: ignore[attr-defined]


def test_what_is_small_stays_in_the_callers_thread() -> None:
    with workers(2):
        assert set(in_order(lambda _: threading.get_ident(), range(20), work=1.0)) == {threading.get_ident()}
        assert threading.get_ident() not in set(in_order(lambda _: threading.get_ident(), range(20)))


def test_a_part_that_is_divided_again_waits_for_nobody() -> None:
    with workers(2):
        inner = in_order(lambda x: sum(in_order(lambda y: x * y, range(5))), range(50))
        assert list(inner) == [10 * x for x in range(50)]


def test_an_error_in_a_part_is_raised_and_ends_the_others() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ZeroDivisionError
        return item

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), workers(2):
        list(in_order(fail, range(1000)))
    assert threading.active_count() == before


def test_an_interruption_ends_what_takes_long() -> None:
    begun = threading.Event()

    def endless(item: int) -> None:
        begun.set()
        while True:
            stop_at_end()

    def items() -> Iterator[int]:
        yield 0
        begun.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers(2):
        list(in_order(endless, items()))
    stop_at_end()  # does nothing outside of workers


def test_another_thread_has_no_part_in_the_workers() -> None:
    found = list[set[int]]()

    def compute() -> None:
        found.append(set(in_order(lambda _: threading.get_ident(), range(20))))

    with workers(2):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    assert found == [{thread.ident}]


@pytest.mark.parametrize(("m", "k", "n"), [(700, 300, 400), (400, 300, 700), (1025, 64, 1), (3, 5, 2), (0, 4, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_is_the_same_with_any_number_of_workers(
    m: int, k: int, n: int, dtype: type[np.floating[Any]]
) -> None:
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((k, m)).astype(dtype).T, rng.standard_normal((k, n)).astype(dtype)
    results = []
    for count in (1, 2, 3):
        with workers(count):
            results.append(product(A, B))
    np.testing.assert_allclose(results[0], A @ B, rtol=0, atol=10 * k * float(np.finfo(dtype).eps))
    assert results[0].dtype == dtype
    assert all(np.array_equal(results[0], result) for result in results)


# ---- the same bytes


@pytest.mark.usefixtures("anything_is_large")
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (plain(), {}),
        (residual(), {"form": "channel", "ranks": "greedy"}),
        (plain(), {"form": "spatial", "symmetric": True}),
        (classifier("MatMul and Add"), {"form": "cp", "include_gemm": True}),
    ],
)
def test_the_bytes_of_a_result_do_not_depend_on_the_number_of_threads(
    model: object, options: dict[str, object]
) -> None:
    bytes_by_count = set()
    for count in (1, 2, 3):
        with workers(count), threadpool_limits(1, user_api="blas"):  # the workers of this test serve the run
            result = compress(model, photo(1, (30, 3, 12, 10)), 1.3, require="none", **options)  # type: ignore[arg-type]
        bytes_by_count.add(result.model.SerializeToString(deterministic=True))
    assert len(bytes_by_count) == 1
