"""Models that ONNX Runtime runs and ONNX's own checker refuses are taken; what neither takes is refused in one line."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from models_for_tests import photo, plain, run_model, three_convs
from onnx import helper, numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate

Spoil = Callable[[onnx.ModelProto], object]


def spell_out(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"


def spell_out_everything(model: onnx.ModelProto) -> None:
    spell_out(model)
    model.opset_import[0].domain = "ai.onnx"


def spell_out_one(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "ai.onnx"


def without_input_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def without_output_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def without_any_shape(model: onnx.ModelProto) -> None:
    without_input_shape(model)
    without_output_shape(model)


def without_output_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].ClearField("type")


def without_dimensions(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()


def one_symbol_for_all(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.dim_param = "unknown"


def without_graph_name(model: onnx.ModelProto) -> None:
    model.graph.name = ""


def old_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 3


def another_output_by_name(model: onnx.ModelProto) -> None:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.output.add().name = relu.output[0]


def one_weight_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[1])


def without_import(model: onnx.ModelProto) -> None:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Gelu", "com.microsoft"


TAKEN: tuple[Spoil, ...] = (
    spell_out, spell_out_everything, spell_out_one, without_input_shape, without_output_shape, without_any_shape,
    without_output_type, without_dimensions, one_symbol_for_all, without_graph_name, old_ir_version,
    another_output_by_name, one_weight_twice, without_import,
)  # fmt: skip


@pytest.mark.parametrize("spoil", TAKEN, ids=lambda spoil: spoil.__name__)
def test_what_onnx_runtime_runs_is_taken_and_stays_the_same(spoil: Spoil) -> None:
    model = plain()
    spoil(model)
    loaded = load(model)
    written = export(normalise(loaded.proto), loaded)
    validate(written, loaded.proto)
    assert list(written.graph.output) == list(model.graph.output)
    assert written.graph.input[0] == model.graph.input[0]
    assert list(written.opset_import) == list(model.opset_import)
    assert written.ir_version == model.ir_version
    x = {"x": photo()}
    before, after = run_model(model, x), run_model(written, x)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spoil", TAKEN, ids=lambda spoil: spoil.__name__)
def test_what_onnx_runtime_runs_is_compressed(spoil: Spoil) -> None:
    model = three_convs()
    spoil(model)
    result = compress(model, photo(shape=(12, 3, 12, 10)), speedup=1.2, images=12, require="none")
    x = {"x": photo(seed=1)}
    before, after = run_model(model, x)["y"], run_model(result.model, x)["y"]
    assert np.square(after - before).sum() < 0.2 * np.square(before).sum()
    assert list(result.model.graph.output) == list(model.graph.output)


def input_without_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].ClearField("type")


def input_without_element(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("elem_type")


def unknown_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("colour", 1))


def foreign_domain_without_import(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "nobody.knows"


def two_weights_of_one_name(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    model.graph.initializer.append(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))


def no_ir_version(model: onnx.ModelProto) -> None:
    model.ClearField("ir_version")


@pytest.mark.parametrize(
    "spoil",
    [input_without_type, input_without_element, unknown_attribute, foreign_domain_without_import, no_ir_version],
    ids=lambda spoil: spoil.__name__,
)
def test_what_onnx_runtime_refuses_is_refused(spoil: Spoil) -> None:
    model = plain()
    spoil(model)
    with pytest.raises(Exception, match=r"."):  # the runtime's exceptions share no base class
        run_model(model, {"x": photo()})
    with pytest.raises(ModelError, match="not a valid ONNX model") as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_two_weights_of_one_name_are_refused_since_nobody_knows_which_is_meant() -> None:
    model = plain()
    two_weights_of_one_name(model)
    with pytest.raises(ModelError, match="not unique"):
        load(model)


def test_a_flaw_of_the_result_is_found_though_the_original_had_forgiven_ones() -> None:
    model = plain()
    without_any_shape(model)
    loaded = load(model)
    written = export(normalise(loaded.proto), loaded)
    written.graph.node[0].attribute.append(helper.make_attribute("colour", 1))
    with pytest.raises(Exception, match="colour"):
        validate(written, loaded.proto)
