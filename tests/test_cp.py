"""Properties of the CP factors."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from forms_for_tests import dense, highest_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.als import alternate
from onnx_lowrank.factorise.forms.cp import CP, PixelMoments, Polyadic, kept_shares
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.spatial import ColumnMoments
from onnx_lowrank.factorise.moments import root

Array = NDArray[Any]

kernels = st.tuples(
    st.integers(1, 7), st.integers(1, 7), st.sampled_from([(3,), (2, 3), (3, 3), (2, 1, 2)]), st.integers(0, 99)
)  # d, c, sizes, seed


def draw(d: int, c: int, sizes: tuple[int, ...], seed: int) -> tuple[Array, Array]:
    """A kernel, and correlated patches of it with a mean, [400, c, *sizes]."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((d, c, *sizes))
    mixing = rng.standard_normal((W[0].size, W[0].size)) * 0.8 ** np.arange(W[0].size)
    patches = rng.standard_normal((400, W[0].size)) @ mixing.T + 0.3
    return W, patches.reshape(400, c, *sizes).astype(np.float32)


def pixel_moments(*batches: Array) -> PixelMoments:
    moments = PixelMoments()
    for patches in batches:
        moments.add(patches)
    return moments


def composed(factors: tuple[Array, Array, Array]) -> Array:
    """The kernel [d, c, s] that factors stand for."""
    A, B, S = factors
    return np.asarray(np.einsum("dr,rc,xr->dcx", A, B, S))


@given(kernels)
@settings(max_examples=60, deadline=None)
def test_at_full_rank_the_factors_are_the_kernel(drawn: tuple[int, int, tuple[int, ...], int]) -> None:
    W, patches = draw(*drawn)
    ranks = highest_ranks(CP, W)
    for moments in (None, pixel_moments(patches)):
        polyadic = Polyadic.of(W, moments)
        assert (len(polyadic.energies),) == ranks
        chain = from_weights(CP.form(W, ranks, polyadic), W, np.zeros(len(W)))
        np.testing.assert_allclose(dense(chain), W, atol=1e-8 * np.abs(W).max())


