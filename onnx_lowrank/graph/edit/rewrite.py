"""One Conv replaced by a chain of Convs that makes the same tensor; one Gemm or MatMul by two."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.edit.unread import remove_unread
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.protos import node_proto
from onnx_lowrank.graph.tensors import make_constant, taken_names, unique
from onnx_lowrank.graph.traverse import position


def rewrite(graph: gs.Graph, site: ConvSite, factorization: Factorization) -> None:
    """Replace the convolution, or the fully connected layer, that makes ``site.output``, in place.

    The links stand where the node stood, so cuts in front of it stay valid. The last link makes the same tensor and
    keeps the node's doc string and metadata; the old weights go where nobody else reads them.

    Parameters
    ----------
    graph
        Normalised.
    site
        As found in this graph, or in another one of the same model.
    factorization
        Its links in any floating type; they are written in ``site.dtype``.

    Raises
    ------
    KeyError
        If no node makes ``site.output``.
    ValidationError
        If a factor does not fit the range of ``site.dtype``.
    """
    index = position(graph, site.output)
    old = graph.nodes[index]
    had_bias = len(old.inputs) > 2 and bool(old.inputs[2].name)
    taken = taken_names(graph)
    source, output, inputs = node_proto(old), old.outputs[0], list(old.inputs)
    count = len(factorization.links)
    add = graph.nodes[position(graph, site.sum_with_bias)] if site.sum_with_bias else None

    tensor = inputs[0]
    nodes = []
    for number, link in enumerate(factorization.links, 1):
        name = unique(f"{site.name}/rank-{number}of{count}", taken)
        last = number == count
        biased = last and add is None and bool(had_bias or np.any(factorization.bias))
        if site.kernel.ndim > 2:
            op, attributes, kernel = "Conv", _attributes(site, link), link.kernel
        elif biased or (last and old.op == "Gemm"):
            op, attributes, kernel = "Gemm", {"transB": 1}, link.kernel
        else:
            op, attributes, kernel = "MatMul", {}, link.kernel.T
        reads = [tensor, _constant(site, f"{name}.weight", kernel, taken)]
        if biased:
            reads.append(_constant(site, f"{name}.bias", factorization.bias, taken))
        tensor = None if last else gs.Variable(unique(f"{name}.output", taken))
        nodes.append((op, name, attributes, reads, tensor))
    if add:
        index_of_bias = int(add.inputs[0] is output)
        values = factorization.bias.reshape(add.inputs[index_of_bias].shape)
        add.inputs[index_of_bias] = _constant(site, f"{name}.bias", values, taken)

    # The old node has to let go of its output before another may make it.
    old.inputs.clear()
    old.outputs.clear()
    chain = []
    for op, name, attributes, reads, made in nodes:
        node = gs.Node(op, name, attributes, reads, [output if made is None else made], old.domain)
        node.proto = onnx.helper.make_node(op, [], [], name, domain=old.domain, **attributes)
        chain.append(node)
    chain[-1].proto.doc_string = source.doc_string
    if hasattr(source, "metadata_props"):
        chain[-1].proto.metadata_props.extend(source.metadata_props)
    graph.nodes[index : index + 1] = chain
    for old_tensor in inputs[1:]:
        remove_unread(graph, old_tensor)


def _constant(site: ConvSite, wanted: str, values: NDArray[Any], taken: set[str]) -> gs.Constant:
    constant = make_constant(unique(wanted, taken), values, site.dtype)
    if constant is None:
        largest = float(np.abs(values.astype(np.float64)).max())
        raise ValidationError(
            f"{site.name}: a factor of size {largest:.3g} does not fit {site.dtype}; exclude this layer with --exclude"
        )
    return constant


def _attributes(site: ConvSite, link: Link) -> dict[str, Any]:
    """Return the geometry of one link: the original's along the axes it carries, none along the others."""
    carries = link.carries
    attributes: dict[str, Any] = {
        "kernel_shape": [int(size) for size in link.kernel.shape[2:]],
        "strides": [stride if carried else 1 for stride, carried in zip(site.strides, carries, strict=True)],
        "dilations": [dilation if carried else 1 for dilation, carried in zip(site.dilations, carries, strict=True)],
    }
    group = link.kernel.shape[0] if link.depthwise else site.group
    if group > 1:
        attributes["group"] = int(group)
    if site.pads is not None:
        attributes["pads"] = [pad if carried else 0 for pad, carried in zip(site.pads, carries * 2, strict=True)]
    elif site.auto_pad.startswith("SAME") and any(carries):
        # SAME depends on the input's size. In a direction of kernel 1 and stride 1 it pads nothing.
        attributes["auto_pad"] = site.auto_pad
    return attributes
