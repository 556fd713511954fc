"""Fully connected layers with ``include_gemm``: two products in place of one, planned and solved like convolutions."""

import itertools
import json
import math
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import HEADS, IR, OPSET, classifier, photo, run_model, weights
from numpy.typing import NDArray
from odd_models_for_tests import with_function, with_if
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import Result, compress
from onnx_lowrank.errors import ModelError
from onnx_lowrank.factorise.energy import held_out_spectrum, log_shares
from onnx_lowrank.factorise.moments import Moments
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]


def run(model: onnx.ModelProto, data: Array, speedup: float = 4.0, **options: Any) -> Result:
    """Compress a toy, whose random weights hold nothing that a low rank would keep: any result will do."""
    return compress(model, data, speedup, threads=1, include_gemm=True, require="none", **options)


def plan(**ranks: int) -> Plan:
    sites = [{"name": name, "form": "channel", "ranks": [rank]} for name, rank in ranks.items()]
    return Plan.from_json(json.dumps({"schema": 1, "sites": sites}))


def relative_error(result: Result, model: onnx.ModelProto, samples: Array, x: str = "x", y: str = "y") -> float:
    expected, outputs = (run_model(one, {x: samples})[y].astype(np.float64) for one in (model, result.model))
    return float(np.square(outputs - expected).sum() / np.square(expected).sum())


def perceptron(sizes: tuple[int, ...] = (60, 48, 40, 10), *, opset: int = OPSET, dtype: Any = np.float32) -> Any:
    """Flatten, then MatMul, Add, Relu for every layer but the last, a Gemm; inputs of a falling spectrum suit it."""
    stored: dict[str, Array] = {}
    nodes, read = [helper.make_node("Flatten", ["x"], ["f"])], "f"
    for i, (p, d) in enumerate(itertools.pairwise(sizes)):
        stored |= {f"w{i}": weights(i, d, p).T.astype(dtype), f"b{i}": (0.1 * weights(50 + i, d)).astype(dtype)}
        if i == len(sizes) - 2:
            nodes.append(helper.make_node("Gemm", [read, f"w{i}", f"b{i}"], ["y"], "last"))
        else:
            nodes.append(helper.make_node("MatMul", [read, f"w{i}"], [f"m{i}"], f"fc{i}"))
            nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]))
            nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"]))
            read = f"r{i}"
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", number, ["N", 4, sizes[0] // 4])],
        [helper.make_tensor_value_info("y", number, ["N", sizes[-1]])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR)
    onnx.checker.check_model(model)
    return model


def samples(seed: int, count: int, size: int = 60) -> Array:
    """Rows of a falling spectrum, as features are."""
    mixing = np.random.default_rng(0).standard_normal((size, size)) * 0.7 ** np.arange(size)
    rows = np.random.default_rng(seed).standard_normal((count, size)) @ mixing.T
    return rows.astype(np.float32).reshape(count, 4, -1)


def products(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Add")]


# ---- what is written


CHAINS = {
    "transB 1": ["MatMul", "Gemm"] * 2,
    "transB 0": ["MatMul", "Gemm"] * 2,
    "MatMul and Add": ["MatMul", "MatMul", "Add"] * 2,
    "MatMul": ["MatMul", "Gemm"] * 2,  # a bias that makes the means right is worth a Gemm
}


@pytest.mark.parametrize("head", HEADS)
def test_at_full_rank_every_spelling_reproduces(head: str) -> None:
    model = classifier(head)
    result = run(model, photo(1, (60, 3, 12, 10)), plan=plan(fc=12, head=5))
    assert products(result.model) == CHAINS[head]
    assert relative_error(result, model, photo(2, (20, 3, 12, 10))) < 1e-9
    assert result.model.graph.input == model.graph.input and result.model.graph.output == model.graph.output
    blind = run(model, photo(1, (10, 3, 12, 10)), plan=plan(fc=12, head=5), solver="weights")
    assert relative_error(blind, model, photo(2, (20, 3, 12, 10))) < 1e-9
    assert products(blind.model) == (["MatMul"] * 4 if head == "MatMul" else CHAINS[head])


def test_weights_in_constant_nodes_are_found() -> None:
    model = classifier("MatMul and Add")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("wf", "bf"):
        model.graph.initializer.remove(tensors[name])
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensors[name]))
    result = run(model, photo(1, (60, 3, 12, 10)), plan=plan(fc=12))
    assert products(result.model) == ["MatMul", "MatMul", "Add", "MatMul", "Add"]
    assert next(site for site in result.report.sites if site.name == "fc").activation == "Relu"
    assert relative_error(result, model, photo(2, (20, 3, 12, 10))) < 1e-9


