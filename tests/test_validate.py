"""The comparison of two models' outputs adds up sums from batch to batch."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.interface import Feeds
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.difference import Difference
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.validate import compare_outputs

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


def varies(ref: Array, finite: NDArray[np.bool_]) -> float:
    """Σ(ref − mean)² on all samples together, the least for the means of axis 1, of the last axis, and of the pairs."""
    places = np.indices(ref.shape)
    first = places[1] if ref.ndim > 1 else np.zeros(ref.shape, int)
    last = places[-1] if ref.ndim > 2 else np.zeros(ref.shape, int)
    sums = []
    pairs_of_places = [(first * (last.max(initial=0) + 1) + last, True)] if ref.ndim == 3 else []
    for keys, corrected in ((first, False), (last, False), *pairs_of_places):
        groups = [ref[finite & (keys == key)].astype(np.float64) for key in np.unique(keys)]
        counts = [len(group) for group in groups]
        if max(counts) > 1 if not corrected else min(counts) > 1:
            scales = [len(group) / (len(group) - 1) if corrected else 1.0 for group in groups]
            pairs = zip(groups, scales, strict=True)
            sums.append(sum(s * float(((group - group.mean()) ** 2).sum()) for group, s in pairs if len(group)))
    values = ref[finite].astype(np.float64)
    return min(sums) if sums else float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0


@dataclass(frozen=True)
class Errors:
    relative: float
    centred: float
    largest: float
    agreement: float | None


def all_at_once(ref: Array, out: Array) -> Errors:
    """The formulas of the report, on all samples together."""
    finite = np.isfinite(ref)
    reference, answer = ref[finite].astype(np.float64), out[finite].astype(np.float64)
    squared, scale = float(((answer - reference) ** 2).sum()), float((reference**2).sum())
    # What varies by no more than its own rounding is compared with that.
    eps = max(np.finfo(ref.dtype).eps, np.finfo(np.float32).eps)
    least, spread = float(8 * eps) ** 2 * scale, varies(ref, finite)
    if spread <= least and scale:
        spread = scale if finite.sum() == 1 else float(((reference - reference.mean()) ** 2).sum())
    centred_scale = max(spread, least)
    scores = ref.ndim == 2 and ref.shape[1] > 1
    return Errors(
        relative=squared / scale if scale else squared,
        centred=squared / centred_scale if centred_scale else squared,
        largest=float(np.abs(answer - reference).max(initial=0)),
        agreement=float((ref.argmax(axis=1) == out.argmax(axis=1)).mean()) if scores else None,
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.builds(
        lambda samples, rest: (samples, *rest),
        st.integers(1, 40),
        st.sampled_from([(), (1,), (7,), (3, 2), (2, 3, 2)]),
    ),
    offset=st.sampled_from([0, 1, 300]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    holes=st.sampled_from([0, 0.3, 1]),
    sizes=st.lists(st.integers(1, 9), max_size=40),
)
def test_any_batching_gives_the_errors_of_all_samples_at_once(
    seed: int,
    shape: tuple[int, ...],
    offset: float,
    dtype: type[np.floating[Any]],
    holes: float,
    sizes: list[int],
) -> None:
    """Elements that are not finite in the reference do not count, whatever the rewritten model makes of them."""
    rng = np.random.default_rng(seed)
    ref = (offset + rng.normal(size=shape)).astype(dtype)
    out = (ref + 0.1 * rng.normal(size=shape)).astype(dtype)
    ref[rng.random(shape) < holes] = rng.choice([np.nan, np.inf, -np.inf])
    if not np.isfinite(ref).any():
        return
    report = compare({"y": ref}, {"y": out}, batches_of(shape[0], sizes))["y"]
    expected = all_at_once(ref, out)
    # Both add up the same float64 numbers in another order; a spread loses digits beside a large mean.
    assert report.samples == shape[0]
    assert report.relative_error == pytest.approx(expected.relative, rel=1e-12)
    assert report.centred_error == pytest.approx(expected.centred, rel=1e-6)
    assert report.max_abs_error == expected.largest
    assert report.top1_agreement == expected.agreement


def test_a_reference_of_zeros_leaves_the_sum_of_squares() -> None:
    zeros, twos = np.zeros((4, 3), np.float32), np.full((4, 3), 2, np.float32)
    report = compare({"y": zeros}, {"y": twos}, batches_of(4, [1]))["y"]
    assert report.relative_error == report.centred_error == 48


@pytest.mark.parametrize("shape", [(), (4,), (4, 5, 6)], ids=["numbers", "features", "images"])
def test_an_offset_flatters_the_relative_error_alone(shape: tuple[int, ...]) -> None:
    """A network that always answers with the mean of every channel knows nothing, and its centred error is 1."""
    rng = np.random.default_rng(1)
    offsets = rng.uniform(200, 400, (*shape[:1], *(1 for _ in shape[1:])))
    ref = offsets + 5 * rng.normal(size=(60, *shape))
    channels = tuple(axis for axis in range(ref.ndim) if axis != 1)
    constant = np.broadcast_to(ref.mean(axis=channels, keepdims=True), ref.shape)
    report = compare({"y": ref}, {"y": constant}, batches_of(60, [4] * 15))["y"]
    assert report.relative_error < 0.001
    assert 1 - 1e-9 <= report.centred_error <= 1.01
    shifted = compare({"y": ref + 1000}, {"y": constant + 1000}, batches_of(60, [4] * 15))["y"]
    assert shifted.centred_error == pytest.approx(report.centred_error)


OFFSETS = {
    "images [N, C, H, W]": ((60, 3, 7, 8), (1,)),
    "images [N, H, W, C]": ((60, 7, 8, 3), (3,)),
    "class scores of anchors [N, anchors, 85]": ((60, 20, 85), (2,)),
    "boxes [N, anchors, 4] on a grid": ((60, 20, 4), (1, 2)),
    "one image's boxes [1, anchors, 4]": ((1, 500, 4), (2,)),
    "anchors on a map [N, A, H, W, 85]": ((20, 3, 5, 6, 85), (4,)),
    "dense [N, C]": ((60, 9), (1,)),
}


@pytest.mark.parametrize(("shape", "axes"), OFFSETS.values(), ids=OFFSETS)
def test_no_offset_flatters_the_centred_error_wherever_the_channels_are(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(5)
    offsets = 300 * rng.normal(size=[side if axis in axes else 1 for axis, side in enumerate(shape)])
    varying, noise = rng.normal(size=shape), 0.3 * rng.normal(size=shape)
    report = compare({"y": varying + offsets}, {"y": varying + offsets + noise}, batches_of(shape[0], [4] * 15))["y"]
    assert report.centred_error == pytest.approx(0.09, rel=0.1)


def test_an_output_without_a_finite_number_cannot_be_compared() -> None:
    ref = np.full((8, 3), np.nan)
    for empty in (ref, np.zeros((8, 0, 4))):
        warnings = list[str]()
        assert not compare({"y": empty, "z": ref + 1}, {"y": empty, "z": ref}, batches_of(8, [4]), warnings)
        assert warnings[0] == "output 'y' has no finite number in the original: it could not be compared"
    late = np.concatenate([ref, np.arange(24.0).reshape(8, 3)])
    assert compare({"y": late}, {"y": late}, batches_of(16, [4] * 4))["y"].centred_error == 0


@pytest.mark.parametrize("size", [1e30, 1e160, 1e300])
def test_squares_that_overflow_do_not_change_the_errors(size: float) -> None:
    ref = np.random.default_rng(6).normal(size=(20, 3))
    out = ref + 0.1
    expected = compare({"y": ref}, {"y": out}, batches_of(20, [4]))["y"]
    large = compare({"y": size * ref}, {"y": size * out}, batches_of(20, [4]))["y"]
    assert large.centred_error == pytest.approx(expected.centred_error)
    assert large.max_abs_error == pytest.approx(size * expected.max_abs_error)
    wrong = compare({"y": ref}, {"y": size * ref}, batches_of(20, [4]))["y"]
    assert json.loads(json.dumps(asdict(wrong), allow_nan=False))["centred_error"] > 1


def test_a_constant_output_is_compared_with_its_rounding() -> None:
    ref = np.ones((20, 3), np.float32)
    rounded, wrong = np.nextafter(ref, np.float32(2)), ref + np.float32(0.001)
    assert compare({"y": ref}, {"y": rounded}, batches_of(20, [4]))["y"].centred_error <= 1 / 64
    assert compare({"y": ref}, {"y": wrong}, batches_of(20, [4]))["y"].centred_error > 1


def test_samples_that_are_all_the_same_are_compared_with_the_differences_between_their_channels() -> None:
    rng = np.random.default_rng(5)
    ref = np.repeat(rng.normal(size=(1, 10)).astype(np.float32), 20, axis=0)
    near, far = ref * np.float32(1.01), ref[:, ::-1]
    assert compare({"y": ref}, {"y": near}, batches_of(20, [4]))["y"].centred_error < 1e-3
    assert compare({"y": ref}, {"y": far}, batches_of(20, [4]))["y"].centred_error > 0.5


def test_a_value_that_has_no_other_is_compared_with_itself() -> None:
    """How much a single number varies nobody knows, and a tiny one may be what a sum has left of large ones."""
    ref = np.full((1, 1), 2e-5, np.float32)
    errors = compare({"y": ref}, {"y": ref + np.float32(1e-10)}, batches_of(1, []))["y"]
    assert errors.centred_error == pytest.approx(errors.relative_error) and errors.centred_error < 1e-9


def test_a_number_of_channels_that_depends_on_the_data() -> None:
    """As that of a detector's boxes [1, boxes, 4]: all boxes then share the means of their coordinates."""
    rng = np.random.default_rng(2)
    refs = [rng.normal(size=(1, boxes, 4)) for boxes in (3, 0, 5)]
    difference = Difference()
    for ref in refs:
        difference = difference.with_batch(ref, ref + 0.1, 1)
    values = np.concatenate([ref[0] for ref in refs])
    expected = 0.01 * values.size / (np.square(values - values.mean(axis=0)).sum())
    assert difference.report("boxes").centred_error == pytest.approx(expected)


