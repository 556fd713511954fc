"""Random valid ONNX models with convolutions of every kind, as hypothesis draws them, with samples for their inputs.

Everything is tiny: two samples in a batch, a handful of pixels and channels. Weights are scaled so that responses stay
near 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
IR_VERSIONS = (3, 4, 6, 8, 10, 11)
FUNCTIONS_FROM, METADATA_FROM = 8, 10
"""IR versions from which a model may hold functions, and nodes and values may hold metadata."""

NODE_NAMES = ("", "", "x", "t9", "conv_5/rank-1of2", "/layer/Conv", "größe 1")
"""Besides names of their own: nodes without a name, with that of a tensor, with one that a rewritten node would get."""

SAMPLES = 6


@dataclass(frozen=True)
class RandomModel:
    """A model with calibration samples for each of its inputs, [n, ...]."""

    model: onnx.ModelProto
    data: dict[str, Array] = field(repr=False)

    def feeds(self, seed: int) -> dict[str, Array]:
        """Two samples for every input, that the calibration has not seen."""
        rng = np.random.default_rng(seed)
        return {name: rng.normal(size=(2, *rows.shape[1:])).astype(rows.dtype) for name, rows in self.data.items()}


@dataclass(frozen=True)
class Tensor:
    """A tensor [N, channels, *sizes] of the model."""

    name: str
    channels: int
    sizes: tuple[int, ...]


@dataclass
class _Builder:
    """A model in the making; ``draw`` decides what becomes of it."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
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
    taken: set[str] = field(default_factory=set)
    count: int = 0

    @property
    def element(self) -> type[np.floating[Any]]:
        return np.float16 if self.half else np.float32

    @property
    def number(self) -> int:
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    # ---- small parts

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def sometimes(self) -> bool:
        return bool(self.pick(False, False, False, True))

    def name(self, prefix: str = "t") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; return the tensor that it makes."""
        output = output or self.name()
        name = self.pick(*NODE_NAMES) if self.sometimes() else self.name(f"{op.lower()}_")
        if name in self.taken:  # ONNX Runtime takes no two nodes of the same name
            name = ""
        self.taken.add(name)
        node = helper.make_node(op, list(inputs), [output], name, **attributes)
        if self.sometimes():
            node.doc_string = f"made by hand: {op}"
            if self.ir_version >= METADATA_FROM:
                node.metadata_props.add(key="origin", value=name)
        self.nodes.append(node)
        return output

    def store(self, values: Any, element: Any = None) -> str:
        """Store a constant as an initializer, a listed initializer or a Constant node; return its name."""
        array = np.asarray(values, element or self.element)
        name = self.name("w")
        tensor = numpy_helper.from_array(array, name)
        where = self.pick("initializer", "initializer", "listed", "constant")
        if where == "constant" and (self.opset >= 9 or array.dtype.kind == "f"):  # before, they held no whole numbers
            self.add("Constant", [], name, value=tensor)
            return name
        self.stored.append(tensor)
        if where == "listed" or self.ir_version < 4:
            self.listed.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        return name

    def hidden(self, values: Array) -> str:
        """Store a weight, sometimes behind Identity or Cast; return the name under which a Conv reads it."""
        behind = self.pick("", "", "", "Identity", "Cast")
        if behind == "Cast":
            stored = self.store(values, np.float32 if self.half else np.float16)
            return self.add("Cast", [stored], to=self.number)
        stored = self.store(values)
        return self.add("Identity", [stored]) if behind == "Identity" else stored

    def random(self, *shape: int) -> Array:
        """Weights for responses near 1."""
        scale = 1 / np.sqrt(max(int(np.prod(shape[1:])), 1))
        values: Array = (self.rng.normal(size=shape) * scale).astype(self.element)
        return values

    # ---- convolutions

    def conv(self, x: Tensor) -> Tensor:
        """A convolution of some kind."""
        n = len(x.sizes)
        odd = ("grouped", "grouped", "depthwise", "fused", "quantised", "varying")
        kind = self.pick(*["plain"] * 9, "pointwise", "pointwise", *odd)
        divisors = [groups for groups in range(2, x.channels) if x.channels % groups == 0] or [1]
        groups = {"grouped": self.pick(*divisors), "depthwise": x.channels}.get(kind, 1)
        filters = groups * self.pick(1, 2, 3) if groups > 1 else self.pick(1, 2, 4, 5, 6)
        kernel = tuple(1 if kind == "pointwise" else self.pick(1, 2, 3, 3) for _ in range(n))
        attributes, sizes = self.geometry(x.sizes, kernel)
        if groups > 1 or self.sometimes():
            attributes["group"] = groups
        if self.sometimes():
            attributes["kernel_shape"] = kernel
        shape = (filters, x.channels // groups, *kernel)
        weight = self.weight(shape, kind, x)
        reads = [x.name, weight]
        bias = self.pick("none", "empty", "stored", "stored")
        if bias == "stored":
            reads.append(self.hidden(self.random(filters)))
        elif bias == "empty":
            reads.append("")
        if kind == "fused" and not self.half:
            self.domains.add("com.microsoft")
            reads = reads if bias == "stored" else reads[:2]
            made = self.add("FusedConv", reads, domain="com.microsoft", activation="Relu", **attributes)
        else:
            made = self.add("Conv", reads, **attributes)
        return Tensor(made, filters, sizes)

    def weight(self, shape: tuple[int, ...], kind: str, x: Tensor) -> str:
        """A weight for a convolution: one of its own, another's, one that is quantised or computed from the input."""
        alike = [name for name, other in self.weights if other == shape]
        if alike and self.pick(False, True):
            return str(self.pick(*alike))
        if kind == "quantised" and self.opset >= 10 and not self.half:
            whole = self.store(self.rng.integers(-9, 9, shape), np.int8)
            return self.add("DequantizeLinear", [whole, self.store(0.05)])
        name = self.hidden(self.random(*shape))
        if kind == "varying":
            mean = self.add("ReduceMean", [x.name], keepdims=0)
            return self.add("Mul", [name, mean])
        self.weights.append((name, shape))
        return name

    def geometry(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Strides, dilations and padding for a kernel, and the size of what comes out."""
        n = len(sizes)
        if self.pick(False, True):  # what most networks have
            return {"pads": [(k - 1) // 2 for k in kernel] + [k // 2 for k in kernel]}, tuple(sizes)
        auto = self.pick("", "", "", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
        same = auto.startswith("SAME")
        strides = [self.pick(1, 1, 1, 2, 3) for _ in range(n)]
        dilations = [1 if same else self.pick(1, 1, 2) for _ in range(n)]
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = (
            [0] * (2 * n)
            if auto in ("VALID", "SAME_UPPER", "SAME_LOWER")
            else [self.pick(0, 1, 1, 2) for _ in range(2 * n)]
        )
        for axis in range(n):
            short = extents[axis] - sizes[axis] - pads[axis] - pads[n + axis]
            if short > 0 and not same:
                pads[n + axis] += short
                auto = "NOTSET"
        attributes: dict[str, Any] = {"auto_pad": auto} if auto else {}
        if auto in ("", "NOTSET") and (any(pads) or self.sometimes()):
            attributes["pads"] = pads
        for key, values in (("strides", strides), ("dilations", dilations)):
            if set(values) != {1} or self.sometimes():
                attributes[key] = values
        if same:
            return attributes, tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
        whole = [size + pads[axis] + pads[n + axis] for axis, size in enumerate(sizes)]
        return attributes, tuple((w - e) // s + 1 for w, e, s in zip(whole, extents, strides, strict=True))

    def transposed(self, x: Tensor) -> Tensor:
        """A ConvTranspose."""
        filters, kernel = self.pick(1, 2, 3), tuple(self.pick(1, 2) for _ in x.sizes)
        weight = self.hidden(self.random(x.channels, filters, *kernel))
        made = self.add("ConvTranspose", [x.name, weight])
        return Tensor(made, filters, tuple(size + k - 1 for size, k in zip(x.sizes, kernel, strict=True)))

    # ---- what follows a convolution

    def norm(self, x: Tensor) -> Tensor:
        """A BatchNormalization."""
        d = x.channels
        values = [
            self.rng.uniform(0.5, 2, d),
            self.rng.normal(size=d),
            self.rng.normal(size=d),
            self.rng.uniform(0.3, 3, d),
        ]
        names = [self.store(value) for value in values]
        return Tensor(self.add("BatchNormalization", [x.name, *names], epsilon=1e-3), d, x.sizes)

    def activation(self, x: Tensor) -> Tensor:
        """One of the activations, in one of its spellings."""
        since = {"hard_swish": 14, "mish": 18, "gelu": 20, "gelu_tanh": 20, "spelled_gelu": 9}
        spellings = [
            *("relu", "relu", "relu", "clip", "leaky", "prelu", "elu", "sigmoid", "tanh", "hard_sigmoid"),
            *("silu", "spelled_gelu", "spelled_gelu_tanh", "spelled_mish", "spelled_hard_swish", "divided_hard_swish"),
            *("hard_swish", "mish", "gelu", "gelu_tanh"),
        ]
        known = [spelling for spelling in spellings if since.get(spelling, 0) <= self.opset]
        return Tensor(self.activated(x.name, x, self.pick(*known)), x.channels, x.sizes)

    def activated(self, x: str, of: Tensor, spelling: str) -> str:
        add, store = self.add, self.store

        def product(one: str, other: str) -> str:
            return add("Mul", self.pick([one, other], [other, one]))

        match spelling:
            case "clip":
                return self.clip(x, 0, 6)
            case "leaky":
                return add("LeakyRelu", [x], alpha=0.1)
            case "prelu":
                one = (1,) * len(of.sizes)
                slopes = self.rng.uniform(0.05, 0.4, self.pick((of.channels, *one), (1, *one), (1, of.channels, *one)))
                return add("PRelu", [x, store(slopes)])
            case "hard_sigmoid":
                return add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
            case "silu":
                return product(x, add("Sigmoid", [x]))
            case "spelled_gelu":
                inner = add("Erf", [add("Div", [x, store(np.sqrt(2))])])
                return product(product(x, add("Add", [inner, store(1)])), store(0.5))
            case "spelled_gelu_tanh":
                cubed = product(product(x, x), x)
                inner = product(store(np.sqrt(2 / np.pi)), add("Add", [x, product(store(0.044715), cubed)]))
                return product(product(store(0.5), x), add("Add", [store(1), add("Tanh", [inner])]))
            case "spelled_mish":
                return product(x, add("Tanh", [add("Softplus", [x])]))
            case "spelled_hard_swish":
                return product(x, add("HardSigmoid", [x], alpha=1 / 6, beta=0.5))
            case "divided_hard_swish":
                return add("Div", [product(x, self.clip(add("Add", [x, store(3)]), 0, 6)), store(6)])
            case "gelu_tanh":
                return add("Gelu", [x], approximate="tanh")
        names = {"relu": "Relu", "elu": "Elu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_swish": "HardSwish"}
        return add(names.get(spelling, spelling.capitalize()), [x])

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.add("Clip", [x], min=float(low), max=float(high))
        return self.add("Clip", [x, self.store(low), self.store(high)])

    def joined(self, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        """A shortcut added: an earlier tensor of the same shape, or one value for each channel."""
        alike = [one for one in earlier if (one.channels, one.sizes) == (x.channels, x.sizes) and one.name != x.name]
        if alike:
            shortcut = self.pick(*alike).name
        else:
            flat = [one for one in earlier if len(one.sizes) == len(x.sizes)]
            shortcut = self.projected(x, flat[0]) if flat else self.add("GlobalAveragePool", [x.name])
        pair = self.pick([x.name, shortcut], [shortcut, x.name])
        return Tensor(self.add(self.pick("Add", "Sum") if self.opset >= 8 else "Add", pair), x.channels, x.sizes)

    def projected(self, x: Tensor, source: Tensor) -> str:
        """A 1×1 convolution that brings a tensor to the channels of another, and its average where sizes differ."""
        ones = [1] * len(source.sizes)
        kernel = self.hidden(self.random(x.channels, source.channels, *ones))
        made = self.add("Conv", [source.name, kernel])
        return made if source.sizes == x.sizes else self.add("GlobalAveragePool", [made])

    # ---- what stands between

    def pool(self, x: Tensor) -> Tensor:
        """A pooling that halves every side longer than three pixels."""
        kernel = [2 if size > 3 else 1 for size in x.sizes]
        made = self.add(self.pick("MaxPool", "AveragePool"), [x.name], kernel_shape=kernel, strides=kernel)
        return Tensor(made, x.channels, tuple(size // k for size, k in zip(x.sizes, kernel, strict=True)))

    def concatenated(self, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        """The channels of two tensors."""
        other = self.pick(*[one for one in earlier if one.sizes == x.sizes] or [x])
        return Tensor(self.add("Concat", [x.name, other.name], axis=1), x.channels + other.channels, x.sizes)

    def channels_last(self, x: Tensor) -> Tensor:
        """Two Transposes that undo each other, with a scaling between."""
        n = len(x.sizes)
        last = self.add("Transpose", [x.name], perm=[0, *range(2, n + 2), 1])
        scaled = self.add("Mul", [last, self.store(self.rng.uniform(0.5, 2, x.channels))])
        return Tensor(self.add("Transpose", [scaled], perm=[0, n + 1, *range(1, n + 1)]), x.channels, x.sizes)

    def within(self, x: Tensor, make: Callable[[], None]) -> list[onnx.NodeProto]:
        """The nodes that a function adds, taken out of the main graph; constants stay in it."""
        kept, self.nodes = self.nodes, []
        make()
        made, self.nodes = self.nodes, kept
        self.nodes += [node for node in made if node.op_type == "Constant"]
        return [node for node in made if node.op_type != "Constant"]

    def same_size(self, x: str, channels: int, filters: int, n: int, y: str) -> None:
        weight = self.hidden(self.random(filters, channels, *[3] * n))
        self.add("Conv", [x, weight], y, pads=[1] * (2 * n))

    def branch(self, x: Tensor, raw: str) -> Tensor:
        """An If with a convolution in both bodies, which read tensors of the main graph."""
        filters, n = self.pick(2, 4), len(x.sizes)
        positive = self.add("Greater", [self.add("ReduceSum", [raw], keepdims=0), self.store(self.pick(0, -1e3, 1e3))])
        bodies = []
        for which in ("then", "else"):
            y = self.name()
            nodes = self.within(x, lambda y=y: self.same_size(x.name, x.channels, filters, n, y))  # type: ignore[misc]
            bodies.append(helper.make_graph(nodes, which, [], [helper.make_tensor_value_info(y, self.number, None)]))
        return Tensor(self.add("If", [positive], then_branch=bodies[0], else_branch=bodies[1]), filters, x.sizes)

    def loop(self, x: Tensor) -> Tensor:
        """A Loop that convolves twice."""
        state, number, go, going, y = (self.name() for _ in range(5))
        nodes = self.within(x, lambda: self.same_size(state, x.channels, x.channels, len(x.sizes), y))
        nodes.append(helper.make_node("Identity", [go], [going]))
        value = helper.make_tensor_value_info
        flag = [value(name, TensorProto.BOOL, []) for name in (go, going)]
        inputs = [value(number, TensorProto.INT64, []), flag[0], value(state, self.number, None)]
        body = helper.make_graph(nodes, "body", inputs, [flag[1], value(y, self.number, None)])
        times, true = self.store(2, np.int64), self.store(True, np.bool_)
        return Tensor(self.add("Loop", [times, true, x.name], body=body), x.channels, x.sizes)

    def function(self, x: Tensor) -> Tensor:
        """A call of a model-local function that convolves."""
        filters, n = self.pick(2, 4), len(x.sizes)
        weight = self.store(self.random(filters, x.channels, *[3] * n))
        name = self.name("Block")
        inner = [
            helper.make_node("Conv", ["a", "w"], ["t"], "inner", pads=[1] * (2 * n)),
            helper.make_node("Relu", ["t"], ["b"]),
        ]
        imports = [helper.make_opsetid("", self.opset)]
        made = helper.make_function("local.blocks", name, ["a", "w"], ["b"], inner, imports)
        made.doc_string = "a block"
        self.functions.append(made)
        self.domains.add("local.blocks")
        return Tensor(self.add(name, [x.name, weight], domain="local.blocks"), filters, x.sizes)

    def other_dimensions(self, x: Tensor) -> Tensor:
        """The same values with one dimension, or with three."""
        if len(x.sizes) == 3 or (len(x.sizes) == 2 and self.pick(False, True)):
            sizes: tuple[int, ...] = (int(np.prod(x.sizes)),)
        else:
            sizes = (*x.sizes, 1, 1)[:3] if self.pick(False, True) else (1, 1, *x.sizes)[-3:]
        return Tensor(self.add("Reshape", [x.name, self.store([0, x.channels, *sizes], np.int64)]), x.channels, sizes)

    def head(self, x: Tensor) -> Tensor:
        """A classifier."""
        pooled = self.add("Flatten", [self.add("GlobalAveragePool", [x.name])])
        weight, bias = self.random(5, x.channels), self.store(self.random(5))
        if self.pick(False, True):
            return Tensor(self.add("Gemm", [pooled, self.store(weight), bias], transB=1), 5, ())
        return Tensor(self.add("Add", [self.add("MatMul", [pooled, self.store(weight.T)]), bias]), 5, ())


@st.composite
def random_models(draw: Callable[[st.SearchStrategy[Any]], Any]) -> RandomModel:
    """Draw a model that is valid, and samples for its inputs."""
    opset, ir_version = draw(st.sampled_from(OPSETS)), draw(st.sampled_from(IR_VERSIONS))
    half = draw(st.sampled_from((False,) * 7 + (True,)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    make = _Builder(draw, opset, ir_version, half, rng)
    sizes = draw(st.sampled_from([(6, 7)] * 5 + [(8, 5), (9,), (4, 3, 5)]))
    channels = make.pick(1, 3, 4)
    inputs = [Tensor(name, channels, sizes) for name in make.pick(("x",), ("x",), ("x", "left"))]
    current, ends = inputs[0], []
    if len(inputs) > 1:
        current = make.concatenated(current, inputs[1:])
    earlier = list(inputs)
    for number in range(make.pick(2, 3, 4, 5)):
        others = ("pool", "concat", "last", "if", "loop", "function", "transposed", "side", "turn")
        step = make.pick(*["conv"] * len(others), *others) if number else "conv"
        if step == "conv":
            current = make.conv(current)
            if make.pick(False, False, True):
                current = make.norm(current)
            if make.pick(False, True):
                current = make.joined(current, earlier)
            if make.pick(True, True, False):
                current = make.activation(current)
        elif step == "pool":
            current = make.pool(current)
        elif step == "concat":
            current = make.concatenated(current, earlier)
        elif step == "last":
            current = make.channels_last(current)
        elif step == "if":
            current = make.branch(current, "x")
        elif step == "loop":
            current = make.loop(current)
        elif step == "function" and ir_version >= FUNCTIONS_FROM:
            current = make.function(current)
        elif step == "transposed":
            current = make.transposed(current)
        elif step == "side":
            # Sometimes nobody reads what it makes.
            ends += [make.conv(make.other_dimensions(current))] * make.pick(0, 1)
        elif step == "turn":
            current = make.other_dimensions(current)
        earlier.append(current)
    ends.append(make.head(current) if make.pick(False, True) else current)
    ends += [tensor for tensor in earlier if make.sometimes()]
    if all(end in inputs for end in ends):
        ends.append(Tensor(make.add("Identity", [current.name]), current.channels, current.sizes))
    made = {name for node in make.nodes for name in node.output}
    return _finished(make, inputs, [end for end in dict.fromkeys(ends) if end.name in made])


def _finished(make: _Builder, inputs: Sequence[Tensor], ends: Sequence[Tensor]) -> RandomModel:
    """Put the parts together, with everything around them that has to survive."""
    batch = make.pick("N", "N", None, 1, 2)
    free, known = make.sometimes(), make.sometimes()
    sides = {x.name: tuple(f"side{i}" for i in range(len(x.sizes))) if free else x.sizes for x in inputs}
    value = helper.make_tensor_value_info
    stated = [value(x.name, make.number, [batch, x.channels, *sides[x.name]]) for x in inputs]
    rows = batch if isinstance(batch, str) else None
    outputs = [
        value(
            end.name,
            make.number,
            [rows, *(end.channels, *end.sizes)] if known else [rows] + [None] * (1 + len(end.sizes)),
        )
        for end in ends
    ]
    graph = helper.make_graph(make.nodes, "net", [*stated, *make.listed], outputs, make.stored)
    if make.sometimes():
        make.domains.add("com.example.unused")
    imports = [helper.make_opsetid("", make.opset), *(helper.make_opsetid(name, 1) for name in sorted(make.domains))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=make.ir_version, functions=make.functions)
    if make.pick(False, True):
        model = onnx.shape_inference.infer_shapes(model)
    if make.pick(False, True):
        _annotate(model)
    onnx.checker.check_model(model)
    shapes = {x.name: (SAMPLES, x.channels, *x.sizes) for x in inputs}
    return RandomModel(
        model, {name: make.rng.normal(size=shape).astype(make.element) for name, shape in shapes.items()}
    )


def _annotate(model: onnx.ModelProto) -> None:
    """Fill in what says something about the model and computes nothing."""
    model.producer_name, model.producer_version, model.domain = "a tool", "1.2.3", "org.example"
    model.model_version, model.doc_string = 7, "What the model is for."
    model.metadata_props.add(key="labels", value="cat,dog")
    model.metadata_props.add(key="licence", value="free – frei")
    model.graph.doc_string = "A graph."
    model.graph.input[0].doc_string = "Photos."
    model.graph.output[0].doc_string = "Answers."
    if model.ir_version >= METADATA_FROM:
        model.graph.metadata_props.add(key="made", value="at random")
    for number, info in enumerate(model.graph.value_info):
        info.doc_string = f"value {number}"
    for tensor in model.graph.initializer[:1]:
        tensor.doc_string = "A constant."
    for node in model.graph.node[-1:]:
        annotation = model.graph.quantization_annotation.add(tensor_name=node.output[0])
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=node.output[0])
