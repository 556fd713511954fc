"""Normalising: the network computes the same, with constant weights at its convolutions and fewer norms."""

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from models_for_tests import build, conv, norm, photo, plain, run_model, weights
from odd_models_for_tests import ALL, scattered_weights, shared_weights
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    loaded = load(model)
    result = export(normalise(loaded.proto), loaded)
    validate(result, model)
    return result


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", ALL)
def test_outputs_stay(name: str) -> None:
    model = ALL[name]()
    result = run_model(normalised(model), {"x": photo()})
    for output, values in run_model(model, {"x": photo()}).items():
        np.testing.assert_allclose(result[output], values, rtol=1e-4, atol=2e-5)


def test_norms_are_folded_and_their_outputs_keep_their_names() -> None:
    result = normalised(plain())
    assert operators(result) == ["Conv", "Relu", "Conv", "Relu", "MaxPool", "Conv"]
    assert [node.output[0] for node in result.graph.node if node.op_type == "Conv"] == ["n1", "n2", "y"]
    assert {tensor.name for tensor in result.graph.initializer} == {
        f"w{i}{end}/folded" for i in (2, 3) for end in ("", "/bias")
    } | {"w1/folded", "b1/folded"}


def test_the_fold_is_exact_to_the_last_bit_of_float32() -> None:
    model = plain()
    stored = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    gain = stored["bn1_scale"] / np.sqrt(stored["bn1_var"] + np.float64(np.float32(1e-3)))
    folded = {tensor.name: numpy_helper.to_array(tensor) for tensor in normalised(model).graph.initializer}
    np.testing.assert_array_equal(folded["w1/folded"], (stored["w1"] * gain[:, None, None, None]).astype(np.float32))
    bias = (stored["b1"] - stored["bn1_mean"]) * gain + stored["bn1_shift"]
    np.testing.assert_array_equal(folded["b1/folded"], bias.astype(np.float32))


def test_weights_are_lifted_and_only_their_makers_go() -> None:
    network = normalise(scattered_weights())
    assert [node.op for node in network.nodes] == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    for node in network.nodes[::2]:
        assert all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])


def test_a_weight_of_several_readers_is_not_multiplied_for_one_of_them() -> None:
    result = normalised(shared_weights())
    assert [tensor.name for tensor in result.graph.initializer if tensor.name.startswith("w")] == ["w"]
    assert operators(result).count("BatchNormalization") == 2


def test_a_maker_with_another_reader_stays() -> None:
    model = scattered_weights()
    model.graph.node.append(helper.make_node("ReduceSum", ["w2"], ["z"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, []))
    result = normalised(model)
    assert operators(result).count("Identity") == 1
    assert "wi" in {tensor.name for tensor in result.graph.initializer}


def test_an_initializer_that_is_an_input_too_counts_as_constant() -> None:
    model = plain()
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 3, 3, 3]))
    assert isinstance(normalise(model).nodes[0].inputs[1], gs.Constant)


def two_readers() -> tuple[list[Any], dict[str, Any], list[str]]:
    node, stored = norm("c", "n", "bn", 4, 1)
    add = helper.make_node("Add", ["n", "c"], ["y"])
    return [conv("conv", "x", "w", "c"), node, add], stored, ["y"]


def graph_output() -> tuple[list[Any], dict[str, Any], list[str]]:
    node, stored = norm("c", "y", "bn", 4, 1)
    return [conv("conv", "x", "w", "c"), node], stored, ["y", "c"]


def computed_statistics() -> tuple[list[Any], dict[str, Any], list[str]]:
    node, stored = norm("c", "y", "bn", 4, 1)
    del stored["bn_mean"]
    mean = helper.make_node("ReduceMean", ["c"], ["bn_mean"], axes=[0, 2, 3], keepdims=0)
    return [conv("conv", "x", "w", "c"), mean, node], stored, ["y"]


def training() -> tuple[list[Any], dict[str, Any], list[str]]:
    node, stored = norm("c", "y", "bn", 4, 1)
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["mean_now", "var_now"])
    return [conv("conv", "x", "w", "c"), node], stored, ["y"]


