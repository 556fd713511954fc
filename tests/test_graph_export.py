"""Exports: nothing of the original is lost on the way, and a rewritten model differs in the rewritten node alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import photo, residual, run_model, three_convs
from odd_models_for_tests import ALL, decorated
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.graph.files.save import export, write
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.sites import find_sites


def stating(shapes: dict[str, list[Any]]) -> onnx.ModelProto:
    """Three convolutions, the second with a stride, and shapes stated for the tensors inside."""
    model = three_convs(size=(12, 10))
    for node in model.graph.node:
        if node.name == "conv2":
            node.attribute.append(helper.make_attribute("strides", [2, 2]))
    for name, shape in shapes.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def factorised(model: onnx.ModelProto, pattern: str = "^conv2$", rank: int = 4) -> onnx.ModelProto:
    loaded = load(model)
    graph = normalise(loaded.proto)
    for site in find_sites(graph, include=pattern).sites:
        d, c, h, w = site.kernel.shape
        stages = (
            Link(np.full((rank, c, h, w), 0.01), (True, True)),
            Link(np.full((d, rank, 1, 1), 0.1), (False, False)),
        )
        rewrite(graph, site, Factorization(stages, site.bias))
    return export(graph, loaded)


def drop(entries: Any, unwanted: Callable[[Any], bool]) -> None:
    kept = [entry for entry in entries if not unwanted(entry)]
    del entries[:]
    entries.extend(kept)


@pytest.mark.parametrize("name", ALL)
def test_a_graph_that_nobody_edited_is_exported_as_it_was(name: str) -> None:
    model = ALL[name]()
    if name in ("plain", "scattered_weights", "shared_weights"):
        model = export(normalise(model), load(model))  # Normalising changes these once, and no second time.
    assert export(normalise(model), load(model)) == model


def test_an_unedited_graph_keeps_everything_even_what_graphsurgeon_cannot_hold() -> None:
    assert export(normalise(decorated()), load(decorated())) == decorated()


def test_a_rewritten_graph_differs_in_the_rewritten_node_alone() -> None:
    model, result = decorated(), factorised(decorated())
    validate(result, model)
    last = next(node for node in result.graph.node if "c2" in node.output)
    assert last.doc_string == "doc of c2"
    assert last.metadata_props[0].key == "node"

    # Undo the rewriting; everything else must be there and the same.
    index = next(i for i, node in enumerate(result.graph.node) if node.name == "conv2/rank-1of2")
    restored = onnx.ModelProto()
    restored.CopyFrom(result)
    del restored.graph.node[index : index + 2]
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    del expected.graph.node[index]
    for proto in (restored, expected):
        drop(proto.graph.initializer, lambda tensor: tensor.name.startswith("conv2/") or tensor.name in ("w2", "b2"))
    drop(expected.graph.input, lambda value: value.name == "w2")
    drop(expected.graph.quantization_annotation, lambda annotation: annotation.tensor_name == "w2")
    assert [value.name for value in restored.graph.input] == ["x", "w1", "ws"]
    assert restored == expected


def test_old_ir_versions_list_new_weights_as_inputs() -> None:
    model = residual()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.checker.check_model(model)
    result = factorised(model)
    validate(result, model)
    listed = {value.name for value in result.graph.input}
    assert {tensor.name for tensor in result.graph.initializer} <= listed
    assert "w2" not in listed
    assert [spec.name for spec in inputs(result)] == ["x"]


def test_a_rewritten_file_runs(tmp_path: Path) -> None:
    result = factorised(residual())
    write(result, tmp_path / "m.onnx", external_data=True)
    x = np.ones((1, 3, 12, 10), np.float32)
    got = run_model(load(tmp_path / "m.onnx").proto, {"x": x})["y"]
    np.testing.assert_array_equal(got, run_model(result, {"x": x})["y"])


def test_validation_notices_what_changed() -> None:
    model = decorated()
    for change, message in (
        (lambda m: m.graph.output[0].type.tensor_type.shape.dim[0].Clear(), "changed the type of 'y'"),
        (lambda m: m.opset_import.pop(), "opsets"),
        (lambda m: setattr(m.graph.input[0], "name", "z"), "inputs"),
        (lambda m: setattr(m.graph.output[0], "name", "z"), "has the outputs"),
        (lambda m: m.graph.node.pop(3), "not valid ONNX"),
        (lambda m: m.graph.initializer[1].dims.__setitem__(slice(None), [8, 4, 3, 6]), "inconsistent in its shapes"),
    ):
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        change(broken)
        with pytest.raises(ValidationError, match=message):
            validate(broken, model)


@pytest.mark.parametrize("batch", ["N", 3])
def test_stated_shapes_survive_where_the_nodes_make_them(batch: int | str) -> None:
    right: dict[str, list[Any]] = {
        "c1": [batch, 16, 12, 10],
        "r1": ["any", "some", 12, "more"],
        "c2": ["N", 16, 6, 5],
        "r3": ["N", 16, 6, 5],
    }
    wrong: dict[str, list[Any]] = {"r2": ["N", 6, 5, 16], "c3": ["N", 16, 30]}
    model = stating(right | wrong)
    assert load(model).misstated == set(wrong)
    warned: list[str] = []
    result = compress(model, photo(0, (8, 3, 12, 10)), 2, warn=warned.append)
    assert {value.name for value in result.model.graph.value_info} == set(right)
    assert any("2 tensors (c3, r2)" in text for text in warned)
    onnx.checker.check_model(result.model, full_check=True)


def test_a_size_below_one_stands_for_an_unknown_one() -> None:
    assert load(stating({"r3": [0, -1, 6, 5]})).misstated == frozenset()


def test_behind_a_node_that_onnx_does_not_know_every_statement_survives() -> None:
    model = stating({"r1": ["N", 12, 10, 16]})
    for node in model.graph.node:
        if node.output[0] == "c1":
            node.domain = "org.example"
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    assert load(model).misstated == frozenset()


def test_shapes_behind_a_computed_reshape_are_compared_too() -> None:
    """The usual spelling: the batch is taken from the input, the other sizes are constants."""
    model = stating({"c1": ["N", 16, 12, 10], "r1": ["N", 16, 10, 12]})
    for name, values in (("first", [0]), ("others", [3, 12, 10])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    model.graph.node[0].input[0] = "same"
    for node in (
        helper.make_node("Reshape", ["x", "wanted"], ["same"]),
        helper.make_node("Concat", ["batch", "others"], ["wanted"], axis=0),
        helper.make_node("Gather", ["size", "first"], ["batch"]),
        helper.make_node("Shape", ["x"], ["size"]),
    ):
        model.graph.node.insert(0, node)
    assert load(model).misstated == {"r1"}
