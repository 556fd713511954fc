"""Models on which random search once found the program wanting."""

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, photo, relu, run_model, weights
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import compress

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
    report = compress(model, photo(1, (12, 3, 12, 10)).astype(np.float16), 1.5, threads=1).report
    assert [layer.name for layer in report.refitted] == ["head"]
