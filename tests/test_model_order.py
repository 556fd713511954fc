"""Models whose nodes are in any order: sorted where ONNX Runtime sorts them, refused where nothing can sort them."""

from collections.abc import Callable

import models_for_tests
import numpy as np
import onnx
import pytest
from models_for_tests import Array, build, conv, photo, plain, relu, run_model, weights
from odd_models_for_tests import ALL, with_if
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.protos import bodies


def shuffle(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Put the nodes of a graph, and of the bodies in it, into any order."""
    nodes = list(graph.node)
    for node in nodes:
        for body in bodies(node):
            shuffle(body, rng)
    copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in rng.permutation(len(nodes))]
    del graph.node[:]
    graph.node.extend(copies)


@pytest.mark.parametrize("builder", ALL.values(), ids=ALL)
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_the_nodes_is_the_same_model(builder: Callable[[], onnx.ModelProto], seed: int) -> None:
    model = builder()
    shuffle(model.graph, np.random.default_rng(seed))
    for function in model.functions:
        nodes = list(reversed(function.node))
        del function.node[:]
        function.node.extend(nodes)
    sorted_model = load(model).proto
    onnx.checker.check_model(sorted_model)
    x = {"x": photo()}
    before, after = run_model(builder(), x), run_model(sorted_model, x)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


@pytest.mark.parametrize("builder", ALL.values(), ids=ALL)
def test_nodes_in_order_stay_where_they_are(builder: Callable[[], onnx.ModelProto]) -> None:
    model = builder()
    assert load(model).proto == model


def test_a_node_moves_only_in_front_of_the_first_that_needs_it() -> None:
    model = plain()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    moved = [*nodes[:3], *nodes[4:], nodes[3]]
    del model.graph.node[:]
    model.graph.node.extend(moved)
    assert [node.output[0] for node in load(model).proto.graph.node] == [node.output[0] for node in nodes]


def test_a_long_chain_in_reverse() -> None:
    nodes = [relu("x" if i == 0 else f"t{i}", f"t{i + 1}" if i < 4999 else "y") for i in range(5000)]
    model = build(nodes, {})
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert [node.output[0] for node in load(model).proto.graph.node] == [node.output[0] for node in nodes]


def test_a_model_out_of_order_is_compressed_as_one_in_order() -> None:
    model, shuffled = models_for_tests.three_convs(), models_for_tests.three_convs()
    shuffle(shuffled.graph, np.random.default_rng(1))
    data: Array = photo(shape=(20, 3, 12, 10))
    one, other = (compress(given, data, speedup=1.5, require="none") for given in (model, shuffled))
    assert [site.name for site in one.report.sites] == [site.name for site in other.report.sites]
    x = {"x": photo(seed=1)}
    np.testing.assert_allclose(run_model(one.model, x)["y"], run_model(other.model, x)["y"], rtol=1e-4, atol=1e-5)


def cycles() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Models with a cycle, and the cycle as the error names it."""
    itself, pair, inside = plain(), plain(), with_if()
    itself.graph.node[0].input[0] = itself.graph.node[0].output[0]
    pair.graph.node[0].input[0] = "n1"
    (branching,) = (node for node in inside.graph.node if node.op_type == "If")
    branching.attribute[0].g.node[0].input[0] = branching.output[0]
    return {
        "a node that reads itself": (itself, "conv1 → conv1"),
        "two nodes": (pair, "conv1 → norm_n1 → conv1"),
        "a body that reads its owner": (inside, "choice → choice"),
    }


@pytest.mark.parametrize("kind", cycles())
def test_a_cycle_is_refused_by_name(kind: str) -> None:
    model, names = cycles()[kind]
    with pytest.raises(ModelError, match="form a cycle") as caught:
        load(model)
    assert names in str(caught.value)


def test_a_tensor_that_nobody_makes_is_refused() -> None:
    model = build([conv("conv1", "x", "w", "c"), helper.make_node("Relu", ["c"], ["y"])], {"w": weights(1, 4, 3, 3, 3)})
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        load(model)
