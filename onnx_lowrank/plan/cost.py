"""What a convolution costs, as it is and in every factorised form, in multiply-accumulates (MACs) of one sample."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape

Array = NDArray[Any]


def all_ranks(highest: int, multiple: int = 1) -> Array:
    """All multiples of a number up to the highest rank, from that number on; none where it is higher than that."""
    return np.arange(multiple, highest + 1, multiple)


class Costs(Protocol):
    """What the choices of one layer cost, in one unit for all layers."""

    @property
    def untouched(self) -> int:
        """Of the convolution as it is."""
        ...

    def of(self, form: str, ranks: Array) -> Array:
        """[m], of a form at ranks [m, number of its ranks] from the input on; infinite where it is not known."""
        ...


@dataclass(frozen=True)
class MacsCosts:
    """MACs as costs."""

    shape: ConvShape

    @property
    def untouched(self) -> int:
        """See ``Costs``."""
        return self.shape.macs

    def of(self, form: str, ranks: Array) -> Array:
        """See ``Costs``."""
        return np.asarray(self.shape.of_form(form)(*ranks.T))
