"""Properties of the elimination of channels, against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.elimination import ReaderMoments, best_map, lost, sweep
from onnx_lowrank.factorise.read_columns import MOST_COLUMNS, ReadMoments
from onnx_lowrank.factorise.width_curve import Reading, fitted, judged, width_curve

Array = NDArray[Any]


def problem(seed: int, channels: int, taps: int, others: int, filters: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """Return a kernel, a covariance, and the columns of some channels among columns of others."""
    rng = np.random.default_rng(seed)
    p = channels * taps + others
    rows = rng.normal(size=(3 * p, p)) @ rng.normal(size=(p, p))
    columns = rng.permutation(p)[: channels * taps].reshape(channels, taps)
    return rng.normal(size=(filters, p)), rows.T @ rows / len(rows) + 1e-3 * np.eye(p), columns


def error_without(gone: tuple[int, ...], kernel: Array, gram: Array, columns: NDArray[np.intp]) -> float:
    """Return the least error of the kernel if some channels are gone, by solving for all that stay."""
    stays = np.setdiff1d(np.arange(len(gram)), columns[list(gone)].ravel())
    rest = np.linalg.solve(gram[np.ix_(stays, stays)], gram[stays] @ kernel.T).T
    difference = kernel.copy()
    difference[:, stays] -= rest
    return float(np.trace(difference @ gram @ difference.T))


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_the_error_of_a_sweep_is_the_least_that_what_stays_can_have(
    seed: int, channels: int, taps: int, others: int, filters: int
) -> None:
    kernel, gram, columns = problem(seed, channels, taps, others, filters)
    found = sweep([ReaderMoments(gram, kernel.T @ kernel, columns, 1.0)])
    for gone in range(channels):
        expected = error_without(tuple(found.order[:gone]), kernel, gram, columns)
        assert found.errors[gone] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000), st.integers(1, 2))
@settings(deadline=None, max_examples=20)
def test_every_step_takes_the_channel_that_is_missed_least(seed: int, readers: int) -> None:
    channels = 5
    layers = [problem(seed + number, channels, 2, 1, 3) for number in range(readers)]
    scales = [1.0 + number for number in range(readers)]
    moments = [
        ReaderMoments(gram, kernel.T @ kernel, columns, scale)
        for (kernel, gram, columns), scale in zip(layers, scales, strict=True)
    ]
    gone: tuple[int, ...] = ()
    for step in sweep(moments).order:
        errors = {
            one: sum(error_without((*gone, one), *layer) / scale for layer, scale in zip(layers, scales, strict=True))
            for one in set(range(channels)) - set(gone)
        }
        assert errors[int(step)] == pytest.approx(min(errors.values()), rel=1e-6)
        gone = (*gone, int(step))


def test_a_sweep_is_near_the_best_choice_of_all() -> None:
    # The greedy order is not the best one for every width, but it is not far from it either.
    worst = 1.0
    for seed in range(20):
        kernel, gram, columns = problem(seed, 6, 1, 0, 4)
        found = sweep([ReaderMoments(gram, kernel.T @ kernel, columns, 1.0)])
        every = itertools.combinations(range(6), 3)
        best = min(error_without(gone, kernel, gram, columns) for gone in every)
        worst = max(worst, found.errors[3] / best)
    assert worst < 2


def reading(seed: int, rows: int, channels: int, shape: tuple[int, ...], dead: int = 0) -> Reading:
    """Return a layer with random weights that reads correlated channels, of which some follow from the others."""
    rng = np.random.default_rng(seed)
    taps = int(np.prod(shape))
    mixing = rng.normal(size=(channels, channels)) / channels**0.5
    mixing[:, channels - dead :] = mixing[:, :dead]
    patches = np.einsum("ncx,cd->ndx", rng.normal(size=(rows, channels, taps)), mixing) + 1
    moments = ReadMoments(channels, taps)
    patches = patches.reshape(rows, channels, *shape).astype(np.float32)
    moments.add(patches[::2], judging=False)
    moments.add(patches[1::2], judging=True)
    kernel = rng.normal(size=(5, channels, *shape))
    layer = moments.of(kernel)
    return Reading(layer, np.arange(channels)[:, None], 1.0)


@pytest.mark.parametrize(("channels", "shape"), [(12, ()), (12, (3, 3)), (MOST_COLUMNS // 9 + 1, (3, 3))])
def test_channels_that_follow_from_others_cost_nothing(channels: int, shape: tuple[int, ...]) -> None:
    dead = channels // 3
    layer = reading(1, 3000, channels, shape, dead)
    curve = width_curve([layer], [channels // 3, channels - dead, channels])
    scale = judged([layer], np.zeros(0, np.intp), curve.ridge)
    assert curve.errors[1] < 1e-4 * scale < 1e-2 * curve.errors[0]
    assert curve.errors[-1] == 0


@pytest.mark.parametrize(("channels", "shape"), [(12, ()), (12, (3, 3)), (MOST_COLUMNS // 9 + 1, (3, 3))])
def test_a_layer_with_all_its_channels_stays_as_it_is(channels: int, shape: tuple[int, ...]) -> None:
    layer = reading(2, 3000, channels, shape)
    weights, shift = fitted(layer, np.arange(channels), 1e-3)
    original = layer.layer.weights(layer.layer.kernel)
    np.testing.assert_allclose(weights, original, atol=1e-8)
    np.testing.assert_allclose(shift, 0, atol=1e-7)
    some, _ = fitted(layer, np.arange(0, channels, 2), 1e-3)
    taps = int(np.prod(shape))
    assert not some.reshape(len(some), channels, taps)[:, 1::2].any()


def test_a_map_of_few_samples_is_judged_by_others() -> None:
    # With fewer rows than columns the solving samples see no error at all.
    few, many = (reading(3, rows, 40, ()) for rows in (50, 5000))
    widths = [20, 40]
    assert width_curve([few], widths).errors[0] > width_curve([many], widths).errors[0]
    stays = np.arange(20)
    seen = lost(few.layer.kernel, best_map(few.layer.kernel, few.layer.gram + 1e-9 * np.eye(40), stays), few.layer.gram)
    assert width_curve([few], widths).errors[0] > seen
