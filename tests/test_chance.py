"""Networks that draw random numbers: the same noise in every run, and the random nodes in the result."""

from typing import Any

import numpy as np
import onnx
import pytest
from chance_for_tests import FULL_RANK, KINDS, PLACES, network, node, run_with
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models_for_tests import IR, OPSET, Array, build, conv, one_conv, photo, relu, weights
from onnx import TensorProto, helper

from onnx_lowrank import Result, compress
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.chance import RANDOM
from onnx_lowrank.graph.edit.determine import determined
from onnx_lowrank.graph.protos import all_nodes

ROUND_OFF = 1e-9
"""The largest relative error, in squares, of a network at full rank."""


def error(original: onnx.ModelProto, result: onnx.ModelProto, **noise: Any) -> float:
    """The error of the result under the same noise, relative to how much the output varies."""
    before, after = run_with(original, **noise), run_with(result, **noise)
    spread = np.square(before - before.mean((0, 2, 3), keepdims=True)).sum()
    return float(np.square(after - before).sum() / spread)


def compressed(model: onnx.ModelProto, count: int = 30, **options: Any) -> Result:
    return compress(model, photo(7, (count, 3, 8, 8)), 2.0, threads=1, require="none", exclude="stem", **options)


def random_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [each for each in all_nodes(model.graph) if each.op_type in RANDOM]


@settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(PLACES)), st.sampled_from((15, 16, 17)))
def test_full_rank_reproduces_the_original_under_the_same_noise(kind: str, place: str, opset: int) -> None:
    model = network(kind, place, opset)
    result = compressed(model, 12, plan=FULL_RANK)
    assert result.report.outputs["y"].centred_error < ROUND_OFF
    assert error(model, result.model, key=4) < ROUND_OFF
    owners = [each for each in model.graph.node if not each.op_type.startswith("Conv")]
    assert [each for each in result.model.graph.node if not each.op_type.startswith("Conv")] == owners
    assert random_nodes(result.model) == random_nodes(model)
    assert list(result.model.graph.input) == list(model.graph.input)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_follows_from_the_key_alone(kind: str, place: str) -> None:
    model = network(kind, place)
    first = run_with(model, key=5)
    assert np.array_equal(first, run_with(model, key=5))
    assert not np.allclose(first, run_with(model, key=6))
    still = run_with(model, key=5, strength=0.0)
    assert np.array_equal(still, run_with(model, key=6, strength=0.0))
    assert not np.allclose(first, still)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 14, 15, 18, 21])
def test_every_opset_computes_the_same_noise(opset: int) -> None:
    assert np.allclose(run_with(network("normal like", opset=opset)), run_with(network("normal like")))


def drawn(op: str, inputs: dict[str, Array], key: int = 1, **attributes: Any) -> Array:
    """What a single random node draws, as it is computed from a key."""
    return run_with(without_inputs(node(op, list(inputs), "y", **attributes), inputs), key)


def without_inputs(owner: onnx.NodeProto, stored: dict[str, Array]) -> onnx.ModelProto:
    """A model of one node, which makes y."""
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in stored.items()]
    graph = helper.make_graph([owner], "net", [], [onnx.ValueInfoProto(name="y")], tensors)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return model


def test_noise_has_the_distribution_of_its_node() -> None:
    normal = drawn("RandomNormal", {}, shape=[400, 500], mean=2.0, scale=3.0).astype(np.float64)
    assert normal.mean() == pytest.approx(2, abs=0.03) and normal.std() == pytest.approx(3, rel=0.01)
    standard = (normal - 2) / 3
    assert np.mean(standard**4) == pytest.approx(3, rel=0.03)
    for axis in (0, 1):  # neighbours along both axes have nothing to do with each other
        assert np.mean(standard * np.roll(standard, 1, axis)) == pytest.approx(0, abs=0.01)
    assert np.mean(standard * drawn("RandomNormal", {}, key=2, shape=[400, 500])) == pytest.approx(0, abs=0.01)

    uniform = drawn("RandomUniform", {}, shape=[200_000], low=-1.0, high=3.0)
    assert uniform.min() >= -1 and uniform.max() <= 3
    assert np.histogram(uniform, 20, (-1, 3))[0] == pytest.approx(10_000, rel=0.05)

    bernoulli = drawn("Bernoulli", {"p": np.repeat(np.array([0, 0.3, 1], np.float32), 20_000)})
    assert bernoulli.reshape(3, -1).mean(axis=1) == pytest.approx([0, 0.3, 1], abs=0.02)

    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 1e-30]], np.float32))
    classes = drawn("Multinomial", {"l": logits}, sample_size=20_000)
    assert classes.dtype == np.int32
    assert [np.bincount(row, minlength=3) / 20_000 for row in classes] == pytest.approx(
        np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0]]), abs=0.02
    )

    stored = {"x": np.ones(40_000, np.float32), "r": np.array(0.2, np.float32), "t": np.array(True)}
    kept = drawn("Dropout", stored)
    assert set(np.unique(kept)) == {0, np.float32(1.25)} and kept.mean() == pytest.approx(1, abs=0.02)