@given(kernels, st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_start_misses_what_its_energies_say_and_least_squares_less(
    drawn: tuple[int, int, tuple[int, ...], int], share: float
) -> None:
    W, _ = draw(*drawn)
    start = replace(Polyadic.of(W, None), sweeps=0)
    V = W.reshape(*W.shape[:2], -1)
    rank = max(1, int(share * len(start.energies)))
    np.testing.assert_allclose(start.energies.sum(), np.square(start.whitened).sum())
    assert (np.diff(start.energies) <= 1e-12 * start.energies[0]).all()
    missing = np.square(composed(start.factors(rank)) - V).sum()
    # The covariances have a floor, which scales the whitened kernel by a little.
    scale = np.square(start.whitened).sum() / np.square(V).sum()
    np.testing.assert_allclose(scale * missing, start.energies[rank:].sum(), atol=1e-9 * start.energies.sum())
    last = missing
    for sweeps in (1, 3, 9):
        error = np.square(composed(replace(start, sweeps=sweeps).factors(rank)) - V).sum()
        assert error <= last + 1e-5 * np.square(V).sum()
        last = error


def test_least_squares_finds_a_kernel_that_is_of_low_rank() -> None:
    rng = np.random.default_rng(0)
    A, B, S = (rng.standard_normal((size, 4)) for size in (9, 8, 9))
    V = np.einsum("dr,cr,xr->dcx", A, B, S)
    near = [factor + 0.05 * rng.standard_normal(factor.shape) for factor in (A, B, S)]
    result = np.einsum("dr,cr,xr->dcx", *alternate(V, near[0], near[1], near[2], 40))
    assert np.square(result - V).sum() < 1e-6 * np.square(V).sum()


@pytest.mark.parametrize("copies", [1, 8])
def test_more_components_than_the_kernel_has_do_no_harm(copies: int) -> None:
    """Their Gram matrices are singular, the more so where components are copies of each other."""
    rng = np.random.default_rng(1)
    A, B, S = (np.tile(rng.standard_normal((size, 5)), copies) for size in (30, 40, 9))
    V = np.einsum("dr,cr,xr->dcx", A[:, :5], B[:, :5], S[:, :5])
    result = np.einsum("dr,cr,xr->dcx", *alternate(V, A / copies, B, S, 10))
    assert np.square(result - V).sum() < 1e-6 * np.square(V).sum()


def test_the_ridge_shrinks_steps_and_not_factors() -> None:
    rng = np.random.default_rng(2)
    A, B, S = (rng.standard_normal((size, 3)) for size in (9, 8, 9))
    V = np.einsum("dr,cr,xr->dcx", A, B, S)
    A, B, S = (factor + 0.05 * rng.standard_normal(factor.shape) for factor in (A, B, S))
    errors = {}
    for ridge in (1e-4, 0.1):
        for sweeps in (2, 60):
            result = np.einsum("dr,cr,xr->dcx", *alternate(V, A, B, S, sweeps, ridges=(ridge,)))
            errors[ridge, sweeps] = np.square(result - V).sum() / np.square(V).sum()
    assert errors[0.1, 2] > 10 * errors[1e-4, 2]
    assert max(errors[0.1, 60], errors[1e-4, 60]) < 1e-9


@pytest.mark.parametrize("power", [-200, -70, 70, 200])
def test_kernels_of_any_size_are_solved_alike(power: int) -> None:
    """Their squares are beyond single precision."""
    rng = np.random.default_rng(3)
    V, A, B, S = (rng.standard_normal(shape) for shape in ((9, 8, 9), (9, 5), (8, 5), (9, 5)))
    plain, scaled = alternate(V, A, B, S, 5), alternate(V * 2.0**power, A * 2.0**power, B, S, 5)
    np.testing.assert_array_equal(scaled[0], plain[0] * 2.0**power)
    for one, other in zip(plain[1:], scaled[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e12])
def test_patches_of_any_size_have_a_covariance_with_a_root(size: float) -> None:
    patches = (size * np.random.default_rng(4).standard_normal((60, 3, 3, 3))).astype(np.float32)
    columns = ColumnMoments()
    columns.add(patches)
    for covariance in (*pixel_moments(patches[:10], patches[10:]).covariances, columns.covariance):
        assert np.isfinite(root(covariance)).all()


def test_a_factor_that_cannot_be_solved_for_stays() -> None:
    rng = np.random.default_rng(5)
    V, A, B, S = (rng.standard_normal(shape).astype(np.float32) for shape in ((9, 8, 9), (9, 2), (8, 2), (9, 2)))
    B, S = (factor / np.linalg.norm(factor, axis=0) for factor in (B, S))
    # With a negative ridge no matrix is positive definite.
    for factor, result in zip((A, B, S), alternate(V, A, B, S, 3, ridges=(-10.0,)), strict=True):
        np.testing.assert_allclose(result, factor, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_looking_at_the_patches_serves_the_responses(seed: int) -> None:
    W, patches = draw(6, 5, (3, 3), seed)
    # Some channels matter more than others, and neighbours are alike, as in the feature maps of networks.
    rng = np.random.default_rng(seed)
    channels, taps = (
        rng.standard_normal((5, 5)) * 0.5 ** np.arange(5),
        rng.standard_normal((9, 9)) * 0.6 ** np.arange(9),
    )
    patches = (channels @ rng.standard_normal((400, 5, 9)) @ taps.T).reshape(patches.shape)

    def error(polyadic: Polyadic) -> float:
        difference = composed(polyadic.factors(8)) - W.reshape(6, 5, 9)
        P = patches.reshape(400, 5, 9) - patches.reshape(400, 5, 9).mean(axis=0)
        return float(np.square(np.einsum("ncx,dcx->nd", P, difference)).sum())

    assert error(Polyadic.of(W, pixel_moments(patches))) < 0.8 * error(Polyadic.of(W, None))


@pytest.mark.parametrize("mean", [0.0, 3e3])
def test_moments_add_up_over_batches_and_large_means_do_not_eat_them(mean: float) -> None:
    rng = np.random.default_rng(0)
    patches = (rng.standard_normal((300, 4, 2, 3)) + mean).astype(np.float32)
    channels, taps = pixel_moments(patches[:100], patches[100:]).covariances
    P = patches.astype(np.float64).reshape(300, 4, 6)
    P = P - P.mean(axis=0)
    np.testing.assert_allclose(channels, np.einsum("ncx,nex->ce", P, P) / 1800, atol=1e-6)
    expected = np.einsum("ncx,ncy->xy", P, P) / 1200
    np.testing.assert_allclose(taps, expected / (np.trace(channels) / 4), atol=1e-6)


def test_a_dead_kernel_loses_nothing_and_shares_rise_to_all() -> None:
    dead = Polyadic.of(np.zeros((4, 3, 3, 3)), None)
    assert (kept_shares(dead.energies) == 1).all()
    assert (composed(dead.factors(2)) == 0).all()
    shares = kept_shares(Polyadic.of(draw(6, 5, (3, 3), 0)[0], None).energies)
    assert (np.diff(shares) >= 0).all() and shares[-1] == 1
