"""Cutting a graph: the pieces, run one after the other, are the whole."""

from typing import Any

import numpy as np
import pytest
from models_for_tests import ALL, branches, photo, plain, run_model, shape_crossing, with_if

from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.segments import live_tensors, segment, whole
from onnx_lowrank.graph.traverse import position


@pytest.mark.parametrize("name", ALL)
def test_two_pieces_around_every_cut_compute_what_the_whole_computes(name: str) -> None:
    model = ALL[name]()
    graph = normalise(model)
    feeds = {"x": photo()}
    expected = run_model(model, feeds)
    final = [tensor.name for tensor in graph.outputs]
    for at in range(len(graph.nodes) + 1):
        live = live_tensors(graph, at)
        made = [o.name for node in graph.nodes[:at] for o in node.outputs]
        early = [output for output in final if output in made]
        held = dict(feeds)
        front = segment(graph, 0, at, [*live, *early], {k: v.dtype for k, v in held.items()})
        if front.graph.output:
            held |= run_model(front, {value.name: held[value.name] for value in front.graph.input})
        late = [output for output in final if output not in early]
        back = segment(graph, at, len(graph.nodes), late, {k: v.dtype for k, v in held.items()})
        assert {value.name for value in back.graph.input} <= set(live)
        if back.graph.output:
            held |= run_model(back, {value.name: held[value.name] for value in back.graph.input})
        for output in final:
            np.testing.assert_allclose(held[output], expected[output], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_chain_of_one_node_pieces_computes_what_the_whole_computes(name: str) -> None:
    model = ALL[name]()
    graph = normalise(model)
    held = {"x": photo()}
    final = [tensor.name for tensor in graph.outputs]
    kept: dict[str, Any] = {}
    for at in range(len(graph.nodes)):
        made = {o.name for o in graph.nodes[at].outputs}
        wanted = [*live_tensors(graph, at + 1), *(output for output in final if output in made)]
        piece = segment(graph, at, at + 1, wanted, {k: v.dtype for k, v in held.items()})
        fresh = {}
        if piece.graph.output:
            fresh = run_model(piece, {value.name: held[value.name] for value in piece.graph.input})
        kept |= {key: value for key, value in fresh.items() if key in final}
        # Only live tensors may be needed later on.
        held = {key: (held | fresh)[key] for key in live_tensors(graph, at + 1)}
    for output, expected in run_model(model, {"x": photo()}).items():
        np.testing.assert_allclose(kept[output], expected, rtol=1e-4, atol=1e-5)


def test_shapes_cross_a_cut_but_what_constants_yield_does_not() -> None:
    graph = normalise(shape_crossing())
    assert live_tensors(graph, position(graph, "c2")) == ("target", "m1")
    piece = segment(
        graph, position(graph, "c2"), len(graph.nodes), ["y"], {"target": np.dtype(np.int64), "m1": np.dtype("f4")}
    )
    assert [node.op_type for node in piece.graph.node] == ["Sqrt", "Conv", "Sum", "Reshape"]
    assert {tensor.name for tensor in piece.graph.initializer} == {"two", "w2"}


def test_tensors_read_inside_a_body_cross_the_cut() -> None:
    graph = normalise(with_if())
    assert set(live_tensors(graph, position(graph, "chosen"))) == {"r0", "r1", "positive"}


def test_outputs_nobody_reads_again_are_not_live() -> None:
    graph = normalise(branches())
    assert live_tensors(graph, len(graph.nodes)) == ()
    assert live_tensors(graph, position(graph, "l")) == ("r0",)


def test_what_is_live_already_is_left_out_of_the_piece() -> None:
    graph = normalise(branches())
    at = position(graph, "l")
    piece = segment(graph, at, at + 1, ["r0", "l"], {"r0": np.dtype(np.float32)})
    assert [value.name for value in piece.graph.output] == ["l"]
    assert not segment(graph, at, at, ["r0"], {"r0": np.dtype(np.float32)}).graph.output


def test_a_piece_that_lacks_its_inputs_is_refused() -> None:
    graph = normalise(plain())
    with pytest.raises(ValueError, match="cannot compute"):
        segment(graph, position(graph, "n2"), len(graph.nodes), ["n1"], {"r1": np.dtype(np.float32)})
    with pytest.raises(ValueError, match="cannot compute"):
        segment(graph, 0, 2, ["y"], {"x": np.dtype(np.float32)})
    with pytest.raises(KeyError):
        position(graph, "nonsense")


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_of_the_whole_can_be_tapped(name: str) -> None:
    graph = normalise(ALL[name]())
    made = [o.name for node in graph.nodes for o in node.outputs]
    tapped = run_model(whole(graph, [*made, "x", *made]), {"x": photo()})
    assert list(tapped) == [*made, "x"]
    expected = run_model(ALL[name](), {"x": photo()})
    for output, values in expected.items():
        np.testing.assert_allclose(tapped[output], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_cutting_and_tapping_change_nothing(name: str) -> None:
    loaded = load(ALL[name]())
    before = loaded.proto.SerializeToString(deterministic=True)
    graph = normalise(loaded.proto)
    exported = export(graph, loaded).SerializeToString(deterministic=True)
    at = len(graph.nodes) // 2
    segment(graph, 0, at, live_tensors(graph, at), {"x": np.dtype(np.float32)})
    whole(graph, live_tensors(graph, at))
    assert export(graph, loaded).SerializeToString(deterministic=True) == exported
    assert loaded.proto.SerializeToString(deterministic=True) == before
