"""Small networks with chance in them: random nodes of every kind, in the main graph and in bodies."""

from typing import Any

import numpy as np
import onnx
from models_for_tests import IR, Array, conv, photo, relu, run_model
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.graph.edit.determine import determined
from onnx_lowrank.plan.plan import Plan, SitePlan

STORED = {
    "yes": np.array(True),
    "half": np.array(0.5, np.float32),
    "limit": np.array(-1e9, np.float32),
    "twice": np.array(2, np.int64),
    "column": np.array([-1, 1, 1, 1], np.int64),
    "steps": np.array([0.5, 1, 2], np.float32),
}
CHANNELS = 12
FULL_RANK = Plan(
    (SitePlan("a", "channel", (CHANNELS,)), SitePlan("b", "channel", (CHANNELS,)), SitePlan("c", "channel", (4,)))
)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(op, inputs, [output], output, **attributes)
    return made


def added(drawn: onnx.NodeProto, x: str, y: str) -> list[onnx.NodeProto]:
    """Return a random node and the Add of what it draws."""
    return [drawn, node("Add", [x, drawn.output[0]], y)]


KINDS = {
    "normal like": lambda x, y: added(node("RandomNormalLike", [x], f"{y}.n", scale=0.7, mean=0.1), x, y),
    "seeded": lambda x, y: added(node("RandomNormalLike", [x], f"{y}.n", dtype=1, seed=3.0), x, y),
    "double precision": lambda x, y: [
        node("RandomNormalLike", [x], f"{y}.n", dtype=TensorProto.DOUBLE),
        node("Cast", [f"{y}.n"], f"{y}.f", to=FLOAT),
        node("Add", [x, f"{y}.f"], y),
    ],
    "uniform like": lambda x, y: added(node("RandomUniformLike", [x], f"{y}.n", low=-1.0), x, y),
    "normal": lambda x, y: added(node("RandomNormal", [], f"{y}.n", shape=[1, CHANNELS, 1, 1]), x, y),
    "uniform": lambda x, y: added(node("RandomUniform", [], f"{y}.n", shape=[CHANNELS, 1, 1], seed=1.0), x, y),
    "bernoulli": lambda x, y: [
        node("Sigmoid", [x], f"{y}.p"),
        node("Bernoulli", [f"{y}.p"], f"{y}.n", dtype=BOOL),
        node("Cast", [f"{y}.n"], f"{y}.m", to=FLOAT),
        node("Mul", [x, f"{y}.m"], y),
    ],
    "multinomial": lambda x, y: [
        node("ReduceMean", [x], f"{y}.l", axes=[2, 3], keepdims=0),
        node("Multinomial", [f"{y}.l"], f"{y}.n", dtype=INT64, sample_size=1),
        node("Cast", [f"{y}.n"], f"{y}.c", to=FLOAT),
        node("Reshape", [f"{y}.c", "column"], f"{y}.r"),
        node("Add", [x, f"{y}.r"], y),
    ],
    "dropout": lambda x, y: [node("Dropout", [x, "half", "yes"], y, seed=5)],
    "dropout and its mask": lambda x, y: [
        helper.make_node("Dropout", [x, "", "yes"], [f"{y}.d", f"{y}.k"]),
        node("Cast", [f"{y}.k"], f"{y}.m", to=FLOAT),
        node("Add", [f"{y}.d", f"{y}.m"], y),
    ],
    "dropout by a computed flag": lambda x, y: [
        node("ReduceMax", [x], f"{y}.x", keepdims=0),
        node("Greater", [f"{y}.x", "limit"], f"{y}.t"),
        node("Dropout", [x, "half", f"{y}.t"], y),
    ],
}
"""Nodes that change the tensor x [N, 12, H, W] at random into y, by kind."""


