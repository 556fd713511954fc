"""A copy of a network: the same to the last byte, and whatever is done to it leaves the original as it was."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from models_for_tests import HEADS, build, classifier, conv, photo, relu, run_model, weights
from odd_models_for_tests import ALL, decorated
from onnx import TensorProto, helper, numpy_helper
from random_graphs import RandomModel, random_models

from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.reweight import replace_weights
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import LoadedModel, load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.dense import refittable
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import live_tensors, whole
from onnx_lowrank.graph.tensors import is_sparse, tensor_proto


def nested_bodies() -> onnx.ModelProto:
    """An If inside a Loop, whose bodies read tensors and weights of every level around them; "first", then "last"."""

    def declared(name: str, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        value: onnx.ValueInfoProto = helper.make_tensor_value_info(name, element, None)
        return value

    then = helper.make_graph([conv("inner", "state", "w_body", "t")], "then", [], [declared("t")])
    otherwise = helper.make_graph([helper.make_node("Add", ["state", "r0"], ["e"])], "else", [], [declared("e")])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["before"], ["after"]),
            helper.make_node("If", ["positive"], ["chosen"], "choice", then_branch=then, else_branch=otherwise),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("before", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 8, "H", "W"]),
        ],
        [declared("after", TensorProto.BOOL), declared("chosen")],
    )
    stored = {
        "w0": weights(1, 8, 3, 3, 3), "w_body": weights(2, 8, 8, 3, 3), "w1": weights(3, 4, 8, 3, 3),
        "zero": np.array(0.0, np.float32), "times": np.array(2, np.int64), "yes": np.array(True),
    }  # fmt: skip
    nodes = [
        conv("first", "x", "w0", "c0"), relu("c0", "r0"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("Loop", ["times", "yes", "r0"], ["looped"], "loop", body=body),
        conv("last", "looped", "w1", "y"),
    ]  # fmt: skip
    return build(nodes, stored)


def sparse_constant() -> onnx.ModelProto:
    """A shift that is stored sparse between two convolutions, with a doc string, which graphsurgeon drops."""
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 4, 8, 3, 3), "shift": np.zeros((1, 8, 1, 1), np.float32)}
    shift = helper.make_node("Add", ["r1", "shift"], ["s"], doc_string="shifts")
    model = build([conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), shift, conv("conv2", "s", "w2", "y")], stored)
    model.graph.initializer.pop()
    values = numpy_helper.from_array(np.array([2.0, -1.0], np.float32), "shift")
    places = numpy_helper.from_array(np.array([3, 5], np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1, 8, 1, 1]))
    onnx.checker.check_model(model)
    return model


CLASSIFIERS = {f"classifier, {head}": lambda head=head: classifier(head) for head in HEADS}
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    **ALL, **CLASSIFIERS, "decorated": decorated, "nested_bodies": nested_bodies, "sparse_constant": sparse_constant,
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def exported(network: Network, original: LoadedModel) -> bytes:
    return bytes(export(network, original).SerializeToString(deterministic=True))


def of_rank_two(site: ConvSite) -> Factorization:
    """Two links that compute something else than the layer."""
    d, c, *sizes = site.kernel.shape
    first = np.full((2 * site.group, c, *sizes), 0.01)
    last = np.full((d, 2, *(1 for _ in sizes)), 0.1)
    links = Link(first, (True,) * len(sizes)), Link(last, (False,) * len(sizes))
    return Factorization(links, site.bias + 1, site.group)


def edit(network: Network, *, gemm: bool = False) -> None:
    """Rewrite every site, and give the other fully connected layers new weights."""
    found = find_sites(network, include="", gemm=gemm)
    for site in found.sites:
        rewrite(network, site, of_rank_two(site))
    rewritten = {site.output for site in found.sites}
    for layer in refittable(network, found.dense, ["x"]):
        if layer.output not in rewritten:
            assert replace_weights(network, layer, layer.weight + 1, layer.bias + 1 if layer.intercept else None)


def layers(network: Network) -> list[object]:
    """Everything that is found in a network, without the weights, which the export shows."""
    found = find_sites(network, include="", gemm=True)
    sites = [(site.name, site.target, site.activation, site.join) for site in found.sites]
    dense = [(layer.name, layer.target, layer.intercept, layer.owns_weight) for layer in found.dense]
    return [*sites, *found.skipped, *dense]


@every_model
def test_a_copy_is_the_same_to_the_last_byte(name: str) -> None:
    loaded = load(MODELS[name]())
    network = normalise(loaded.proto)
    copy = network.copy()
    assert exported(copy, loaded) == exported(network, loaded)
    assert copy.folded == network.folded
    assert [copy.reads(node) for node in copy.nodes] == [network.reads(node) for node in network.nodes]
    outputs = [tensor.name for node in network.nodes for tensor in node.outputs]
    assert whole(copy, outputs) == whole(network, outputs)
    for cut in range(len(network.nodes) + 1):
        assert live_tensors(copy, cut) == live_tensors(network, cut)
    assert layers(copy) == layers(network)


@every_model
@pytest.mark.parametrize("gemm", [False, True])
def test_an_edited_copy_is_what_an_edited_network_is_and_the_original_stays(name: str, gemm: bool) -> None:
    loaded = load(MODELS[name]())
    network = normalise(loaded.proto, gemm=gemm)
    before, copy = exported(network, loaded), network.copy()
    outputs = [tensor.name for node in network.nodes for tensor in node.outputs]
    tapped = whole(network, outputs)
    edit(copy, gemm=gemm)
    assert exported(network, loaded) == before
    assert whole(network, outputs) == tapped
    fresh = normalise(loaded.proto, gemm=gemm)
    edit(fresh, gemm=gemm)
    changed = exported(fresh, loaded)
    assert exported(copy, loaded) == changed != before
    edit(network, gemm=gemm)
    assert exported(network, loaded) == exported(copy, loaded) == changed


@pytest.mark.parametrize("name", [name for name in MODELS if name != "odd_convolutions"])
def test_the_original_answers_as_before_and_the_copy_does_not(name: str) -> None:
    loaded = load(MODELS[name]())
    network = normalise(loaded.proto)
    expected = run_model(export(network, loaded), {"x": photo()})
    copy = network.copy()
    edit(copy)
    again, edited = (run_model(export(one, loaded), {"x": photo()}) for one in (network, copy))
    for output, values in expected.items():
        np.testing.assert_array_equal(again[output], values)
    assert any(not np.array_equal(edited[output], values) for output, values in expected.items())


@every_model
def test_a_copy_of_an_edited_network_has_its_edits_and_its_own_from_then_on(name: str) -> None:
    loaded = load(MODELS[name]())
    network = normalise(loaded.proto)
    edit(network)
    edited = exported(network, loaded)
    copy = network.copy()
    assert exported(copy, loaded) == edited
    edit(copy)
    assert exported(network, loaded) == edited


@every_model
def test_a_copy_shares_the_weights(name: str) -> None:
    network = normalise(MODELS[name]())
    copied = network.copy().constants()
    assert list(copied) == list(network.constants())
    for constant_name, constant in network.constants().items():
        if not is_sparse(constant):
            assert tensor_proto(copied[constant_name]) is tensor_proto(constant)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(random_models())
def test_a_copy_of_any_network_is_edited_apart(case: RandomModel) -> None:
    loaded = load(case.model)
    network = normalise(loaded.proto)
    before, copy = exported(network, loaded), network.copy()
    assert exported(copy, loaded) == before
    edit(copy)
    assert exported(network, loaded) == before
    edit(network)
    assert exported(network, loaded) == exported(copy, loaded)
