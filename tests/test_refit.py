"""Fully connected layers behind factorised convolutions: fitted again where held-out samples gain, else untouched."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import HEADS, photo, run_model, weights
from models_for_tests import classifier as network
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank import Result, compress
from onnx_lowrank.factorise.solve.ridge import RIDGES, Ridge, refit
from onnx_lowrank.report.schema import RefittedReport

MODELS = Path(__file__).resolve().parents[1] / "models"
MNIST, CALIBRATION, TEST = (MODELS / f"mnist_{name}" for name in ("vgg.onnx", "calib.npz", "test.npz"))

Array = NDArray[Any]
EPS = float(np.finfo(np.float64).eps)

run = functools.partial(compress, threads=1)
run_toy = functools.partial(run, require="none", width="none")  # random weights hold nothing that a low rank would keep


def problem(n: int, p: int, d: int = 3, error: float = 0.3) -> tuple[Array, Array, Array, Array, Array]:
    """(X, Y, judges, weight, bias): the layer answers Y on Z, and reads X, Z seen through a systematic error."""
    rng = np.random.default_rng(n * p)
    weight, bias = weights(1, d, p), rng.normal(size=d)
    Z = (rng.normal(size=(n, 4)) @ rng.normal(size=(4, p)) + rng.normal(size=p)).astype(np.float32)
    X = Z + error * (Z @ weights(2, p, p) + 0.1 * rng.normal(size=(n, p)) + 1).astype(np.float32)
    return X, (Z @ weight.T + bias).astype(np.float32), np.arange(n) % 5 == 2, weight, bias


SHAPES = pytest.mark.parametrize(("n", "p"), [(60, 8), (40, 200), (30, 30)])


@SHAPES
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-2, 1.0, 100.0])
def test_primal_equals_dual_and_the_normal_equations(n: int, p: int, intercept: bool, ridge: float) -> None:
    X, Y, _, weight, bias = problem(n, p)
    R = Y - X @ weight.T.astype(np.float64) - bias
    primal, dual = (Ridge(X, R, intercept=intercept, dual=dual) for dual in (False, True))
    Xc = X - intercept * X.mean(axis=0, dtype=np.float64)
    gram = Xc.T @ Xc
    tau = ridge * np.trace(gram) / p
    expected = np.linalg.solve(gram + tau * np.eye(p), Xc.T @ (R - intercept * R.mean(axis=0))).T
    condition = np.linalg.norm(gram, 2) / tau + 1
    zero = np.zeros((len(weight), p))
    for solved in (primal, dual):
        change = solved.added_to(zero, ridge)
        np.testing.assert_allclose(change, expected, rtol=0, atol=100 * p * condition * EPS * np.abs(expected).max())
        shift = intercept * (R.mean(axis=0) - change @ X.mean(axis=0, dtype=np.float64))
        size = np.abs(R).max() + np.abs(change).sum(axis=1).max() * np.abs(X).max()
        np.testing.assert_allclose(solved.offset(ridge), shift, rtol=0, atol=100 * p * condition * EPS * size)
        predicted = solved.correction(solved.projected(X), ridge)
        np.testing.assert_allclose(
            predicted, X @ change.T + solved.offset(ridge), rtol=0, atol=100 * p * condition * EPS * size
        )


@SHAPES
def test_an_infinite_ridge_changes_nothing_but_the_bias(n: int, p: int) -> None:
    X, Y, judges, weight, bias = problem(n, p, error=0)
    Y = Y + np.arange(1, 4, dtype=np.float32)
    R = Y - X @ weight.T.astype(np.float64) - bias
    solved = Ridge(X, R, intercept=True)
    np.testing.assert_array_equal(solved.offset(np.inf), R.mean(axis=0))
    np.testing.assert_array_equal(solved.added_to(weight, 1e300), weight)
    fit = refit(X, Y, judges, weight, bias, intercept=True)
    assert fit.bias is not None and fit.error_after < fit.error_before
    np.testing.assert_allclose(fit.bias - bias, [1, 2, 3], atol=1e-4)
    assert RIDGES[0] == np.inf


@SHAPES
@pytest.mark.parametrize("intercept", [True, False])
def test_the_judges_never_lose(n: int, p: int, intercept: bool) -> None:
    X, Y, judges, weight, bias = problem(n, p)
    fit = refit(X, Y, judges, weight, bias, intercept=intercept)
    assert fit.ridge is not None and fit.error_after < fit.error_before
    assert (fit.bias is not None) == intercept
    noise = np.random.default_rng(0).normal(size=Y.shape).astype(np.float32)
    noisy = refit(X, noise, judges, np.zeros_like(weight), np.zeros_like(bias), intercept=intercept)
    assert noisy.error_after <= noisy.error_before
    assert (noisy.ridge is None) == (noisy.error_after == noisy.error_before)


def test_a_layer_without_error_stays_and_so_does_one_that_nobody_judges() -> None:
    X, Y, judges, weight, bias = problem(60, 8, error=0)
    for judging in (judges, np.zeros_like(judges), np.ones_like(judges)):
        fit = refit(X, Y, judging, weight, bias, intercept=True)
        assert fit.weight is None and fit.bias is None and fit.ridge is None
    X, Y, judges, weight, bias = problem(60, 8)
    assert refit(X, Y, ~judges & judges, weight, bias, intercept=True).ridge is None


def test_constant_inputs_and_dead_responses() -> None:
    X, Y = np.full((20, 6), 2, np.float32), np.zeros((20, 3), np.float32)
    fit = refit(X, Y, np.arange(20) % 5 == 2, weights(1, 3, 6), np.zeros(3), intercept=True)
    assert fit.error_after <= fit.error_before
    assert fit.weight is None or np.isfinite(fit.weight).all()


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def error(result: Result, original: onnx.ModelProto, images: Array, x: str, y: str) -> float:
    """Of the class scores, on samples that no run has seen."""
    reference = run_model(original, {x: images})[y]
    return float(np.square(run_model(result.model, {x: images})[y] - reference).sum() / np.square(reference).sum())


@pytest.mark.parametrize("head", HEADS)
def test_every_spelling_gains(head: str) -> None:
    model = network(head)
    data = photo(1, (200, 3, 12, 10))
    refitted, plain = (run_toy(model, data, 3.0, refit=which) for which in (True, False))
    assert [layer.name for layer in refitted.report.refitted] == ["fc", "head"] and not plain.report.refitted
    for layer in refitted.report.refitted:
        assert layer.error_before is not None and layer.error_after is not None
        assert layer.error_after <= layer.error_before
    assert not refitted.report.refitted[0].kept
    unseen = photo(2, (200, 3, 12, 10))
    assert error(refitted, model, unseen, "x", "y") < error(plain, model, unseen, "x", "y")
    assert refitted.report.macs == plain.report.macs
    assert {tensor.name: tensor.dims for tensor in refitted.model.graph.initializer} == {
        tensor.name: tensor.dims for tensor in plain.model.graph.initializer
    }
    assert list(refitted.model.graph.node) == list(plain.model.graph.node)


def wide_network() -> onnx.ModelProto:
    """A head that reads every position of the last feature map: 1,920 features."""
    model = network("transB 1")
    nodes = model.graph.node
    nodes.remove(next(node for node in nodes if node.op_type == "GlobalAveragePool"))
    next(node for node in nodes if node.op_type == "Flatten").input[0] = "r3"
    wide = next(tensor for tensor in model.graph.initializer if tensor.name == "wf")
    wide.CopyFrom(numpy_helper.from_array(weights(5, 12, 16 * 12 * 10), "wf"))
    return model


def test_more_features_than_samples() -> None:
    model = wide_network()
    data, unseen = photo(1, (100, 3, 12, 10)), photo(2, (200, 3, 12, 10))
    refitted, plain = (run_toy(model, data, 5.0, refit=which) for which in (True, False))
    assert not refitted.report.refitted[0].kept
    assert error(refitted, model, unseen, "x", "y") < error(plain, model, unseen, "x", "y")


def test_a_shared_weight_stays_as_it_is() -> None:
    model = network("transB 1")
    model.graph.node.append(helper.make_node("ReduceSum", ["wg"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, ()))
    result = run_toy(model, photo(1, (60, 3, 12, 10)), 3.0)
    assert [layer.name for layer in result.report.refitted] == ["fc"]
    for name in ("wg", "bg"):
        assert stored(result.model)[name].tobytes() == stored(model)[name].tobytes()


@pytest.mark.parametrize("options", [{"symmetric": True}, {"solver": "weights"}, {"refit": False}, {"speedup": 1.0}])
def test_where_nothing_is_refitted_every_bit_of_the_head_stays(options: dict[str, Any]) -> None:
    result = run(str(MNIST), CALIBRATION, preprocess="unit", images=60, **options)
    before, after = stored(onnx.load(str(MNIST))), stored(result.model)
    assert result.report.refitted == ()
    for name in ("head.weight", "head.bias"):
        assert before[name].tobytes() == after[name].tobytes()


def test_names_doc_strings_and_types_survive() -> None:
    model = network("transB 0")
    for tensor in model.graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
    result = run_toy(model, photo(1, (100, 3, 12, 10)), 3.0)
    assert not all(layer.kept for layer in result.report.refitted)
    now = {tensor.name: tensor for tensor in result.model.graph.initializer}
    for name in ("wf", "bf", "wg", "bg"):
        assert now[name].doc_string == f"about {name}" and now[name].data_type == onnx.TensorProto.FLOAT
    assert stored(result.model)["wf"].tobytes() != stored(model)["wf"].tobytes()
    assert [tensor.doc_string for tensor in model.graph.initializer] == [f"about {n}" for n in stored(model)]


def test_a_row_that_is_not_a_samples_is_left_alone() -> None:
    # The mean over the batch: one row, whatever the number of samples. Without a demand a batch would be one sample.
    model = network("transB 1")
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.output[0] = "rows"
    model.graph.node.insert(8, helper.make_node("ReduceMean", ["rows"], ["f"], axes=[0], keepdims=1))
    result = run_toy(model, photo(1, (60, 3, 12, 10)), 3.0, input_shapes="x:4,3,12,10")
    assert result.report.refitted == ()


def test_the_embedded_model_gains() -> None:
    # At lower speedups the convolutions leave nothing that held-out samples would gain.
    with np.load(TEST) as arrays:
        images = arrays["input"]
    model = onnx.load(str(MNIST))
    refitted, plain = (run(str(MNIST), CALIBRATION, 10.0, preprocess="unit", refit=which) for which in (True, False))
    (layer,) = refitted.report.refitted
    assert layer.name == "/head/Gemm" and not layer.kept
    assert layer.error_before is not None and layer.error_after is not None and layer.error_after < layer.error_before
    assert error(refitted, model, images, "input", "logits") < error(plain, model, images, "input", "logits")
    assert refitted.report.macs == plain.report.macs


def test_a_layer_whose_samples_take_too_much_memory_is_left_alone() -> None:
    model, data = wide_network(), photo(1, (100, 3, 12, 10))

    def refitted(memory: int) -> dict[str, RefittedReport]:
        return {layer.name: layer for layer in run_toy(model, data, 5.0, memory=memory).report.refitted}

    small, large = refitted(1 << 20), refitted(64 << 20)
    assert small["fc"].kept and "too much memory (--memory)" in small["fc"].reason and small["fc"].error_before is None
    for layer in (small["head"], large["fc"], large["head"]):
        assert "memory" not in layer.reason and layer.error_before is not None
