"""What the layers of a network cost as their channels become fewer, in one unit for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.plan.cost import Costs, MacsCosts

Array = NDArray[Any]


class LayerCosts(Protocol):
    """The costs of all layers of a network, at any widths."""

    @property
    def total(self) -> int:
        """The cost of the whole network as it is."""

    def of(self, name: str, shape: ConvShape) -> Costs:
        """Return the costs of a layer's choices.

        Parameters
        ----------
        name
            The name of the site.
        shape
            Its geometry, with the channels that are left.
        """

    def whole(self, macs: float) -> int:
        """Return the cost of a layer that is no site and has so many MACs left."""


@dataclass(frozen=True)
class MacsOfLayers:
    """The costs in MACs of one sample.

    Attributes
    ----------
    total
        The MACs that the speedup is about.
    """

    total: int

    def of(self, name: str, shape: ConvShape) -> Costs:
        """See ``LayerCosts``."""
        return MacsCosts(shape)

    def whole(self, macs: float) -> int:
        """See ``LayerCosts``."""
        return round(macs)


@dataclass(frozen=True)
class TimesOfLayers:
    """The costs in nanoseconds, which fall with the channels in proportion to the MACs.

    A layer that is no site was not measured, and takes as long for a MAC as the sites do on average.

    Attributes
    ----------
    total
        The time of the whole network.
    shapes
        The geometries of all sites, with all channels, by name.
    times
        The nanoseconds of their choices.
    """

    total: int
    shapes: Mapping[str, ConvShape]
    times: Mapping[str, Costs]

    def of(self, name: str, shape: ConvShape) -> Costs:
        """See ``LayerCosts``."""
        return _NarrowedTimes(self.shapes[name], shape, self.times[name])

    def whole(self, macs: float) -> int:
        """See ``LayerCosts``."""
        took = sum(times.untouched for times in self.times.values())
        return round(macs * took / max(1, sum(shape.macs for shape in self.shapes.values())))


@dataclass(frozen=True)
class _NarrowedTimes:
    """The nanoseconds of one layer with fewer channels; see ``plan.cost.Costs``."""

    wide: ConvShape
    narrow: ConvShape
    times: Costs

    @property
    def untouched(self) -> int:
        return round(self.times.untouched * self.narrow.macs / self.wide.macs)

    def of(self, kind: FormKind, ranks: Array) -> Array:
        share = kind.macs(self.narrow, ranks) / np.maximum(kind.macs(self.wide, ranks), 1)
        return np.asarray(np.rint(self.times.of(kind, ranks) * share))
