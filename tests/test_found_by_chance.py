"""Models, files and command lines on which random search once found the program wanting."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import odd_models_for_tests
import onnx
import pytest
from forms_for_tests import dense, every_kind, form_at, highest_ranks, judging
from google.protobuf.message import DecodeError
from models_for_tests import build, conv, photo, relu, run_model, weights
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnx_lowrank import compress
from onnx_lowrank.errors import DataError, ModelError, TargetError
from onnx_lowrank.factorise.activations.curves import HARD_SWISH
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.fit import EXACT
from onnx_lowrank.factorise.solve.layer import solve
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.plan.allocate import check_reach
from onnx_lowrank.plan.plan import Plan

WEIGHTS = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3)}
NODES = [conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2")]


def test_ir_3_with_a_weight_that_only_a_body_reads() -> None:
    bodies = []
    for which in ("then", "else"):
        free = helper.make_tensor_value_info(which, TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([conv(f"in_{which}", "r1", "w3", which)], which, [], [free]))
    nodes = [
        *NODES[:2],
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=bodies[0], else_branch=bodies[1]),
        conv("conv2", "chosen", "w2", "y"),
    ]
    stored = WEIGHTS | {"w3": weights(3, 8, 8, 3, 3), "zero": np.zeros((), np.float32)}
    model = build(nodes, stored, opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    result = compress(model, photo(1, (12, 3, 12, 10)), 1.5, threads=1)
    assert result.model.ir_version == 3
    assert not result.report.sites[0].kept
    run_model(result.model, {"x": photo()})


@pytest.mark.filterwarnings("error")
def test_a_fully_connected_layer_of_half_precision() -> None:
    half = TensorProto.FLOAT16
    nodes = [
        *NODES,
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["y"], "head", transB=1),
    ]
    stored = WEIGHTS | {"wf": weights(3, 5, 8), "bf": weights(4, 5)}
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", half, ["N", 3, 12, 10])],
        [helper.make_tensor_value_info("y", half, ["N", 5])],
        [numpy_helper.from_array(values.astype(np.float16), name) for name, values in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = photo(1, (12, 3, 12, 10)).astype(np.float16)
    report = compress(model, data, 1.5, threads=1, require="none").report
    assert [layer.name for layer in report.refitted] == ["head"]


@every_kind
@pytest.mark.parametrize("spread", [0, 1e-7, 1e-4, 1])
def test_noise_does_not_move_a_solution_that_is_exact(kind: FormKind, spread: float) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 5, 3, 3)) / 7
    # Far fewer than the unknowns, and what they differ in may be round-off alone.
    patches = (rng.normal(size=(1, 5, 3, 3)) + spread * rng.normal(size=(12, 5, 3, 3))).astype(np.float32)
    form = form_at(kind, kernel, highest_ranks(kind, kernel))
    targets = (patches.reshape(12, -1) @ kernel.reshape(5, -1).T).astype(np.float32)
    rows = Rows(form.inputs(patches), targets, judging(12))
    chain, fit = solve(form, rows, HARD_SWISH, nonlinear=True)
    assert fit.error_linear <= EXACT and fit.description == "the symmetric solution: it is exact"
    np.testing.assert_allclose(dense(form.compose(chain)), kernel, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("pads", [1, 1, 1]),
        ("pads", [1] * 5),
        ("pads", [-1] * 4),
        ("strides", [2]),
        ("strides", [0, 1]),
        ("dilations", []),
    ],
)
def test_a_geometry_that_does_not_fit_its_kernel(attribute: str, value: list[int]) -> None:
    model = build([*NODES[:3], relu("c2", "y")], WEIGHTS)
    node = model.graph.node[2]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute(attribute, value, attr_type=onnx.AttributeProto.INTS))
    found = find_sites(normalise(model))
    sites, skipped = found.sites, found.skipped
    assert sites == ()
    assert "do not fit its kernel" in {skip.name: skip.reason for skip in skipped}["conv2"]
    with pytest.raises(ModelError):
        compress(model, photo(1, (6, 3, 12, 10)), threads=1)


@pytest.mark.parametrize(("dims", "raw"), [([7], b"\0" * 32), ([8], b"\0" * 30), ([8], b""), ([-8], b"\0" * 32)])
def test_a_tensor_whose_values_do_not_fill_its_shape(dims: list[int], raw: bytes) -> None:
    model = build([*NODES[:3], relu("c2", "y")], WEIGHTS | {"b2": weights(3, 8)})
    model.graph.node[2].input.append("b2")
    bias = model.graph.initializer[2]
    bias.dims[:], bias.raw_data = dims, raw
    with pytest.raises(ModelError, match=r"tensor 'b2' cannot be read|not a valid ONNX model.*b2"):
        compress(model, photo(1, (6, 3, 12, 10)), threads=1)


@pytest.mark.filterwarnings("error")
def test_values_that_cannot_be_converted_without_a_warning() -> None:
    signalling = np.full(8 * 8 * 9, 0x7F800001, np.uint32).view(np.float32).reshape(8, 8, 3, 3)
    norm, constants = models_for_tests.norm("c2", "y", "bn", 8, 5)
    model = build([*NODES[:3], norm], WEIGHTS | constants | {"w2": signalling})
    skipped = find_sites(normalise(model)).skipped
    assert {skip.name: skip.reason for skip in skipped}["conv2"] == "weights that are infinite or not a number"


def test_a_norm_of_another_number_of_channels_is_not_folded() -> None:
    norm, constants = models_for_tests.norm("c2", "y", "bn", 6, 5)
    model = build([*NODES[:3], norm], WEIGHTS | constants)
    assert [node.op for node in normalise(model).nodes] == [node.op_type for node in model.graph.node]
    with pytest.raises(ModelError):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


def test_a_plan_that_is_nested_beyond_reason() -> None:
    with pytest.raises(DataError, match="not JSON"):
        Plan.from_json('{"schema": 1, "sites": ' + "[" * 100_000)


@pytest.mark.parametrize("form", [[], {}, 3, True, ["channel"]])
def test_a_plan_with_a_form_that_is_no_name(form: Any) -> None:
    with pytest.raises(DataError, match="has form"):
        Plan.from_json(json.dumps({"schema": 1, "sites": [{"name": "conv2", "form": form, "ranks": [2]}]}))


def test_the_highest_speedup_that_is_told_can_be_had() -> None:
    for hundredths in range(101, 400):  # 1.12 is among those that dividing in floating point refuses
        before = hundredths * 1000
        check_reach(before, 100_000, hundredths / 100)
        with pytest.raises(TargetError, match=f"gets {hundredths / 100:.2f}"):
            check_reach(before, 100_000, hundredths / 100 + 0.01)


@pytest.mark.usefixtures("good_files")
@pytest.mark.parametrize("name", ["a" * 300, "folder/" * 1000, "nul\0", "\udcff\ud800"])
@pytest.mark.parametrize("where", ["IN", "OUT", "--data", "--report", "--plan", "--test"])
def test_a_name_that_no_file_can_have(name: str, where: str, refuses: Callable[..., str]) -> None:
    line = ["in.onnx", "out.onnx", "--data", "data.npy"]
    if where in ("IN", "OUT"):
        line[("IN", "OUT").index(where)] = name
    else:
        line += [where, name]
    assert "no file can have the name" in refuses(2, *line)


@pytest.mark.usefixtures("good_files")
@pytest.mark.filterwarnings("error")
def test_photos_of_which_pillow_warns() -> None:
    Path("photos").mkdir()
    for number in range(40):
        path = Path("photos", f"{number}.tiff")
        Image.fromarray(photo(number, (12, 10, 3)).astype(np.uint8)).save(path)
        if number == 3:
            path.write_bytes(path.read_bytes()[:60])
    before = list(warnings.filters)
    messages: list[str] = []
    compress("in.onnx", "photos", 1.5, preprocess="unit,resize=12x10", threads=1, warn=messages.append)
    assert len(messages) == 1 and "3.tiff cannot be used" in messages[0]
    assert warnings.filters == before


@pytest.mark.usefixtures("good_files")
@pytest.mark.parametrize("option", ["--memory", "--images", "--seed", "--data", "--form", "--providers"])
def test_two_dashes_as_a_value(option: str, refuses: Callable[..., str]) -> None:
    refuses(2, "in.onnx", "out.onnx", f"{option}=--")


@pytest.mark.usefixtures("good_files")
@pytest.mark.parametrize("header", [b"{'descr': '<f4', 'shape': (1,", b"{'descr': '<f4'", b"\x00\xff", b"[1"])
def test_a_header_that_ends_too_early(header: bytes, refuses: Callable[..., str]) -> None:
    padded = header.ljust(117) + b"\n"
    Path("data.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)
    assert "cannot be read as a NumPy file" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


@pytest.mark.parametrize("name", [b"conv2", b"pads"])
def test_a_name_that_is_not_utf_8(name: bytes) -> None:
    """The name of a node, and that of an attribute, which ONNX's checker quotes in a message that nothing can read."""
    sound = build([*NODES[:3], relu("c2", "y")], WEIGHTS).SerializeToString()
    spoiled = sound.replace(name, name[:-1] + b"\xff")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(spoiled)
    except DecodeError:
        pytest.skip("this version of protobuf does not parse it")
    with pytest.raises(ModelError, match=r"not UTF-8"):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


