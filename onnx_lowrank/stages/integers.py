"""What became of a network when it was rounded to 8 bits."""

from dataclasses import dataclass

from onnx_lowrank.graph.find.sites import Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.stages.round_layer import Rounded


@dataclass(frozen=True)
class Integers:
    """The layers of a network in integers.

    Attributes
    ----------
    exact
        The same network in floating point.
    weight_bits
        The number of bits of the weights.
    layers
        The layers that were rounded, in their order.
    left
        The convolutions and fully connected layers that stay in floating point, with the reasons.
    """

    exact: Network
    weight_bits: int
    layers: tuple[Rounded, ...]
    left: tuple[Skip, ...]
