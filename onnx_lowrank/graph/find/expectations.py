"""What a network's batch normalisations say about their inputs.

A BatchNormalization in inference form stores the mean and the variance that every channel of its input had in training.
Behind the image input these tell how the images were prepared. Folding makes them part of the weights, so they are read
from the model as it stands in its file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.kinds import is_inference_norm
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import varying_tensors


@dataclass(frozen=True)
class Expectation:
    """The mean and the variance that the channels of a tensor had in training.

    Attributes
    ----------
    tensor
        The name of the tensor, which has its channels on axis 1.
    mean, variance
        Shape [d] each.
    """

    tensor: str
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def expectations(network: Network, most: int) -> tuple[Expectation, ...]:
    """Return what the first normalisations of a network expect.

    Parameters
    ----------
    network
        Before its normalisations are folded.
    most
        The number of normalisations.

    Returns
    -------
    tuple of Expectation
        In the order of the network, without those that were never trained (every mean 0 and every variance 1).
    """
    varying, constants = varying_tensors(network), ComputedConstants(network)
    found: list[Expectation] = []
    for node in network.nodes:
        if len(found) == most:
            break
        if not is_inference_norm(node, network.opset) or node.inputs[0].name not in varying:
            continue
        stored = [constants.find(tensor) for tensor in node.inputs[3:5]]
        if any(values is None or values.ndim != 1 for values in stored):
            continue
        mean, variance = (np.asarray(values, np.float64) for values in stored)
        trained = mean.any() or (variance != 1).any()
        if trained and np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all():
            found.append(Expectation(node.inputs[0].name, mean, variance))
    return tuple(found)