@pytest.mark.parametrize(("opset", "dtype"), [(7, np.float32), (9, np.float32), (17, np.float16), (17, np.float64)])
def test_old_opsets_and_other_types(opset: int, dtype: Any) -> None:
    model = perceptron(opset=opset, dtype=dtype)
    data, unseen = samples(1, 100).astype(dtype), samples(2, 50).astype(dtype)
    result = run(model, data, 2.0)
    assert relative_error(result, model, unseen) < relative_error(
        run(model, data, 2.0, solver="weights"), model, unseen
    )
    types = {tensor.data_type for tensor in result.model.graph.initializer}
    assert types == {model.graph.input[0].type.tensor_type.elem_type}


# ---- how much, and how well


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"solver": "linear"}, {"solver": "weights"}])
def test_the_speedup_counts_convolutions_and_fully_connected_layers(options: dict[str, Any]) -> None:
    model = classifier("transB 1")
    flatten = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    flatten.CopyFrom(helper.make_node("AveragePool", ["r3"], ["g"], kernel_shape=[3, 2], strides=[3, 2]))
    wide = next(tensor for tensor in model.graph.initializer if tensor.name == "wf")
    wide.CopyFrom(numpy_helper.from_array(weights(5, 12, 16 * 4 * 5), "wf"))
    result = run(model, photo(1, (60, 3, 12, 10)), 2.0, **options)
    macs = result.report.macs
    assert macs.gemm_before == 12 * 16 * 4 * 5 + 5 * 12
    assert macs.conv_before == 120 * 9 * (3 * 8 + 8 * 12 + 12 * 16)
    stored = {tensor.name: math.prod(tensor.dims) for tensor in result.model.graph.initializer}
    after = [stored[node.input[1]] for node in result.model.graph.node if node.op_type in ("Gemm", "MatMul")]
    assert macs.gemm_after == sum(after)
    reached = (macs.conv_before + macs.gemm_before) / (macs.conv_after + macs.gemm_after)
    assert result.report.speedup.macs == pytest.approx(reached) and 2.0 <= reached <= 2.05
    assert macs.before - macs.after == macs.conv_before + macs.gemm_before - macs.conv_after - macs.gemm_after
    kernels = {site.name: (site.kernel, site.channels) for site in result.report.sites}
    assert kernels["fc"] == ((), (320, 12)) and kernels["conv2"] == ((3, 3), (8, 12))


PAPER: dict[str, Any] = {"rank_multiple": 1, "objective": "energies", "width": "none"}
"""The plan of the paper, which is the same for all solvers."""


@pytest.mark.parametrize("count", [12, 60])
def test_data_tell_more_than_weights_however_few_they_are(count: int) -> None:
    """Twelve rows of 48 responses know nothing of most directions; of these the weights tell."""
    model, data, unseen = perceptron(), samples(1, count), samples(2, 300)
    errors = {
        solver: relative_error(run(model, data, 3.0, solver=solver, **PAPER), model, unseen)
        for solver in ("nonlinear", "linear", "weights")
    }
    assert errors["nonlinear"] < errors["weights"]
    assert errors["nonlinear"] < 1.05 * errors["linear"]
    full = run(model, data, plan=plan(fc0=48, fc1=40, last=10))
    assert relative_error(full, model, unseen) < 1e-9


def test_held_out_energies_are_not_those_of_the_samples() -> None:
    rng = np.random.default_rng(3)
    W = rng.standard_normal((20, 30))
    Y = (rng.standard_normal((16, 30)) @ W.T).astype(np.float32)
    held = log_shares(held_out_spectrum(Y, W @ W.T))
    assert held.shape == (20,) and (np.diff(held) >= 0).all() and held[-1] == pytest.approx(0)
    # Eight samples span seven directions about their mean, and the other eight lie in them by chance alone.
    assert held[7] < np.log(0.9)
    np.testing.assert_allclose(held_out_spectrum(Y[:1], W @ W.T), np.linalg.eigvalsh(W @ W.T)[::-1])
    dead = log_shares(held_out_spectrum(np.zeros((9, 20), np.float32), W @ W.T))
    assert (dead == 0).all()


def test_weights_count_as_some_more_samples() -> None:
    rng = np.random.default_rng(4)
    Y = rng.standard_normal((40, 6)).astype(np.float32)
    gram = np.diag(np.arange(1.0, 7))
    bare = Moments.of(Y, Y)
    moments = bare.with_weights(gram)
    assert np.trace(moments.yy) == pytest.approx(np.trace(bare.yy) * (1 + 20 / 40))
    for whole, part in ((moments.xx, bare.xx), (moments.yx, bare.yx), (moments.yy, bare.yy)):
        np.testing.assert_allclose(whole - part, moments.unseen, atol=1e-9)
    np.testing.assert_allclose((moments + bare).yy, moments.yy + bare.yy, rtol=1e-6)
    np.testing.assert_array_equal((moments + bare).unseen, moments.unseen)


