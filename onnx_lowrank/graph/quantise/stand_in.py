"""A network in integers that takes as long as a real one and answers anything: for the stopwatch.

How long a network takes depends on where it is rounded, and neither on its grids nor on its weights.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.rounding.columns import EIGHT_BITS, RoundedWeights
from onnx_lowrank.factorise.rounding.grid import TINY, Codes, Grid
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import IntegerLayer, store_integers
from onnx_lowrank.graph.quantise.layers import quantisable
from onnx_lowrank.graph.quantise.pairs import insert_pairs
from onnx_lowrank.graph.quantise.placement import FUSED, Pair


class Placement(Protocol):
    """Finds the tensors that are rounded, given the outputs of the layers and the tensors that stay as they are."""

    def __call__(self, network: Network, layers: Collection[str], exact: Collection[str] = ()) -> Sequence[Pair]:
        """See ``placement.around_nodes``."""


SCALE = 1 / 64
"""The scale of all grids. Its codes stay within the bounds of a Clip to [0, 6], so that it becomes part of rounding."""


def stand_in(network: Network, placement: Placement, codes: Codes, exclude: str | None = None) -> Network:
    """Return a network in integers for the time that it takes.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    placement
        Finds the tensors that are rounded.
    codes
        The whole numbers that they are stored in.
    exclude
        A regular expression; layers in whose name it is found stay in floating point.
    """
    result = network.copy()
    sites = quantisable(result, exclude).sites
    pairs = placement(result, {site.output for site in sites})
    makers = {tensor.name: node.op for node in result.nodes for tensor in node.outputs}
    middle = 0 if codes.symmetric else (codes.low + codes.high + 1) // 2
    grids: dict[str, Grid] = {}
    for pair in pairs:
        zero_point = codes.low if makers.get(pair.tensor) in FUSED and not codes.symmetric else middle
        grids[pair.tensor] = grids[pair.like] if pair.like in grids else Grid(SCALE, zero_point, codes)
    layers = []
    for site in sites:
        weights = site.kernel.reshape(len(site.kernel), -1)
        layers.append(IntegerLayer(site.output, _rounded(weights), site.bias, SCALE))
    store_integers(result, layers)
    insert_pairs(result, pairs, grids)
    return result


def _rounded(weights: NDArray[np.float64]) -> RoundedWeights:
    """Round weights [d, p] in no time."""
    scales = np.maximum(np.abs(weights).max(axis=1, initial=0.0), TINY) / EIGHT_BITS
    return RoundedWeights(np.rint(weights / scales[:, None]), scales)
