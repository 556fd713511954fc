"""Files: what is read is checked, what is written is whole, and nothing of the original is lost on the way."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import ALL, photo, plain, residual, run_model, three_convs, with_function
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.errors import EnvironmentFault, ModelError, ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import inputs, load, outputs
from onnx_lowrank.graph.files.save import check_writable, export, write
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.sites import find_sites


def entry(key: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value="kept")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stating(shapes: dict[str, list[Any]]) -> onnx.ModelProto:
    """Three convolutions, the second with a stride, and shapes stated for the tensors inside."""
    model = three_convs(size=(12, 10))
    for node in model.graph.node:
        if node.name == "conv2":
            node.attribute.append(helper.make_attribute("strides", [2, 2]))
    for name, shape in shapes.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def decorated() -> onnx.ModelProto:
    """A model with everything that graphsurgeon drops."""
    model = residual()
    model.ir_version = 10
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "model doc"
    model.metadata_props.append(entry("labels"))
    model.opset_import.append(helper.make_opsetid("unused.domain", 3))
    model.functions.extend(with_function().functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph = model.graph
    graph.name, graph.doc_string = "the graph", "graph doc"
    graph.metadata_props.append(entry("graph"))
    for node in graph.node:
        node.doc_string = f"doc of {node.output[0]}"
        node.metadata_props.append(entry("node"))
    # graphsurgeon cannot export an empty list.
    graph.node.insert(0, helper.make_node("Constant", [], ["unread"], value_ints=[1]))
    graph.node[0].attribute[0].ints.pop()
    graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8, "H", "W"], f"about {name}")
        for name in ("c2", "r1")
    )
    graph.input[0].doc_string, graph.output[0].doc_string = "pictures", "answers"
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "nobody_reads_me"))
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "the_scale"))
    for tensor in graph.initializer:
        tensor.doc_string = f"stored {tensor.name}"
        if tensor.name in ("w1", "w2", "ws"):
            graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    for name in ("c2", "w2"):
        annotation = graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.append(
            onnx.StringStringEntryProto(key="SCALE_TENSOR", value="the_scale")
        )
    onnx.checker.check_model(model)
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


@pytest.mark.parametrize("external", [False, True])
def test_what_is_written_is_read_again(tmp_path: Path, external: bool) -> None:
    model = decorated()
    path = tmp_path / "model.onnx"
    write(model, path, external_data=external)
    expected = ["model.onnx", "model.onnx.data"] if external else ["model.onnx"]
    assert listing(tmp_path) == expected
    loaded = load(path)
    assert loaded.external_data is external
    assert loaded.proto == model
    first = [(tmp_path / name).read_bytes() for name in expected]
    assert loaded.bytes == pytest.approx(sum(map(len, first)), rel=0.5)
    write(model, path, external_data=external)
    assert [(tmp_path / name).read_bytes() for name in expected] == first
    assert model == decorated()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write(plain(), tmp_path / "model.onnx", external_data=False)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", range(1, 5))
def test_a_failure_at_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, existing: bool, error: BaseException, failing: int
) -> None:
    path = tmp_path / "model.onnx"
    if existing:
        write(residual(), path, external_data=True)
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    calls = 0
    replace = Path.replace

    def fail(self: Path, target: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    expected = EnvironmentFault if isinstance(error, OSError) else KeyboardInterrupt
    with contextlib.suppress(expected):
        write(plain(), path, external_data=external)
        assert calls < failing
    if calls >= failing:
        assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be killed")
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("step", range(1, 6))
def test_whoever_is_killed_leaves_the_old_model_or_the_new_one_or_none(
    tmp_path: Path, external: bool, step: int
) -> None:
    path = tmp_path / "model.onnx"
    write(residual(), path, external_data=True)
    script = (
        "import os, sys; from pathlib import Path; import onnx; from onnx_lowrank.graph.save import write\n"
        "replace, left = Path.replace, [int(sys.argv[4])]\n"
        "def killed(self, target):\n"
        "    left[0] -= 1\n"
        "    return replace(self, target) if left[0] else os.kill(os.getpid(), 9)\n"
        "Path.replace = killed\n"
        "write(onnx.load(sys.argv[1]), sys.argv[2], external_data=sys.argv[3] == 'True')\n"
    )
    source = tmp_path / "source"
    onnx.save(plain(), source)
    arguments = [str(source), str(path), str(external), str(step)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=Path(__file__).parents[1])
    assert done.returncode in (0, -9)
    # Killed before its last step it has not written; with nothing to be moved aside there is only that step.
    assert (done.returncode == 0) is (step > (4 if external else 1))
    if path.exists():
        assert load(path).proto == (plain() if done.returncode == 0 else residual())
    else:
        assert external and step > 1


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        write(plain(), tmp_path / "model.onnx", external_data=True)
    assert not listing(tmp_path)


@pytest.mark.parametrize("call", [check_writable, lambda path: write(plain(), path, external_data=False)])
def test_places_that_cannot_be_written_are_named(tmp_path: Path, call: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "model.onnx", "there is no folder"),
        (tmp_path / "file" / "model.onnx", "there is no folder"),
        (Path(os.devnull), "not an ordinary file"),
    ):
        with pytest.raises(EnvironmentFault, match=reason):
            call(path)
    call(tmp_path / "model.onnx")
    check_writable(tmp_path / "other.onnx")
    assert "other.onnx" not in listing(tmp_path)


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = plain().SerializeToString()
    missing = onnx.ModelProto()
    missing.CopyFrom(plain())
    missing.graph.node[0].input[0] = "nowhere"
    new, old = plain(), plain()
    new.opset_import[0].version = 999
    old.ir_version = 0
    files = {
        "empty": b"", "text": b"not a model at all", "cut": whole[: len(whole) // 2], "other": b"\x89PNG\r\n\x1a\n" * 9,
        "no_graph": onnx.ModelProto(ir_version=8).SerializeToString(), "dangling": missing.SerializeToString(),
        "opset": new.SerializeToString(), "ir": old.SerializeToString(),
    }  # fmt: skip
    paths = [tmp_path, tmp_path / "absent.onnx"]
    for name, data in files.items():
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(data)
    write(plain(), tmp_path / "external.onnx", external_data=True)
    (tmp_path / "external.onnx.data").unlink()
    for path in [*paths, tmp_path / "external.onnx"]:
        with pytest.raises(ModelError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path_factory: Any, data: Any) -> None:
    whole = bytearray(plain().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    with contextlib.suppress(ModelError):
        load(path)


def test_a_given_proto_is_copied() -> None:
    model = plain()
    loaded = load(model)
    assert loaded.proto == model
    assert loaded.proto is not model
    assert loaded.path is None
    model.graph.node[0].input[0] = "changed"
    assert loaded.proto.graph.node[0].input[0] == "x"


def test_inputs_and_outputs_are_described() -> None:
    model = decorated()
    (spec,) = inputs(model)
    assert (spec.name, spec.dtype, spec.shape) == ("x", np.dtype(np.float32), ("N", 3, "H", "W"))
    assert outputs(model)[0].shape == ("N", None, None, None)


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


def test_a_rewritten_file_runs(tmp_path: Path) -> None:
    result = factorised(residual())
    write(result, tmp_path / "m.onnx", external_data=True)
    x = np.ones((1, 3, 12, 10), np.float32)
    got = run_model(load(tmp_path / "m.onnx").proto, {"x": x})["y"]
    np.testing.assert_array_equal(got, run_model(result, {"x": x})["y"])


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
