"""A layer replaced by a chain of layers that makes the same tensor: one Conv by Convs, one Gemm or MatMul by two.

The chain stands where the layer stood, so cuts in front of it stay valid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import make_constant, unique
from onnx_lowrank.graph.traverse import position


@dataclass(frozen=True)
class _LinkNode:
    """A node of the chain before it is put into the graph; ``stored`` holds its weight and, if it has one, its bias."""

    op: str
    name: str
    attributes: dict[str, Any]
    stored: tuple[gs.Constant, ...]


def rewrite(network: Network, site: ConvSite, factorization: Factorization) -> None:
    """Replace the convolution, or the fully connected layer, that makes ``site.output``, in place.

    The last link makes the same tensor and keeps the node's doc string and metadata. The old weights are removed unless
    another node reads them. Where the bias stands in an Add behind the layer, the Add gets the new one.

    Parameters
    ----------
    network
        Normalised. It stays as it is where an error is raised.
    site
        As found in this network, or in another one of the same model.
    factorization
        Its links in any floating type; they are written in ``site.dtype``.

    Raises
    ------
    KeyError
        If no node makes ``site.output``.
    ValidationError
        If a factor does not fit the range of ``site.dtype``.
    """
    old = network.nodes[position(network, site.output)]
    add = network.nodes[position(network, site.sum_with_bias)] if site.sum_with_bias else None
    old_proto, output, inputs = network.node_proto(old), old.outputs[0], list(old.inputs)
    had_bias = len(inputs) > 2 and bool(inputs[2].name)
    taken = network.taken_names()
    links = _link_nodes(site, factorization, old.op, taken, biased=add is None and had_bias)
    if add:
        bias_index = int(add.inputs[0] is output)
        bias = factorization.bias.reshape(add.inputs[bias_index].shape)
        add.inputs[bias_index] = _constant(site, f"{links[-1].name}.bias", bias, taken)

    # The old node has to let go of its output before another may make it.
    old.inputs.clear()
    old.outputs.clear()
    x, chain = inputs[0], []
    for link in links:
        y = output if link is links[-1] else gs.Variable(unique(f"{link.name}.output", taken))
        node = gs.Node(link.op, link.name, link.attributes, [x, *link.stored], [y], old.domain)
        chain.append((node, onnx.helper.make_node(link.op, [], [], link.name, domain=old.domain, **link.attributes)))
        x = y
    _, last_proto = chain[-1]
    last_proto.doc_string = old_proto.doc_string
    last_proto.metadata_props.extend(old_proto.metadata_props)
    network.replace(old, chain)
    for tensor in inputs[1:]:
        network.remove_unread(tensor)


def _link_nodes(
    site: ConvSite, factorization: Factorization, op: str, taken: set[str], *, biased: bool
) -> list[_LinkNode]:
    """Describe the nodes of the links.

    Parameters
    ----------
    site, factorization
        As for ``rewrite``.
    op
        The operator of the layer that they replace.
    taken
        All names of the network; the new ones are added.
    biased
        Whether the last link has a bias even if it consists of zeros.
    """
    nodes = []
    count = len(factorization.links)
    for number, link in enumerate(factorization.links, 1):
        name = unique(f"{site.name}/rank-{number}of{count}", taken)
        last = number == count
        with_bias = last and site.sum_with_bias is None and (biased or bool(np.any(factorization.bias)))
        kernel, attributes = link.kernel, {"transB": 1}
        if site.kernel.ndim > 2:
            link_op, attributes = "Conv", _geometry(site, link)
        elif with_bias or (last and op == "Gemm"):
            link_op = "Gemm"
        else:
            link_op, kernel, attributes = "MatMul", kernel.T, {}
        stored = [_constant(site, f"{name}.weight", kernel, taken)]
        if with_bias:
            stored.append(_constant(site, f"{name}.bias", factorization.bias, taken))
        nodes.append(_LinkNode(link_op, name, attributes, tuple(stored)))
    return nodes


def _constant(site: ConvSite, name: str, values: NDArray[Any], taken: set[str]) -> gs.Constant:
    constant = make_constant(unique(name, taken), values, site.dtype)
    if constant is None:
        largest = float(np.abs(values.astype(np.float64)).max())
        raise ValidationError(
            f"{site.name}: a factor of size {largest:.3g} does not fit {site.dtype}; exclude this layer with --exclude"
        )
    return constant


def _geometry(site: ConvSite, link: Link) -> dict[str, Any]:
    """Return the attributes of one link: the original's along the axes that it carries, plain ones along the others."""
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
