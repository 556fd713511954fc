"""Properties of the forms with a spatial cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import RELU
from onnx_lowrank.factorise.chain import features
from onnx_lowrank.factorise.forms import spatial
from onnx_lowrank.factorise.forms.form import Cuts, from_weights, make_form
from onnx_lowrank.factorise.moments import FLOOR
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.alternation import fit

Array = NDArray[Any]

kernels = st.tuples(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99)
)  # d, c, k, l, seed


def draw(d: int, c: int, k: int, width: int, seed: int) -> tuple[Array, Array, Array]:
    """A kernel, correlated patches of it, and its responses with a bias."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((d, c, k, width))
    mixing = rng.standard_normal((c * k * width, c * k * width)) * 0.8 ** np.arange(c * k * width)
    patches = (rng.standard_normal((400, c * k * width)) @ mixing.T + 0.3).reshape(400, c, k, width).astype(np.float32)
    return W, patches, np.einsum("nchw,dchw->nd", patches, W).astype(np.float32) + np.float32(0.5)


@given(kernels)
@settings(max_examples=40, deadline=None)
def test_the_full_cut_is_the_kernel(drawn: tuple[int, int, int, int, int]) -> None:
    W, patches, _ = draw(*drawn)
    for covariance in (None, spatial.ColumnMoments(patches).covariance):
        columns = spatial.cut(W, covariance)
        most = len(columns.energies)
        assert most == min(W.shape[1] * W.shape[2], W.shape[3] * W.shape[0])
        for name, ranks in (("spatial", (most,)), ("3d", (most, len(W)))):
            form = make_form(name, W, ranks, Cuts(columns))
            dense = from_weights(form, W, np.zeros(len(W))).dense()
            np.testing.assert_allclose(dense, W, atol=1e-6 * np.abs(W).max())


@given(kernels)
@settings(max_examples=25, deadline=None)
def test_full_ranks_solved_on_data_reproduce_the_responses(drawn: tuple[int, int, int, int, int]) -> None:
    W, patches, Y = draw(*drawn)
    columns = spatial.cut(W, spatial.ColumnMoments(patches).covariance)
    most = len(columns.energies)
    for name, ranks in (("spatial", (most,)), ("3d", (most, len(W)))):
        form = make_form(name, W, ranks, Cuts(columns))
        rows = Rows(form.regressors(form.inputs(patches)), Y, np.arange(len(Y)) % 5 == 2)
        best = fit(rows, form.prior, form.rank, RELU, nonlinear=True)
        out = best.map(rows.regressors)
        np.testing.assert_allclose(out, Y, atol=1e-3 * np.abs(Y).max())
        factorization = form.compose(form.chain(best.map))
        composed = np.einsum("nchw,dchw->nd", patches, factorization.dense()) + factorization.bias
        np.testing.assert_allclose(composed, out, atol=1e-4 * np.abs(Y).max())


def test_column_moments_add_up_and_leave_the_patches_alone() -> None:
    _, patches, _ = draw(3, 2, 3, 2, 1)
    before = patches.copy()
    covariance = spatial.ColumnMoments(patches[:150], patches[150:]).covariance
    columns = patches.transpose(0, 3, 1, 2).reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(covariance, np.cov(columns.T, bias=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(patches, before)


def test_column_moments_keep_small_variances_beside_large_means() -> None:
    rng = np.random.default_rng(3)
    patches = (rng.standard_normal((2000, 2, 3, 3)) + 2.0**13).astype(np.float32)
    covariance = spatial.ColumnMoments(patches[:500], patches[500:]).covariance
    columns = patches.transpose(0, 3, 1, 2).reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(covariance, np.cov(columns.T, bias=True), atol=1e-4)
    W = rng.standard_normal((4, 2, 3, 3))
    assert np.isfinite(spatial.cut(W, covariance).filters).all()


def test_features_are_the_vertical_convolution_of_every_column() -> None:
    rng = np.random.default_rng(0)
    patches, V = rng.standard_normal((5, 3, 4, 2)), rng.standard_normal((6, 3, 4, 1))
    expected = np.einsum("ncyx,scy->nxs", patches, V[..., 0]).reshape(5, -1)
    np.testing.assert_allclose(features(spatial.columns_of(patches), V.reshape(6, -1)), expected, atol=1e-12)


def test_jaderbergs_cut_is_the_best_of_the_kernel_and_the_weighted_one_of_the_responses() -> None:
    W, patches, _ = draw(6, 4, 3, 3, 5)
    plain, weighted = spatial.cut(W, None), spatial.cut(W, spatial.ColumnMoments(patches).covariance)

    def errors(columns: spatial.Columns) -> tuple[float, float]:
        dense = from_weights(make_form("spatial", W, (4,), Cuts(columns)), W, np.zeros(6)).dense()
        difference = np.einsum("nchw,dchw->nd", patches, dense - W)
        return float(np.square(dense - W).sum()), float(difference.var(axis=0).sum())

    assert errors(plain)[0] == pytest.approx(plain.energies[4:].sum(), rel=2 * FLOOR)
    assert errors(plain)[0] < errors(weighted)[0]
    assert errors(weighted)[1] < errors(plain)[1]


def test_error_falls_as_either_rank_grows() -> None:
    W, patches, Y = draw(6, 4, 3, 3, 7)
    columns = spatial.cut(W, spatial.ColumnMoments(patches).covariance)
    judges = np.arange(len(Y)) % 5 == 2

    def error(ranks: tuple[int, int]) -> float:
        form = make_form("3d", W, ranks, Cuts(columns))
        best = fit(Rows(form.regressors(form.inputs(patches)), Y, judges), form.prior, form.rank, None, nonlinear=False)
        return best.error_linear

    assert error((3, 4)) > error((6, 4)) > error((12, 4)) > error((12, 6)) - 1e-9


def test_a_layer_without_inputs_is_cut_without_complaint() -> None:
    W = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    columns = spatial.cut(W, np.zeros((6, 6)))
    assert np.isfinite(columns.filters).all() and np.isfinite(columns.horizontal).all()
