"""Layers other than convolutions for random models: each function adds nodes to a draft and returns the new tensor."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper
from random_convolutions import conv_of_same_size, projection
from random_drafts import Draft, Tensor


def norm(draft: Draft, x: Tensor) -> Tensor:
    """Add a BatchNormalization."""
    d, rng = x.channels, draft.rng
    values = [rng.uniform(0.5, 2, d), rng.normal(size=d), rng.normal(size=d), rng.uniform(0.3, 3, d)]
    names = [draft.store(value) for value in values]
    return Tensor(draft.add("BatchNormalization", [x.name, *names], epsilon=1e-3), d, x.sizes)


def shortcut(draft: Draft, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Add an earlier tensor of the same shape to x, or a projection of another, or one value for each channel."""
    alike = [one for one in earlier if (one.channels, one.sizes) == (x.channels, x.sizes) and one.name != x.name]
    if alike:
        other = draft.pick(*alike).name
    else:
        sources = [one for one in earlier if len(one.sizes) == len(x.sizes)]
        other = projection(draft, sources[0], x) if sources else draft.add("GlobalAveragePool", [x.name])
    pair = draft.pick([x.name, other], [other, x.name])
    operator = draft.pick("Add", "Sum") if draft.opset >= 8 else "Add"
    return Tensor(draft.add(operator, pair), x.channels, x.sizes)


def pool(draft: Draft, x: Tensor) -> Tensor:
    """Add a pooling that halves every side longer than three pixels."""
    kernel = [2 if size > 3 else 1 for size in x.sizes]
    y = draft.add(draft.pick("MaxPool", "AveragePool"), [x.name], kernel_shape=kernel, strides=kernel)
    return Tensor(y, x.channels, tuple(size // k for size, k in zip(x.sizes, kernel, strict=True)))


def concatenation(draft: Draft, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Add a Concat of the channels of two tensors."""
    other = draft.pick(*[one for one in earlier if one.sizes == x.sizes] or [x])
    return Tensor(draft.add("Concat", [x.name, other.name], axis=1), x.channels + other.channels, x.sizes)


def channels_last(draft: Draft, x: Tensor) -> Tensor:
    """Add two Transposes that undo each other, with a scaling between them."""
    n = len(x.sizes)
    last = draft.add("Transpose", [x.name], perm=[0, *range(2, n + 2), 1])
    scaled = draft.add("Mul", [last, draft.store(draft.rng.uniform(0.5, 2, x.channels))])
    return Tensor(draft.add("Transpose", [scaled], perm=[0, n + 1, *range(1, n + 1)]), x.channels, x.sizes)


def branch(draft: Draft, x: Tensor, condition: str) -> Tensor:
    """Add an If with a convolution in both bodies, which read tensors of the main graph.

    The sign of the sum of the tensor ``condition`` decides, and sometimes a constant always does.
    """
    filters = draft.pick(2, 4)
    total = draft.add("ReduceSum", [condition], keepdims=0)
    positive = draft.add("Greater", [total, draft.store(draft.pick(0, -1e3, 1e3))])
    bodies = []
    for name in ("then", "else"):
        y = draft.name()
        with draft.body() as nodes:
            conv_of_same_size(draft, x, filters, y)
        bodies.append(helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(y, draft.element_type, None)]))
    return Tensor(draft.add("If", [positive], then_branch=bodies[0], else_branch=bodies[1]), filters, x.sizes)


def loop(draft: Draft, x: Tensor) -> Tensor:
    """Add a Loop that convolves twice."""
    state, number, condition, condition_out, y = (draft.name() for _ in range(5))
    with draft.body() as nodes:
        conv_of_same_size(draft, Tensor(state, x.channels, x.sizes), x.channels, y)
    nodes.append(helper.make_node("Identity", [condition], [condition_out]))
    value = helper.make_tensor_value_info
    flags = [value(name, TensorProto.BOOL, []) for name in (condition, condition_out)]
    inputs = [value(number, TensorProto.INT64, []), flags[0], value(state, draft.element_type, None)]
    body = helper.make_graph(nodes, "body", inputs, [flags[1], value(y, draft.element_type, None)])
    times, true = draft.store(2, np.int64), draft.store(True, np.bool_)
    return Tensor(draft.add("Loop", [times, true, x.name], body=body), x.channels, x.sizes)


def function(draft: Draft, x: Tensor) -> Tensor:
    """Add a call of a model-local function that convolves."""
    filters, n = draft.pick(2, 4), len(x.sizes)
    kernel = draft.store(draft.random(filters, x.channels, *[3] * n))
    name = draft.name("Block")
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["t"], "inner", pads=[1] * (2 * n)),
        helper.make_node("Relu", ["t"], ["b"]),
    ]
    imports = [helper.make_opsetid("", draft.opset)]
    block = helper.make_function("local.blocks", name, ["a", "w"], ["b"], nodes, imports)
    block.doc_string = "a block"
    draft.functions.append(block)
    draft.domains.add("local.blocks")
    return Tensor(draft.add(name, [x.name, kernel], domain="local.blocks"), filters, x.sizes)


def other_dimensions(draft: Draft, x: Tensor) -> Tensor:
    """Add a Reshape of the same values to one dimension, or to three."""
    if len(x.sizes) == 3 or (len(x.sizes) == 2 and draft.pick(False, True)):
        sizes: tuple[int, ...] = (int(np.prod(x.sizes)),)
    else:
        sizes = (*x.sizes, 1, 1)[:3] if draft.pick(False, True) else (1, 1, *x.sizes)[-3:]
    return Tensor(draft.add("Reshape", [x.name, draft.store([0, x.channels, *sizes], np.int64)]), x.channels, sizes)


def head(draft: Draft, x: Tensor) -> Tensor:
    """Add a pooling and a fully connected layer with five outputs."""
    pooled = draft.add("Flatten", [draft.add("GlobalAveragePool", [x.name])])
    weight, bias = draft.random(5, x.channels), draft.store(draft.random(5))
    if draft.pick(False, True):
        return Tensor(draft.add("Gemm", [pooled, draft.store(weight), bias], transB=1), 5, ())
    return Tensor(draft.add("Add", [draft.add("MatMul", [pooled, draft.store(weight.T)]), bias]), 5, ())
