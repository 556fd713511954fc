"""Networks in integers: what is rounded and where, what stays as it is, and whether integers are computed."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from integers_for_tests import (
    LEVELS,
    answers,
    as_half,
    fused_operators,
    in_integers,
    integer_response,
    loaded_for_integers,
    stored,
)
from models_for_tests import branches, photo, plain, residual
from random_graphs import RandomModel, quick, random_block_models, random_models

from onnx_lowrank.errors import ModelError
from onnx_lowrank.factorise.rounding.grid import SIGNED
from onnx_lowrank.graph.files.load import LoadedModel, opset
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.quantise.placement import in_front_of_layers

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

MODELS = st.one_of(random_block_models(), random_models())


def loaded(case: RandomModel) -> LoadedModel:
    """Return a random model in an opset for integers; some cannot be brought to one."""
    try:
        return loaded_for_integers(case.still)
    except ModelError:
        assume(False)
        raise


@quick(25)
@given(MODELS)
def test_a_network_in_integers_keeps_its_interface(case: RandomModel) -> None:
    given_model = loaded(case)
    _, model = in_integers(given_model)
    validate(model, given_model.proto)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {node.domain for node in given_model.proto.graph.node} | {""}


@quick(25)
@given(MODELS)
def test_every_level_of_optimisation_gives_the_same_answers(case: RandomModel) -> None:
    """Within some steps: a sum on the border between two codes may be rounded either way, and others follow."""
    _, model = in_integers(loaded(case))
    feeds = case.feeds(1)
    exact = answers(model, feeds, LEVELS.ORT_DISABLE_ALL)
    for level in (LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL):
        for name, value in answers(model, feeds, level).items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            finite = np.isfinite(exact[name])
            scale = np.abs(exact[name][finite]).max(initial=1e-3)
            assert np.mean(np.abs(value[finite] - exact[name][finite])) <= 0.05 * scale


@quick(25)
@given(MODELS)
def test_layers_compute_with_whole_numbers(case: RandomModel) -> None:
    """The response of every convolution is what whole numbers give, up to its scales."""
    _, model = in_integers(loaded(case))
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and makers.get(node.input[1], node).op_type == "DequantizeLinear"
        if not any(own.name == "auto_pad" and own.s not in (b"", b"NOTSET") for own in node.attribute)
    ]
    assume(layers)
    codes = {node.output[0]: makers[node.input[0]].input[0] for node in layers}
    seen = answers(model, case.feeds(1), LEVELS.ORT_DISABLE_ALL, [*codes, *codes.values()])
    for output, read in codes.items():
        exact = integer_response(model, output, seen[read])
        assert np.allclose(seen[output], exact, atol=1e-5 * max(1.0, np.abs(exact).max(initial=0)))


@pytest.mark.parametrize(("model", "at_the_end"), [(plain(), 0), (residual(), 1), (branches(), 0)])
def test_onnx_runtime_fuses_every_layer(model: onnx.ModelProto, at_the_end: int) -> None:
    """A convolution between pairs becomes a kernel of integers, and so does what lies between two of them.

    A sum at the end, which no layer reads, stays.
    """
    _, integers = in_integers(loaded_for_integers(model))
    operators = fused_operators(integers)
    assert operators["Conv"] == 0
    assert operators["QLinearConv"] == sum(node.op_type == "Conv" for node in model.graph.node)
    assert operators["Relu"] == operators["MaxPool"] == 0
    assert operators["Add"] == at_the_end


def test_what_nobody_reads_in_integers_stays_in_floating_point() -> None:
    """The sum of two blocks that leads to the output alone is no reason to round it."""
    _, model = in_integers(loaded_for_integers(residual()))
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert makers["y"] != "DequantizeLinear"


def test_tensorrt_gets_pairs_in_front_of_its_layers_alone() -> None:
    """Symmetric ones, none behind a response that an Add takes in, and one at the other operand."""
    _, model = in_integers(loaded_for_integers(residual()), in_front_of_layers, SIGNED)
    values, makers = stored(model), {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].dtype in (np.int8, np.int32)
            assert not values[node.input[2]].any()
        if node.op_type == "Conv":
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        if node.op_type == "Add":
            kinds = sorted(makers[name].op_type for name in node.input)
            assert kinds == ["Conv", "DequantizeLinear"]


def test_half_precision_stays_at_the_inputs_and_outputs() -> None:
    half = as_half(residual())
    given_model = loaded_for_integers(half)
    _, model = in_integers(given_model)
    validate(model, given_model.proto)
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [
        onnx.TensorProto.FLOAT16
    ] * 2
    feeds = {"x": photo().astype(np.float16)}
    (expected,), (got,) = answers(half, feeds).values(), answers(given_model.proto, feeds).values()
    assert np.allclose(got, expected, atol=2e-2)


def test_a_model_of_an_old_opset_is_brought_to_one_that_knows_a_scale_for_each_filter() -> None:
    old = residual()
    old.opset_import[0].version = 11
    given_model = loaded_for_integers(old)
    assert opset(given_model.proto) == 13
    feeds = {"x": photo()}
    assert np.allclose(next(iter(answers(given_model.proto, feeds).values())), next(iter(answers(old, feeds).values())))
