"""Cutting a graph: the pieces, run one after the other, are the whole."""

from typing import Any

import numpy as np
import pytest
from models_for_tests import branches, photo, plain, run_model
from odd_models_for_tests import ALL, shape_crossing, with_if

from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.segments import live_tensors, segment, whole
from onnx_lowrank.graph.traverse import position


@pytest.mark.parametrize("name", ALL)
def test_two_pieces_around_every_cut_compute_what_the_whole_computes(name: str) -> None:
    model = ALL[name]()
    network = normalise(model)
    feeds = {"x": photo()}
    expected = run_model(model, feeds)
    final = [tensor.name for tensor in network.outputs]
    for at in range(len(network.nodes) + 1):
        live = live_tensors(network, at)
        made = [o.name for node in network.nodes[:at] for o in node.outputs]
        early = [output for output in final if output in made]
        held = dict(feeds)
        front = segment(network, 0, at, [*live, *early], {k: v.dtype for k, v in held.items()})
        if front.graph.output:
            held |= run_model(front, {value.name: held[value.name] for value in front.graph.input})
        late = [output for output in final if output not in early]
        back = segment(network, at, len(network.nodes), late, {k: v.dtype for k, v in held.items()})
        assert {value.name for value in back.graph.input} <= set(live)
        if back.graph.output:
            held |= run_model(back, {value.name: held[value.name] for value in back.graph.input})
        for output in final:
            np.testing.assert_allclose(held[output], expected[output], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_chain_of_one_node_pieces_computes_what_the_whole_computes(name: str) -> None:
    model = ALL[name]()
    network = normalise(model)
    held = {"x": photo()}
    final = [tensor.name for tensor in network.outputs]
    kept: dict[str, Any] = {}
    for at in range(len(network.nodes)):
        made = {o.name for o in network.nodes[at].outputs}
        wanted = [*live_tensors(network, at + 1), *(output for output in final if output in made)]
        piece = segment(network, at, at + 1, wanted, {k: v.dtype for k, v in held.items()})
        fresh = {}
        if piece.graph.output:
            fresh = run_model(piece, {value.name: held[value.name] for value in piece.graph.input})
        kept |= {key: value for key, value in fresh.items() if key in final}
        # Only live tensors may be needed later on.
        held = {key: (held | fresh)[key] for key in live_tensors(network, at + 1)}
    for output, expected in run_model(model, {"x": photo()}).items():
        np.testing.assert_allclose(kept[output], expected, rtol=1e-4, atol=1e-5)


def test_shapes_cross_a_cut_but_what_constants_yield_does_not() -> None:
    network = normalise(shape_crossing())
    assert live_tensors(network, position(network, "c2")) == ("target", "m1")
    piece = segment(
        network,
        position(network, "c2"),
        len(network.nodes),
        ["y"],
        {"target": np.dtype(np.int64), "m1": np.dtype("f4")},
    )
    assert [node.op_type for node in piece.graph.node] == ["Sqrt", "Conv", "Sum", "Reshape"]
    assert {tensor.name for tensor in piece.graph.initializer} == {"two", "w2"}


def test_tensors_read_inside_a_body_cross_the_cut() -> None:
    network = normalise(with_if())
    assert set(live_tensors(network, position(network, "chosen"))) == {"r0", "r1", "positive"}


def test_outputs_nobody_reads_again_are_not_live() -> None:
    network = normalise(branches())
    assert live_tensors(network, len(network.nodes)) == ()
    assert live_tensors(network, position(network, "l")) == ("r0",)


def test_what_is_live_already_is_left_out_of_the_piece() -> None:
    network = normalise(branches())
    at = position(network, "l")
    piece = segment(network, at, at + 1, ["r0", "l"], {"r0": np.dtype(np.float32)})
    assert [value.name for value in piece.graph.output] == ["l"]
    assert not segment(network, at, at, ["r0"], {"r0": np.dtype(np.float32)}).graph.output


def test_a_piece_that_lacks_its_inputs_is_refused() -> None:
    network = normalise(plain())
    with pytest.raises(ValueError, match="cannot compute"):
        segment(network, position(network, "n2"), len(network.nodes), ["n1"], {"r1": np.dtype(np.float32)})
    with pytest.raises(ValueError, match="cannot compute"):
        segment(network, 0, 2, ["y"], {"x": np.dtype(np.float32)})
    with pytest.raises(KeyError):
        position(network, "nonsense")


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_of_the_whole_can_be_tapped(name: str) -> None:
    network = normalise(ALL[name]())
    made = [o.name for node in network.nodes for o in node.outputs]
    tapped = run_model(whole(network, [*made, "x", *made]), {"x": photo()})
    assert list(tapped) == [*made, "x"]
    expected = run_model(ALL[name](), {"x": photo()})
    for output, values in expected.items():
        np.testing.assert_allclose(tapped[output], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_cutting_and_tapping_change_nothing(name: str) -> None:
    loaded = load(ALL[name]())
    before = loaded.proto.SerializeToString(deterministic=True)
    network = normalise(loaded.proto)
    exported = export(network, loaded).SerializeToString(deterministic=True)
    at = len(network.nodes) // 2
    segment(network, 0, at, live_tensors(network, at), {"x": np.dtype(np.float32)})
    whole(network, live_tensors(network, at))
    assert export(network, loaded).SerializeToString(deterministic=True) == exported
    assert loaded.proto.SerializeToString(deterministic=True) == before
