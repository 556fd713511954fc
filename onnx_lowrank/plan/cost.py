"""What the choices of one layer cost: in multiply-accumulates (MACs) of one sample, or in another unit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind

Array = NDArray[Any]


class Costs(Protocol):
    """What the choices of one layer cost, in one unit for all layers."""

    @property
    def untouched(self) -> int:
        """The cost of the layer as it is."""

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """The costs [m] of a form at ranks [m, number of its ranks] from the input on; infinite where unknown."""


@dataclass(frozen=True)
class MacsCosts:
    """MACs as costs."""

    shape: ConvShape

    @property
    def untouched(self) -> int:
        """See ``Costs``."""
        return self.shape.macs

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """See ``Costs``."""
        return kind.macs(self.shape, ranks)


def lowest_macs(shape: ConvShape, kinds: Iterable[FormKind], multiple: int = 1) -> int:
    """The least MACs that a layer can have: at the lowest ranks in some of these forms, or as it is.

    Every rank is a multiple of ``multiple``.
    """
    lowest = (kind.lowest_cost(shape, multiple) for kind in kinds)
    return min([shape.macs, *(cost for cost in lowest if cost is not None)])
