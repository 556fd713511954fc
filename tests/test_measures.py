"""What holds for every measure: a perfect answer has the best value, and weights count samples."""

import math
from typing import Any

import numpy as np
import pytest
from answers_for_tests import FORMS, HEIGHT, WIDTH, images, scene, smooth, stated
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.image import Image
from onnx_lowrank.measures.segmentation import Areas, Segmentation
from onnx_lowrank.measures.similarity import structural_similarity
from onnx_lowrank.measures.table import TASKS, recognise
from onnx_lowrank.measures.tally import Tally
from onnx_lowrank.quality import MEASURES

Array = NDArray[Any]

SAMPLES = 6


def _unit(values: Array) -> Array:
    result: Array = values / np.linalg.norm(values, axis=1, keepdims=True)
    return result


ORIGINALS: dict[str, dict[str, Array]] = {
    "detection": dict(stated(FORMS[0], [scene(seed) for seed in range(SAMPLES)])[0].outputs),
    "image": {"y": images(SAMPLES)},
    "segmentation": {"y": 9 * smooth((SAMPLES, 4, HEIGHT, WIDTH))},
    "embedding": {"y": _unit(np.random.default_rng(1).normal(size=(SAMPLES, 32))).astype(np.float32)},
}
"""What a network answers to 6 images, by the task."""


def batch(outputs: dict[str, Array]) -> Batch:
    return Batch(SAMPLES, {"x": images(SAMPLES)}, outputs)


def disturbed(task: str, size: float) -> Batch:
    rng = np.random.default_rng(3)
    return batch(
        {name: (v + size * rng.normal(size=v.shape)).astype(np.float32) for name, v in ORIGINALS[task].items()}
    )


def tally(task: str, size: float) -> Tally:
    original = batch(ORIGINALS[task])
    (found,) = recognise([original])
    assert found.name == task
    added = Tally(found).with_batch(original, disturbed(task, size))
    assert added is not None
    return added


every_task = pytest.mark.parametrize("task", TASKS)


def test_there_is_a_case_for_every_task() -> None:
    assert ORIGINALS.keys() == TASKS.keys()


@every_task
def test_measures_are_those_that_can_be_required(task: str) -> None:
    estimates = tally(task, 0.1).estimates()
    assert tuple(estimates) == TASKS[task].measures
    assert all(MEASURES[name].higher_is_better for name in estimates)


@every_task
def test_the_same_answers_have_the_best_value(task: str) -> None:
    for name, each in tally(task, 0.0).estimates().items():
        best = -20 * math.log10(2.0**-24) if name == "psnr" else 1.0
        assert each.value == each.low == each.high == pytest.approx(best)


@every_task
def test_values_fall_as_answers_depart_and_lie_in_their_intervals(task: str) -> None:
    sizes = (0.0, 0.2, 1.5)
    falling = [tally(task, size).estimates() for size in sizes]
    for name in TASKS[task].measures:
        values = [each[name].value for each in falling]
        assert values == sorted(values, reverse=True) and values[-1] < values[0]
        for each in falling:
            low, high = each[name].low, each[name].high
            assert low is not None and high is not None and low <= each[name].value <= high


@every_task
@settings(deadline=None, max_examples=10)
@given(counts=st.lists(st.integers(0, 3), min_size=SAMPLES, max_size=SAMPLES).filter(any))
def test_a_weight_is_a_number_of_samples(task: str, counts: list[int]) -> None:
    """Without the extremes that set the peak of a PSNR a sample would change more than the mean."""
    added = tally(task, 0.3)
    repeated = [score for score, count in zip(added.scores, counts, strict=True) for _ in range(count)]
    (weighed,) = (added.task.values(added.scores, np.array([counts], np.float64)),)
    plain = added.task.values(repeated, np.ones((1, len(repeated))))
    for name, value in weighed.items():
        shift = 0.0
        if name == "psnr":
            peaks = [added.task.details(scores)["peak"] for scores in (added.scores, repeated)]
            shift = 20 * math.log10(peaks[0] / peaks[1])
        assert value[0] == pytest.approx(plain[name][0] + shift, nan_ok=True)