def computed_weight() -> tuple[list[Any], dict[str, Any], list[str]]:
    node, stored = norm("c", "y", "bn", 4, 1)
    scale = helper.make_node("ReduceMax", ["x"], ["m"], keepdims=1)
    return [scale, helper.make_node("Mul", ["w", "m"], ["wm"]), conv("conv", "x", "wm", "c"), node], stored, ["y"]


@pytest.mark.parametrize("case", [two_readers, graph_output, computed_statistics, training, computed_weight])
def test_norms_that_cannot_be_folded_stay(case: Any) -> None:
    nodes, stored, outputs = case()
    model = build(nodes, stored | {"w": weights(1, 4, 3, 3, 3)}, outputs)
    result = normalised(model)
    assert operators(result) == operators(model)
    expected = run_model(model, {"x": photo()})
    for output, values in run_model(result, {"x": photo()}).items():
        np.testing.assert_allclose(values, expected[output], rtol=1e-5, atol=1e-5)


def test_a_fold_that_would_overflow_its_type_is_left_out() -> None:
    node, stored = norm("c", "n", "bn", 4, 1)
    stored["bn_scale"] = np.full(4, 1e38, np.float32)
    stored["bn_var"] = np.full(4, 1e-10, np.float32)
    stored["w"] = weights(1, 4, 3, 3, 3)
    model = build([conv("conv", "x", "w", "c"), node, helper.make_node("Tanh", ["n"], ["y"])], stored)
    assert operators(normalised(model)) == ["Conv", "BatchNormalization", "Tanh"]


def test_norm_constants_may_hide_behind_identity() -> None:
    node, stored = norm("c", "y", "bn", 4, 1)
    node.input[1] = "hidden"
    hidden = helper.make_node("Identity", ["bn_scale"], ["hidden"])
    model = build([conv("conv", "x", "w", "c"), hidden, node], stored | {"w": weights(1, 4, 3, 3, 3)})
    assert operators(normalised(model)) == ["Conv"]


