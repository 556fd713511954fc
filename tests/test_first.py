"""Which convolutions are the first ones, what they may cost, and what a refusal says of what is left alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import conv, photo, relu, weights
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ModelError, TargetError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites

Array = NDArray[Any]
SIZE = 10


def model_of(
    nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Array], inputs: Mapping[str, int], outputs: Sequence[str]
) -> onnx.ModelProto:
    """A model of square images, with the number of channels of every input."""
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", c, SIZE, SIZE]) for name, c in inputs.items()
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]) for name in outputs]
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(list(nodes), "g", shapes, made, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data_for(model: onnx.ModelProto, count: int = 24) -> dict[str, Array]:
    return {
        value.name: photo(number, (count, value.type.tensor_type.shape.dim[1].dim_value, SIZE, SIZE))
        for number, value in enumerate(model.graph.input)
    }


def operator(op: str, reads: Sequence[str], makes: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(reads), [makes], f"{op}_{makes}", **attributes)


def pair(name: str, reads: str, makes: str) -> list[onnx.NodeProto]:
    """A convolution that keeps the size, and a Relu."""
    return [conv(name, reads, f"w_{name}", f"c_{name}", pads=[1] * 4), relu(f"c_{name}", makes)]


STEM = weights(1, 8, 3, 3, 3)
WIDE = weights(2, 8, 8, 3, 3)

NOT_FIRST = {
    "a mask that multiplies every layer's input": model_of(
        [operator("Mul", ["x", "mask"], "m0"), *pair("stem", "m0", "r0"), operator("Mul", ["r0", "mask"], "m1"),
         *pair("next", "m1", "y")],
        {"w_stem": STEM, "w_next": WIDE}, {"x": 3, "mask": 1}, ["y"],
    ),
    "a cached state joined in front": model_of(
        [*pair("stem", "x", "r0"), operator("Concat", ["state", "r0"], "j", axis=2), *pair("next", "j", "y")],
        {"w_stem": STEM, "w_next": WIDE}, {"x": 3, "state": 8}, ["y"],
    ),
    "features added from outside": model_of(
        [*pair("stem", "x", "r0"), operator("Add", ["features", "r0"], "j"), *pair("next", "j", "y")],
        {"w_stem": STEM, "w_next": WIDE}, {"x": 3, "features": 8}, ["y"],
    ),
    "the image joined again": model_of(
        [*pair("stem", "x", "r0"), operator("Concat", ["r0", "x"], "j", axis=1), *pair("next", "j", "y")],
        {"w_stem": STEM, "w_next": weights(3, 8, 11, 3, 3)}, {"x": 3}, ["y"],
    ),
    "a gate computed from another input": model_of(
        [*pair("stem", "x", "r0"), operator("Sigmoid", ["rate"], "gate"), operator("Mul", ["gate", "r0"], "j"),
         *pair("next", "j", "y")],
        {"w_stem": STEM, "w_next": WIDE}, {"x": 3, "rate": 8}, ["y"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FIRST)
def test_only_what_sees_inputs_alone_is_first(case: str) -> None:
    found = find_sites(normalise(NOT_FIRST[case]))
    assert [site.name for site in found.sites] == ["next"]
    assert [site.name for site in found.first] == [skip.name for skip in found.skipped] == ["stem"]


@pytest.mark.parametrize("case", NOT_FIRST)
def test_what_reads_an_input_beside_features_is_factorised(case: str) -> None:
    model = NOT_FIRST[case]
    result = compress(model, data_for(model), 2.0, threads=1, require="none")
    assert "next" in {site.name for site in result.report.sites if site.form}
    assert result.report.speedup.macs >= 2


def towers(*widths: int, filters: int = 8) -> onnx.ModelProto:
    """One input and one first convolution for every width, their sum, and a convolution behind it."""
    names = [f"in{number}" for number in range(len(widths))]
    nodes = [conv(f"first{n}", name, f"w{n}", f"c{n}", pads=[1] * 4) for n, name in enumerate(names)]
    nodes += [operator("Sum", [f"c{n}" for n in range(len(widths))], "s"), relu("s", "r"), *pair("body", "r", "y")]
    stored = {f"w{n}": weights(n, filters, width, 3, 3) for n, width in enumerate(widths)}
    return model_of(
        nodes, stored | {"w_body": weights(9, 32, filters, 3, 3)}, dict(zip(names, widths, strict=True)), ["y"]
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_first_convolutions_that_are_left_alone_cost_little_all_together(widths: list[int]) -> None:
    model = towers(*widths)
    macs = {f"first{n}": width * 8 for n, width in enumerate(widths)} | {"body": 8 * 32}
    report = compress(model, data_for(model, 12), 1.0, threads=1, require="none", solver="weights").report
    alone = {skip.name for skip in report.skipped}
    assert sum(macs[name] for name in alone) <= 0.2 * sum(macs.values())
    least = min((macs[name] for name in macs if name.startswith("first") and name not in alone), default=1 << 30)
    assert all(macs[name] <= least for name in alone)
    assert [site.name for site in report.sites] == [name for name in macs if name not in alone]


def test_a_first_convolution_that_costs_much_is_factorised_and_include_takes_a_cheap_one() -> None:
    expensive, cheap = towers(40), towers(1)
    assert compress(expensive, data_for(expensive), 3.0, threads=1, require="none").report.speedup.macs >= 3
    for include, sites in ((None, ["body"]), (".", ["first0", "body"])):
        report = compress(cheap, data_for(cheap), 1.2, threads=1, require="none", include=include).report
        assert [site.name for site in report.sites] == sites


def depthwise_heavy() -> onnx.ModelProto:
    """A stem, two depthwise convolutions, and a small one."""
    nodes = [
        conv("stem", "x", "w_stem", "c0", pads=[0] * 4), relu("c0", "r0"),
        conv("deep1", "r0", "wd", "d1", group=32, pads=[1] * 4),
        conv("deep2", "d1", "wd", "d2", group=32, pads=[1] * 4), conv("last", "d2", "w_last", "y", pads=[0] * 4),
    ]  # fmt: skip
    stored = {"w_stem": weights(1, 32, 1, 1, 1), "wd": weights(2, 32, 1, 3, 3), "w_last": weights(3, 8, 32, 1, 1)}
    return model_of(nodes, stored, {"x": 1}, ["y"])


def test_out_of_reach_says_what_is_left_alone_how_much_it_costs_and_why() -> None:
    model = depthwise_heavy()
    with pytest.raises(TargetError, match="out of reach") as caught:
        compress(model, data_for(model), 2.0, threads=1, require="none")
    line = str(caught.value)
    total = 32 + 2 * 288 + 256
    assert f"{100 * (32 + 576) / total:.0f} % of the MACs are left alone" in line
    assert f"{100 * 576 / total:.0f} % in deep1, deep2: depthwise convolution (group=32)" in line
    assert "3.7 % in stem: the first convolution" in line
    assert "--include" not in line and "lower --speedup" in line


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"include": "last"}, "widen --include"),
        ({"exclude": "body"}, "narrow --exclude"),
        ({"form": "cp", "include": "."}, "--form auto"),
    ],
)
def test_out_of_reach_advises_what_helps(options: dict[str, Any], advice: str) -> None:
    nodes = [*pair("stem", "x", "r0"), *pair("body", "r0", "r1"), conv("last", "r1", "w_last", "y", pads=[0] * 4)]
    stored = {"w_stem": STEM, "w_body": weights(2, 64, 8, 3, 3), "w_last": weights(3, 64, 64, 1, 1)}
    model = model_of(nodes, stored, {"x": 3}, ["y"])
    with pytest.raises(TargetError, match=advice):
        compress(model, data_for(model), 9.0, threads=1, require="none", **options)


def test_nothing_to_factorise_says_what_it_costs() -> None:
    model = depthwise_heavy()
    with pytest.raises(ModelError, match=r"excluded by --exclude \(2×\) with 33 % of the MACs") as caught:
        compress(model, data_for(model), 2.0, threads=1, require="none", exclude="stem|last")
    assert "depthwise convolution (group=32) (2×) with 67 % of the MACs" in str(caught.value)


def test_what_runs_out_of_sight_has_no_cost_and_is_named_without_one() -> None:
    body = helper.make_graph(
        [conv("inner", "x", "w", "inner_out", pads=[1] * 4)], "body", [],
        [helper.make_tensor_value_info("inner_out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights(1, 3, 3, 3, 3), "w")],
    )  # fmt: skip
    choice = helper.make_node("If", ["flag"], ["y"], "choice", then_branch=body, else_branch=body)
    model = model_of([choice], {"flag": np.array(True)}, {"x": 3}, ["y"])
    with pytest.raises(ModelError, match=r"nothing to factorise: inside the body of If 'choice' \(2×\)$"):
        compress(model, data_for(model), 2.0, threads=1, require="none")


def test_layers_whose_costs_are_not_counted_are_refused_for_their_reasons() -> None:
    # No layer has a cost to measure here, so ONNX Runtime would be left with an empty network.
    fused = helper.make_node("FusedConv", ["x", "w"], ["y"], "fused", domain="com.microsoft", activation="Relu")
    model = model_of([fused], {"w": weights(1, 4, 3, 3, 3)}, {"x": 3}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match=r"^nothing to factorise: .*FusedConv.*\(1×\)$"):
        compress(model, data_for(model), 2.0, threads=1, require="none")