@pytest.mark.parametrize(("agreeing", "samples"), [(98, 100), (100, 100), (0, 7), (4, 4), (1, 1), (393, 400)])
def test_an_agreement_has_the_interval_of_wilson(agreeing: int, samples: int) -> None:
    ref = np.tile(np.eye(2, 5), (samples, 1))[:samples]
    out = ref.copy()
    out[agreeing:, 4] = 2
    report = compare({"y": ref}, {"y": out}, batches_of(samples, [3] * samples))["y"]
    expected = binomtest(agreeing, samples).proportion_ci(0.95, method="wilson")
    assert report.top1_agreement == agreeing / samples and report.samples == samples
    assert (report.top1_low, report.top1_high) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_the_centred_error_holds_the_truth_about_as_often_as_it_says() -> None:
    """The error of a sample varies; the truth is the ratio of the expectations."""
    rng, held, trials = np.random.default_rng(3), 0, 300
    for _ in range(trials):
        ref = rng.normal(size=(60, 1, 50))
        out = ref + rng.gamma(2, 0.1, size=(60, 1, 1)) * rng.normal(size=ref.shape)
        report = compare({"y": ref}, {"y": out}, batches_of(60, [4] * 15))["y"]
        assert report.centred_low is not None and report.centred_high is not None
        assert 0 <= report.centred_low <= report.centred_error <= report.centred_high
        held += report.centred_low <= 0.06 <= report.centred_high  # E[gamma²] = 2 · 3 · 0.1²
    assert held > 0.85 * trials


def test_a_single_batch_shows_no_interval() -> None:
    ref = np.random.default_rng(4).normal(size=(6, 3))
    report = compare({"y": ref}, {"y": ref + 0.1}, batches_of(6, []))["y"]
    assert report.centred_low is report.centred_high is None


def test_rows_that_are_no_samples_are_no_class_scores() -> None:
    """Boxes [boxes, 4] have two axes as class scores do, and their number is not that of the samples."""
    boxes = np.random.default_rng(5).normal(size=(9, 4))
    assert Difference().with_batch(boxes, boxes, 1).report("boxes").top1_agreement is None


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
    # Every element of this output is a channel, which adds nine sums of 0.4 MB.
    assert many < 16_000_000
