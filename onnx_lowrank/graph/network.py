"""A model that can be cut and edited: the graph of graphsurgeon beside the protos that graphsurgeon does not keep.

graphsurgeon drops doc strings, metadata, empty list attributes and attributes of rarer types, and copies outer
constants into the bodies of If and Loop. A network therefore keeps the ModelProto it was imported from and the
NodeProto of every node of the main graph. A node goes back to ONNX as this proto with the names of the tensors that the
node reads and makes now: edits change the tensors of a node that stays, and of its attributes only whole numbers.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.chance import Chance
from onnx_lowrank.graph.protos import bodies, names_from_outside
from onnx_lowrank.graph.tensors import is_sparse, tensor_proto


class Network:
    """A model in memory, edited in place.

    Parameters
    ----------
    graph
        The nodes, in topological order, and their tensors.
    source
        The model that the graph was imported from. It lends everything that is not edited and is never changed.
    protos
        One NodeProto for every node of ``graph``, in the same order; the names of its tensors do not count.

    Attributes
    ----------
    graph, source
        As given.
    chance
        The nodes that drew random numbers before they were made to compute; None where there are none.
    folded
        The number of nodes that became part of a convolution.
    replaced
        Stored tensors that take the place of those of ``source``, by name.
    narrowed
        The tensors that have fewer channels than in ``source``: the number of their axes, the axis of the channels, and
        the number of these, by the tensors' names.
    """

    def __init__(self, graph: gs.Graph, source: onnx.ModelProto, protos: Iterable[onnx.NodeProto]) -> None:
        self.graph = graph
        self.source = source
        self.chance: Chance | None = None
        self.folded = 0
        self.replaced: dict[str, onnx.TensorProto] = {}
        self.narrowed: dict[str, tuple[int, int, int]] = {}
        # By identity, since graphsurgeon compares nodes by their content. Every key is a node of the main graph.
        self._protos = {id(node): proto for node, proto in zip(graph.nodes, protos, strict=True)}

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto) -> "Network":
        """Import a model so that nothing of it is lost.

        The network refers to the arrays in ``proto``, which is not changed here and must not be changed afterwards.

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
        return cls(graph, proto, proto.graph.node)

    def copy(self) -> "Network":
        """Return a network that can be edited while this one stays as it is; the two share all weights."""
        with G_LOGGER.suppress():
            graph = self.graph.copy()
        copy = Network(graph, self.source, (self._protos[id(node)] for node in self.nodes))
        copy.chance, copy.folded, copy.replaced = self.chance, self.folded, dict(self.replaced)
        copy.narrowed = dict(self.narrowed)
        return copy

    @property
    def nodes(self) -> Sequence[gs.Node]:
        """The nodes of the main graph, in topological order; ``replace`` and ``remove`` change them."""
        return cast(Sequence[gs.Node], self.graph.nodes)

    @property
    def inputs(self) -> Sequence[gs.Tensor]:
        """The model's inputs, without those that only give an initializer a name."""
        return cast(Sequence[gs.Tensor], self.graph.inputs)

    @property
    def outputs(self) -> Sequence[gs.Tensor]:
        """The model's outputs."""
        return cast(Sequence[gs.Tensor], self.graph.outputs)

    @property
    def functions(self) -> Sequence[gs.Function]:
        """The functions that the model brings along."""
        return cast(Sequence[gs.Function], self.graph.functions)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return int(self.graph.opset)

    def __contains__(self, node: gs.Node) -> bool:
        """Whether a node belongs to the main graph, and not to a body or a function."""
        return id(node) in self._protos

    def node_proto(self, node: gs.Node) -> onnx.NodeProto:
        """Return a node of the main graph as ONNX, with the names of the tensors that it reads and makes now."""
        proto = onnx.NodeProto()
        proto.CopyFrom(self._protos[id(node)])
        del proto.input[:], proto.output[:]
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        return proto

    def reads(self, node: gs.Node) -> tuple[str, ...]:
        """Return the names of the tensors that a node of the main graph reads, also from inside its bodies."""
        names = dict.fromkeys(tensor.name for tensor in node.inputs if tensor.name)
        for body in bodies(self._protos[id(node)]):
            names |= dict.fromkeys(names_from_outside(body))
        return tuple(names)

    def node_protos(self) -> list[onnx.NodeProto]:
        """Return the nodes of the main graph as they are written: those that drew random numbers do so again."""
        nodes = [self.node_proto(node) for node in self.nodes]
        return self.chance.restored(nodes) if self.chance else nodes

    def constants(self) -> dict[str, gs.Constant]:
        """Return the constants that the main graph, or a body inside it, uses, by name."""
        return _constants(self.nodes, self.outputs)

    def value_info(self, name: str) -> onnx.ValueInfoProto | None:
        """Return what the model declares about one of its inputs or outputs; None for any other tensor."""
        declared = (*self.source.graph.input, *self.source.graph.output)
        return next((value for value in declared if value.name == name), None)

    def taken_names(self) -> set[str]:
        """Return all names of tensors and nodes, in bodies too, and of stored tensors that nobody reads."""
        names: set[str] = {tensor.name for tensor in (*self.inputs, *self.outputs)}
        inner = (node for body in self.graph.subgraphs(recursive=True) for node in body.nodes)
        for node in (*self.nodes, *inner):
            names.add(node.name)
            names.update(tensor.name for tensor in (*node.inputs, *node.outputs))
        names.update(tensor.name for tensor in self.source.graph.initializer)
        names.update(value.name for value in self.source.graph.input)
        return names

    def piece(
        self,
        nodes: Sequence[gs.Node],
        inputs: Iterable[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Make a runnable model of some nodes of the main graph, which lends IR version, opsets and functions.

        Parameters
        ----------
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
        # Below 4 every initializer has to be among the inputs, which are for what a piece is given.
        model.ir_version = max(self.source.ir_version, 4)
        model.opset_import.extend(self.source.opset_import)
        model.functions.extend(self.source.functions)
        model.graph.name = self.graph.name
        model.graph.node.extend(self.node_proto(node) for node in nodes)
        model.graph.input.extend(inputs)
        model.graph.output.extend(outputs)
        constants = _constants(nodes, self.outputs)
        needed = dict.fromkeys(name for node in nodes for name in self.reads(node))
        needed |= dict.fromkeys(value.name for value in outputs)
        for constant in (constants[name] for name in needed if name in constants):
            if is_sparse(constant):
                model.graph.sparse_initializer.append(constant._values.tensor)
            else:
                model.graph.initializer.append(tensor_proto(constant))
        return model

    def replace(self, node: gs.Node, chain: Sequence[tuple[gs.Node, onnx.NodeProto]]) -> None:
        """Put other nodes, each with its attributes as a NodeProto, in the place of one.

        The node must have given up its tensors.
        """
        index = self.index(node)
        del self._protos[id(node)]
        self.graph.nodes[index : index + 1] = [new for new, _ in chain]
        self._protos.update((id(new), proto) for new, proto in chain)

    def insert(self, index: int, chain: Sequence[tuple[gs.Node, onnx.NodeProto]]) -> None:
        """Put nodes, each with its attributes as a NodeProto, in front of the node with this index."""
        self.graph.nodes[index:index] = [new for new, _ in chain]
        self._protos.update((id(new), proto) for new, proto in chain)

    def index(self, node: gs.Node) -> int:
        """Return the index of a node of the main graph."""
        return next(index for index, other in enumerate(self.nodes) if other is node)

    def set_attribute(self, node: gs.Node, name: str, value: int) -> None:
        """Give an attribute of a node of the main graph another value."""
        node.attrs[name] = value
        proto = onnx.NodeProto()
        proto.CopyFrom(self._protos[id(node)])
        attribute = next((one for one in proto.attribute if one.name == name), None)
        (attribute or proto.attribute.add()).CopyFrom(onnx.helper.make_attribute(name, value))
        self._protos[id(node)] = proto

    def reorder(self, order: Sequence[int]) -> None:
        """Put the nodes of the main graph into another topological order, given by their indices."""
        self.graph.nodes[:] = [self.nodes[index] for index in order]

    def remove(self, node: gs.Node) -> None:
        """Take a node out of the main graph and away from its tensors."""
        node.inputs.clear()
        node.outputs.clear()
        self.replace(node, [])

    def remove_unread(self, tensor: gs.Tensor) -> None:
        """Remove the nodes that only served a tensor that has just lost a reader."""
        outputs = {id(output) for output in self.outputs}
        stack = [tensor]
        while stack:
            for node in list(stack.pop().inputs):
                if node in self and not any(output.outputs or id(output) in outputs for output in node.outputs):
                    stack.extend(node.inputs)
                    self.remove(node)


def _constants(nodes: Iterable[gs.Node], outputs: Iterable[gs.Tensor]) -> dict[str, gs.Constant]:
    constants: dict[str, gs.Constant] = {}

    def collect(tensors: Iterable[gs.Tensor]) -> None:
        for tensor in tensors:
            if isinstance(tensor, gs.Constant):
                constants.setdefault(tensor.name, tensor)

    collect(outputs)
    for node in nodes:
        collect(node.inputs)
        for body in node.subgraphs(recursive=True):
            collect(body.outputs)
            for inner in body.nodes:
                collect(inner.inputs)
    return constants