def test_weights_that_constants_make_are_lifted() -> None:
    stored = {
        "shape": np.array([8, 3, 3, 3], np.int64), "last": weights(1, 3, 3, 8, 4), "gain": np.array(0.5, np.float32),
        "flat": weights(2, 4 * 4 * 9), "to": np.array([4, 4, 3, 3], np.int64), "zeros": np.array([4], np.int64),
    }  # fmt: skip
    value = numpy_helper.from_array(np.array([0.25], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w1"], value=value),
        helper.make_node("Transpose", ["last"], ["w2"], perm=[3, 2, 0, 1]),
        helper.make_node("Mul", ["flat", "gain"], ["halved"]), helper.make_node("Reshape", ["halved", "to"], ["w3"]),
        helper.make_node("ConstantOfShape", ["zeros"], ["b3"]),
        conv("made", "x", "w1", "c1"), conv("turned", "c1", "w2", "c2"), conv("shaped", "c2", "w3", "y", "b3"),
    ]  # fmt: skip
    model = build(nodes, stored)
    result = normalised(model)
    assert operators(result) == ["Conv"] * 3
    assert [len(node.input) for node in result.graph.node] == [2, 2, 3]
    found, expected = (run_model(one, {"x": photo()})["y"] for one in (result, model))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_depend_on_chance_or_cannot_be_computed_stay() -> None:
    nodes = [
        helper.make_node("RandomNormal", [], ["w1"], shape=[4, 3, 3, 3], seed=1.0),
        helper.make_node("Unknown", ["k"], ["w2"], domain="elsewhere"),
        conv("random", "x", "w1", "c1"), conv("foreign", "c1", "w2", "y"),
    ]  # fmt: skip
    network = normalise(build(nodes, {"k": weights(1, 4, 4, 3, 3)}))
    assert not any(isinstance(node.inputs[1], gs.Constant) for node in network.nodes if node.op == "Conv")


CHANNELS = np.array([0.5, -2.0, 3.0, 1.5], np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("text", ["Add c k", "Add k c", "Sub c k", "Sub k c", "Mul c k", "Mul k c", "Div c k"])
def test_what_scales_or_shifts_channels_is_folded(text: str, shape: tuple[int, ...]) -> None:
    operator, *names = text.split()
    k = CHANNELS.reshape(shape) if 4 in shape else CHANNELS[:1].reshape(shape)
    last = helper.make_node("Relu", ["d"], ["y"])
    nodes = [conv("conv", "x", "w", "c"), helper.make_node(operator, names, ["d"]), last]
    model = build(nodes, {"w": weights(1, 4, 3, 3, 3), "k": k})
    result = normalised(model)
    assert operators(result) == ["Conv", "Relu"]
    found, expected = (run_model(one, {"x": photo()})["y"] for one in (result, model))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_several_in_a_row_are_folded_together_with_a_norm() -> None:
    bn, constants = norm("c1", "n", "bn", 4, 3)
    nodes = [conv("conv", "x", "w", "c"), helper.make_node("Mul", ["c", "k"], ["c1"]), bn]
    nodes.append(helper.make_node("Add", ["n", "k"], ["y"]))
    model = build(nodes, constants | {"w": weights(1, 4, 3, 3, 3), "k": CHANNELS.reshape(4, 1, 1)})
    result = normalised(model)
    assert operators(result) == ["Conv"] and result.graph.node[0].output[0] == "y"
    found, expected = (run_model(one, {"x": photo()})["y"] for one in (result, model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


NOT_FOLDED = {
    "it differs from place to place": ([("Mul", "c k", "y")], np.linspace(1, 2, 10, dtype=np.float32)),
    "it makes the response larger": ([("Add", "c k", "y")], CHANNELS.reshape(1, 1, 4, 1, 1)),
    "the response is the divisor": ([("Div", "k c", "y")], CHANNELS[:1]),
    "the response has another reader": ([("Mul", "c k", "m"), ("Add", "c m", "y")], CHANNELS[:1]),
    "it is the response itself": ([("Mul", "c c", "y")], CHANNELS[:1]),
    "the kernel would be infinite": ([("Mul", "c k", "y")], np.array([3e38], np.float32)),
    "it would divide by nothing": ([("Div", "c k", "y")], np.zeros(1, np.float32)),
}


@pytest.mark.parametrize("why", NOT_FOLDED)
def test_what_stays_behind_a_convolution(why: str) -> None:
    chain, k = NOT_FOLDED[why]
    nodes = [helper.make_node(operator, names.split(), [made]) for operator, names, made in chain]
    stored = {"w": 10 * weights(1, 4, 3, 3, 3), "k": k}
    shape = (None,) * max(4, k.ndim)
    network = normalise(build([conv("conv", "x", "w", "c"), *nodes], stored, output_shape=shape))
    assert [node.op for node in network.nodes] == ["Conv", *(operator for operator, _, _ in chain)]
    assert len(network.nodes[0].inputs) == 2


def test_weights_that_come_out_of_a_quantisation_stay_quantised() -> None:
    stored: dict[str, Any] = {
        "q": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3),
        "scale": np.array(0.02, np.float32),
    }
    nodes = [helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]), conv("conv", "x", "w", "y")]
    assert [node.op for node in normalise(build(nodes, stored)).nodes] == ["DequantizeLinear", "Conv"]


def test_a_bias_that_is_a_signalling_nan_is_not_folded_and_warns_of_nothing() -> None:
    nan = np.array([0x7FA00000] * 4, np.uint32).view(np.float32)
    nodes = [conv("conv", "x", "w", "c", "b"), helper.make_node("Add", ["c", "k"], ["y"])]
    model = build(nodes, {"w": weights(1, 4, 3, 3, 3), "b": nan, "k": CHANNELS.reshape(4, 1, 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [node.op for node in normalise(model).nodes] == ["Conv", "Add"]