def test_iterations_see_different_noise() -> None:
    for place in ("loop", "scan"):
        noise = node("RandomNormal", [], "n", shape=[1000])
        body_nodes = [noise, node("Identity", ["going" if place == "loop" else "n"], "o")]
        value = helper.make_tensor_value_info
        if place == "loop":
            inputs = [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])]
            outputs = [value("o", TensorProto.BOOL, []), value("n", TensorProto.FLOAT, None)]
            body = helper.make_graph(body_nodes, "b", inputs, outputs)
            owner = node("Loop", ["count", "yes"], "y", body=body)
        else:
            body = helper.make_graph(
                body_nodes, "b", [value("s", TensorProto.FLOAT, None)], [value("o", TensorProto.FLOAT, None)]
            )
            owner = node("Scan", ["sequence"], "y", body=body, num_scan_inputs=1, scan_input_axes=[1])
        stored: dict[str, Array] = {
            "count": np.array(4),
            "yes": np.array(True),
            "sequence": np.zeros((2, 4), np.float32),
        }
        rows = run_with(without_inputs(owner, stored))
        assert rows.shape == (4, 1000)
        assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 0.15


def test_a_network_without_chance_stays_as_it_is() -> None:
    off = {"off": np.array(False), "half": np.array(0.5, np.float32), "w": weights(1, 4, 3, 3, 3)}
    inference = [conv("c", "x", "w", "h"), node("Dropout", ["h", "half"], "d"), node("Dropout", ["d", "", "off"], "y")]
    for model in (one_conv(weights(1, 4, 3, 3, 3)), build(inference, off)):
        assert determined(model) == (model, None)
        assert determined(model)[0] is model


@pytest.mark.parametrize("kind", ["normal like", "seeded", "dropout", "bernoulli"])
def test_what_noise_costs_without_it_is_bounded(kind: str) -> None:
    model = network(kind)
    noisy = compressed(model, 60)
    chance = determined(model)[1]
    assert chance
    still = _without_noise(model)
    least = error(model, _with_weights_of(model, compressed(still, 60).model), strength=0.0)
    assert error(model, noisy.model, strength=0.0) <= 1.5 * least
    found = noisy.report.outputs["y"].centred_error
    assert error(model, noisy.model, key=11) == pytest.approx(found, rel=0.5)


def _without_noise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its noise computed, and with zero strength stored in place of the input."""
    fixed, chance = determined(model)
    assert chance
    for name, values in ((chance.key, np.array([1])), (chance.strength, np.zeros(1, np.float32))):
        fixed.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    inputs = [value for value in fixed.graph.input if value.name == "x"]
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    return fixed


def _with_weights_of(model: onnx.ModelProto, still: onnx.ModelProto) -> onnx.ModelProto:
    """A model without noise, which ``run_with`` runs as it is."""
    assert determined(still)[1] is None and model.graph.output == still.graph.output
    return still


def test_a_function_that_draws_is_inlined() -> None:
    inner = [node("RandomNormalLike", ["a"], "n"), node("Add", ["a", "n"], "b")]
    function = helper.make_function("local", "Jitter", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    model = network("normal like")
    nodes = [each for each in model.graph.node if not each.output[0].startswith("noisy")]
    nodes.insert(4, helper.make_node("Jitter", ["h.r"], ["noisy"], "call", domain="local"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    result = compressed(model, 12, plan=FULL_RANK)
    assert result.report.outputs["y"].centred_error < ROUND_OFF
    assert [each.op_type for each in random_nodes(result.model)] == ["RandomNormalLike"]


def test_a_generator_without_inputs() -> None:
    stored = {f"w{i}": weights(i, d, c, 3, 3) for i, (d, c) in enumerate(((8, 4), (12, 8), (4, 12)))}
    nodes = [
        node("RandomNormal", [], "z", shape=[1, 4, 8, 8]),
        *(conv("a", "z", "w0", "h"), relu("h", "h.r"), conv("b", "h.r", "w1", "g"), relu("g", "g.r")),
        conv("c", "g.r", "w2", "y"),
    ]
    model = build(nodes, stored, output_shape=(1, 4, 8, 8))
    del model.graph.input[:]
    result = compress(model, None, 1.3, images=12, threads=1, require="none")
    assert 0 < result.report.outputs["y"].centred_error < 1
    assert random_nodes(result.model) == random_nodes(model)


def test_chance_before_opset_7_is_named() -> None:
    warnings: list[str] = []
    model = network("normal like", opset=6)
    with pytest.raises(ModelError):  # ONNX Runtime has no Add of this opset
        compressed(model, 12, warn=warnings.append)
    assert any("cannot be held still (RandomNormalLike" in text for text in warnings)


@pytest.mark.parametrize(("opset", "outputs"), [(9, 5), (15, 3)])
def test_normalisation_in_training_mode_is_no_chance(opset: int, outputs: int) -> None:
    model = network("normal like", opset=opset)
    kept = [each for each in model.graph.node if not each.output[0].startswith("noisy")]
    names = ["noisy", "bn.m", "bn.v", "bn.sm", "bn.sv"][:outputs]
    training = {} if opset < 14 else {"training_mode": 1}
    kept.insert(4, helper.make_node("BatchNormalization", ["h.r", "one", "nil", "nil", "one"], names, **training))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, value in (("one", 1.0), ("nil", 0.0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(12, value, np.float32), name))
    assert determined(model)[1] is None
    assert compressed(model, 12, plan=FULL_RANK).report.outputs["y"].centred_error < ROUND_OFF
