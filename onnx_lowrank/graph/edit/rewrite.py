"""A layer replaced by a chain of layers that makes the same tensor: one Conv by Convs, one Gemm or MatMul by two.

The chain stands where the layer stood, so cuts in front of it stay valid. Layers that are replaced together share the
constants of equal values in their chains.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.transposition import Transposition, swap_channels
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


@dataclass(frozen=True)
class Replacement:
    """A layer and the factorisation that takes its place.

    Attributes
    ----------
    site
        As found in the network that is rewritten, or in another one of the same model.
    factorization
        Its links in any floating type; they are written in ``site.dtype``.
    """

    site: ConvSite
    factorization: Factorization


@dataclass(frozen=True)
class _Chain:
    """The chain of one replacement before it is put into the graph; the bias is that of an Add behind the layer."""

    site: ConvSite
    links: list[_LinkNode]
    bias: gs.Constant | None


def rewrite(network: Network, site: ConvSite, factorization: Factorization) -> None:
    """Replace one layer, in place; see ``rewrite_together``."""
    rewrite_together(network, [Replacement(site, factorization)])


def rewrite_together(network: Network, replacements: Iterable[Replacement]) -> None:
    """Replace the convolutions, or the fully connected layers, that make the outputs of some sites, in place.

    The last link of a chain makes the same tensor as the layer and keeps the node's doc string and metadata. Chains
    share the constants that have the same values. The old weights are removed unless another node reads them. Where
    the bias stands in an Add behind the layer, the Add gets the new one.

    Parameters
    ----------
    network
        Normalised. It stays as it is where an error is raised.
    replacements
        The layers and their factorisations.

    Raises
    ------
    KeyError
        If no node makes the output of a site.
    ValidationError
        If a factor does not fit the range of its site's ``dtype``.
    """
    taken = network.taken_names()
    constants = _Constants(taken)
    # All constants are made before anything is changed.
    for chain in [_chain(network, replacement, constants, taken) for replacement in replacements]:
        _put(network, chain, taken)


def _chain(network: Network, replacement: Replacement, constants: "_Constants", taken: set[str]) -> _Chain:
    site, factorization = replacement.site, replacement.factorization
    old = network.nodes[position(network, site.output)]
    had_bias = len(old.inputs) > 2 and bool(old.inputs[2].name)
    links = _link_nodes(replacement, old.op, constants, taken, biased=site.sum_with_bias is None and had_bias)
    if site.sum_with_bias is None:
        return _Chain(site, links, None)
    add = network.nodes[position(network, site.sum_with_bias)]
    bias = factorization.bias.reshape(add.inputs[_constant_operand(add)].shape)
    return _Chain(site, links, constants.make(site, f"{links[-1].name}.bias", bias, "bias"))


def _put(network: Network, replacing: _Chain, taken: set[str]) -> None:
    """Put a chain in the place of its layer."""
    site, links = replacing.site, replacing.links
    old = network.nodes[position(network, site.output)]
    old_proto, output, inputs = network.node_proto(old), old.outputs[0], list(old.inputs)
    if site.sum_with_bias:
        add = network.nodes[position(network, site.sum_with_bias)]
        add.inputs[_constant_operand(add)] = replacing.bias

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


def _constant_operand(add: gs.Node) -> int:
    """Return the index of the operand of an Add that is stored: the bias of the layer in front of it."""
    return next(index for index, tensor in enumerate(add.inputs) if isinstance(tensor, gs.Constant))


def _link_nodes(
    replacement: Replacement, op: str, constants: "_Constants", taken: set[str], *, biased: bool
) -> list[_LinkNode]:
    """Describe the nodes of the links.

    Parameters
    ----------
    replacement
        The layer and its factorisation.
    op
        The operator of the layer.
    constants
        Makes the weights and the bias.
    taken
        All names of the network; the new ones are added.
    biased
        Whether the last link has a bias even if it consists of zeros.
    """
    site, factorization, nodes = replacement.site, replacement.factorization, []
    count = len(factorization.links)
    for number, link in enumerate(factorization.links, 1):
        # A layer that only gets new weights keeps its name.
        name = unique(f"{site.name}/rank-{number}of{count}", taken) if count > 1 else site.name
        last = number == count
        with_bias = last and site.sum_with_bias is None and (biased or bool(np.any(factorization.bias)))
        kernel, attributes = link.kernel, {"transB": 1}
        if site.kernel.ndim > 2:
            link_op, attributes = "Conv", _geometry(site, link)
            if site.transposition and any(link.carries):
                link_op, kernel = "ConvTranspose", swap_channels(kernel, attributes.get("group", 1))
                attributes |= _transposed_geometry(site.transposition, link)
        elif with_bias or (last and op == "Gemm"):
            link_op = "Gemm"
        else:
            link_op, kernel, attributes = "MatMul", kernel.T, {}
        stored = [constants.make(site, f"{name}.weight", kernel, f"link {number}")]
        if with_bias:
            stored.append(constants.make(site, f"{name}.bias", factorization.bias, "bias"))
        nodes.append(_LinkNode(link_op, name, attributes, tuple(stored)))
    return nodes


class _Constants:
    """Makes constants for layers that are replaced together, one for each part of their chains and set of values.

    Parameters
    ----------
    taken
        All names of the network; those of the constants are added.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._made: dict[tuple[str, str, tuple[int, ...], bytes], gs.Constant] = {}

    def make(self, site: ConvSite, name: str, values: NDArray[Any], part: str) -> gs.Constant:
        """Return a constant in the type of a site, under this name or under that of an equal one for the same part.

        Raises
        ------
        ValidationError
            If a value does not fit the range of the type.
        """
        key = part, site.dtype.name, values.shape, values.tobytes()
        if key not in self._made:
            constant = make_constant(unique(name, self._taken), values, site.dtype)
            if constant is None:
                largest = float(np.abs(values.astype(np.float64)).max())
                raise ValidationError(
                    f"{site.name}: a factor of size {largest:.3g} does not fit {site.dtype}; "
                    "exclude this layer with --exclude"
                )
            self._made[key] = constant
        return self._made[key]


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


def _transposed_geometry(transposition: Transposition, link: Link) -> dict[str, Any]:
    """Return the attributes of a link that only a ConvTranspose has; one link carries all axes."""
    assert all(link.carries)
    attributes: dict[str, Any] = {}
    if any(transposition.output_padding):
        attributes["output_padding"] = list(transposition.output_padding)
    if transposition.output_shape is not None:
        attributes["output_shape"] = list(transposition.output_shape)
    return attributes
