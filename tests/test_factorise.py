"""Properties of the solvers of one layer."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from forms_for_tests import dense, fit, judging
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import RELU, Activation, apply
from onnx_lowrank.factorise.evidence import weight_energies
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.channel import CHANNEL, responses
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.moments import Moments, RowCovariance
from onnx_lowrank.factorise.regression import LowRankMap, Regression, leading_subspace
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.fit import Fit

Array = NDArray[Any]
EPS32 = float(np.finfo(np.float32).eps)


def correlated(seed: int, n: int = 3000, d: int = 12, decay: float = 0.7) -> Array:
    """Correlated rows [n, d] with a falling spectrum and unequal means."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) * decay ** np.arange(d)
    return (rng.standard_normal((n, d)) @ mixing.T + rng.standard_normal(d)).astype(np.float32)


def disturbed(Y: Array, seed: int, amount: float = 0.3) -> Array:
    """What an approximated network might answer in place of Y."""
    rng = np.random.default_rng(seed)
    d = Y.shape[1]
    bend = np.eye(d) + amount * rng.standard_normal((d, d)) / np.sqrt(d)
    return np.asarray((Y @ bend + amount * rng.standard_normal(Y.shape) * Y.std(axis=0)).astype(np.float32))


def rows(X: Array, Y: Array) -> Rows:
    return Rows(X, Y, judging(len(X)))


def solve_channel(rows: Rows, rank: int, activation: Activation | None, *, nonlinear: bool) -> Fit:
    """Where the regressors are responses, the weights alone give the identity."""
    return fit(rows, np.eye(rows.targets.shape[1]), rank, activation, nonlinear=nonlinear)


def error(solution: LowRankMap, X: Array, Y: Array, activation: Activation | None = RELU) -> float:
    target = apply(activation, Y).astype(np.float64)
    out = apply(activation, solution(X)).astype(np.float64)
    return float(np.square(out - target).sum() / np.square(target).sum())


# ---- the regression


def solve(X: Array, Z: Array, ridge: float, rank: int, prior: Array) -> LowRankMap:
    X, Z = X.astype(np.float64), Z.astype(np.float64)
    mean = X.mean(axis=0)
    regression = Regression(mean, (X - mean).T @ (X - mean), ridge, prior)
    C = regression.whitened(Z.T @ (X - mean))
    return regression.map(C, leading_subspace(C @ C.T, rank), Z.mean(axis=0))


def test_reduced_rank_regression_is_the_papers_generalised_svd() -> None:
    Y = correlated(0).astype(np.float64)
    Z = np.maximum(correlated(1).astype(np.float64) * 0.3 + Y, -0.1)
    rank, d = 4, Y.shape[1]
    Yc, Zc = Y - Y.mean(axis=0), Z - Z.mean(axis=0)
    M = Zc.T @ Yc @ np.linalg.inv(Yc.T @ Yc)
    root = np.real(scipy.linalg.sqrtm(Yc.T @ Yc))
    U, s, Wt = np.linalg.svd(M @ root)  # the GSVD with respect to YYᵀ: V = root⁻¹ W
    expected = (U[:, :rank] * s[:rank]) @ (Wt[:rank] @ np.linalg.inv(root))
    solution = solve(Y, Z, 1e-13, rank, np.zeros((d, d)))
    np.testing.assert_allclose(solution.left @ solution.right, expected, atol=1e-8)


def test_symmetric_linear_solution_is_the_pca_of_the_responses() -> None:
    Y = correlated(2)
    rank = 5
    solution = solve_channel(Rows(Y, Y, np.arange(len(Y)) % 5 == 0), rank, None, nonlinear=False).map
    _, vectors = np.linalg.eigh(np.cov(Y.T.astype(np.float64)))
    U = vectors[:, -rank:]
    np.testing.assert_allclose(solution.left @ solution.right, U @ U.T, atol=2e-2)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 1e9])
def test_the_regression_minimises_its_objective(ridge: float) -> None:
    Y = correlated(3).astype(np.float64)
    X = disturbed(correlated(3), 4).astype(np.float64)
    rank, d = 3, Y.shape[1]
    rng = np.random.default_rng(5)
    prior = rng.standard_normal((d, 2)) @ rng.standard_normal((2, d))
    solution = solve(X, Y, ridge, rank, prior)
    Xc, Yc = X - X.mean(axis=0), Y - Y.mean(axis=0)
    tau = ridge * np.square(Xc).sum() / d

    def objective(B: Array) -> float:
        return float(np.square(Yc - Xc @ B.T).sum() + tau * np.square(B - prior).sum())

    best = objective(solution.left @ solution.right)
    for _ in range(30):
        left = solution.left + 1e-3 * rng.standard_normal(solution.left.shape)
        right = solution.right + 1e-3 * rng.standard_normal(solution.right.shape)
        assert objective(left @ right) >= best * (1 - 1e-9)


