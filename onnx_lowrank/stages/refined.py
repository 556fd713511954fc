"""What the steps around a stretch of layers change: nothing in front of it, and its weights behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.refinement import Refinement
from onnx_lowrank.graph.edit.reweight import replace_stored
from onnx_lowrank.graph.find.blocks import Stretch
from onnx_lowrank.graph.network import Network

Array = NDArray[Any]


@dataclass(frozen=True)
class RefinedStretch:
    """A stretch whose weights were to be refined.

    Attributes
    ----------
    stretch
        The stretch.
    weights
        The new weights by their names in the network; empty where the old ones stay.
    refinement
        The refinement; None where none was tried.
    seconds
        The time that it took.
    reason
        The outcome in a few words.
    macs_executed
        The MACs that the original network took for it.
    """

    stretch: Stretch
    weights: Mapping[str, Array]
    refinement: Refinement | None
    seconds: float
    reason: str
    macs_executed: int = 0

    def apply(self, network: Network) -> None:
        """Give the stretch in a network its new weights, in place."""
        replace_stored(network, self.weights)


class Entered:
    """The change of a step that changes nothing."""

    def apply(self, network: Network) -> None:
        """See ``RefinedStretch``."""
