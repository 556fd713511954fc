"""Blocks of the networks that people deploy, written as text, with the channels in them that can be removed.

Conv3 stands for a Conv whose padding keeps the size of its input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from models_for_tests import weights
from onnx import numpy_helper, parser

from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, Reader


@dataclass(frozen=True)
class Case:
    """A network and its sets.

    Attributes
    ----------
    nodes
        The nodes, in ONNX's own notation.
    shapes
        The shapes of the weights, by their names.
    sets
        The count, makers, carriers and readers of every set; a reader as (output, input, first, repeat).
    integers
        Constants of whole numbers, by their names.
    opset
        The version of the operators.
    sizes
        What the model declares of its input, [N, 3, 8, 8].
    """

    nodes: str
    shapes: Mapping[str, tuple[int, ...]]
    sets: Sequence[tuple[int, tuple[str, ...], tuple[str, ...], tuple[tuple[str, str, int, int], ...]]] = ()
    integers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    opset: int = 17
    sizes: str = "N,3,8,8"

    @property
    def model(self) -> onnx.ModelProto:
        """The model, with seeded weights; its output is y."""
        text = self.nodes.replace("Conv3(", "Conv<pads=[1,1,1,1]>(").replace("Conv3<", "Conv<pads=[1,1,1,1], ")
        head = f'<ir_version: 8, opset_import: ["" : {self.opset}]>'
        model = parser.parse_model(f"{head} net (float[{self.sizes}] x) => (float y) {{ {text} }}")
        for number, (name, shape) in enumerate(self.shapes.items()):
            values = np.abs(weights(number, *shape)) + 0.1 if name.startswith("v") else weights(number, *shape)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        for name, numbers in self.integers.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(numbers, np.int64), name))
        del model.graph.output[:]
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        model.graph.output.extend(value for value in inferred if value.name == "y")
        onnx.checker.check_model(model)
        return model

    @property
    def expected(self) -> tuple[HiddenChannels, ...]:
        """The sets as they are to be found."""
        return tuple(
            HiddenChannels(count, makers, carriers, tuple(Reader(*reader) for reader in readers))
            for count, makers, carriers, readers in self.sets
        )


def norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the constants of a normalisation."""
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}{part}": (channels,) for part in "abc"}
    return shapes | {f"v{prefix}": (channels,)}