def test_an_endless_ridge_gives_the_prior() -> None:
    Y = correlated(6)
    prior = np.diag([1.0, 2.0, 3.0] + [0.0] * 9)
    solution = solve(disturbed(Y, 7), Y, 1e12, 3, prior)
    np.testing.assert_allclose(solution.left @ solution.right, prior, atol=1e-6)


@pytest.mark.parametrize("decay", [0.99, 0.999])
def test_leading_subspaces_of_large_matrices_hold_what_the_exact_ones_hold(decay: float) -> None:
    rng = np.random.default_rng(8)
    A = rng.standard_normal((400, 400)) * decay ** np.arange(400)
    S = A.T @ A
    exact = np.linalg.eigvalsh(S)[::-1]
    for rank in (1, 20, 100):
        V = leading_subspace(S, rank, large=100)
        np.testing.assert_allclose(V.T @ V, np.eye(rank), atol=1e-10)
        assert 0.98 * exact[:rank].sum() < np.vdot(V, S @ V) <= exact[:rank].sum() * (1 + 1e-9)


# ---- the moments


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    X, Y = correlated(20, n=2500, d=5) + np.float32(30), correlated(21, n=2500, d=7)
    whole, added = Moments.of(X, Y), Moments.of(X[:900], Y[:900]) + Moments.of(X[900:], Y[900:])
    Xc, Yc = (a.astype(np.float64) - a.mean(axis=0, dtype=np.float64) for a in (X, Y))
    expected = (X.mean(axis=0, dtype=float), Y.mean(axis=0, dtype=float), Xc.T @ Xc, Yc.T @ Xc, Yc.T @ Yc)
    for moments in (whole, added):
        assert moments.n == len(X)
        parts = (moments.x_mean, moments.y_mean, moments.xx, moments.yx, moments.yy)
        for a, b in zip(parts, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("mean", [0.0, 2.0**13])
def test_a_covariance_adds_up_over_batches_and_large_means_do_not_eat_it(mean: float) -> None:
    rows = correlated(22, n=2500, d=5) + np.float32(mean)
    before, moments = rows.copy(), RowCovariance()
    for batch in (rows[:900], rows[900:]):
        moments.add(batch)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T.astype(np.float64), bias=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows, before)


# ---- the fit


