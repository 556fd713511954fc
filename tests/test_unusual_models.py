"""Models that differ from a plain image classifier, from the file to the result."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import pytest
from models_for_tests import IR, OPSET, build, conv, photo, plain, relu, residual, run_model, weights
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import Result, compress
from onnx_lowrank.errors import ModelError, ValidationError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Listener
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.validate import compare_outputs

STEM = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3)}
STEM_NODES = [conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2")]


def run(model: onnx.ModelProto, count: int = 12, **options: Any) -> tuple[Result, list[str]]:
    warnings: list[str] = []
    data = photo(7, (count, 3, 12, 10))
    return compress(model, data, 1.3, threads=1, warn=warnings.append, **options), warnings


def skipped(result: Result) -> dict[str, str]:
    return {skip.name: skip.reason for skip in result.report.skipped}


def with_outputs(nodes: Sequence[Any], stored: dict[str, Any], outputs: Sequence[Any]) -> onnx.ModelProto:
    model = build([*STEM_NODES, *nodes], STEM | stored, ())
    model.graph.output.extend(outputs)
    onnx.checker.check_model(model)
    return model


# ---- convolutions that do not see one image per sample


def patches() -> onnx.ModelProto:
    """Return a model that turns every image behind the stem into four of three channels: conv3 sees 4N of them."""
    stored = {"w3": weights(3, 9, 3, 3, 3), "to": np.array([-1, 3, 12, 10], np.int64)}
    nodes = [helper.make_node("Reshape", ["r2", "to"], ["four"]), conv("conv3", "four", "w3", "y")]
    return build([*STEM_NODES, *nodes], STEM | stored)


def regions() -> onnx.ModelProto:
    """Return a model whose conv3 sees every pixel with a positive response: their number depends on the data."""
    stored = {"w3": weights(3, 9, 12, 1, 1), "axes": np.array([2, 3], np.int64), "zero": np.zeros((), np.float32)}
    nodes = [
        helper.make_node("ReduceMax", ["c2"], ["greatest"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["greatest", "zero"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["coordinates"]),
        helper.make_node("Transpose", ["coordinates"], ["indices"]),
        helper.make_node("Transpose", ["r2"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("GatherND", ["last", "indices"], ["pixels"]),
        helper.make_node("Unsqueeze", ["pixels", "axes"], ["region"]),
        conv("conv3", "region", "w3", "y", pads=[0] * 4),
    ]
    return build([*STEM_NODES, *nodes], STEM | stored)


@pytest.mark.parametrize("builder", [patches, regions])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_convolution_with_a_batch_of_its_own_is_skipped(builder: Any, symmetric: bool) -> None:
    result, _ = run(builder(), symmetric=symmetric)
    assert skipped(result)["conv3"] == "its batch is not the model's"
    assert [site.name for site in result.report.sites] == ["conv2"]
    assert not result.report.sites[0].kept
    onnx.checker.check_model(result.model, full_check=True)


def test_a_model_whose_convolutions_all_have_a_batch_of_their_own_is_refused() -> None:
    with pytest.raises(ModelError, match=r"nothing to factorise: .*its batch is not the model's"):
        run(patches(), include="conv3")


def test_a_convolution_of_constants_is_skipped() -> None:
    stored = {"fixed": photo(3, (1, 8, 12, 10)), "two": np.array([2.0], np.float32), "w3": weights(3, 12, 8, 3, 3)}
    nodes = [
        helper.make_node("Mul", ["fixed", "two"], ["doubled"]),
        conv("computed", "doubled", "w3", "c3"),
        conv("stored", "fixed", "w3", "c4"),
        helper.make_node("Sum", ["r2", "c3", "c4"], ["y"]),
    ]
    result, _ = run(build([*STEM_NODES, *nodes], STEM | stored))
    reasons = skipped(result)
    assert reasons["computed"] == reasons["stored"] == "its input is constant"


def test_names_that_collide() -> None:
    # The second convolution has no name, and its output bears that of the third.
    stored = {"w3": weights(3, 8, 12, 3, 3)}
    nodes = [conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("", "r1", "w2", "b"), conv("b", "b", "w3", "y")]
    result, _ = run(build(nodes, STEM | stored))
    assert [site.name for site in result.report.sites] == ["b_2", "b"]


# ---- outputs that cannot be compared


def test_the_tensors_of_a_sequence_are_outputs_of_their_own() -> None:
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    plain = helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["N", 12, None, None])
    model = with_outputs([helper.make_node("SequenceConstruct", ["r1", "r2"], ["list"])], {}, [sequence, plain])
    result, warnings = run(model)
    assert result.report.outputs.keys() == {"list[0]", "list[1]", "r2"}
    assert result.report.outputs["list[1]"] == result.report.outputs["r2"]
    assert not any("compared" in text for text in warnings)


def test_outputs_whose_number_of_rows_depends_on_the_data_are_left_out() -> None:
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, [None])
    nodes = [
        helper.make_node("Greater", ["c2", "limit"], ["above"]),
        helper.make_node("Compress", ["c2", "flat"], ["values"]),
    ]
    nodes.insert(1, helper.make_node("Reshape", ["above", "minus"], ["flat"]))
    stored = {"limit": np.array(0.5, np.float32), "minus": np.array([-1], np.int64)}
    result, warnings = run(with_outputs(nodes, stored, [values]))
    assert result.report.outputs == {}
    assert sum("output 'values' has a size that depends on the data" in text for text in warnings) == 1
    assert any("no floating-point output could be compared" in text for text in warnings)


def test_outputs_of_whole_numbers_are_not_compared() -> None:
    best = helper.make_tensor_value_info("best", TensorProto.INT64, ["N", None, None])
    result, warnings = run(with_outputs([helper.make_node("ArgMax", ["r2"], ["best"], axis=1, keepdims=0)], {}, [best]))
    assert result.report.outputs == {}
    assert sum("no floating-point output could be compared" in text for text in warnings) == 1


@pytest.mark.parametrize(
    ("declared", "refused"),
    [((None, 4), False), (("rows", 4), False), (None, False), (("N", 4), True), ((3, 4), True), ((None, 4, 1), True)],
)
def test_a_size_that_the_model_declares_must_stay(declared: tuple[Any, ...] | None, refused: bool) -> None:
    class Answers:
        outputs = ("y",)

        def __init__(self, rows: int) -> None:
            self.rows = rows

        def __call__(self, feeds: object) -> dict[str, Any]:
            return {"y": np.zeros((self.rows, 4), np.float32)}

    class Samples:
        def feeds(self, batch: object) -> dict[str, Any]:
            return {}

    single = np.dtype(np.float32)
    shapes = DeclaredShapes.of([TensorSpec("x", single, ("N", 3))], [TensorSpec("y", single, declared)])
    warnings: list[str] = []
    sessions = SessionPair(cast(Any, Answers(3)), cast(Any, Answers(2)))
    given: tuple[Any, ...] = (sessions, Samples(), ((0,), (1,)), shapes, Listener(warn=warnings.append))
    if refused:
        with pytest.raises(ValidationError, match="output 'y' became"):
            compare_outputs(*given)
    else:
        assert compare_outputs(*given) == {}
        assert len(warnings) == 2


def test_an_output_that_the_model_declares_wrongly_may_stay_as_it_is() -> None:
    model = build(STEM_NODES, STEM, ("r2",), output_shape=("N", 12, None, None))
    del model.graph.output[0].type.tensor_type.shape.dim[3]
    result, _ = run(model)
    assert not result.report.sites[0].kept and result.report.outputs.keys() == {"r2"}


# ---- other types and layouts


def test_a_model_of_half_precision() -> None:
    nodes = [*STEM_NODES[:3], relu("c2", "y")]
    stored = {name: numpy_helper.from_array(values.astype(np.float16), name) for name, values in STEM.items()}
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 12, 12, 10])],
        list(stored.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    data = photo(7, (40, 3, 12, 10)).astype(np.float16)
    result = compress(model, data, 1.5, threads=1)
    assert not result.report.sites[0].kept
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {TensorProto.FLOAT16}
    fresh = photo(8, (4, 3, 12, 10)).astype(np.float16)
    expected, approximated = (run_model(one, {"x": fresh})["y"].astype(np.float64) for one in (model, result.model))
    assert np.square(approximated - expected).sum() < 0.3 * np.square(expected).sum()
    blind = compress(model, data, 1.5, threads=1, solver="weights")
    assert result.report.outputs["y"].relative_error < blind.report.outputs["y"].relative_error


def test_a_model_with_channels_last() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        conv("conv1", "first", "w1", "c1"),
        *STEM_NODES[1:],
        helper.make_node("Transpose", ["r2"], ["y"], perm=[0, 2, 3, 1]),
    ]
    model = build(nodes, STEM, input_shape=("N", 12, 10, 3), output_shape=("N", 12, 10, 12))
    data = photo(7, (40, 12, 10, 3))
    result = compress(model, data, 1.5, threads=1)
    assert skipped(result).keys() == {"conv1"} and not result.report.sites[0].kept
    fresh = {"x": photo(8, (4, 12, 10, 3))}
    expected, approximated = (run_model(one, fresh)["y"] for one in (model, result.model))
    assert np.square(approximated - expected).sum() < 0.3 * np.square(expected).sum()
    blind = compress(model, data, 1.5, threads=1, solver="weights")
    assert result.report.outputs["y"].relative_error < blind.report.outputs["y"].relative_error


@pytest.mark.parametrize("builder", [plain, residual])
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
def test_a_model_of_an_old_opset_stays_one(builder: Any, opset: int) -> None:
    model = builder()
    model.opset_import[0].version = opset
    model.ir_version = 3 if opset < 9 else 4
    for tensor in model.graph.initializer if opset < 9 else ():
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.checker.check_model(model, full_check=True)
    result, _ = run(model)
    assert not all(site.kept for site in result.report.sites)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.model.ir_version == model.ir_version
    assert result.model.opset_import == model.opset_import


@pytest.mark.parametrize("builder", [plain, residual])
def test_a_batch_without_samples_stays_one(builder: Any) -> None:
    model = builder()
    result, _ = run(model)
    none = {"x": photo(1, (0, 3, 12, 10))}
    expected, approximated = (run_model(one, none)["y"] for one in (model, result.model))
    assert approximated.shape == expected.shape and len(approximated) == 0