# ---- beside the refit


def test_a_layer_is_factorised_or_refitted_but_not_both() -> None:
    model = classifier("transB 1")
    both = plan(conv2=4, fc=6)
    result = run(model, photo(1, (100, 3, 12, 10)), plan=both)
    assert [layer.name for layer in result.report.refitted] == ["head"]
    assert {site.name: site.kept for site in result.report.sites}["fc"] is False
    bare = compress(model, photo(1, (100, 3, 12, 10)), threads=1, plan=plan(conv2=4))
    assert [layer.name for layer in bare.report.refitted] == ["fc", "head"]
    assert (bare.report.macs.gemm_before, bare.report.macs.gemm_after) == (0, 0)
    assert {site.name for site in bare.report.sites} == {"conv2", "conv3"}


def test_a_plan_is_saved_and_replayed() -> None:
    model, data = perceptron(), samples(1, 50)
    planned = plan_only(Request(model, data, options=Options(2.0, include_gemm=True, threads=1)))
    result = run(model, data, plan=Plan.from_json(planned.plan.to_json()))
    assert [(s.name, s.form, s.ranks) for s in result.report.sites] == [
        (s.name, s.form, s.ranks) for s in planned.sites
    ]
    assert result.report.macs == planned.macs and planned.speedup.macs >= 2


# ---- what is left alone


def reasons(model: onnx.ModelProto, **patterns: Any) -> dict[str, str]:
    return {skip.name: skip.reason for skip in find_sites(normalise(model, gemm=True), gemm=True, **patterns).skipped}


def test_each_layer_is_a_site_or_has_its_reason() -> None:
    model = classifier("transB 1")
    found = find_sites(normalise(model, gemm=True), gemm=True)
    sites, skips = found.sites, found.skipped
    assert [site.name for site in sites] == ["conv2", "conv3", "fc", "head"]
    assert [skip.name for skip in skips] == ["conv1"]
    fc = sites[2]
    assert (fc.kernel.shape, fc.strides, fc.pads, fc.target) == ((12, 16), (), (), "h")
    assert fc.activation is not None and fc.activation.name == "Relu"
    assert reasons(model, exclude="fc")["fc"] == "excluded by --exclude"
    assert reasons(model, include="conv")["head"] == "not named by --include"
    assert "fc" not in {skip.name for skip in find_sites(normalise(model)).skipped}

    def changed(edit: Any) -> str:
        other = classifier("transB 1")
        node = next(node for node in other.graph.node if node.name == "head")
        edit(other.graph, node)
        return reasons(other)["head"]

    assert changed(lambda g, node: node.input.__setitem__(1, "h")) == "weights are not constant"
    assert changed(lambda g, node: node.input.__setitem__(2, "h")) == "bias is not constant"
    product = "alpha, beta, transA, or a bias that is no vector"
    assert changed(lambda g, node: node.attribute.append(helper.make_attribute("alpha", 2.0))) == product
    quantised = [helper.make_node("DequantizeLinear", ["wq", "scale"], ["wd"])]

    def quantise(graph: Any, node: Any) -> None:
        graph.initializer.append(numpy_helper.from_array(np.ones((5, 12), np.int8), "wq"))
        graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
        graph.node.insert(0, quantised[0])
        node.input[1] = "wd"

    assert changed(quantise) == "weights are quantised: compress before quantising"


def test_a_product_of_two_activations_is_no_layer_and_one_in_a_body_is_named() -> None:
    assert not any("MatMul" in reason for reason in reasons(with_if()).values())
    model = with_function()
    model.functions[0].node.append(helper.make_node("Gemm", ["t", "t"], ["unused"], "in_there"))
    assert reasons(model)["in_there"] == "inside the function 'Block'"


def test_a_layer_that_reads_more_than_a_row_of_every_sample_is_skipped() -> None:
    stored = {"w0": weights(0, 8, 6).T, "w1": weights(1, 30, 32).T}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["tokens"], "tokens"), helper.make_node("Flatten", ["tokens"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["y"], "rows"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 30])],
        [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    result = run(model, photo(1, (40, 4, 6)), 1.5)
    assert {skip.name: skip.reason for skip in result.report.skipped} == {
        "tokens": "it does not read one row of every sample"
    }
    assert [site.name for site in result.report.sites] == ["rows"]
    assert result.report.macs.gemm_before == 4 * 6 * 8 + 32 * 30


def test_too_little_memory_is_said() -> None:
    with pytest.raises(ModelError, match=r"nothing to factorise: .*too much memory \(--memory\)"):
        run(perceptron((60, 120, 110)), samples(1, 10), 1.5, memory=1 << 20)