@given(seed=st.integers(0, 1000), rank=st.integers(1, 12), nonlinear=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_choice_is_never_worse_for_the_judges_than_any_candidate_kind(
    seed: int, rank: int, nonlinear: bool
) -> None:
    Y = correlated(seed, n=600)
    result = solve_channel(rows(disturbed(Y, seed + 1), Y), rank, RELU, nonlinear=nonlinear)
    if not nonlinear:
        assert result.error_nonlinear is None and result.iterations == 0
    else:
        assert result.error_nonlinear is not None
        assert (result.iterations > 0) == (result.error_nonlinear < result.error_linear)


def test_full_rank_on_the_networks_own_responses_is_the_identity() -> None:
    Y = correlated(8)
    result = solve_channel(rows(Y, Y), Y.shape[1], RELU, nonlinear=True)
    np.testing.assert_allclose(result.map(Y), Y, atol=200 * EPS32 * np.abs(Y).max())


def test_asymmetric_on_undisturbed_inputs_is_the_symmetric_solution() -> None:
    Y = correlated(9)
    shifted = Y - np.float32(0.5)  # the bias takes up a constant shift of the regressors
    a = solve_channel(rows(Y, Y), 4, RELU, nonlinear=True)
    b = solve_channel(rows(shifted, Y), 4, RELU, nonlinear=True)
    assert b.error_linear == pytest.approx(a.error_linear, rel=1e-3)
    assert b.error_nonlinear == pytest.approx(a.error_nonlinear, rel=1e-3)


def test_the_asymmetric_solution_undoes_error_that_the_symmetric_one_leaves() -> None:
    Y = correlated(10, n=6000)
    X = disturbed(Y, 11, amount=0.4)
    asymmetric = solve_channel(rows(X[:4000], Y[:4000]), 6, RELU, nonlinear=True)
    symmetric = solve_channel(rows(Y[:4000], Y[:4000]), 6, RELU, nonlinear=True)
    assert error(asymmetric.map, X[4000:], Y[4000:]) < 0.9 * error(symmetric.map, X[4000:], Y[4000:])


def test_the_nonlinear_solution_beats_the_linear_one_on_unseen_rows_where_relu_hides_much() -> None:
    Y = correlated(12, n=12000, decay=0.9) - np.float32(1.5)
    seen, unseen = Y[:8000], Y[8000:]
    linear = solve_channel(rows(seen, seen), 4, RELU, nonlinear=False)
    nonlinear = solve_channel(rows(seen, seen), 4, RELU, nonlinear=True)
    assert nonlinear.iterations > 0
    assert error(nonlinear.map, unseen, unseen) < 0.97 * error(linear.map, unseen, unseen)


def test_error_falls_as_rank_grows() -> None:
    Y = correlated(13)
    X = disturbed(Y, 14, amount=0.1)
    errors = [solve_channel(rows(X, Y), rank, RELU, nonlinear=True) for rank in range(1, 13)]
    chosen = [min(e.error_linear, e.error_nonlinear or np.inf) for e in errors]
    assert all(later <= earlier * 1.02 for earlier, later in itertools.pairwise(chosen))


@pytest.mark.parametrize("n", [10, 20, 40])
def test_few_rows_never_do_much_worse_than_the_symmetric_solution(n: int) -> None:
    worse = []
    for seed in range(20):
        Y = correlated(seed, n=4000)
        X = disturbed(Y, seed + 100, amount=0.15)
        few, own = rows(X[:n], Y[:n]), rows(Y[:n], Y[:n])
        asymmetric, symmetric = (solve_channel(samples, 4, RELU, nonlinear=True) for samples in (few, own))
        worse.append(error(asymmetric.map, X[n:], Y[n:]) / error(symmetric.map, X[n:], Y[n:]))
    assert np.median(worse) <= 1.0


def test_a_dead_layer_is_solved_without_complaint() -> None:
    Y = np.full((50, 6), -1.0, np.float32)
    result = solve_channel(rows(Y, Y), 2, RELU, nonlinear=True)
    assert np.isfinite(result.map(Y)).all()
    assert (np.maximum(result.map(Y), 0) < 1e-6).all()


# ---- the channel form


@given(
    d=st.integers(1, 9),
    c=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_composed_channel_kernels_equal_the_map_times_the_kernel(
    d: int, c: int, kernel: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((d, c, *kernel))
    rank = int(rng.integers(1, d + 1))
    solution = LowRankMap(rng.standard_normal((d, rank)), rng.standard_normal((rank, d)), rng.standard_normal(d))
    form = CHANNEL.form(W, (rank,))
    factorization = form.compose(form.chain(solution))
    assert [link.kernel.shape for link in factorization.links] == [(rank, c, *kernel), (d, rank, 1, 1)]
    np.testing.assert_array_equal(factorization.bias, solution.bias)
    expected = np.einsum("od,dchw->ochw", solution.left @ solution.right, W)
    np.testing.assert_allclose(dense(factorization), expected, atol=1e-12 * max(1, np.abs(expected).max()))


def test_weights_alone_give_the_closest_kernel_and_at_full_rank_the_kernel_itself() -> None:
    rng = np.random.default_rng(0)
    W, bias = rng.standard_normal((8, 3, 3, 3)), rng.standard_normal(8)
    full, low = (dense(from_weights(CHANNEL.form(W, (rank,)), W, bias)) for rank in (8, 3))
    np.testing.assert_allclose(full, W, atol=1e-12)
    assert np.square(low - W).sum() == pytest.approx(weight_energies(W)[3:].sum())


def test_responses_are_the_convolution_at_the_patches() -> None:
    rng = np.random.default_rng(1)
    patches, W = rng.standard_normal((7, 3, 2, 4)), rng.standard_normal((5, 3, 2, 4))
    np.testing.assert_allclose(responses(patches, W), np.einsum("nchw,dchw->nd", patches, W), atol=1e-12)


def test_spatial_links_compose_to_an_outer_product() -> None:
    rng = np.random.default_rng(2)
    column, row = rng.standard_normal((4, 3, 3, 1)), rng.standard_normal((5, 4, 1, 2))
    chain = Factorization((Link(column, (True, False)), Link(row, (False, True))), np.zeros(5))
    np.testing.assert_allclose(dense(chain), np.einsum("omx,mcy->ocyx", row[:, :, 0], column[..., 0]), atol=1e-12)


def test_what_won_is_described() -> None:
    solution = LowRankMap(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1))
    assert "symmetric" in Fit(solution, solution, 0.1, None, np.inf, 0).description
    assert Fit(solution, solution, 0.1, 0.05, np.inf, 0, 3).description == "the symmetric solution, refined in 3 epochs"
    assert Fit(solution, solution, 0.1, 0.05, 0.1, 3).description == "nonlinear, 3 iterations, ridge 0.1"
    assert Fit(solution, solution, 0.1, 0.2, 0.1, 0).description == "linear, ridge 0.1"
    refined = Fit(solution, solution, 0.1, 0.05, 0.1, 3, 1.5).description
    assert refined == "nonlinear, 3 iterations, ridge 0.1, refined in 1.5 epochs"