def graph(name: str, nodes: list[Any], inputs: list[tuple[str, int]], outputs: list[tuple[str, int]]) -> Any:
    def value(tensor: str, number: int) -> onnx.ValueInfoProto:
        made: onnx.ValueInfoProto = helper.make_tensor_value_info(
            tensor, number, [] if number in (INT64, BOOL) else None
        )
        return made

    return helper.make_graph(nodes, name, [value(*each) for each in inputs], [value(*each) for each in outputs])


def in_an_if(kind: str, x: str, y: str) -> list[onnx.NodeProto]:
    branch = graph("then", KINDS[kind](x, "inner"), [], [("inner", FLOAT)])
    other = graph("else", [node("Identity", [x], "other")], [], [("other", FLOAT)])
    return [node("If", ["yes"], y, then_branch=branch, else_branch=other)]


def in_a_loop(kind: str, x: str, y: str) -> list[onnx.NodeProto]:
    nodes = [node("Identity", ["going"], "go"), *KINDS[kind]("h", "inner")]
    inputs = [("i", INT64), ("going", BOOL), ("h", FLOAT)]
    return [node("Loop", ["twice", "yes", x], y, body=graph("body", nodes, inputs, [("go", BOOL), ("inner", FLOAT)]))]


def in_a_scan(kind: str, x: str, y: str) -> list[onnx.NodeProto]:
    nodes = [node("Mul", ["h", "s"], "scaled"), *KINDS[kind]("scaled", "inner")]
    body = graph("body", nodes, [("h", FLOAT), ("s", FLOAT)], [("inner", FLOAT)])
    return [node("Scan", [x, "steps"], y, body=body, num_scan_inputs=1)]


PLACES = {"main graph": lambda kind, x, y: KINDS[kind](x, y), "if": in_an_if, "loop": in_a_loop, "scan": in_a_scan}


def network(kind: str, place: str = "main graph", opset: int = 17) -> onnx.ModelProto:
    """Return a network of four convolutions with a random node in the middle, for photos [N, 3, H, W]."""
    convs = {"stem": (8, 3), "a": (CHANNELS, 8), "b": (CHANNELS, CHANNELS), "c": (4, CHANNELS)}
    stored = {f"{name}.w": nearly_low_rank(seed, *shape) for seed, (name, shape) in enumerate(convs.items())}
    nodes = [
        *(conv("stem", "x", "stem.w", "s"), relu("s", "s.r")),
        *(conv("a", "s.r", "a.w", "h"), relu("h", "h.r")),
        *PLACES[place](kind, "h.r", "noisy"),
        *(conv("b", "noisy", "b.w", "g"), relu("g", "g.r")),
        conv("c", "g.r", "c.w", "y"),
    ]
    inner = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 3, None, None])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4, None, None])],
        [numpy_helper.from_array(values, name) for name, values in {**stored, **STORED}.items()],
    )
    model: onnx.ModelProto = helper.make_model(inner, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR)
    return model


def nearly_low_rank(seed: int, d: int, c: int) -> Array:
    rng = np.random.default_rng(seed)
    rank = max(2, d // 3)
    kernel = rng.standard_normal((d, rank)) @ rng.standard_normal((rank, 9 * c)) / np.sqrt(rank)
    kernel += 0.15 * rng.standard_normal(kernel.shape)
    scaled: Array = (1.4 * kernel / np.sqrt(9 * c)).reshape(d, c, 3, 3).astype(np.float32)
    return scaled


def run_with(model: onnx.ModelProto, key: int = 1, strength: float = 1.0, seed: int = 99) -> Array:
    """Return the output y of a model whose noise follows from a key."""
    fixed, chance = determined(model)
    feeds: dict[str, Array] = {"x": photo(seed, (6, 3, 8, 8))} if any(i.name == "x" for i in fixed.graph.input) else {}
    if chance:
        feeds |= {chance.key: np.array([key]), chance.strength: np.array([strength], np.float32)}
    answer: Array = run_model(fixed, feeds)["y"]
    return answer
