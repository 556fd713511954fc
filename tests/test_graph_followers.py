"""What follows a convolution: spellings that are recognised, compared with ONNX Runtime, and what is left alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, photo, run_model, weights
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.followers import Followers, Join
from onnx_lowrank.graph.network import Network

Array = NDArray[Any]
D = 4
PLAIN = (0, 1, 2, 3)
"""The axes of a sum that lies as the response does."""

STORED = {
    "zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "minus": -1.0, "sixth": 1 / 6,
    "root": math.sqrt(2), "inverse": math.sqrt(0.5), "cube": 0.044715, "factor": math.sqrt(2 / math.pi), "odd": 1.702,
}  # fmt: skip
ARRAYS: dict[str, Array] = {
    **{name: np.array(value, np.float32) for name, value in STORED.items()},
    "listed_half": np.array([0.5], np.float32),
    "whole_three": np.array(3, np.int64),
    "slopes": np.array([0.1, -0.2, 0.3, 2.0], np.float32).reshape(D, 1, 1),
    "slope": np.array([0.25], np.float32),
    "across": np.full((1, 1, 10), 0.25, np.float32),
    "bias": np.arange(D, dtype=np.float32).reshape(1, D, 1, 1),
    "w": weights(1, D, 3, 3, 3),
    "v": weights(2, D, D, 3, 3),
}


def op(text: str, **attributes: Any) -> Any:
    """A node written as "Operator inputs… output"; "-" is an input left out."""
    op_type, *inputs, made = text.split()
    names = ["" if name == "-" else name for name in inputs]
    if op_type == "Conv":
        return conv(f"conv_{made}", names[0], names[1], made)
    return helper.make_node(op_type, names, [made], f"{op_type}_{made}", **attributes)


def ops(text: str) -> list[Any]:
    """Nodes separated by semicolons."""
    return [op(part) for part in text.split(";")]


def model(nodes: Sequence[Any], outputs: Sequence[str] = ("r",), opset: int = 20) -> onnx.ModelProto:
    """The convolution "conv" of x makes c; what follows makes r."""
    everything = [conv("conv", "x", "w", "c"), *nodes]
    read = {name for node in everything for name in node.input}
    stored = {name: values for name, values in ARRAYS.items() if name in read}
    return build(everything, stored, outputs, opset=opset)


def followers(nodes: Sequence[Any], outputs: Sequence[str] = ("r",), opset: int = 20) -> tuple[Activation | None, Any]:
    # Not normalised: that would fold constants into the convolution, and there would be less to recognise.
    return Followers(Network.from_proto(model(nodes, outputs, opset))).of("c", D)


ERF = "Div c root a; Erf a b; Add b one e"
TANH = "Mul cube p q; Add c q s; Mul factor s u; Tanh u t; Add one t e"
SHIFTED = "Add c three a; Clip a zero six b"

SPELLINGS: dict[str, tuple[str, list[Any]]] = {
    "Relu": ("Relu", ops("Relu c r")),
    "Clip": ("Clip", ops("Clip c minus one r")),
    "Clip, ReLU6": ("Clip", ops("Clip c zero six r")),
    "Clip from below": ("Clip", ops("Clip c minus r")),
    "Clip from above": ("Clip", ops("Clip c - one r")),
    "Clip at zero is the ReLU": ("Relu", ops("Clip c zero r")),
    "Clip with a Constant node": ("Clip", [op("Constant low", value_float=-0.5), op("Clip c low one r")]),
    "LeakyRelu": ("LeakyRelu", [op("LeakyRelu c r", alpha=0.2)]),
    "LeakyRelu, default": ("LeakyRelu", ops("LeakyRelu c r")),
    "PRelu by channel": ("PRelu", ops("PRelu c slopes r")),
    "PRelu, one slope": ("PRelu", ops("PRelu c slope r")),
    "Elu": ("Elu", ops("Elu c r")),
    "Elu, steep": ("Elu", [op("Elu c r", alpha=1.7)]),
    "Sigmoid": ("Sigmoid", ops("Sigmoid c r")),
    "Tanh": ("Tanh", ops("Tanh c r")),
    "HardSigmoid": ("HardSigmoid", [op("HardSigmoid c r", alpha=0.3, beta=0.4)]),
    "HardSigmoid, default": ("HardSigmoid", ops("HardSigmoid c r")),
    "HardSwish": ("HardSwish", ops("HardSwish c r")),
    "HardSwish from HardSigmoid": ("HardSwish", [op("HardSigmoid c a", alpha=1 / 6), op("Mul c a r")]),
    "HardSwish from a clip": ("HardSwish", ops(f"{SHIFTED}; Div b six e; Mul c e r")),
    "HardSwish, divided last": ("HardSwish", ops(f"{SHIFTED}; Mul b c e; Mul e sixth r")),
    "SiLU": ("SiLU", ops("Sigmoid c s; Mul c s r")),
    "SiLU, other order": ("SiLU", ops("Sigmoid c s; Mul s c r")),
    "SiLU by exponentials": ("SiLU", ops("Neg c a; Exp a b; Add one b e; Div c e r")),
    "Gelu": ("Gelu", ops("Gelu c r")),
    "Gelu, tanh": ("Gelu (tanh)", [op("Gelu c r", approximate="tanh")]),
    "Gelu, x times e, then half": ("Gelu", ops(f"{ERF}; Mul c e m; Mul m half r")),
    "Gelu, half x times e": ("Gelu", ops(f"Mul half c m; {ERF}; Mul m e r")),
    "Gelu, x times half e": ("Gelu", ops(f"{ERF}; Mul e listed_half m; Mul c m r")),
    "Gelu by a multiplication": ("Gelu", ops("Mul c inverse a; Erf a b; Add b one e; Mul c half m; Mul m e r")),
    "Gelu with a computed root": (
        "Gelu",
        ops(f"Sqrt two sqrt; {ERF.replace('root', 'sqrt')}; Mul c e m; Mul m half r"),
    ),
    "Gelu by tanh": ("Gelu (tanh)", ops(f"Pow c three p; {TANH}; Mul half c m; Mul m e r")),
    "Gelu by tanh, half last": ("Gelu (tanh)", ops(f"Pow c three p; {TANH}; Mul c e m; Mul m half r")),
    "Gelu by tanh, products": ("Gelu (tanh)", ops(f"Mul c c cc; Mul cc c p; {TANH}; Mul c half m; Mul m e r")),
    "Gelu by tanh, whole exponent": ("Gelu (tanh)", ops(f"Pow c whole_three p; {TANH}; Mul c half m; Mul m e r")),
    "Mish": ("Mish", ops("Mish c r")),
    "Mish from Softplus": ("Mish", ops("Softplus c a; Tanh a b; Mul c b r")),
}


def test_what_is_added_in_front_of_a_clip_becomes_part_of_the_bias() -> None:
    found, _ = Followers(normalise(model(ops(f"{SHIFTED}; Div b six r")))).of("a", D)
    assert found is not None and found.name == "Clip"
    np.testing.assert_array_equal(found.apply(np.array([[-1.0], [2.0], [7.0]], np.float32)), [[0], [2], [6]])


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_recognised_and_computes_what_onnx_runtime_does(name: str) -> None:
    expected, nodes = SPELLINGS[name]
    activation, join = followers(nodes)
    assert join is None
    assert activation is not None and activation.name == expected
    run = run_model(model(nodes, ("c", "r")), {"x": 6 * photo(0)})
    channels_last = run["c"].transpose(0, 2, 3, 1).reshape(-1, D)
    assert channels_last.min() < -6 and channels_last.max() > 6
    computed = activation.apply(channels_last)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, run["r"].transpose(0, 2, 3, 1).reshape(-1, D), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_recognised_behind_a_shortcut_too(name: str) -> None:
    expected, nodes = SPELLINGS[name]
    renamed = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = ["sum" if tensor == "c" else tensor for tensor in node.input]
        renamed.append(copy)
    activation, join = followers([*ops("Relu x raw; Conv raw w other; Add c other sum"), *renamed])
    assert activation is not None and activation.name == expected
    assert join == Join("other", "sum", PLAIN)


def test_constants_in_half_precision_are_near_enough() -> None:
    values = [np.float16(value) for value in (math.sqrt(2), 1, 0.5)]
    stored = {name: np.array(value, np.float16) for name, value in zip("abc", values, strict=True)}
    graph = helper.make_graph(
        ops("Conv x w y; Div y a d; Erf d e; Add e b f; Mul y f g; Mul g c r"),
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, None)],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT16, None)],
        [
            numpy_helper.from_array(array, name)
            for name, array in (stored | {"w": ARRAYS["w"].astype(np.float16)}).items()
        ],
    )
    half = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    activation, _ = Followers(normalise(half)).of("y", D)
    assert activation is not None and activation.name == "Gelu"


def test_a_swish_of_recent_opsets_is_a_silu() -> None:
    network = normalise(model(ops("Relu c r")))
    swish = next(node for node in network.nodes if node.op == "Relu")
    swish.op = "Swish"
    activation, _ = Followers(network).of("c", D)
    assert activation is not None and activation.name == "SiLU"
    swish.attrs["alpha"] = 1.702
    assert Followers(network).of("c", D)[0] is None


def test_clips_before_opset_11_have_their_bounds_in_attributes() -> None:
    activation, _ = followers([op("Clip c r", min=0.0, max=6.0)], opset=10)
    assert activation is not None
    np.testing.assert_array_equal(activation.apply(np.array([[-1.0, 3.0, 7.0]])), [[0, 3, 6]])


def body(name: str, read: str) -> onnx.GraphProto:
    made = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Neg", [read], [f"{name}_out"])], name, [], [made])


SILU = ops("Sigmoid c s; Mul c s r")
OTHER = "Relu x other; Conv other w z"

LEFT_ALONE: dict[str, tuple[list[Any], Sequence[str]]] = {
    "nothing follows": ([], ("c",)),
    "something else": (ops("Abs c r"), ("r",)),
    "the response is an output": (ops("Relu c r"), ("r", "c")),
    "another reader": (ops("Relu c r; Neg c n"), ("r", "n")),
    "two activations": (ops("Relu c r; Tanh c n"), ("r", "n")),
    "a reader inside a body": (
        [
            *ops("Relu c r; ReduceMax x top; Greater top zero positive"),
            op("If positive n", then_branch=body("then", "c"), else_branch=body("else", "r")),
        ],
        ("r", "n"),
    ),
    "a gate that another reads": ([*SILU, op("Neg s n")], ("r", "n")),
    "a gate that is an output": (SILU, ("r", "s")),
    "a gate of something else too": (ops(f"{OTHER}; Sigmoid c s; Mul z s r; Neg c n"), ("r", "n")),
    "a steeper gate": (ops("Mul c odd a; Sigmoid a s; Mul c s r"), ("r",)),
    "a gate and the response": (ops("Sigmoid c s; Mul c s a; Add a c r"), ("r",)),
    "bounds that are computed": (ops("ReduceMax x top; Clip c zero top r"), ("r",)),
    "bounds that cross": (ops("Clip c one minus r"), ("r",)),
    "the response as a bound": (ops("ReduceMax c top; Clip c zero top r"), ("r",)),
    "slopes across pixels": (ops("PRelu c across r"), ("r",)),
    "slopes that are computed": (ops("ReduceMax x top; PRelu c top r"), ("r",)),
    "the response as slopes": (ops(f"{OTHER}; PRelu z c r"), ("r",)),
    "a falling gate": ([op("HardSigmoid c r", alpha=-0.2)], ("r",)),
    "a custom operator": ([helper.make_node("Gelu", ["c"], ["r"], domain="com.microsoft")], ("r",)),
    "a constant by channel is added": (ops("Add c bias a; Relu a r"), ("r",)),
    "a scalar is added": (ops("Add c one a; Relu a r"), ("r",)),
    "the response is added to itself": (ops("Add c c a; Relu a r"), ("r",)),
    "a shortcut is subtracted": (ops(f"{OTHER}; Sub c z a; Relu a r"), ("r",)),
    "three are added": (ops(f"{OTHER}; Sum c z z a; Relu a r"), ("r",)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_nothing_is_made_of_what_is_not_recognised(name: str) -> None:
    nodes, outputs = LEFT_ALONE[name]
    assert followers(nodes, outputs) == (None, None)


BLOCK = "Relu x raw; Conv raw w s; Add s c a"

JOINS: dict[str, tuple[str, Sequence[str], tuple[str | None, Join | None]]] = {
    "a residual block": (f"{BLOCK}; Relu a r", ("r",), ("Relu", Join("s", "a", PLAIN))),
    "the other order": ("Relu x raw; Conv raw w s; Add c s a; Relu a r", ("r",), ("Relu", Join("s", "a", PLAIN))),
    "as a Sum": ("Relu x raw; Conv raw w s; Sum c s a; Relu a r", ("r",), ("Relu", Join("s", "a", PLAIN))),
    "nothing behind the sum": (BLOCK, ("a",), (None, Join("s", "a", PLAIN))),
    "the sum is an output too": (f"{BLOCK}; Relu a r", ("r", "a"), (None, Join("s", "a", PLAIN))),
    "pre-activation": (f"{BLOCK}; Relu a b; Conv b v n; Add n a r", ("r",), (None, Join("s", "a", PLAIN))),
    "the response is an output too": (f"{BLOCK}; Relu a r", ("r", "c"), (None, None)),
    "the response has another reader": (f"{BLOCK}; Relu a r; Neg c n", ("r", "n"), (None, None)),
    "the shortcut has another reader": (f"{BLOCK}; Relu a r; Neg s n", ("r", "n"), ("Relu", Join("s", "a", PLAIN))),
    # Two convolutions would have to be run before their turn.
    "a long branch behind": ("Relu x raw; Conv raw w s; Conv s v t; Add c t a; Relu a r", ("r",), (None, None)),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_shortcut_is_seen_with_what_follows_the_sum(name: str) -> None:
    nodes, outputs, (expected, join) = JOINS[name]
    activation, found = followers(ops(nodes), outputs)
    assert found == join
    assert (activation.name if activation else None) == expected
