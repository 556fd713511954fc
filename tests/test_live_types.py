"""What crosses a cut, enters or leaves a network, and is no array of NumPy's own: sequences, optionals, short types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from chance_for_tests import nearly_low_rank
from models_for_tests import Array, conv, photo, relu
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import LowRankError, Result, compress
from onnx_lowrank.bench.benchmark import Settings, benchmark
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.calibration.store import TensorStore
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.carried import NARROW, carrying
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime.session import opener

FLOAT = TensorProto.FLOAT
ROUND_OFF = 1e-9
SHORT = {
    "bfloat16": TensorProto.BFLOAT16,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8e5m2": TensorProto.FLOAT8E5M2,
    "float8e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
}
FULL_RANK = Plan(tuple(SitePlan(name, "channel", (12,)) for name in "ab"))


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(op, inputs, [output], output, **attributes)
    return made


def network(before: list[onnx.NodeProto], after: list[onnx.NodeProto], outputs: list[Any] | None = None) -> Any:
    """A network that makes something of r [N, 12, H, W] before two convolutions, and z of it and of h behind them."""
    shapes = {"stem": (12, 3), "a": (12, 12), "b": (12, 12), "end": (4, 12)}
    stored = {f"{name}.w": nearly_low_rank(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    stored |= {
        "nil": np.array(0),
        "one": np.array(1),
        "four": np.array(4),
        "axis": np.array([0]),
        "none": np.array([0]),
    }
    nodes = [
        *(conv("stem", "x", "stem.w", "s"), relu("s", "r")),
        *before,
        *(conv("a", "r", "a.w", "p"), relu("p", "q"), conv("b", "q", "b.w", "g"), relu("g", "h")),
        *after,
        conv("end", "z", "end.w", "y"),
    ]
    images = [
        helper.make_tensor_value_info(name, FLOAT, ["N", size, None, None]) for name, size in (("x", 3), ("y", 4))
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    graph = helper.make_graph(nodes, "net", images[:1], [*images[1:], *(outputs or ())], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def short(number: int) -> tuple[list[Any], list[Any]]:
    back = [node("Cast", ["t"], "f", to=FLOAT), node("Add", ["h", "f"], "z")]
    return [node("Cast", ["r"], "t", to=number)], back


CASES: dict[str, tuple[list[Any], list[Any]]] = {
    **{name: short(number) for name, number in SHORT.items()},
    "half precision": short(TensorProto.FLOAT16),
    "Boolean": short(TensorProto.BOOL),
    "a sequence": (
        [node("SplitToSequence", ["r", "four"], "t", axis=1)],
        [
            *(node("SequenceAt", ["t", "nil"], "t0"), node("SequenceAt", ["t", "one"], "t1")),
            *(node("Concat", ["t1", "t0", "t1"], "t2", axis=1), node("Add", ["h", "t2"], "z")),
        ],
    ),
    "a sequence that grows": (
        [node("SequenceConstruct", ["r", "r"], "t")],
        [
            *(node("SequenceInsert", ["t", "h"], "t1"), node("ConcatFromSequence", ["t1"], "t2", axis=0, new_axis=1)),
            node("ReduceMean", ["t2", "axis"], "z", keepdims=0),
        ],
    ),
    "a sequence in half precision": (
        [node("Cast", ["r"], "c", to=TensorProto.FLOAT16), node("SequenceConstruct", ["c"], "t")],
        [node("SequenceAt", ["t", "nil"], "u"), node("Cast", ["u"], "f", to=FLOAT), node("Add", ["h", "f"], "z")],
    ),
    "an optional": (
        [node("Optional", ["r"], "t")],
        [node("OptionalGetElement", ["t"], "u"), node("Add", ["h", "u"], "z")],
    ),
    "an optional sequence": (
        [node("SequenceConstruct", ["r"], "c"), node("Optional", ["c"], "t")],
        [
            *(node("OptionalGetElement", ["t"], "d"), node("SequenceAt", ["d", "nil"], "u")),
            node("Add", ["h", "u"], "z"),
        ],
    ),
    "strings": (
        [node("ReduceMean", ["r"], "m"), node("Cast", ["m"], "t", to=TensorProto.STRING)],
        [node("Cast", ["t"], "u", to=FLOAT), node("Add", ["h", "u"], "z")],
    ),
    "an empty tensor": (
        [node("Slice", ["r", "none", "none", "axis"], "t")],
        [node("Shape", ["t"], "u"), node("Cast", ["u"], "f", to=FLOAT), *[]],
    ),
}
CASES["an empty tensor"][1].extend([node("ReduceSum", ["f"], "k", keepdims=0), node("Add", ["h", "k"], "z")])


def compressed(model: onnx.ModelProto, warnings: list[str] | None = None, **options: Any) -> Result:
    warn = (warnings if warnings is not None else []).append
    data = photo(7, (20, 3, 8, 8))
    return compress(model, data, 2.0, threads=1, require="none", exclude="stem|end", warn=warn, **options)


@pytest.mark.parametrize("memory", [4 << 30, 700 << 20], ids=["in memory", "on disk"])
@pytest.mark.parametrize("case", CASES)
def test_full_rank_is_exact(case: str, memory: int) -> None:
    result = compressed(network(*CASES[case]), plan=FULL_RANK, memory=memory)
    assert result.report.outputs["y"].centred_error < ROUND_OFF


@pytest.mark.parametrize("case", ["a sequence", "float8e5m2", "int4"])
def test_a_speedup_costs_what_it_costs_without_the_type(case: str) -> None:
    plain = compressed(network([], [node("Add", ["h", "r"], "z")])).report.outputs["y"].centred_error
    assert compressed(network(*CASES[case])).report.outputs["y"].centred_error < 4 * plain


# ---- outputs


OUTPUTS: dict[str, tuple[Any, Any, set[str]]] = {
    **{
        name: (node("Cast", ["h"], "o", to=number), helper.make_tensor_value_info("o", number, None), {"o"})
        for name, number in SHORT.items()
        if "int" not in name
    },
    "sequence": (
        node("SplitToSequence", ["h", "four"], "o", axis=1),
        helper.make_tensor_sequence_value_info("o", FLOAT, None),
        {"o[0]", "o[1]", "o[2]"},
    ),
    "optional": (
        node("Optional", ["h"], "o"),
        helper.make_value_info("o", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, None))),
        {"o"},
    ),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_that_hold_numbers_are_compared(case: str) -> None:
    maker, value, names = OUTPUTS[case]
    result = compressed(network([], [node("Add", ["h", "r"], "z"), maker], [value]), plan=FULL_RANK)
    assert result.report.outputs.keys() == {"y"} | names
    assert all(output.centred_error < ROUND_OFF for output in result.report.outputs.values())


def test_strings_are_named_as_not_compared() -> None:
    warnings: list[str] = []
    value = helper.make_tensor_value_info("o", TensorProto.STRING, None)
    after = [node("Add", ["h", "r"], "z"), node("Cast", ["h"], "o", to=TensorProto.STRING)]
    result = compressed(network([], after, [value]), warnings)
    assert result.report.outputs.keys() == {"y"}
    assert sum("'o' consists of strings: it is not compared" in text for text in warnings) == 1


def test_maps_of_classes_are_compared_as_scores() -> None:
    labels = list(range(12))
    scores = helper.make_node("ZipMap", ["m"], ["o"], domain="ai.onnx.ml", classlabels_int64s=labels)
    types = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    value = helper.make_value_info("o", helper.make_sequence_type_proto(types))
    axes = node("GlobalAveragePool", ["h"], "k")
    model = network([], [node("Add", ["h", "r"], "z"), axes, node("Flatten", ["k"], "m"), scores], [value])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    report = compressed(model, plan=FULL_RANK).report.outputs["o"]
    assert report.centred_error < ROUND_OFF and report.top1_agreement == 1


# ---- inputs


def with_input(kind: onnx.TypeProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    model: onnx.ModelProto = network([], [node("Add", ["h", "r"], "z")])
    model.graph.input[0].CopyFrom(helper.make_value_info("given", kind))
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])
    return model


@pytest.mark.parametrize(("name", "element"), [("bfloat16", ml_dtypes.bfloat16), ("float8e5m2", ml_dtypes.float8_e5m2)])
def test_inputs_of_short_types_are_fed(name: str, element: Any) -> None:
    kind = helper.make_tensor_type_proto(SHORT[name], ["N", 3, 8, 8])
    model = with_input(kind, [node("Cast", ["given"], "x", to=FLOAT)])
    data = {"given": photo(7, (20, 3, 8, 8)).astype(element)}
    for memory in (4 << 30, 700 << 20):
        result = compress(
            model, data, 2.0, threads=1, require="none", exclude="stem|end", plan=FULL_RANK, memory=memory
        )
        assert result.report.outputs["y"].centred_error < ROUND_OFF


IMAGE = helper.make_tensor_type_proto(FLOAT, ["N", 3, 8, 8])


@pytest.mark.parametrize(
    ("kind", "maker", "complaint"),
    [
        (helper.make_sequence_type_proto(IMAGE), node("ConcatFromSequence", ["given"], "x", axis=0), "is a string"),
        (helper.make_optional_type_proto(IMAGE), node("OptionalGetElement", ["given"], "x"), "is a string"),
        (
            helper.make_tensor_type_proto(TensorProto.STRING, ["N", 3, 8, 8]),
            node("Cast", ["given"], "x", to=FLOAT),
            "is a string",
        ),
        (
            helper.make_tensor_type_proto(TensorProto.INT4, ["N", 3, 8, 8]),
            node("Cast", ["given"], "x", to=FLOAT),
            "int4",
        ),
    ],
)
def test_inputs_that_cannot_be_fed_are_refused_by_name(kind: Any, maker: Any, complaint: str) -> None:
    with pytest.raises(LowRankError, match="'given'") as caught:
        compress(with_input(kind, [maker]), None, 2.0, images=8)
    assert complaint in str(caught.value)


# ---- the parts


@pytest.mark.parametrize("name", SHORT)
def test_every_value_of_a_short_type_survives_the_way_out_and_in(name: str) -> None:
    signed = np.arange(-8, 8, dtype=np.float32)
    values = np.concatenate([signed, np.array([0.5, 1.5, 2**-6, 2**-14, -0.0, 240, 57344, np.nan, np.inf], np.float32)])
    if "int" in name:
        values = np.abs(signed) if name == "uint4" else signed
    x, y = (helper.make_tensor_value_info(each, FLOAT, None) for each in "xy")
    t, options = onnx.ValueInfoProto(name="t"), {"saturate": 0} if "float8" in name else {}
    opsets: dict[str, Any] = {"opset_imports": [helper.make_opsetid("", 21)], "ir_version": 10}
    narrowing: Callable[..., Any] = node("Cast", ["x"], "t", to=SHORT[name], **options)
    widening = node("Cast", ["t"], "y", to=FLOAT)
    taken = helper.make_tensor_value_info("t", SHORT[name], None)
    first = helper.make_model(helper.make_graph([narrowing], "g", [x], [t]), **opsets)
    second = helper.make_model(helper.make_graph([widening], "g", [taken], [y]), **opsets)
    both = helper.make_model(helper.make_graph([narrowing, widening], "g", [x], [y]), **opsets)
    open_session = opener(["cpu"], 1, spinning=False)
    assert open_session(first, "").types["t"] in NARROW

    def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
        carrier, names = carrying(model, {"t": SHORT[name]})
        return open_session(carrier, "").named(names)(feeds)

    carried = run(second, run(first, {"x": values}))["y"]
    np.testing.assert_array_equal(carried, open_session(both, "")({"x": values})["y"])


def test_short_types_survive_the_disk() -> None:
    store = TensorStore(on_disk=True)
    tensors = {"a": np.arange(4).astype(ml_dtypes.bfloat16), "b": np.zeros((0, 3), np.float32), "c": np.array(True)}
    store.write(0, tensors)
    read = store.read(0)
    assert all(read[name].dtype == value.dtype and np.array_equal(read[name], value) for name, value in tensors.items())
    store.close()


def test_a_model_with_short_outputs_is_measured(tmp_path: Path) -> None:
    maker, value, _ = OUTPUTS["bfloat16"]
    onnx.save(network([], [node("Add", ["h", "r"], "z"), maker], [value]), tmp_path / "m.onnx")
    report = benchmark(
        [tmp_path / "m.onnx"], photo(7, (4, 3, 8, 8)), settings=Settings(threads=(1,), budget=Budget(2, 0.01))
    )
    assert report.measurements


def test_a_short_type_that_cannot_be_fed_is_an_error_of_the_model() -> None:
    session = opener(["cpu"], 1, spinning=False)(network(*CASES["int4"]), "the model")
    with pytest.raises(ModelError, match="takes int4"):
        session({"x": np.zeros((1, 3, 8, 8), ml_dtypes.int4)})
