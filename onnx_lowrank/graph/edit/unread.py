"""Removing what nobody reads any more."""

import onnx_graphsurgeon as gs


def remove_unread(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """Remove the nodes that were there only for a tensor which has just lost a reader."""
    outputs = {id(output) for output in graph.outputs}
    stack = [tensor]
    while stack:
        for node in list(stack.pop().inputs):
            if any(made.outputs or id(made) in outputs for made in node.outputs):
                continue
            if not any(node is other for other in graph.nodes):
                continue
            stack.extend(node.inputs)
            node.inputs.clear()
            node.outputs.clear()
            graph.nodes[:] = [other for other in graph.nodes if other is not node]
