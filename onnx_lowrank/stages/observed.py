"""What is known of the tensors of a network that are to be rounded, and the grids that suit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.rounding.grid import Codes, Grid, best_grid
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.placement import Pair
from onnx_lowrank.stages.roundable import Roundable

Array = NDArray[Any]


@dataclass(frozen=True)
class Values:
    """A sample of the values of a tensor.

    Attributes
    ----------
    sample
        [m], or [m, channels] where the channels matter; of samples that choose, where there are any.
    low, high
        The least and the greatest of all values.
    """

    sample: Array
    low: float
    high: float


@dataclass(frozen=True)
class Observed:
    """A network whose tensors have been looked at.

    Attributes
    ----------
    network
        The network, in which channels that are read through nothing but weights have been brought to one range.
    layers
        Its layers.
    values
        The values of all tensors that may be rounded, by name.
    codes
        The whole numbers that they are stored in.
    sources
        The tensors that others take their values from, by the names of these.
    """

    network: Network
    layers: tuple[Roundable, ...]
    values: Mapping[str, Values]
    codes: Codes
    sources: Mapping[str, str]

    def grids_of(self, pairs: Sequence[Pair]) -> dict[str, Grid]:
        """Return the grid of every tensor that is rounded."""
        grids: dict[str, Grid] = {}
        for pair in pairs:
            if pair.like in grids:
                grids[pair.tensor] = grids[pair.like]
                continue
            source = pair.tensor
            while source not in self.values:  # it holds the values of another tensor
                source = self.sources[source]
            own = self.values[source]
            grids[pair.tensor] = best_grid(own.sample, own.low, own.high, self.codes)
        return grids
