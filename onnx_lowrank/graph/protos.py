"""Between ONNX protos and graphsurgeon nodes, without losing what graphsurgeon does not keep.

graphsurgeon drops doc strings, metadata, empty list attributes, attributes of rarer types, and copies outer constants
into the bodies of If and Loop. So every imported node remembers the NodeProto it came from (``node.proto``), the graph
its ModelProto (``graph.proto``), and going back to ONNX means: the remembered proto with today's tensor names. The
edits of this package change only which tensors a node reads and makes, never the attributes of a node that stays.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.tensors import is_sparse, tensor_proto


def import_graph(proto: onnx.ModelProto) -> gs.Graph:
    """Import a model so that nothing of it is lost.

    The graph refers to the arrays in `proto`, which must not be changed afterwards; it is not changed here.

    Raises
    ------
    ModelError
        If graphsurgeon cannot read the model.
    """
    try:
        # graphsurgeon prints its warnings on stdout, where a user's pipe may be reading.
        with G_LOGGER.suppress():
            graph = gs.import_onnx(proto)
    except Exception as error:
        raise ModelError(
            f"the model cannot be taken apart ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "export it again with standard attributes"
        ) from error
    graph.proto = proto
    # Importing shares the proto's own list of opsets, and exporting appends to it.
    graph.import_domains = list(proto.opset_import)
    for node, source in zip(graph.nodes, proto.graph.node, strict=True):
        node.proto = source
    return graph


def node_proto(node: gs.Node) -> onnx.NodeProto:
    """Return the node as ONNX: the proto it came from with the names of the tensors it reads and makes now."""
    source = vars(node).get("proto")
    if source is None:
        exported: onnx.NodeProto = OnnxExporter.export_node(node)
        return exported
    proto = onnx.NodeProto()
    proto.CopyFrom(source)
    del proto.input[:], proto.output[:]
    proto.input.extend(tensor.name for tensor in node.inputs)
    proto.output.extend(tensor.name for tensor in node.outputs)
    return proto


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: gs.Node) -> tuple[str, ...]:
    """Names of the tensors that a node reads, those read from inside its bodies included."""
    names = dict.fromkeys(tensor.name for tensor in node.inputs if tensor.name)
    source = vars(node).get("proto")
    if source is None:
        has_body = any(isinstance(value, gs.Graph) for value in node.attrs.values())
        source = node_proto(node) if has_body else onnx.NodeProto()
    for body in bodies(source):
        names |= dict.fromkeys(_outer(body))
    return tuple(names)


def _outer(body: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {tensor.values.name for tensor in body.sparse_initializer}
    own |= {name for node in body.node for name in node.output}
    inner = [node_input for node in body.node for node_input in node.input]
    inner += [name for node in body.node for deeper in bodies(node) for name in _outer(deeper)]
    inner += [value.name for value in body.output]
    return (name for name in inner if name and name not in own)


def constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Return the constants that the graph, or a body inside it, uses, by name."""
    found: dict[str, gs.Constant] = {}

    def collect(tensors: Iterable[gs.Tensor]) -> None:
        for tensor in tensors:
            if isinstance(tensor, gs.Constant):
                found.setdefault(tensor.name, tensor)

    collect(graph.outputs)
    for node in graph.nodes:
        collect(node.inputs)
    for body in graph.subgraphs(recursive=True):
        collect(body.outputs)
        for node in body.nodes:
            collect(node.inputs)
    return found


def value_info(graph: gs.Graph, name: str) -> onnx.ValueInfoProto | None:
    """Return what the original says about an input or output of the whole model, or None for any other tensor."""
    source = vars(graph).get("proto")
    known = () if source is None else (*source.graph.input, *source.graph.output)
    return next((value for value in known if value.name == name), None)


def piece(
    graph: gs.Graph,
    nodes: Sequence[gs.Node],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Make a runnable model of some of the graph's nodes.

    Parameters
    ----------
    graph
        Where the nodes live; it lends IR version, opsets, functions and constants, and is not changed.
    nodes
        In topological order.
    inputs, outputs
        As they shall stand in the model.

    Returns
    -------
    onnx.ModelProto
        With the constants that these nodes need and no others.
    """
    model = onnx.ModelProto()
    source = vars(graph).get("proto")
    if source is not None:
        # Below 4 every initializer has to be among the inputs, which are for what a piece is given.
        model.ir_version = max(source.ir_version, 4)
        model.opset_import.extend(source.opset_import)
        model.functions.extend(source.functions)
    else:
        model.ir_version = max(graph.ir_version or 8, 4)
        model.opset_import.extend(graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)])
        model.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
    model.graph.name = graph.name
    model.graph.node.extend(node_proto(node) for node in nodes)
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)

    known = constants(graph)
    needed = dict.fromkeys(name for node in nodes for name in reads(node))
    needed |= dict.fromkeys(value.name for value in outputs)
    for name in needed:
        if name not in known:
            continue
        if is_sparse(known[name]):
            model.graph.sparse_initializer.append(known[name]._values.tensor)
            continue
        model.graph.initializer.append(tensor_proto(known[name]))
    return model


def copy_fields(source: Any, target: Any, without: set[str]) -> None:
    """Copy all fields of a proto but some, which may be too large to copy in vain."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def initializer_input(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    """Return the input that IR versions below 4 want beside every initializer."""
    value: Any = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    return value