CASES: Mapping[str, Case] = {
    "a chain of any activations": Case(
        """a = Conv3(x, w1, b1) r = LeakyRelu(a) b = Conv3(r, w2)
           s = Sigmoid(b) t = Mul(b, s) u = PRelu(t, slope) y = Conv3(u, w3)""",
        {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (5, 6, 3, 3), "slope": (5, 1, 1), "w3": (4, 5, 3, 3)},
        [(6, ("a",), (), (("b", "r", 0, 1),)), (5, ("b",), (), (("y", "u", 0, 1),))],
    ),
    "an inverted residual": Case(
        """a = Conv(x, w0) b = Conv(a, w1, b1) c = Clip(b, , vsix) d = Conv<pads=[1,1,1,1], group=6>(c, w2, b2)
           e = Clip(d, , vsix) f = Conv(e, w3) y = Add(a, f)""",
        {"w0": (4, 3, 1, 1), "w1": (6, 4, 1, 1), "b1": (6,), "w2": (6, 1, 3, 3), "b2": (6,), "w3": (4, 6, 1, 1)}
        | {"vsix": ()},
        [(6, ("b",), ("d",), (("f", "e", 0, 1),))],
    ),
    "a bottleneck": Case(
        """a = Conv(x, w0) b = Conv(a, w1) c = Relu(b) d = Conv3(c, w2) e = Relu(d) f = Conv(e, w3)
           g = Add(f, a) y = Relu(g)""",
        {"w0": (6, 3, 1, 1), "w1": (3, 6, 1, 1), "w2": (4, 3, 3, 3), "w3": (6, 4, 1, 1)},
        [(3, ("b",), (), (("d", "c", 0, 1),)), (4, ("d",), (), (("f", "e", 0, 1),))],
    ),
    "squeeze and excitation": Case(
        """a = Conv(x, w1) b = Conv<group=6>(a, w2) c = Relu(b) p = GlobalAveragePool(c) q = Conv(p, w3, b3)
           r = Relu(q) s = Conv(r, w4, b4) t = HardSigmoid(s) u = Mul(c, t) y = Conv(u, w5)""",
        {"w1": (6, 3, 1, 1), "w2": (6, 1, 3, 3), "w3": (4, 6, 1, 1), "b3": (4,), "w4": (6, 4, 1, 1), "b4": (6,)}
        | {"w5": (4, 6, 1, 1)},
        [
            (6, ("a", "s"), ("b",), (("q", "p", 0, 1), ("y", "u", 0, 1))),
            (4, ("q",), (), (("s", "r", 0, 1),)),
        ],
    ),
    "squeeze and excitation by fully connected layers": Case(
        """a = Conv(x, w1) p = ReduceMean<axes=[2,3], keepdims=0>(a) q = Gemm<transB=1>(p, w3, b3) r = Relu(q)
           m = MatMul(r, w4) s = Add(m, b4) t = Sigmoid(s) k = Reshape(t, shape) u = Mul(a, k) y = Conv(u, w5)""",
        {"w1": (6, 3, 1, 1), "w3": (4, 6), "b3": (4,), "w4": (4, 6), "b4": (6,), "w5": (4, 6, 1, 1)},
        [
            (6, ("a", "m"), (), (("q", "p", 0, 1), ("y", "u", 0, 1))),
            (4, ("q",), (), (("m", "r", 0, 1),)),
        ],
        {"shape": (0, 6, 1, 1)},
    ),
    "a gate of its own channels": Case(
        "a = Conv(x, w1) p = GlobalAveragePool(a) s = Conv(p, w2) t = Sigmoid(s) u = Mul(t, a) y = Conv(u, w3)",
        {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "w3": (2, 6, 1, 1)},
        [(6, ("a", "s"), (), (("s", "p", 0, 1), ("y", "u", 0, 1)))],
    ),
    "a dense block": Case(
        """a = Conv(x, w0) r0 = Relu(a) b = Conv3(r0, w1) c = Concat<axis=1>(a, b) d = Conv3(c, w2)
           e = Concat<axis=1>(c, d, b) f = Conv3(e, w3) y = Add(f, a)""",
        {"w0": (4, 3, 1, 1), "w1": (3, 4, 3, 3), "w2": (2, 7, 3, 3), "w3": (4, 12, 3, 3)},
        [
            (3, ("b",), (), (("d", "c", 4, 1), ("f", "e", 4, 1), ("f", "e", 9, 1))),
            (2, ("d",), (), (("f", "e", 7, 1),)),
        ],
    ),
    "a dense block that normalises what it has joined": Case(
        """a = Conv3(x, w1) b = Conv3(x, w2) c = Concat<axis=1>(a, x, b)
           n = BatchNormalization(c, na, nb, nc, vn) r = Relu(n) y = Conv3(r, w3)""",
        {"w1": (4, 3, 3, 3), "w2": (3, 3, 3, 3), "w3": (2, 10, 3, 3), **norm("n", 10)},
        [(4, ("a",), (), (("y", "r", 0, 1),)), (3, ("b",), (), (("y", "r", 7, 1),))],
    ),
    "a network in the shape of a U, up by a transposed convolution": Case(
        """a = Conv3(x, w1) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) b = Conv3(p, w2)
           s = Relu(b) u = ConvTranspose<strides=[2,2]>(s, w3, b3) c = Concat<axis=1>(u, r) y = Conv3(c, w4)""",
        {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3), "w3": (6, 5, 2, 2), "b3": (5,), "w4": (2, 9, 3, 3)},
        [
            (4, ("a",), (), (("b", "p", 0, 1), ("y", "c", 5, 1))),
            (6, ("b",), (), (("u", "s", 0, 1),)),
            (5, ("u",), (), (("y", "c", 0, 1),)),
        ],
    ),
    "a network in the shape of a U, up by Resize": Case(
        """a = Conv3(x, w1) p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a) b = Conv3(p, w2)
           h = Shape(b) h1 = Slice(h, i0, i2) j = Shape(a) j1 = Slice(j, i2, i4) k = Concat<axis=0>(h1, j1)
           u = Resize<mode="nearest">(b, , , k) c = Concat<axis=1>(u, a) y = Conv3(c, w4)""",
        {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3), "w4": (2, 10, 3, 3)},
        [
            (4, ("a",), (), (("b", "p", 0, 1), ("y", "c", 6, 1))),
            (6, ("b",), (), (("y", "c", 0, 1),)),
        ],
        {"i0": (0,), "i2": (2,), "i4": (4,)},
    ),
    "constant sizes that name the channels": Case(
        'a = Conv3(x, w1) u = Resize<mode="nearest">(a, , , size) e = Expand(u, more) y = Conv3(e, w2)',
        {"w1": (4, 3, 3, 3), "w2": (2, 4, 3, 3)},
        [(4, ("a",), (), (("y", "e", 0, 1),))],
        {"size": (2, 4, 16, 8), "more": (1, 4, 1, 1)},
        sizes="2,3,8,8",
    ),
    "Flatten into a fully connected layer": Case(
        """a = Conv3<strides=[2,2]>(x, w1) r = Relu(a) f = Flatten(r) g = Gemm(f, w2, b2) s = Relu(g)
           y = Gemm<transB=1>(s, w3)""",
        {"w1": (4, 3, 3, 3), "w2": (64, 5), "b2": (1, 5), "w3": (2, 5)},
        [(4, ("a",), (), (("g", "f", 0, 16),)), (5, ("g",), (), (("y", "s", 0, 1),))],
    ),
    "Flatten of a size that is not known": Case(
        """a = Conv3(x, w1) b = Conv3(x, w2) c = Concat<axis=1>(a, b) f = Flatten(c) d = Dropout(f)
           y = MatMul(d, w3)""",
        {"w1": (4, 3, 3, 3), "w2": (2, 3, 3, 3), "w3": (384, 5)},
        [(4, ("a",), (), (("y", "d", 0, 64),)), (2, ("b",), (), (("y", "d", 256, 64),))],
        sizes="N,3,H,W",
    ),
    "a Reshape to rows": Case(
        """a = Conv3(x, w1) s = Shape(a) n = Gather(s, first) k = Unsqueeze(n, axis) h = Concat<axis=0>(k, rest)
           f = Reshape(a, h) y = MatMul(f, w2)""",
        {"w1": (4, 3, 3, 3), "w2": (256, 5)},
        [(4, ("a",), (), (("y", "f", 0, 64),))],
        {"first": 0, "axis": (0,), "rest": (-1,)},  # type: ignore[dict-item]
        sizes="N,3,H,W",
    ),
    "a Reshape that names the number of columns": Case(
        "a = Conv3(x, w1) f = Reshape(a, shape) y = MatMul(f, w2)",
        {"w1": (4, 3, 3, 3), "w2": (256, 5)},
        [(4, ("a",), (), (("y", "f", 0, 64),))],
        {"shape": (-1, 256)},
    ),
    "a mean into a fully connected layer": Case(
        "a = Conv3(x, w1) p = GlobalAveragePool(a) s = Squeeze(p, axes) y = Gemm<transB=1>(s, w2, b2)",
        {"w1": (4, 3, 3, 3), "w2": (5, 4), "b2": (5,)},
        [(4, ("a",), (), (("y", "s", 0, 1),))],
        {"axes": (2, 3)},
    ),
    "a network that keeps its channels last": Case(
        """a = Conv3(x, w1) t = Transpose<perm=[0,2,3,1]>(a) n = Mul(t, gain) m = MatMul(n, w2) o = Add(m, b2)
           r = Relu(o) q = MatMul(r, w3) y = Transpose<perm=[0,3,1,2]>(q)""",
        {"w1": (4, 3, 3, 3), "gain": (4,), "w2": (4, 6), "b2": (6,), "w3": (6, 2)},
        [(4, ("a",), (), (("m", "n", 0, 1),)), (6, ("m",), (), (("q", "r", 0, 1),))],
    ),
    "padding, cropping and normalising positions": Case(
        """a = Conv3(x, w1) n = InstanceNormalization(a, na, nb) p = Pad(n, pads) c = Slice(p, from, to, at)
           y = Conv(c, w2)""",
        {"w1": (4, 3, 3, 3), "na": (4,), "nb": (4,), "w2": (2, 4, 3, 3)},
        [(4, ("a",), (), (("y", "c", 0, 1),))],
        {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "from": (1,), "to": (9,), "at": (3,)},
    ),
    "pixels stacked into channels": Case(
        "a = Conv3(x, w1) s = SpaceToDepth<blocksize=2>(a) y = Conv(s, w2)",
        {"w1": (3, 3, 3, 3), "w2": (2, 12, 1, 1)},
        [(3, ("a",), (), tuple(("y", "s", first, 1) for first in (0, 3, 6, 9)))],
    ),
    "depthwise convolutions of both kinds": Case(
        "a = Conv(x, w1) d = Conv3<group=4>(a, w2, b2) t = ConvTranspose<group=4>(d, w3, b3) y = Conv(t, w4)",
        {"w1": (4, 3, 1, 1), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (4, 1, 2, 2), "b3": (4,), "w4": (2, 4, 1, 1)},
        [(4, ("a",), ("d", "t"), (("y", "t", 0, 1),))],
    ),
    "one value for all channels": Case(
        """a = Conv3(x, w1) m = Conv(x, w0) s = Sigmoid(m) g = Mul(a, s) k = Shape(x) c = Cast<to=1>(k)
           z = ReduceMax<keepdims=0>(c) d = Div(g, z) y = Conv3(d, w2)""",
        {"w1": (4, 3, 3, 3), "w0": (1, 3, 1, 1), "w2": (2, 4, 3, 3)},
        [(4, ("a",), (), (("y", "d", 0, 1),))],
    ),
}
"""Networks in which channels can be removed."""


