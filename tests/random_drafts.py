"""The draft of a random ONNX model: nodes, constants and names, with the choices that are drawn for it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

Choose: TypeAlias = Callable[[Sequence[Any]], Any]
"""Draws one of several choices: hypothesis does, and so does ``random.Random.choice``."""

METADATA_FROM = 10
"""The IR version from which nodes and values may hold metadata."""

NODE_NAMES = ("", "", "x", "t9", "conv_5/rank-1of2", "/layer/Conv", "größe 1")
"""Names that are unusual: none, that of a tensor, that of a node which the rewriting adds."""


@dataclass(frozen=True)
class Tensor:
    """A tensor [N, channels, *sizes] of the model."""

    name: str
    channels: int
    sizes: tuple[int, ...]


@dataclass
class Draft:
    """A model to which nodes and constants are added.

    Attributes
    ----------
    choose
        Draws one of several choices.
    opset, ir_version
        The versions of the model.
    half
        Whether it computes in half precision.
    rng
        The generator of the weights.
    nodes, stored, functions
        The nodes of the main graph, the initializers, and the functions of the model.
    listed
        The initializers that are inputs as well.
    weights
        The names and shapes of the weights that another convolution may share.
    domains
        The domains of the nodes, without ONNX's own.
    node_names
        The names of nodes that are taken.
    count
        The number of names that were given out.
    """

    choose: Choose
    opset: int
    ir_version: int
    half: bool
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    listed: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)
    count: int = 0

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The type of activations and weights, for NumPy."""
        return np.float16 if self.half else np.float32

    @property
    def element_type(self) -> int:
        """The same type, for ONNX."""
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    def pick(self, *choices: Any) -> Any:
        """Draw one of the choices."""
        return self.choose(choices)

    def sometimes(self) -> bool:
        """Draw True in a quarter of all cases."""
        return bool(self.pick(False, False, False, True))

    def name(self, prefix: str = "t") -> str:
        """Return a new name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node, and return the name of its output."""
        output = output or self.name()
        name = self.pick(*NODE_NAMES) if self.sometimes() else self.name(f"{op.lower()}_")
        if name in self.node_names:  # ONNX Runtime takes no two nodes of the same name
            name = ""
        self.node_names.add(name)
        node = helper.make_node(op, list(inputs), [output], name, **attributes)
        if self.sometimes():
            node.doc_string = f"made by hand: {op}"
            if self.ir_version >= METADATA_FROM:
                node.metadata_props.add(key="origin", value=name)
        self.nodes.append(node)
        return output

    def store(self, values: Any, dtype: Any = None) -> str:
        """Store a constant as an initializer, a listed initializer or a Constant node, and return its name."""
        array = np.asarray(values, dtype or self.dtype)
        name = self.name("w")
        tensor = numpy_helper.from_array(array, name)
        place = self.pick("initializer", "initializer", "listed", "constant")
        # Before opset 9 a Constant node could not hold whole numbers.
        if place == "constant" and (self.opset >= 9 or array.dtype.kind == "f"):
            self.add("Constant", [], name, value=tensor)
            return name
        self.stored.append(tensor)
        if place == "listed" or self.ir_version < 4:
            self.listed.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        return name

    def store_weight(self, values: Array) -> str:
        """Store a weight, sometimes behind Identity or Cast, and return the name under which a node reads it."""
        behind = self.pick("", "", "", "Identity", "Cast")
        if behind == "Cast":
            stored = self.store(values, np.float32 if self.half else np.float16)
            return self.add("Cast", [stored], to=self.element_type)
        stored = self.store(values)
        return self.add("Identity", [stored]) if behind == "Identity" else stored

    def random(self, *shape: int) -> Array:
        """Return weights of a size that keeps responses near 1."""
        scale = 1 / np.sqrt(max(int(np.prod(shape[1:])), 1))
        values: Array = (self.rng.normal(size=shape) * scale).astype(self.dtype)
        return values

    @contextlib.contextmanager
    def body(self) -> Iterator[list[onnx.NodeProto]]:
        """Collect the nodes that are added meanwhile in a list of their own; only constants join the main graph."""
        main, self.nodes = self.nodes, []
        inside: list[onnx.NodeProto] = []
        yield inside
        added, self.nodes = self.nodes, main
        inside += [node for node in added if node.op_type != "Constant"]
        self.nodes += [node for node in added if node.op_type == "Constant"]
