"""Networks in integers for the tests, run at every optimisation level, and an integer reference for their layers."""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.calibration.positions import gather_patches
from onnx_lowrank.factorise.rounding.grid import UNSIGNED, Codes
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel, load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.opset import with_integers_possible
from onnx_lowrank.graph.quantise.placement import around_nodes
from onnx_lowrank.graph.quantise.stand_in import Placement, stand_in

Array = NDArray[Any]
LEVELS = onnxruntime.GraphOptimizationLevel


def loaded_for_integers(model: onnx.ModelProto) -> LoadedModel:
    """Return a model in an opset that integers can be written in."""
    return with_integers_possible(load(model))


def in_integers(
    loaded: LoadedModel, placement: Placement = around_nodes, codes: Codes = UNSIGNED
) -> tuple[Network, onnx.ModelProto]:
    """Return a network whose every layer is rounded, on some grids, with the model that is written of it."""
    network = stand_in(normalise(loaded.proto), placement, codes)
    return network, export(network, loaded)


def answers(
    model: onnx.ModelProto, feeds: Mapping[str, Array], level: Any = LEVELS.ORT_ENABLE_ALL, more: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the outputs of a model, and further tensors of it, at a level of optimisation."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the stored tensors of a model."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def integer_response(model: onnx.ModelProto, output: str, codes: Array) -> Array:
    """Return the response of a convolution from the codes that it reads, computed in whole numbers up to its scales.

    Parameters
    ----------
    model
        The network in integers.
    output
        The tensor that the convolution makes; it states its padding.
    codes
        What it reads, [n, c, *size].

    Returns
    -------
    Array
        [n, d, *size of the output], float64.
    """
    values = stored(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers[output]
    read, weight = makers[node.input[0]], makers[node.input[1]]
    input_scale, input_zero = (values[name] for name in read.input[1:])
    kernel, scales = values[weight.input[0]].astype(np.int64), values[weight.input[1]].astype(np.float64)
    axes = kernel.ndim - 2
    attributes = {own.name: onnx.helper.get_attribute_value(own) for own in node.attribute}
    strides, dilations = (attributes.get(name, [1] * axes) for name in ("strides", "dilations"))
    pads, group = attributes.get("pads", [0] * (2 * axes)), attributes.get("group", 1)
    extents = [(k - 1) * step + 1 for k, step in zip(kernel.shape[2:], dilations, strict=True)]
    size = [
        (length + pads[axis] + pads[axes + axis] - extents[axis]) // strides[axis] + 1
        for axis, length in enumerate(codes.shape[2:])
    ]
    shifted = (codes.astype(np.int64) - int(input_zero)).astype(np.float32)
    patches = gather_patches(shifted, np.arange(math.prod(size)), kernel.shape[2:], strides, dilations, pads)
    parts = [
        patch.reshape(len(patch), -1).astype(np.int64) @ part.reshape(len(part), -1).T
        for patch, part in zip(np.split(patches, group, axis=1), np.split(kernel, group), strict=True)
    ]
    sums = np.concatenate(parts, axis=1)
    if len(node.input) > 2 and node.input[2]:
        sums = sums + values[makers[node.input[2]].input[0]].astype(np.int64)
    responses = sums * (scales * float(input_scale))
    return np.moveaxis(responses.reshape(len(codes), math.prod(size), -1), 1, -1).reshape(len(codes), -1, *size)


def fused_operators(model: onnx.ModelProto) -> Counter[str]:
    """Return how many nodes of each kind ONNX Runtime executes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def as_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in half precision throughout."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output, *half.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return half
