"""Networks that keep their channels last: transposes, casts and spelled-out norms hide nothing from the solver."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, norm, photo, run_model, weights
from onnx import TensorProto, helper

from onnx_lowrank import Result, compress
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites

D = 10


def cast(x: str, y: str) -> Any:
    return helper.make_node("Cast", [x], [y], f"cast_{y}", to=TensorProto.FLOAT)


def transpose(x: str, y: str, *axes: int) -> Any:
    return helper.make_node("Transpose", [x], [y], f"transpose_{y}", perm=axes)


def op(kind: str, inputs: Sequence[str], y: str) -> Any:
    return helper.make_node(kind, inputs, [y], f"{kind}_{y}")


def residual_network(last: bool, blocks: int = 2) -> onnx.ModelProto:
    """Residual blocks of two convolutions and norms; ``last``: channels last, as tf2onnx and others write them."""
    stored = {"w_stem": weights(1, D, 3, 3, 3)}
    nodes: list[Any] = []

    def layer(name: str, x: str, w: str, y: str) -> None:
        prefix = f"norm_{name}"
        node, constants = norm(f"{name}_c", y, prefix, D, sum(map(ord, name)))
        if not last:
            stored.update(constants)
            nodes.extend([conv(name, x, w, f"{name}_c"), node])
            return
        gain = constants[f"{prefix}_scale"] / np.sqrt(constants[f"{prefix}_var"] + np.float32(1e-3))
        stored.update({f"{name}_mean": constants[f"{prefix}_mean"], f"{name}_gain": gain})
        stored[f"{name}_shift"] = constants[f"{prefix}_shift"].reshape(1, 1, 1, D)
        nodes.extend(
            [
                transpose(x, f"{name}_x", 0, 3, 1, 2),
                conv(name, f"{name}_x", w, f"{name}_c"),
                transpose(f"{name}_c", f"{name}_t", 0, 2, 3, 1),
                cast(f"{name}_t", f"{name}_t1"),
                op("Sub", [f"{name}_t1", f"{name}_mean"], f"{name}_s"),
                cast(f"{name}_s", f"{name}_s1"),
                op("Mul", [f"{name}_gain", f"{name}_s1"], f"{name}_m"),
                op("Add", [f"{name}_m", f"{name}_shift"], f"{name}_a"),
                cast(f"{name}_a", y),
            ]
        )

    if last:
        nodes.append(transpose("x", "x_last", 0, 2, 3, 1))
    layer("stem", "x_last" if last else "x", "w_stem", "n")
    nodes.append(op("Relu", ["n"], "r0"))
    for i in range(blocks):
        stored |= {f"w{i}{part}": 2 * weights(10 * i + k, D, D, 3, 3) for k, part in enumerate("ab", 2)}
        layer(f"conv{i}a", f"r{i}", f"w{i}a", f"n{i}")
        nodes.append(op("Relu", [f"n{i}"], f"h{i}"))
        layer(f"conv{i}b", f"h{i}", f"w{i}b", f"m{i}")
        nodes += [op("Add", [f"r{i}", f"m{i}"], f"sum{i}"), cast(f"sum{i}", f"sum{i}_f") if last else None]
        nodes.append(op("Relu", [f"sum{i}_f" if last else f"sum{i}"], f"r{i + 1}"))
    nodes.append(transpose(f"r{blocks}", "y", 0, 3, 1, 2) if last else op("Identity", [f"r{blocks}"], "y"))
    return build([node for node in nodes if node], stored, input_shape=("N", 3, "H", "W"))


def sites(model: onnx.ModelProto) -> tuple[ConvSite, ...]:
    return find_sites(normalise(load(model).proto)).sites


def compressed(model: onnx.ModelProto, **options: Any) -> Result:
    return compress(model, photo(3, (12, 3, 16, 16)), speedup=2, threads=1, **options)


def test_both_networks_are_the_same() -> None:
    first, last = (run_model(residual_network(flag), {"x": photo()})["y"] for flag in (False, True))
    np.testing.assert_allclose(first, last, rtol=1e-4, atol=1e-6 * np.abs(first).max())


def test_norms_that_are_spelled_out_are_folded() -> None:
    model = residual_network(last=True)
    loaded = load(model)
    folded = export(normalise(loaded.proto), loaded)
    assert not {"Sub", "Mul", "BatchNormalization"} & {node.op_type for node in folded.graph.node}
    before, after = (run_model(network, {"x": photo()})["y"] for network in (model, folded))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def test_activations_and_shortcuts_are_seen_through_transposes_and_casts() -> None:
    for plain, hidden in zip(sites(residual_network(False)), sites(residual_network(True)), strict=True):
        assert plain.name == hidden.name
        assert plain.activation is not None and plain.activation == hidden.activation
        assert (plain.join is None) == (hidden.join is None)
        if plain.join and hidden.join:
            assert (plain.join.shortcut, plain.join.axes) == (hidden.join.shortcut, (0, 1, 2, 3))
            assert hidden.join.axes == (0, 2, 3, 1)
        np.testing.assert_allclose(plain.kernel, hidden.kernel, rtol=1e-5)
        np.testing.assert_allclose(plain.bias, hidden.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["linear", "nonlinear"])
def test_both_are_solved_alike(solver: str) -> None:
    first, last = (compressed(residual_network(flag), solver=solver).report for flag in (False, True))
    for plain, hidden in zip(first.sites, last.sites, strict=True):
        assert (plain.ranks, plain.form, plain.activation) == (hidden.ranks, hidden.form, hidden.activation)
        for one, other in ((plain.error_linear, hidden.error_linear), (plain.error_nonlinear, hidden.error_nonlinear)):
            assert (one is None and other is None) or one == pytest.approx(other, rel=1e-2)
    errors = [report.outputs["y"].relative_error for report in (first, last)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


def test_a_cast_to_another_type_ends_what_is_seen() -> None:
    nodes = [
        conv("conv", "x", "w", "c"),
        helper.make_node("Cast", ["c"], ["h"], "cast", to=TensorProto.FLOAT16),
        op("Relu", ["h"], "r"),
        cast("r", "y"),
    ]
    (site,) = find_sites(normalise(load(build(nodes, {"w": weights(0, 4, 3, 3, 3)})).proto), include=".").sites
    assert site.activation is None


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (1, 0, 2, 3)], ids=["channels last", "samples moved"])
def test_a_shift_of_another_axis_than_the_channels_stays(axes: tuple[int, ...]) -> None:
    stored = {"w": weights(0, 4, 3, 3, 3), "shift": weights(1, 4).reshape(4, 1, 1)}
    nodes = [conv("conv", "x", "w", "c"), transpose("c", "t", *axes), op("Add", ["t", "shift"], "y")]
    model = build(nodes, stored, input_shape=("N", 3, 4, 4))
    assert [node.op for node in normalise(model).nodes] == ["Conv", "Transpose", "Add"]


def test_a_shift_that_makes_the_response_larger_stays() -> None:
    stored = {"w": weights(0, 1, 3, 3, 3), "shift": weights(1, 5).reshape(5, 1, 1)}
    nodes = [conv("conv", "x", "w", "c"), op("Add", ["c", "shift"], "y")]
    model = build(nodes, stored)
    assert [node.op for node in normalise(model).nodes] == ["Conv", "Add"]