@every_task
def test_a_batch_is_its_samples(task: str) -> None:
    whole = tally(task, 0.3)
    original, answered = batch(ORIGINALS[task]), disturbed(task, 0.3)
    alone = Tally(whole.task)
    for index in range(SAMPLES):
        parts = [
            Batch(1, {"x": each.inputs["x"][[index]]}, {name: value[[index]] for name, value in each.outputs.items()})
            for each in (original, answered)
        ]
        more = alone.with_batch(*parts)
        assert more is not None
        alone = more
    assert alone.estimates() == whole.estimates()


@every_task
def test_one_sample_has_no_interval_and_none_has_no_value(task: str) -> None:
    added = tally(task, 0.3)
    (name, *_), one = TASKS[task].measures, Tally(added.task, added.scores[:1]).estimates()
    assert one[name].low is None and one[name].high is None
    assert Tally(added.task).estimates() == {}


@every_task
@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (0,), (3, 0, 0), ()], ids=str)
def test_outputs_of_another_shape_are_not_measured(task: str, shape: tuple[int, ...]) -> None:
    other = batch({name: np.zeros((SAMPLES, *shape), np.float32) for name in ORIGINALS[task]})
    for pair in ((batch(ORIGINALS[task]), other), (other, batch(ORIGINALS[task]))):
        assert tally(task, 0.0).with_batch(*pair) is None


def test_psnr_has_the_range_of_the_originals_pictures_for_a_peak() -> None:
    before, after = ORIGINALS["image"]["y"], disturbed("image", 0.2).outputs["y"]
    expected = 10 * np.log10((before.max() - before.min()) ** 2 / np.square(before - after).mean())
    assert tally("image", 0.2).estimates()["psnr"].value == pytest.approx(float(expected), rel=1e-6)


def test_similarity_is_that_of_the_windows() -> None:
    """One pixel, with all sums over its window of 11 pixels spelled out."""
    rng = np.random.default_rng(0)
    x, y = rng.random((1, 11, 11)), rng.random((1, 11, 11))
    places = np.arange(11) - 5
    line = np.exp(-(places**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    (mean_x, mean_y), c1, c2 = ((window * each[0]).sum() for each in (x, y)), 0.01**2, 0.03**2
    variances = [(window * (each[0] - mean) ** 2).sum() for each, mean in ((x, mean_x), (y, mean_y))]
    covariance = (window * (x[0] - mean_x) * (y[0] - mean_y)).sum()
    expected = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (sum(variances) + c2)
    assert structural_similarity(x, y, 1.0) == pytest.approx(expected)
    assert structural_similarity(x, x, 1.0) == pytest.approx(1.0)
    assert structural_similarity(3 * x, 3 * y, 3.0) == pytest.approx(expected)


@pytest.mark.parametrize("side", [1, 4, 11])
def test_small_pictures_are_compared_too(side: int) -> None:
    picture = np.random.default_rng(1).random((3, side, side))
    score = Image("y", 1.0).score(picture, picture + 0.1)
    assert score is not None and 0 < score.similarity < 1 and score.squared == pytest.approx(0.01 * picture.size)


def areas_of(task: Segmentation, truth: Array, answer: Array) -> Areas:
    areas = task.score(truth, answer)
    assert areas is not None
    return areas


def test_overlaps_of_classes_are_over_all_samples() -> None:
    task = Segmentation("y", "class numbers")
    truth, answer = np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, -1]])
    scores = [areas_of(task, truth, answer), areas_of(task, np.array([[3, -1]]), np.array([[0, 5]]))]
    (value,) = task.values(scores, np.ones((1, 2)))["miou"]
    # Class 0: 1 of 3 (once only answered); class 1: 1 of 2; class 3: 0 of 1. Classes 2 and 5 never count.
    assert value == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)


def test_a_mask_is_measured_by_what_it_marks() -> None:
    task = Segmentation("y", "mask")
    truth = np.zeros((10, 10), np.int64)
    truth[:2, :2] = 1
    answer = np.roll(truth, 1, axis=1)
    (value,) = task.values([areas_of(task, truth, answer)], np.ones((1, 1)))["miou"]
    assert value == pytest.approx(2 / 6)
    (of_labels,) = task.values([areas_of(task, 255 * truth, answer)], np.ones((1, 1)))["miou"]
    assert of_labels == value


def test_a_smaller_map_is_compared_at_the_size_of_the_true_one() -> None:
    task = Segmentation("y", "scores")
    small = np.arange(6).reshape(2, 3)
    areas = areas_of(task, np.kron(small, np.ones((4, 5), np.int64)), small)
    np.testing.assert_array_equal(areas.both, np.full(6, 20))
