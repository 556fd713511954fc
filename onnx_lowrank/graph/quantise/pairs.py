"""Pairs of QuantizeLinear and DequantizeLinear put behind tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.factorise.rounding.grid import Grid
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.placement import Pair
from onnx_lowrank.graph.tensors import unique

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def insert_pairs(network: Network, pairs: Sequence[Pair], grids: Mapping[str, Grid]) -> dict[str, str]:
    """Put a pair behind every tensor that is rounded, in place.

    Parameters
    ----------
    network
        The network.
    pairs
        The tensors.
    grids
        The grid of each of them.

    Returns
    -------
    dict of str to str
        The name under which the rounded values of each tensor are read. An output of the model keeps its name for the
        rounded values; what the node makes gets a new one.
    """
    taken = network.taken_names()
    outputs = {tensor.name for tensor in network.outputs}
    makers = {tensor.name: node for node in network.nodes for tensor in node.outputs if tensor.name}
    tensors = {tensor.name: tensor for tensor in network.inputs}
    tensors |= {name: tensor for node in network.nodes for tensor in node.outputs if (name := tensor.name)}
    renamed: dict[str, str] = {}
    for pair in pairs:
        source, grid = tensors[pair.tensor], grids[pair.tensor]
        readers = [
            (node, index)
            for node in list(source.outputs)
            for index, tensor in enumerate(node.inputs)
            if tensor is source and (pair.readers is None or node.outputs[0].name in pair.readers)
        ]
        if pair.tensor in outputs and pair.tensor in makers and pair.readers is None:
            rounded = source
            source = gs.Variable(unique(f"{pair.tensor}/exact", taken), rounded.dtype, rounded.shape)
            maker = makers[pair.tensor]
            maker.outputs[[tensor is rounded for tensor in maker.outputs].index(True)] = source
        else:
            rounded = gs.Variable(unique(f"{pair.tensor}/rounded", taken), source.dtype, source.shape)
            for node, index in readers:
                node.inputs[index] = rounded
        renamed[pair.tensor] = rounded.name
        nodes = _pair(pair.tensor, source, rounded, grid, taken)
        maker = makers.get(pair.tensor)
        network.insert(0 if maker is None else network.index(maker) + 1, nodes)
    return renamed


def _pair(
    name: str, source: gs.Tensor, rounded: gs.Tensor, grid: Grid, taken: set[str]
) -> list[tuple[gs.Node, onnx.NodeProto]]:
    """Return the nodes of a pair."""
    integers = np.int8 if grid.codes.low < 0 else np.uint8
    scale = gs.Constant(unique(f"{name}/scale", taken), np.array(grid.scale, np.float32))
    zero = gs.Constant(unique(f"{name}/zero_point", taken), np.array(grid.zero_point, integers))
    codes = gs.Variable(unique(f"{name}/codes", taken), integers, source.shape)
    return [
        make_node(QUANTIZE, unique(f"{name}/quantize", taken), [source, scale, zero], codes),
        make_node(DEQUANTIZE, unique(f"{name}/dequantize", taken), [codes, scale, zero], rounded),
    ]


def make_node(
    op: str, name: str, inputs: Sequence[gs.Tensor], output: gs.Tensor, axis: int | None = None
) -> tuple[gs.Node, onnx.NodeProto]:
    """Return a node of the standard domain with its attributes as a NodeProto."""
    attributes = {} if axis is None else {"axis": axis}
    return gs.Node(op, name, attributes, list(inputs), [output]), onnx.helper.make_node(op, [], [], name, **attributes)
