"""The preparation of a kernel, which a kind of form needs before any rank is chosen, and the statistics that it takes.

A preparation is computed once for a layer and serves all its ranks. Kinds that name the same class of preparation share
its instances, as the spatial and the 3D form share the spatial cut.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeAlias

from numpy.typing import NDArray

Array = NDArray[Any]


class PatchMoments(Protocol):
    """Statistics of the patches that a convolution reads, accumulated over batches."""

    def add(self, patches: Array) -> None:
        """Accumulate patches [n, c, *sizes]."""


class Preparation(Protocol):
    """Everything that a form derives from one kernel before any rank is chosen."""

    @classmethod
    def moments(cls) -> PatchMoments:
        """Return empty statistics of patches, which the profile of the original network fills."""

    @classmethod
    def of(cls, kernel: Array, moments: Any) -> Self:
        """Prepare a kernel [d, c, *sizes] for the statistics of its patches, or for none (None)."""

    def quick(self) -> Self:
        """Return a preparation whose factors take less time and need not be good, for a trial of the speed."""

    def brief(self) -> Self:
        """Return a preparation whose factors are nearly as good and take a fraction of the time, for a rehearsal."""


PreparedKernel: TypeAlias = Mapping[type[Preparation], Preparation]
"""All preparations of one kernel, by their class."""
