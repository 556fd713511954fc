"""Random valid ONNX models with convolutions of every kind, with samples for their inputs.

All models are tiny: two samples in a batch, and a handful of pixels and channels. Weights have a size that keeps
responses near 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import random_layers as layers
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from random_activations import activation
from random_blocks import block, classified
from random_chance import noise, still
from random_convolutions import conv, transposed
from random_drafts import METADATA_FROM, Choose, Draft, Tensor
from random_inputs import Input, add_inputs, calibration, declared, feeds
from random_values import low_precision, sequence

Array = NDArray[Any]

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
IR_VERSIONS = (3, 4, 6, 8, 10, 11)
FUNCTIONS_FROM = 8
"""The IR version from which a model may hold functions."""


@dataclass(frozen=True)
class RandomModel:
    """A model with calibration data for its inputs.

    Attributes
    ----------
    model
        The model.
    inputs
        Its inputs.
    rows
        The number of samples in a batch.
    """

    model: onnx.ModelProto
    inputs: tuple[Input, ...]
    rows: int

    @property
    def data(self) -> dict[str, Array]:
        """The calibration data: samples [n, ...], or one value for all samples."""
        return calibration(self.inputs)

    @property
    def still(self) -> onnx.ModelProto:
        """The model without the noise that it draws."""
        return still(self.model)

    def feeds(self, seed: int) -> dict[str, Array]:
        """Return a batch of samples that the calibration has not seen."""
        return dict(feeds(self.inputs, self.rows, np.random.default_rng(seed)))


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
    "block": lambda draft, x, earlier: block(draft, x),
    "pool": lambda draft, x, earlier: layers.pool(draft, x),
    "concat": layers.concatenation,
    "last": lambda draft, x, earlier: layers.channels_last(draft, x),
    "if": lambda draft, x, earlier: layers.branch(draft, x, "x"),
    "loop": lambda draft, x, earlier: layers.loop(draft, x),
    "function": function_call,
    "transposed": lambda draft, x, earlier: transposed(draft, x),
    "turn": lambda draft, x, earlier: layers.other_dimensions(draft, x),
    "noise": lambda draft, x, earlier: noise(draft, x),
    "sequence": lambda draft, x, earlier: sequence(draft, x, lambda draft, y: conv_block(draft, y, [y])),
    "precision": lambda draft, x, earlier: low_precision(draft, x, lambda draft, y: conv_block(draft, y, [y])),
}

UNUSUAL = ("noise", "sequence", "precision")
"""The steps with which a network cannot be cut and run in pieces as simply as most."""

SIDE = "side"
"""A step that adds a convolution of other dimensions beside the main path."""


def quick(examples: int) -> settings:
    """Return settings with which every run draws the same examples."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@st.composite
def random_models(draw: Callable[[st.SearchStrategy[Any]], Any]) -> RandomModel:
    """Draw a valid model and samples for its inputs by hypothesis."""
    return random_model(lambda choices: draw(st.sampled_from(choices)), draw(st.integers(0, 2**32 - 1)))


def random_model(choose: Choose, seed: int) -> RandomModel:
    """Draw a valid model and samples for its inputs; the seed is that of its weights."""
    half = choose((False,) * 7 + (True,))
    draft = Draft(choose, choose(OPSETS), choose(IR_VERSIONS), half, np.random.default_rng(seed))
    inputs, starts = add_inputs(draft, draft.pick(1, 3, 4), draft.pick(*[(6, 7)] * 5, (8, 5), (9,), (4, 3, 5)))
    current, earlier = starts[0], list(starts)
    if len(starts) > 1:
        current = layers.concatenation(draft, current, starts[1:])
    ends: list[Tensor] = []
    others = ("block", "pool", "concat", "last", "if", "loop", "function", "transposed", SIDE, "turn", *UNUSUAL)
    for number in range(draft.pick(2, 3, 4, 5)):
        step = draft.pick(*["conv"] * len(others), *others) if number else "conv"
        if step == SIDE:
            # Sometimes nobody reads the response.
            ends += [conv(draft, layers.other_dimensions(draft, current))] * draft.pick(0, 1)
        else:
            current = STEPS[step](draft, current, earlier)
        earlier.append(current)
    ends.append(layers.head(draft, current) if draft.pick(False, True) else current)
    ends += [tensor for tensor in earlier if draft.sometimes()]
    computed = {name for node in draft.nodes for name in node.output}
    ends = [end for end in dict.fromkeys(ends) if end.name in computed]
    if not ends:
        ends = [Tensor(draft.add("Identity", [current.name]), current.channels, current.sizes)]
    return finish(draft, inputs, ends)


@st.composite
def random_block_models(draw: Callable[[st.SearchStrategy[Any]], Any]) -> RandomModel:
    """Draw a model of blocks by hypothesis; see ``random_block_model``."""
    return random_block_model(lambda choices: draw(st.sampled_from(choices)), draw(st.integers(0, 2**32 - 1)))


def random_block_model(choose: Choose, seed: int) -> RandomModel:
    """Draw a model of nothing but the blocks of networks in use, perhaps with a classifier behind them."""
    draft = Draft(choose, choose(OPSETS), choose(IR_VERSIONS), False, np.random.default_rng(seed))
    inputs, starts = add_inputs(draft, 3, (6, 7))
    current = conv(draft, starts[0])
    if len(current.sizes) == 2:
        for _ in range(draft.pick(1, 2, 3)):
            current = block(draft, current)
    return finish(draft, inputs, [classified(draft, current) if draft.pick(False, True) else current])


def finish(draft: Draft, inputs: Sequence[Input], ends: Sequence[Tensor]) -> RandomModel:
    """Put the parts together, with everything around them that has to survive."""
    odd = any(one.axis != 0 for one in inputs)
    batch = draft.pick(1, "N") if odd else draft.pick("N", "N", None, 1, 2)
    free_sizes, known_outputs = draft.sometimes(), draft.sometimes()
    value = helper.make_tensor_value_info
    stated = declared(inputs, batch, free_sizes=free_sizes)

    def output_shape(end: Tensor) -> list[Any]:
        rows = batch if isinstance(batch, str) else None
        return [rows, end.channels, *end.sizes] if known_outputs else [rows] + [None] * (1 + len(end.sizes))

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
    alone = any(one.axis is None for one in inputs)
    return RandomModel(model, tuple(inputs), 1 if alone else batch if isinstance(batch, int) else 2)


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
