"""What a kind of form has to know: everything that the rest of the program asks about a form, in one class.

A kind lives in a file of its own and is listed in ``table.py``; nothing else in the program names a form. A new kind
subclasses ``FormKind``, states its names and answers the abstract methods. Plans, reports, options and help take its
names from the table.

A kind speaks of what it is applied to by shapes and kernels alone. The kinds of today are applied to one convolution.
The planner (``plan``) knows nothing but named choices with costs and energies, and the walk (``stages.steps``) nothing
but steps, so a kind that spans several layers, such as the removal of channels between a producer and its consumers,
brings a shape of its own and a step of its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form

Array = NDArray[Any]
Energies: TypeAlias = Callable[[Array], Array]
"""Maps ranks [m, number of ranks] to the log-energies [m] that a form is expected to keep of a layer's responses."""


class PatchMoments(Protocol):
    """Statistics of the patches that a convolution reads, added up over batches."""

    def add(self, patches: Array) -> None:
        """Count in patches [n, c, *sizes]."""


class Preparation(Protocol):
    """What a form derives from one kernel before any rank is chosen.

    Kinds that name the same class of preparation share what it has computed.
    """

    @classmethod
    def moments(cls) -> PatchMoments:
        """Empty statistics of patches, to be filled while the original network is profiled."""

    @classmethod
    def of(cls, kernel: Array, moments: Any) -> Self:
        """Prepare a kernel [d, c, *sizes], for statistics of its patches, or for none that matter (None)."""

    def quick(self) -> Self:
        """The same, for a trial whose factors need not be good."""


@dataclass(frozen=True)
class LinkShape:
    """One convolution of the chain that a form makes of one group.

    Attributes
    ----------
    filters, channels
        How many it makes and reads.
    carries
        Along which spatial axes it has the original's size, stride, padding and dilation.
    depthwise
        Whether every channel has a filter of its own.
    """

    filters: int
    channels: int
    carries: tuple[bool, ...]
    depthwise: bool = False


class FormKind(ABC):
    """One kind of form; see the module.

    Attributes
    ----------
    name
        As options, plans and reports call it.
    summary
        The chain of convolutions in one line, for the help and the pages.
    rank_names
        The symbols of its ranks, from the input on.
    needs
        The kernel that it needs, as in "the form NAME needs a kernel that extends …".
    preparation
        The class of what it derives from a kernel before ranks are chosen; None where there is nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rank_names: ClassVar[tuple[str, ...]]
    needs: ClassVar[str] = "a kernel"
    preparation: ClassVar[type[Preparation] | None] = None

    def takes(self, shape: ConvShape) -> bool:
        """Whether the kernel extends as the form needs it."""
        return True

    def rank_step(self, shape: ConvShape, multiple: int) -> int:
        """The number that every rank is a multiple of, where ranks are to be multiples of ``multiple``."""
        return multiple

    @abstractmethod
    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """The ranks at which the form holds the whole kernel."""

    @abstractmethod
    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """The multiply-accumulates [m] of one sample at ranks [m, number of ranks]."""

    @abstractmethod
    def log_energies(self, evidence: Evidence) -> Energies:
        """The energies that the form is expected to keep of a layer, as a function of the ranks."""

    @abstractmethod
    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Any) -> Form:
        """The form of a kernel [d, c, *sizes] at these ranks.

        ``prepared`` is an instance of ``preparation``, or None where the kind has none.
        """

    @abstractmethod
    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """The convolutions that take the place of one with a kernel of this shape, [d, c, *sizes]."""

    def cost(self, shape: ConvShape, ranks: tuple[int, ...]) -> int:
        """The multiply-accumulates of one sample at one choice of ranks."""
        return int(self.macs(shape, np.array([ranks]))[0])

    def rank_choices(self, shape: ConvShape, multiple: int = 1) -> Array:
        """All ranks [m, number of ranks] that the form can have, in lexicographic order; none where it does not fit."""
        if not self.takes(shape):
            return np.empty((0, len(self.rank_names)), np.int64)
        step = self.rank_step(shape, multiple)
        sides = [np.arange(step, highest + 1, step) for highest in self.highest_ranks(shape)]
        return np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], axis=1)

    def lowest_cost(self, shape: ConvShape, multiple: int = 1) -> int | None:
        """The multiply-accumulates at the lowest ranks; None where there are no ranks to choose."""
        step = self.rank_step(shape, multiple)
        if not self.takes(shape) or min(self.highest_ranks(shape)) < step:
            return None
        return self.cost(shape, (step,) * len(self.rank_names))


PreparedKernel: TypeAlias = Mapping[type[Preparation], Preparation]
"""What all kinds in question have derived from one kernel, by the class that they name."""


def form_of(kind: FormKind, kernel: Array, ranks: tuple[int, ...], prepared: PreparedKernel) -> Form:
    """The form of a kernel [d, c, *sizes] at these ranks, with what its kind has derived from the kernel."""
    return kind.form(kernel, ranks, prepared[kind.preparation] if kind.preparation else None)


def preparations(kinds: Sequence[FormKind], shape: ConvShape) -> tuple[type[Preparation], ...]:
    """The preparations that these kinds need of a layer, each once."""
    return tuple(dict.fromkeys(kind.preparation for kind in kinds if kind.preparation and kind.takes(shape)))


def placeholder(kind: FormKind, kernel: tuple[int, ...], group: int, ranks: tuple[int, ...]) -> Factorization:
    """Factors of the right shapes whose values mean nothing, to measure what a form costs before anything is solved.

    The values keep responses near the size of the inputs, because numbers close to zero would take longer.

    Parameters
    ----------
    kind
        The form.
    kernel
        [d of all groups, c of one group, *sizes] of the convolution.
    group
        The number of groups.
    ranks
        The ranks of one group, from the input on.
    """
    d, c, *sizes = kernel
    rng = np.random.default_rng(0)
    links = []
    for shape in kind.links((d // group, c, *sizes), ranks):
        own = tuple(size if carried else 1 for size, carried in zip(sizes, shape.carries, strict=True))
        values = rng.random((shape.filters * group, shape.channels, *own), np.float32) - np.float32(0.5)
        scale = np.float32((12 / (shape.channels * math.prod(own))) ** 0.5)
        links.append(Link(values * scale, shape.carries, shape.depthwise))
    return Factorization(kind.name, tuple(links), np.ones(d, np.float32), group)
