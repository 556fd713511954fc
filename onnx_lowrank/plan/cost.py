"""The costs of the choices of one layer, in multiply-accumulates (MACs) of one sample or in another unit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK, RankMultiple

Array = NDArray[Any]


class Costs(Protocol):
    """The costs of the choices of one layer, in the same unit for all layers."""

    @property
    def untouched(self) -> int:
        """The cost of the layer as it is."""

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """Return the costs [m] of a form at ranks [m, number of ranks], from the input on.

        Where a cost is unknown, it is infinite.
        """


@dataclass(frozen=True)
class MacsCosts:
    """The MACs of one sample as costs."""

    shape: ConvShape

    @property
    def untouched(self) -> int:
        """The MACs of the layer as it is."""
        return self.shape.macs

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """Return the MACs [m] of a form at ranks [m, number of ranks]."""
        return kind.macs(self.shape, ranks)


@dataclass(frozen=True)
class SharedCosts:
    """The costs of the choices of layers that share a weight: one choice for all, so their costs add up."""

    layers: tuple[Costs, ...]

    @property
    def untouched(self) -> int:
        """The cost of the layers as they are."""
        return sum(layer.untouched for layer in self.layers)

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """Return the costs [m] of a form at ranks [m, number of ranks]; infinite where that of one layer is unknown."""
        return np.asarray(np.sum([layer.of(kind, ranks) for layer in self.layers], axis=0))


def together(layers: Sequence[Costs]) -> Costs:
    """Return the costs of all layers that share a weight, of which there is mostly one."""
    return layers[0] if len(layers) == 1 else SharedCosts(tuple(layers))


def lowest_macs(shapes: Sequence[ConvShape], kinds: Iterable[FormKind], multiple: RankMultiple = EVERY_RANK) -> int:
    """Return the least MACs that the layers of one weight can have together, all in one form or all as they are.

    Parameters
    ----------
    shapes
        The geometry of every layer; their kernels are the same. Most weights have a single layer.
    kinds
        The forms.
    multiple
        The numbers of which ranks are multiples.
    """
    lowest = {kind: rank for kind in kinds if (rank := multiple.lowest(kind, shapes[0]))}
    in_form = ([kind.lowest_cost(shape, rank) for shape in shapes] for kind, rank in lowest.items())
    sums = [sum(cost for cost in costs if cost is not None) for costs in in_form if None not in costs]
    return min([sum(shape.macs for shape in shapes), *sums])
