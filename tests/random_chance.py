"""Layers of random models that draw numbers at every run, and the same models without their noise."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from random_drafts import Draft, Tensor

LIKE = ("RandomNormalLike", "RandomUniformLike")
"""The operators that draw a tensor of the shape of another one."""

OPSETS = {"normal": (1, 21), "uniform": (1, 21), "fixed": (1, 21), "dropout": (12, 99), "bernoulli": (15, 21)}
"""The first and the last opset in which ONNX Runtime knows a kind of noise."""


def noise(draft: Draft, x: Tensor) -> Tensor:
    """Add noise to a tensor, or drop some of its values."""
    kinds = [kind for kind, (first, last) in OPSETS.items() if first <= draft.opset <= last]
    kind = draft.pick(*(kind for kind in kinds if kind != "fixed" or not draft.half))
    seed: dict[str, Any] = {"seed": 3.0} if draft.sometimes() else {}
    if kind == "dropout":
        ratio, training = draft.store(0.25, np.float32), draft.store(True, np.bool_)
        return Tensor(draft.add("Dropout", [x.name, ratio, training]), x.channels, x.sizes)
    if kind == "bernoulli":
        drawn = draft.add("Bernoulli", [draft.add("Sigmoid", [x.name])], **seed)
    elif kind == "fixed":  # one draw for every channel, whatever the batch is
        shape = [1, x.channels, *[1] * len(x.sizes)]
        drawn = draft.add("RandomNormal", [], shape=shape, dtype=draft.element_type, **seed)
    elif kind == "uniform":
        drawn = draft.add("RandomUniformLike", [x.name], low=-1.0, high=1.0, **seed)
    else:
        drawn = draft.add("RandomNormalLike", [x.name], scale=0.5, **seed)
    return Tensor(draft.add("Add", [x.name, drawn]), x.channels, x.sizes)


def still(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without its noise: zeros take its place, and what dropped values drops none."""
    calm = onnx.ModelProto()
    calm.CopyFrom(model)
    nodes = list(calm.graph.node)
    del calm.graph.node[:]
    for node in nodes:
        calm.graph.node.extend(_still(node))
    return calm


def _still(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (y,) = node.output[:1]
    if node.op_type == "Dropout":
        return [helper.make_node("Identity", [node.input[0]], [y])]
    if node.op_type == "RandomNormal":
        attributes = {attribute.name: attribute for attribute in node.attribute}
        dtype = helper.tensor_dtype_to_np_dtype(attributes["dtype"].i)
        zeros = numpy_helper.from_array(np.zeros(attributes["shape"].ints, dtype))
        return [helper.make_node("Constant", [], [y], value=zeros)]
    if node.op_type in (*LIKE, "Bernoulli"):
        return [helper.make_node("Sub", [node.input[0]] * 2, [y])]
    return [node]
