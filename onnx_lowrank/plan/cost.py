"""The costs of the choices of one layer, in multiply-accumulates (MACs) of one sample or in another unit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind

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


def lowest_macs(shape: ConvShape, kinds: Iterable[FormKind], multiple: int = 1) -> int:
    """Return the least MACs that a layer can have, in one of these forms at its lowest ranks or as it is.

    Every rank is a multiple of ``multiple``.
    """
    lowest = (kind.lowest_cost(shape, multiple) for kind in kinds)
    return min([shape.macs, *(cost for cost in lowest if cost is not None)])
