"""The comparison of two models' outputs adds up sums from batch to batch."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.interface import Feeds
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.schema import OutputReport
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.validate import DeclaredShapes, compare_outputs

Array = NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """A session that answers with prepared outputs of the samples whose numbers it is fed."""

    values: dict[str, Array]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.values)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        return {name: values[feeds["sample"]] for name, values in self.values.items()}


class Numbers:
    """Samples that are their own numbers."""

    def feeds(self, indices: Sequence[int]) -> Feeds:
        return {"sample": np.asarray(indices)}


def compare(
    before: dict[str, Array], after: dict[str, Array], batches: Batches, warnings: list[str] | None = None
) -> dict[str, OutputReport]:
    sessions = SessionPair(cast(Any, Answers(before)), cast(Any, Answers(after)))
    declared = DeclaredShapes(dict.fromkeys(before), frozenset())
    listener = Listener(warn=(warnings if warnings is not None else []).append)
    return compare_outputs(sessions, cast(Source, Numbers()), batches, declared, listener)


def batches_of(samples: int, sizes: Sequence[int]) -> Batches:
    """Batches of these sizes, and a last one with the rest."""
    ends = [*(end for end in np.cumsum(sizes) if end < samples), samples]
    return tuple(tuple(range(start, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True))


def all_at_once(ref: Array, out: Array) -> OutputReport:
    """The formulas of the report, on all samples together."""
    finite = np.isfinite(ref)
    reference, answer = ref[finite].astype(np.float64), out[finite].astype(np.float64)
    squared, scale = float(((answer - reference) ** 2).sum()), float((reference**2).sum())
    scores = ref.ndim == 2 and ref.shape[1] > 1
    return OutputReport(
        relative_error=squared / scale if scale else squared,
        max_abs_error=float(np.abs(answer - reference).max(initial=0)),
        top1_agreement=float((ref.argmax(axis=1) == out.argmax(axis=1)).mean()) if scores else None,
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 40),
    shape=st.sampled_from([(), (1,), (7,), (3, 2), (2, 3, 2)]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    holes=st.sampled_from([0, 0.3, 1]),
    sizes=st.lists(st.integers(1, 9), max_size=40),
)
def test_any_batching_gives_the_errors_of_all_samples_at_once(
    seed: int, samples: int, shape: tuple[int, ...], dtype: type[np.floating[Any]], holes: float, sizes: list[int]
) -> None:
    """Elements that are not finite in the reference do not count, whatever the rewritten model makes of them."""
    rng = np.random.default_rng(seed)
    ref = rng.normal(size=(samples, *shape)).astype(dtype)
    out = (ref + 0.1 * rng.normal(size=ref.shape)).astype(dtype)
    ref[rng.random(ref.shape) < holes] = rng.choice([np.nan, np.inf, -np.inf])
    report = compare({"y": ref}, {"y": out}, batches_of(samples, sizes))["y"]
    expected = all_at_once(ref, out)
    # Both add up the same float64 numbers in another order.
    assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-12)
    assert report.max_abs_error == expected.max_abs_error
    assert report.top1_agreement == expected.top1_agreement


def test_a_reference_of_zeros_leaves_the_sum_of_squares() -> None:
    zeros, twos = np.zeros((4, 3), np.float32), np.full((4, 3), 2, np.float32)
    assert compare({"y": zeros}, {"y": twos}, batches_of(4, [1]))["y"].relative_error == 48


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sample", [0, 2, 5])
def test_an_output_must_be_finite_where_the_originals_is(bad: float, sample: int) -> None:
    ref = np.ones((6, 3), np.float32)
    out = ref.copy()
    out[sample, 1] = bad
    with pytest.raises(ValidationError, match="output 'y' is not finite where the original's is"):
        compare({"y": ref}, {"y": out}, batches_of(6, [2, 2]))
    ref[sample, 1] = bad
    assert compare({"y": ref}, {"y": out}, batches_of(6, [2, 2]))["y"].relative_error == 0


def test_whole_numbers_are_not_compared() -> None:
    warnings: list[str] = []
    floats, whole = np.ones((4, 3), np.float32), np.ones((4, 3), np.int64)
    reports = compare({"y": floats, "n": whole}, {"y": floats, "n": 2 * whole}, batches_of(4, [2]), warnings)
    assert reports.keys() == {"y"} and not warnings
    assert compare({"n": whole}, {"n": whole}, batches_of(4, [2]), warnings) == {}
    assert len(warnings) == 1 and "no floating-point output could be compared" in warnings[0]


def test_another_type_is_refused() -> None:
    ref = np.ones((4, 3), np.float32)
    with pytest.raises(ValidationError, match="'y' became float64"):
        compare({"y": ref}, {"y": ref.astype(np.float64)}, batches_of(4, []))


def peak_memory(batches: int) -> int:
    """The most bytes that a comparison allocates, of which the prepared outputs, which are views, are no part."""
    ref, out = (np.full((1, 50_000), value, np.float32) for value in (1, 1.5))
    samples = 4 * batches
    before, after = ({"y": np.broadcast_to(values, (samples, 50_000))} for values in (ref, out))
    tracemalloc.start()
    try:
        compare(before, after, batches_of(samples, [4] * batches))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_does_not_grow_with_the_number_of_batches() -> None:
    # A batch of one output is 0.8 MB in single precision and 1.6 MB in double precision. Holding the outputs of all
    # batches in double precision, as a comparison at the end would have to, takes 3.2 MB more for each of them: 90 MB.
    few, many = peak_memory(2), peak_memory(30)
    assert many < few + 1_000_000
    assert many < 12_000_000
