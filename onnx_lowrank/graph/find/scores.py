"""The tensor that holds a classifier's scores before they become probabilities."""

from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.network import Network


def scores(network: Network, output: str) -> str:
    """Return the input of the Softmax that makes an output, or the output itself where none makes it."""
    for tensor in network.outputs:
        if tensor.name != output or len(tensor.inputs) != 1:
            continue
        node = tensor.inputs[0]
        if node.op == "Softmax" and node.domain in STANDARD:
            return str(node.inputs[0].name)
    return output
