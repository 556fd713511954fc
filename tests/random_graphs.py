"""Random valid ONNX models with convolutions of every kind, as hypothesis draws them, with samples for their inputs.

All models are tiny: two samples in a batch, and a handful of pixels and channels. Weights have a size that keeps
responses near 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import random_layers as layers
import random_odd_layers as odd_layers
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from random_activations import activation
from random_convolutions import conv, transposed
from random_drafts import METADATA_FROM, Draft, Tensor

Array = NDArray[Any]

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
IR_VERSIONS = (3, 4, 6, 8, 10, 11)
FUNCTIONS_FROM = 8
"""The IR version from which a model may hold functions."""

SAMPLES = 6


@dataclass(frozen=True)
class RandomModel:
    """A model with calibration samples [n, ...] for each of its inputs."""

    model: onnx.ModelProto
    data: dict[str, Array] = field(repr=False)

    def feeds(self, seed: int) -> dict[str, Array]:
        """Return two samples for every input that the calibration has not seen."""
        rng = np.random.default_rng(seed)
        return {name: rng.normal(size=(2, *rows.shape[1:])).astype(rows.dtype) for name, rows in self.data.items()}


def conv_block(draft: Draft, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Add a convolution, and perhaps a normalisation, a shortcut and an activation."""
    x = conv(draft, x)
    if draft.pick(False, False, True):
        x = layers.norm(draft, x)
    if draft.pick(False, True):
        x = layers.shortcut(draft, x, earlier)
    return activation(draft, x) if draft.pick(True, True, False) else x


def function_call(draft: Draft, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Add a call of a function, if the model may hold functions."""
    return layers.function(draft, x) if draft.ir_version >= FUNCTIONS_FROM else x


Step: TypeAlias = Callable[[Draft, Tensor, Sequence[Tensor]], Tensor]
"""A function that adds nodes behind a tensor, given all earlier ones, and returns the new tensor."""

STEPS: Mapping[str, Step] = {
    "conv": conv_block,
    "pool": lambda draft, x, earlier: layers.pool(draft, x),
    "concat": layers.concatenation,
    "last": lambda draft, x, earlier: layers.channels_last(draft, x),
    "if": lambda draft, x, earlier: layers.branch(draft, x, "x"),
    "loop": lambda draft, x, earlier: layers.loop(draft, x),
    "function": function_call,
    "transposed": lambda draft, x, earlier: transposed(draft, x),
    "turn": lambda draft, x, earlier: layers.other_dimensions(draft, x),
}

ODD: Mapping[str, Step] = {
    "noise": lambda draft, x, earlier: odd_layers.noise(draft, x),
    "sequence": lambda draft, x, earlier: odd_layers.in_a_sequence(draft, x, conv),
    "short": lambda draft, x, earlier: odd_layers.in_a_short_type(draft, x, conv),
}
"""Steps with chance, and with tensors that are live and no arrays of NumPy's own."""

SIDE = "side"
"""A step that adds a convolution of other dimensions beside the main path."""


@st.composite
def random_models(draw: Callable[[st.SearchStrategy[Any]], Any], *, odd: bool = False) -> RandomModel:
    """Draw a valid model, perhaps with odd steps, and samples for its inputs."""
    opset, ir_version = draw(st.sampled_from(OPSETS)), draw(st.sampled_from(IR_VERSIONS))
    half = draw(st.sampled_from((False,) * 7 + (True,)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    draft = Draft(draw, opset, ir_version, half, rng)
    sizes = draw(st.sampled_from([(6, 7)] * 5 + [(8, 5), (9,), (4, 3, 5)]))
    channels = draft.pick(1, 3, 4)
    inputs = [Tensor(name, channels, sizes) for name in draft.pick(("x",), ("x",), ("x", "left"))]
    current, earlier = inputs[0], list(inputs)
    if len(inputs) > 1:
        current = layers.concatenation(draft, current, inputs[1:])
    ends: list[Tensor] = []
    others = ("pool", "concat", "last", "if", "loop", "function", "transposed", SIDE, "turn", *(ODD if odd else ()))
    for number in range(draft.pick(2, 3, 4, 5)):
        step = draft.pick(*["conv"] * len(others), *others) if number else "conv"
        if step == SIDE:
            # Sometimes nobody reads the response.
            ends += [conv(draft, layers.other_dimensions(draft, current))] * draft.pick(0, 1)
        else:
            current = {**STEPS, **ODD}[step](draft, current, earlier)
        earlier.append(current)
    ends.append(layers.head(draft, current) if draft.pick(False, True) else current)
    ends += [tensor for tensor in earlier if draft.sometimes()]
    if all(end in inputs for end in ends):
        ends.append(Tensor(draft.add("Identity", [current.name]), current.channels, current.sizes))
    computed = {name for node in draft.nodes for name in node.output}
    return finish(draft, inputs, [end for end in dict.fromkeys(ends) if end.name in computed])


def finish(draft: Draft, inputs: Sequence[Tensor], ends: Sequence[Tensor]) -> RandomModel:
    """Put the parts together, with everything around them that has to survive."""
    batch = draft.pick("N", "N", None, 1, 2)
    free_sizes, known_outputs = draft.sometimes(), draft.sometimes()
    value = helper.make_tensor_value_info

    def input_shape(x: Tensor) -> list[Any]:
        sizes = [f"side{i}" for i in range(len(x.sizes))] if free_sizes else x.sizes
        return [batch, x.channels, *sizes]

    def output_shape(end: Tensor) -> list[Any]:
        rows = batch if isinstance(batch, str) else None
        return [rows, end.channels, *end.sizes] if known_outputs else [rows] + [None] * (1 + len(end.sizes))

    stated = [value(x.name, draft.element_type, input_shape(x)) for x in inputs]
    outputs = [value(end.name, draft.element_type, output_shape(end)) for end in ends]
    graph = helper.make_graph(draft.nodes, "net", [*stated, *draft.listed], outputs, draft.stored)
    if draft.sometimes():
        draft.domains.add("com.example.unused")
    imports = [helper.make_opsetid("", draft.opset), *(helper.make_opsetid(name, 1) for name in sorted(draft.domains))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=draft.ir_version, functions=draft.functions)
    if draft.pick(False, True):
        model = onnx.shape_inference.infer_shapes(model)
    if draft.pick(False, True):
        annotate(model)
    onnx.checker.check_model(model)
    shapes = {x.name: (SAMPLES, x.channels, *x.sizes) for x in inputs}
    data = {name: draft.rng.normal(size=shape).astype(draft.dtype) for name, shape in shapes.items()}
    return RandomModel(model, data)


def annotate(model: onnx.ModelProto) -> None:
    """Fill in everything that describes a model and computes nothing."""
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
