"""Calibration samples that add nothing are reported in one line, with their numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import photo, plain
from numpy.typing import NDArray

from onnx_lowrank import compress
from onnx_lowrank.data.arrays import open_arrays
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.watched import Watched
from onnx_lowrank.interface import TensorSpec

Array = NDArray[Any]
GOOD = photo(1, (20, 3, 12, 10))
CONSTANT = np.ones((1, 3, 12, 10), np.float32)
CASES: dict[str, tuple[Callable[[], Array], str | None]] = {
    "all different": (lambda: GOOD, None),
    "all the same": (lambda: np.repeat(GOOD[:1], 20, axis=0), "all 16 calibration samples are the same"),
    "each twice": (lambda: np.repeat(GOOD[:10], 2, axis=0), "calibration samples add nothing: "),
    "nearly the same": (lambda: GOOD[:1] + 1e-5 * GOOD, "nearly the same (they differ by 0.00"),
    "constants": (lambda: np.arange(20).reshape(-1, 1, 1, 1) * CONSTANT, "all 16 calibration samples are constant"),
    "a large offset": (lambda: GOOD + 100, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_reports_what_adds_nothing(case: str) -> None:
    make, expected = CASES[case]
    warnings = compress(plain(), make(), 1.3, threads=1, require="none").report.warnings
    lines = [line for line in warnings if "calibration samples" in line]
    assert len(lines) == (expected is not None) and all("\n" not in line for line in lines)
    assert all(str(expected) in line for line in lines)


def test_made_up_samples_are_not_reported() -> None:
    assert not any(
        "add nothing" in line for line in compress(plain(), None, 1.3, threads=1, require="none").report.warnings
    )


def watched(samples: Array) -> Watched:
    specs = (TensorSpec("x", np.dtype(np.float32), ("N", 3)),)
    return Watched(open_arrays({"x": samples}, specs, Draw(None), "rows"))


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_copies_are_counted_whatever_the_batches(numbers: list[int], batch: int) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    source = watched(rows[numbers])
    for _ in range(2):  # what is read again is no copy of itself
        for start in range(0, len(numbers), batch):
            indices = range(start, min(start + batch, len(numbers)))
            np.testing.assert_array_equal(source.feeds(indices)["x"], rows[np.take(numbers, indices)])
    line, copies = source.complaint(), len(numbers) - len(set(numbers))
    if len(set(numbers)) == 1:
        assert line is not None and line.startswith(f"all {len(numbers)} calibration samples are the same")
    elif copies:
        verb = "repeats" if copies == 1 else "repeat"
        assert (
            line == f"{copies} of {len(numbers)} calibration samples add nothing: {copies} {verb} another one exactly"
        )
    else:
        assert line is None


def test_constant_samples_are_counted_beside_copies() -> None:
    rows = np.array([[1, 2, 3], [5, 5, 5], [1, 2, 3], [0, 0, 0], [3, 1, 2]], np.float32)
    source = watched(rows)
    source.feeds(range(5))
    assert source.complaint() == (
        "3 of 5 calibration samples add nothing: 1 repeats another one exactly and 2 are constant"
    )
