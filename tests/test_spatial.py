"""Properties of the forms with a spatial cut."""

from typing import Any

import numpy as np
import pytest
from forms_for_tests import dense, fit, form_at, highest_ranks, judging
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import RELU
from onnx_lowrank.factorise.chain import features
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.spatial import SPATIAL, ColumnMoments, Columns, columns_of
from onnx_lowrank.factorise.forms.three_d import THREE_D
from onnx_lowrank.factorise.moments import FLOOR
from onnx_lowrank.factorise.rows import Rows

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


def column_moments(*batches: Array) -> ColumnMoments:
    moments = ColumnMoments()
    for patches in batches:
        moments.add(patches)
    return moments


@given(kernels)
@settings(max_examples=40, deadline=None)
def test_the_full_cut_is_the_kernel(drawn: tuple[int, int, int, int, int]) -> None:
    W, patches, _ = draw(*drawn)
    for moments in (None, column_moments(patches)):
        columns = Columns.of(W, moments)
        most = len(columns.energies)
        assert most == min(W.shape[1] * W.shape[2], W.shape[3] * W.shape[0])
        assert highest_ranks(SPATIAL, W) == (most,) and highest_ranks(THREE_D, W) == (most, len(W))
        for kind in (SPATIAL, THREE_D):
            chain = from_weights(kind.form(W, highest_ranks(kind, W), columns), W, np.zeros(len(W)))
            np.testing.assert_allclose(dense(chain), W, atol=1e-6 * np.abs(W).max())


@given(kernels)
@settings(max_examples=25, deadline=None)
def test_full_ranks_solved_on_data_reproduce_the_responses(drawn: tuple[int, int, int, int, int]) -> None:
    W, patches, Y = draw(*drawn)
    for kind in (SPATIAL, THREE_D):
        form = form_at(kind, W, highest_ranks(kind, W), patches)
        rows = Rows(form.regressors(form.inputs(patches)), Y, judging(len(Y)))
        best = fit(rows, form.prior, form.rank, RELU, nonlinear=True)
        out = best.map(rows.regressors)
        np.testing.assert_allclose(out, Y, atol=1e-3 * np.abs(Y).max())
        factorization = form.compose(form.chain(best.map))
        composed = np.einsum("nchw,dchw->nd", patches, dense(factorization)) + factorization.bias
        np.testing.assert_allclose(composed, out, atol=1e-4 * np.abs(Y).max())


def test_column_moments_add_up_and_leave_the_patches_alone() -> None:
    _, patches, _ = draw(3, 2, 3, 2, 1)
    before = patches.copy()
    covariance = column_moments(patches[:150], patches[150:]).covariance
    columns = patches.transpose(0, 3, 1, 2).reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(covariance, np.cov(columns.T, bias=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(patches, before)


def test_column_moments_keep_small_variances_beside_large_means() -> None:
    rng = np.random.default_rng(3)
    patches = (rng.standard_normal((2000, 2, 3, 3)) + 2.0**13).astype(np.float32)
    covariance = column_moments(patches[:500], patches[500:]).covariance
    columns = patches.transpose(0, 3, 1, 2).reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(covariance, np.cov(columns.T, bias=True), atol=1e-4)
    W = rng.standard_normal((4, 2, 3, 3))
    assert np.isfinite(Columns.weighted_by(W, covariance).filters).all()


def test_features_are_the_vertical_convolution_of_every_column() -> None:
    rng = np.random.default_rng(0)
    patches, V = rng.standard_normal((5, 3, 4, 2)), rng.standard_normal((6, 3, 4, 1))
    expected = np.einsum("ncyx,scy->nxs", patches, V[..., 0]).reshape(5, -1)
    np.testing.assert_allclose(features(columns_of(patches), V.reshape(6, -1)), expected, atol=1e-12)


def test_jaderbergs_cut_is_the_best_of_the_kernel_and_the_weighted_one_of_the_responses() -> None:
    W, patches, _ = draw(6, 4, 3, 3, 5)
    plain, weighted = Columns.of(W, None), Columns.of(W, column_moments(patches))

    def errors(columns: Columns) -> tuple[float, float]:
        error = dense(from_weights(SPATIAL.form(W, (4,), columns), W, np.zeros(6))) - W
        difference = np.einsum("nchw,dchw->nd", patches, error)
        return float(np.square(error).sum()), float(difference.var(axis=0).sum())

    assert errors(plain)[0] == pytest.approx(plain.energies[4:].sum(), rel=2 * FLOOR)
    assert errors(plain)[0] < errors(weighted)[0]
    assert errors(weighted)[1] < errors(plain)[1]


def test_error_falls_as_either_rank_grows() -> None:
    W, patches, Y = draw(6, 4, 3, 3, 7)

    def error(ranks: tuple[int, int]) -> float:
        form = form_at(THREE_D, W, ranks, patches)
        rows = Rows(form.regressors(form.inputs(patches)), Y, judging(len(Y)))
        return fit(rows, form.prior, form.rank, None, nonlinear=False).error_linear

    assert error((3, 4)) > error((6, 4)) > error((12, 4)) > error((12, 6)) - 1e-9


def test_a_layer_without_inputs_is_cut_without_complaint() -> None:
    W = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    columns = Columns.weighted_by(W, np.zeros((6, 6)))
    assert np.isfinite(columns.filters).all() and np.isfinite(columns.horizontal).all()