@dataclass(frozen=True)
class Staying:
    """A network in which channels cannot be removed.

    Attributes
    ----------
    nodes, shapes
        As in ``Case``; the channels are made from x by "a = Conv3(x, w1)", [4, 3, 3, 3], in front of the nodes.
    reason
        A part of the reason that is given.
    integers, opset
        As in ``Case``.
    layer
        The output of the layer whose channels stay.
    """

    nodes: str
    shapes: Mapping[str, tuple[int, ...]]
    reason: str
    integers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    opset: int = 17
    layer: str = "a"

    @property
    def model(self) -> onnx.ModelProto:
        """The model."""
        shapes = {"w1": (4, 3, 3, 3), **self.shapes}
        return Case(f"a = Conv3(x, w1) {self.nodes}", shapes, (), self.integers, self.opset).model


READ = {"w2": (2, 4, 3, 3)}

STAYING: Mapping[str, Staying] = {
    "an output of the model": Staying("y = Relu(a) z = Conv3(y, w2)", READ, "the output 'y'"),
    "an output that counts them": Staying("z = Conv3(a, w2) y = Shape(a)", READ, "the output 'y'"),
    "a residual stream": Staying(
        "b = Conv3(x, w3) s = Add(a, b) y = Conv3(s, w2)", READ | {"w3": (4, 3, 3, 3)}, "residual stream"
    ),
    "a residual stream of three": Staying(
        "b = Conv3(a, w3) s = Sum(b, a, b) y = Conv3(s, w2)", READ | {"w3": (4, 4, 3, 3)}, "residual stream"
    ),
    "an addition of channels of the input": Staying(
        "c = Concat<axis=1>(x, m) s = Add(a, c) y = Conv3(s, w2)", READ | {"m": (1, 1, 8, 8)}, "with channels that stay"
    ),
    "a product with channels that stay": Staying(
        "b = Conv3(x, w3) c = Concat<axis=1>(b, b) s = Mul(a, c) y = Conv3(s, w2)",
        READ | {"w3": (2, 3, 3, 3)},
        "do not correspond",
    ),
    "a layer of several groups": Staying("y = Conv3<group=2>(a, w2)", {"w2": (4, 2, 3, 3)}, "has 2 groups"),
    "a depthwise convolution with several filters a channel": Staying(
        "d = Conv3<group=4>(a, w2, b2) y = Conv(d, w3)",
        {"w2": (8, 1, 3, 3), "b2": (8,), "w3": (2, 8, 1, 1)},
        "several filters for each",
    ),
    "a depthwise convolution of joined channels": Staying(
        "b = Conv(x, w4) c = Concat<axis=1>(b, a) d = Conv3<group=6>(c, w2) y = Conv(d, w3)",
        {"w2": (6, 1, 3, 3), "w3": (2, 6, 1, 1), "w4": (2, 3, 1, 1)},
        "reads other channels beside them",
    ),
    "a Softmax": Staying("s = Softmax<axis=1>(a) y = Conv3(s, w2)", READ, "is not followed"),
    "a mean over channels": Staying(
        "s = ReduceMean<axes=[1]>(a) t = Mul(a, s) y = Conv3(t, w2)", READ, "mixes channels"
    ),
    "a channel shuffle": Staying(
        "r = Reshape(a, s1) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, s2) y = Conv3(u, w2)",
        READ,
        "may mix channels",
        {"s1": (0, 2, 2, 8, 8), "s2": (0, 4, 8, 8)},
    ),
    "a Reshape that cuts samples anew": Staying(
        "r = Reshape(a, shape) y = MatMul(r, w2)", {"w2": (4, 2)}, "may mix channels", {"shape": (-1, 4)}
    ),
    "a Split": Staying(
        "b, c = Split<axis=1>(a, sizes) y = Conv3(c, w2)", READ | {"w2": (2, 2, 3, 3)}, "is not", {"sizes": (2, 2)}
    ),
    "a Slice of channels": Staying(
        "s = Slice(a, i0, i2, i1) y = Conv3(s, w2)",
        {"w2": (2, 2, 3, 3)},
        "takes some",
        {"i0": (0,), "i1": (1,), "i2": (2,)},
    ),
    "padding with channels": Staying(
        "p = Pad(a, pads) y = Conv3(p, w2)", {"w2": (2, 5, 3, 3)}, "adds channels", {"pads": (0, 1, 0, 0, 0, 0, 0, 0)}
    ),
    "a normalisation by groups": Staying(
        "n = LayerNormalization<axis=1>(a, g) y = Conv3(n, w2)", READ | {"g": (4, 8, 8)}, "is not followed"
    ),
    "a normalisation of the batch": Staying(
        "n, m, v = BatchNormalization<training_mode=1>(a, na, nb, nc, vn) y = Conv3(n, w2)",
        READ | norm("n", 4),
        "is not",
    ),
    "a number of channels that is computed with": Staying(
        "s = Shape(a) c = Gather(s, one) f = Cast<to=1>(c) d = Div(a, f) y = Conv3(d, w2)",
        READ,
        "computes with their number",
        {"one": (1,)},
    ),
    "weights that another layer reads": Staying("b = Relu(a) c = Conv3(b, w2) y = Conv3(a, w2)", READ, "other readers"),
    "weights that are computed": Staying(
        "m = ReduceMean<keepdims=0>(x) v = Mul(w2, m) y = Conv3(a, v)", READ, "are not constant"
    ),
    "a bias that is computed": Staying(
        "m = ReduceMean<axes=[0,1,2],keepdims=0>(x) b = Conv(a, w2, m) y = Conv3(b, w3)",
        {"w2": (8, 4, 3, 3), "w3": (2, 8, 3, 3)},
        "the bias of",
        layer="b",
    ),
    "a bound that a layer computes": Staying(
        "m = ReduceMax<keepdims=0>(a) r = Clip(a, m) y = Conv3(r, w2)", READ, "mixes channels"
    ),
    "a Gemm that scales": Staying("f = Flatten(a) y = Gemm<alpha=2.0>(f, w2)", {"w2": (256, 2)}, "more than"),
    "indices of a pooling": Staying(
        """p, i = MaxPool<kernel_shape=[2,2]>(a) b = Conv3(p, w2) j = Cast<to=1>(i) k = ReduceMax<keepdims=0>(j)
           y = Add(b, k)""",
        READ,
        "is not followed",
    ),
    "a body": Staying(
        """t = ReduceMax<keepdims=0>(x) zero = Constant<value=float {0.0}>() c = Greater(t, zero)
           b = If<then_branch = yes () => (float p) { p = Relu(a) }, else_branch = no () => (float q) { q = Neg(a) }>(c)
           y = Conv3(b, w2)""",
        READ,
        "If",
    ),
    "nobody that reads them": Staying("y = Relu(x)", {}, "no layer reads them"),
}
"""Networks in which the channels of the first layer stay, and the reasons."""
