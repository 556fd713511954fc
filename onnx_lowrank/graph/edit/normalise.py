"""The model in the one form that the rest of the package reads.

Exporters put weights in many places and leave normalisations and biases beside the convolution. Afterwards every
constant weight and bias of a Conv or ConvTranspose is a ``gs.Constant``, and what follows one of these and is affine in
every channel is part of it (see ``fold``). Nothing else is simplified; the only nodes removed are those that these two
edits make superfluous.
"""

import hashlib
from collections.abc import Hashable

import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.edit.fold import fold
from onnx_lowrank.graph.kinds import STANDARD, is_plain_convolution, is_product
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import FLOATS, make_constant, unique


def normalise(proto: onnx.ModelProto, *, gemm: bool = False) -> Network:
    """Import a model, lift the weights of its convolutions and fold what follows them.

    Parameters
    ----------
    proto
        With its weights in memory and its nodes in topological order. The network refers to its arrays: it is not
        changed here and must not be changed afterwards.
    gemm
        Whether the weights of Gemm and MatMul are lifted as well.

    Returns
    -------
    Network
        It computes the same, with its nodes still in topological order; ``folded`` counts the nodes that became part
        of a convolution.

    Raises
    ------
    ModelError
        If the model cannot be imported.
    """
    network = Network.from_proto(proto)
    taken = network.taken_names()
    constants = ComputedConstants(network)
    lifting = _Lifting(network, constants, taken)
    for node in list(network.nodes):
        if is_plain_convolution(node) or (gemm and is_product(node)):
            lifting.lift(node, 1)
            for add in node.outputs[0].outputs if node.op == "MatMul" else ():
                if add.op == "Add" and add.domain in STANDARD:
                    lifting.lift(add, 0)
    nodes_before = len(network.nodes)
    fold(network, [node for node in network.nodes if is_plain_convolution(node)], constants, taken)
    network.folded = nodes_before - len(network.nodes)
    return network


class _Lifting:
    """Puts stored constants in the place of operands that nodes compute from constants.

    There is one constant for each tensor, and one for all weights of equal values.

    Parameters
    ----------
    network
        The network that is edited.
    constants
        Its constants.
    taken
        All names of the network; those of the new constants are added.
    """

    def __init__(self, network: Network, constants: ComputedConstants, taken: set[str]) -> None:
        self._network, self._constants, self._taken = network, constants, taken
        self._lifted: dict[str, gs.Constant] = {}
        self._stored_once: dict[Hashable, gs.Constant] = {}

    def lift(self, node: gs.Node, first: int) -> None:
        """Lift the operands of a node from index ``first`` on, as far as they are constant and of a floating type."""
        for index, tensor in enumerate(node.inputs):
            if index < first or not tensor.name or isinstance(tensor, gs.Constant):
                continue
            constant = self._lifted.get(tensor.name) or self._stored(tensor, shared=index == 1)
            if constant is not None:
                self._lifted[tensor.name] = constant
                node.inputs[index] = constant
                self._network.remove_unread(tensor)

    def _stored(self, tensor: gs.Tensor, *, shared: bool) -> gs.Constant | None:
        """Store the values of a tensor; ``shared``: once for all tensors that have them, as an Identity makes them."""
        values = self._constants.find(tensor)
        if values is None or values.dtype not in FLOATS:
            return None
        key = (values.dtype.name, values.shape, hashlib.sha256(values.tobytes()).digest()) if shared else tensor.name
        if key not in self._stored_once:
            constant = make_constant(unique(f"{tensor.name}/constant", self._taken), values, values.dtype)
            if constant is None:
                return None
            self._stored_once[key] = constant
        return self._stored_once[key]
