"""Rounding to 8 bits: grids, weights rounded column by column, and the bases in which rounding hurts least."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.rounding.basis import best_basis, to_one_range
from onnx_lowrank.factorise.rounding.columns import EIGHT_BITS, SEVEN_BITS, round_to_nearest, round_weights
from onnx_lowrank.factorise.rounding.grid import SIGNED, UNSIGNED, Codes, best_grid, spanning

SEEDS = st.integers(0, 2**32 - 1)
CODES = st.sampled_from([UNSIGNED, SIGNED])


def mixed(seed: int, n: int, p: int) -> NDArray[np.float64]:
    """Return rows [n, p] whose entries depend on one another and have different sizes."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * rng.lognormal(size=p))


@given(SEEDS, CODES, st.floats(-100, 100), st.floats(-100, 100))
def test_a_grid_holds_zero_and_what_it_spans(seed: int, codes: Codes, one: float, other: float) -> None:
    low, high = sorted((one, other))
    grid = spanning(low, high, codes)
    values = np.random.default_rng(seed).uniform(min(low, 0), max(high, 0), 50)
    assert grid.rounded(np.zeros(1)) == 0
    assert codes.low <= grid.zero_point <= codes.high
    # The zero point is a whole number, so that an end may lie a step further in.
    assert np.all(np.abs(grid.rounded(values) - values) <= 1.01 * grid.scale)
    assert np.array_equal(grid.rounded(grid.rounded(values)), grid.rounded(values))


@given(SEEDS, CODES)
def test_the_best_grid_is_no_worse_than_the_widest(seed: int, codes: Codes) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=2000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    assert best_grid(values, low, high, codes).error(values) <= spanning(low, high, codes).error(values)


def test_rare_large_values_give_way_to_finer_steps() -> None:
    values = np.append(np.random.default_rng(0).normal(size=10_000), 100.0).astype(np.float32)
    assert best_grid(values[:-1], -5.0, 100.0, UNSIGNED).ends[1] < 50


@given(SEEDS, st.integers(1, 40), st.integers(1, 6), st.sampled_from([EIGHT_BITS, SEVEN_BITS, 3]))
def test_codes_of_weights_are_whole_and_in_range(seed: int, p: int, d: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    rounded = round_weights(rng.normal(size=(d, p)), np.cov(mixed(seed, 3 * p, p).T).reshape(p, p), most)
    assert np.array_equal(rounded.codes, np.rint(rounded.codes))
    assert np.abs(rounded.codes).max() <= most
    assert np.all(rounded.scales > 0)
    assert np.array_equal(rounded.scales, rounded.scales.astype(np.float32))


@given(SEEDS)
def test_weights_of_independent_inputs_are_rounded_to_the_nearest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(4, 20))
    rounded = round_weights(weights, np.diag(rng.uniform(0.5, 2, 20)), EIGHT_BITS)
    scales = rounded.scales[:, None]
    assert np.array_equal(rounded.codes, np.clip(np.rint(weights / scales), -EIGHT_BITS, EIGHT_BITS))


@settings(max_examples=25)
@given(SEEDS, st.integers(130, 300))
def test_later_columns_make_up_for_earlier_ones(seed: int, p: int) -> None:
    """Across blocks of columns as well as inside them."""
    rows = mixed(seed, 2 * p, p)
    covariance, weights = np.cov(rows.T), np.random.default_rng(seed).normal(size=(8, p))
    rounded = round_weights(weights, covariance, EIGHT_BITS)
    nearest = np.clip(np.rint(weights / rounded.scales[:, None]), -EIGHT_BITS, EIGHT_BITS) * rounded.scales[:, None]

    def error(values: NDArray[np.float64]) -> float:
        return float(np.einsum("dp,pq,dq->", weights - values, covariance, weights - values))

    assert error(rounded.values) < 0.7 * error(nearest)


def test_weights_of_inputs_that_never_vary_can_be_rounded() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 5))
    rounded = round_weights(weights, np.zeros((5, 5)), EIGHT_BITS)
    assert np.abs(rounded.values - weights).max() <= np.abs(weights).max() / 100


def test_scales_are_no_smaller_than_asked_for() -> None:
    """Such as where a bias would need too many codes of a small scale."""
    rounded = round_weights(1e-9 * np.ones((2, 3)), np.eye(3), EIGHT_BITS, least=np.array([0.5, 0.0]))
    assert rounded.scales[0] == 0.5
    assert rounded.scales[1] < 1e-9


@given(SEEDS, st.integers(2, 12), st.booleans())
def test_another_basis_changes_nothing_but_rounding(seed: int, c: int, moves: bool) -> None:
    rng = np.random.default_rng(seed)
    values, reading = mixed(seed, 40, c) + rng.normal(size=c), rng.normal(size=(c, 7))
    basis = best_basis(values, reading, moves=moves)
    responses = basis.of(values) @ (basis.backward.T @ reading) + basis.offset @ reading
    expected = values @ reading
    assert np.allclose(responses, expected, atol=1e-6 * np.abs(expected).max())
    assert moves or not basis.offset.any()
    assert np.abs(basis.of(values)).max() == pytest.approx(1, rel=0.5)


@settings(max_examples=25)
@given(SEEDS)
def test_factors_that_cancel_one_another_are_rounded_in_another_basis(seed: int) -> None:
    """Two channels that are nearly equal, with a small difference that matters."""
    rng = np.random.default_rng(seed)
    common, small = rng.normal(size=(2000, 1)), 1e-2 * rng.normal(size=(2000, 1))
    values, reading = np.hstack([common + small, common - small]), np.array([[1.0], [-1.0]])
    basis = best_basis(values, reading, moves=True)
    wanted = values @ reading

    def error(z: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
        grid = spanning(float(z.min()), float(z.max()), UNSIGNED)
        return float(np.square(grid.rounded(z) @ weights - z @ weights).mean() / np.square(wanted).mean())

    assert error(basis.of(values), basis.backward.T @ reading) < 0.01 * error(values, reading)


@given(SEEDS, st.booleans())
def test_channels_reach_as_far_as_one_another(seed: int, signed: bool) -> None:
    values = mixed(seed, 200, 6)
    factors = to_one_range(values, signed=signed)
    reach = np.abs(values * factors).max(axis=0)
    assert np.all(reach > 0.99)
    assert signed or np.all(factors > 0)


def test_a_channel_that_is_always_zero_has_a_finite_factor() -> None:
    assert np.isfinite(to_one_range(np.array([[1.0, 0.0], [2.0, 0.0]]))).all()
    assert np.isfinite(to_one_range(np.zeros((2, 2)))).all()


@given(SEEDS)
def test_rounding_to_the_nearest_is_that_of_inputs_that_count_the_same(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4, 12))
    nearest, columns = round_to_nearest(weights, EIGHT_BITS), round_weights(weights, np.eye(12), EIGHT_BITS)
    assert np.array_equal(nearest.codes, columns.codes)
