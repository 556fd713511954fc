"""Fully connected layers: every spelling has one description, one name, and weights that can be replaced in place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import HEADS, classifier
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.reweight import replace_weights
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.dense import DenseLayer, refittable
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import BFLOAT16, FLOATS


def stored(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def dense_layers(network: Network, *sources: str) -> dict[str, DenseLayer]:
    """Those that can be fitted again where some tensors have changed, by name."""
    return {layer.name: layer for layer in refittable(network, find_sites(network).dense, sources)}


@pytest.mark.parametrize("head", HEADS)
def test_every_spelling_is_found(head: str) -> None:
    model = classifier(head)
    found = dense_layers(normalise(model), "c2")
    arrays = stored(model)
    assert list(found) == ["fc", "head"]
    for layer, w, b in ((found["fc"], "wf", "bf"), (found["head"], "wg", "bg")):
        np.testing.assert_array_equal(layer.weight, arrays[w] if head == "transB 1" else arrays[w].T)
        np.testing.assert_array_equal(layer.bias, arrays.get(b, np.zeros(len(layer.weight))))
        assert layer.intercept == (head != "MatMul")
    assert (found["fc"].target, found["head"].target) == ("h", "y")
    assert not dense_layers(normalise(model))


@pytest.mark.parametrize("gemm", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_a_layer_has_one_name_and_no_two_layers_share_one(head: str, gemm: bool) -> None:
    model = classifier(head)
    for node in model.graph.node:
        if node.name in ("conv2", "fc"):
            node.name = "twin"
    found = find_sites(normalise(model, gemm=gemm), include="", gemm=gemm)
    dense = {layer.output: layer.name for layer in found.dense}
    assert {site.output: site.name for site in found.sites if site.kernel.ndim == 2} == (dense if gemm else {})
    names = {site.output: site.name for site in found.sites} | dense
    assert len(set(names.values())) == len(names) == 5
    assert "head" in dense.values() and "twin" not in dense.values()


def edited(edit: Callable[[Any], object], head: str = "transB 1") -> dict[str, DenseLayer]:
    model = classifier(head)
    edit(model.graph)
    return dense_layers(normalise(model), "c2")


def attribute(node: Any, name: str, value: Any) -> None:
    node.attribute.append(helper.make_attribute(name, value))


def node_of(graph: Any, name: str) -> Any:
    return next(node for node in graph.node if node.name == name)


LEFT_ALONE: dict[str, Callable[[Any], object]] = {
    "a weight that another node reads": lambda g: g.node.append(helper.make_node("Identity", ["wg"], ["copy"])),
    "a weight that is an output": lambda g: g.output.append(
        helper.make_tensor_value_info("wg", onnx.TensorProto.FLOAT, (5, 12))
    ),
    "alpha": lambda g: attribute(node_of(g, "head"), "alpha", 2.0),
    "beta": lambda g: attribute(node_of(g, "head"), "beta", 0.5),
    "transA": lambda g: attribute(node_of(g, "head"), "transA", 1),
    "a bias that varies": lambda g: node_of(g, "head").input.__setitem__(2, "h"),
    "another domain": lambda g: setattr(node_of(g, "head"), "domain", "other"),
    "no weight that is constant": lambda g: node_of(g, "head").input.__setitem__(1, "h"),
}


@pytest.mark.parametrize("edit", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_left_alone(edit: Callable[[Any], object]) -> None:
    assert list(edited(edit)) == ["fc"]


def test_a_weight_that_is_not_finite_is_left_alone() -> None:
    def spoil(graph: Any) -> None:
        weight = next(tensor for tensor in graph.initializer if tensor.name == "wg")
        values = numpy_helper.to_array(weight).copy()
        values[3, 2] = np.inf
        weight.CopyFrom(numpy_helper.from_array(values, "wg"))

    assert list(edited(spoil)) == ["fc"]


def test_a_layer_that_shares_its_weight_is_described_without_owning_it() -> None:
    model = classifier("transB 1")
    model.graph.node.append(helper.make_node("Identity", ["wg"], ["copy"]))
    fc, head = find_sites(normalise(model)).dense
    assert (fc.name, fc.owns_weight) == ("fc", True)
    assert (head.name, head.owns_weight, head.shape) == ("head", False, (5, 12))


@pytest.mark.parametrize("head", ["transB 1", "MatMul and Add"])
def test_a_bias_that_another_node_reads_stays(head: str) -> None:
    found = edited(lambda g: g.node.append(helper.make_node("Identity", ["bg"], ["copy"])), head)["head"]
    assert not found.intercept
    assert found.target == ("y" if head == "transB 1" else "y_product")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("element", [np.dtype(np.float16), np.dtype(np.float64), BFLOAT16], ids=str)
def test_weights_are_written_in_the_models_type(head: str, element: np.dtype[Any]) -> None:
    model = classifier(head)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(element)
        made = helper.make_tensor(tensor.name, FLOATS[element], values.shape, values.tobytes(), raw=True)
        tensor.CopyFrom(made)
    loaded = load(model)
    network = normalise(loaded.proto)
    for layer in dense_layers(network, "c2").values():
        too_large = np.full(layer.weight.shape, 1e300)
        fits = replace_weights(network, layer, too_large, None)
        assert fits == (element == np.float64)
        bias = layer.bias + 1 if layer.intercept else None
        assert replace_weights(network, layer, layer.weight.astype(np.float64) + 1, bias)
    before = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in export(network, loaded).graph.initializer:
        old = before[tensor.name]
        assert (tensor.data_type, tensor.dims) == (old.data_type, old.dims)
        change = numpy_helper.to_array(tensor).astype(np.float64) - numpy_helper.to_array(old).astype(np.float64)
        assert np.abs(change - (tensor.name in ("wf", "bf", "wg", "bg"))).max() < 2**-6