def test_a_function_that_does_not_make_its_output() -> None:
    model = odd_models_for_tests.with_function()
    model.functions[0].node[-1].output[0] = "elsewhere"
    with pytest.raises(ModelError, match=r"no node of the function 'Block' makes its output 'b'"):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


def test_a_call_with_more_outputs_than_its_function() -> None:
    model = odd_models_for_tests.with_function()
    del model.functions[0].output[:]
    with pytest.raises(ModelError, match=r"has more outputs than its function 'Block'"):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


def test_an_attribute_that_only_a_function_can_give() -> None:
    norm, constants = models_for_tests.norm("c2", "y", "bn", 8, 5)
    norm.attribute[0].ClearField("f")
    norm.attribute[0].ref_attr_name = "outer"
    model = build([*NODES[:3], relu("c2", "y")], WEIGHTS | constants)
    model.graph.node[3].CopyFrom(norm)
    with pytest.raises(ModelError, match=r"only a function can give|not a valid ONNX model"):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


@pytest.mark.parametrize("number", [-2, 99, -(2**31)])
def test_an_element_type_that_onnx_does_not_know(number: int) -> None:
    model = build([*NODES[:3], relu("c2", "y")], WEIGHTS)
    model.graph.input[0].type.tensor_type.elem_type = number
    with pytest.raises(ModelError, match=rf"'x' has the element type {number}, which ONNX does not know"):
        compress(model, photo(1, (6, 3, 12, 10)), 1.5, threads=1)


def test_a_constant_without_a_value() -> None:
    model = build([helper.make_node("Constant", [], ["k"]), *NODES[:3], relu("c2", "y")], WEIGHTS)
    with pytest.raises(ModelError):
        compress(model, photo(1, (12, 3, 12, 10)), 1.5, threads=1)


def test_an_output_that_no_node_makes() -> None:
    model = build([*NODES[:3], relu("c2", "y")], WEIGHTS)
    model.graph.output[0].name = "elsewhere"
    with pytest.raises(ModelError):
        compress(model, photo(1, (12, 3, 12, 10)), 1.5, threads=1)
