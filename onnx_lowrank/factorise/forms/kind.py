"""Everything that the rest of the program asks about a form, in one class.

A kind of form lives in a file of its own and is listed in ``table.py``; no other code depends on which kinds there are.
A new kind subclasses ``FormKind``, states its names and answers the abstract methods. Plans, reports, options and help
take the names from the table.

Today's kinds replace one convolution, and ``FormKind`` asks two sorts of questions about it. The planner wants to know
which ranks there are, what they cost and how much of the response they keep (``rank_choices``, ``macs``,
``log_energies``); the solver wants a regression problem and a chain of links (``form``, ``links``). Only these methods
know that the subject is one convolution: they take a ``ConvShape``, an ``Evidence`` or a kernel. The stages around them
are more general, which leaves room for a kind that removes channels between a producer, the layers behind it and
several consumers:

* The planner (``plan``) sees a named subject with a list of choices, and assumes that costs and log-energies add up
  over subjects. Layers whose costs depend on one another are therefore one subject, whose choices are the combinations.
* A plan and the report name a subject, a kind and a tuple of ranks, one for each of ``rank_names``. A rank is any whole
  number that the planner chooses, a number of channels that stay for example.
* The walk (``stages``) goes through steps in the order of the network. A kind that changes several layers brings a step
  of its own.

Such a kind answers the planner's questions for a geometry of its own and not the solver's, so ``FormKind`` will fall
into two classes along this line when the first one is written.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, LinkShape, compose
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.factorise.forms.preparation import Preparation, PreparedKernel

Array = NDArray[Any]
Energies: TypeAlias = Callable[[Array], Array]
"""A function from ranks [m, number of ranks] to the log-energies [m] that a form keeps of a layer's responses."""


class FormKind(ABC):
    """One kind of form.

    Attributes
    ----------
    name
        The name by which options, plans and reports refer to it.
    summary
        The chain of convolutions in one line, for the help and the documentation.
    rank_names
        The symbols of its ranks, from the input on.
    needs
        The kernel that it needs, as the object of "the form NAME needs …".
    preparation
        The class of what it derives from a kernel before ranks are chosen; None where it derives nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rank_names: ClassVar[tuple[str, ...]]
    needs: ClassVar[str] = "a kernel"
    preparation: ClassVar[type[Preparation] | None] = None

    def takes(self, shape: ConvShape) -> bool:
        """Tell whether the form can replace a convolution of this geometry."""
        return True

    def rank_step(self, shape: ConvShape, multiple: int) -> int:
        """Return the number of which every rank is a multiple, where the user asks for multiples of ``multiple``."""
        return multiple

    def statistics_bytes(self, shape: ConvShape) -> int:
        """Return about how many bytes its statistics of patches, and what it derives from them, take for all groups."""
        return 0

    @abstractmethod
    def highest_ranks(self, shape: ConvShape) -> tuple[int, ...]:
        """Return the ranks at which the form represents every kernel exactly."""

    @abstractmethod
    def macs(self, shape: ConvShape, ranks: Array) -> Array:
        """Return the multiply-accumulates [m] of one sample at ranks [m, number of ranks]."""

    @abstractmethod
    def log_energies(self, evidence: Evidence) -> Energies:
        """Return the log-energies that the form is expected to keep, as a function of the ranks.

        They never fall as a rank grows, and reach 0 at the highest ranks.
        """

    @abstractmethod
    def form(self, kernel: Array, ranks: tuple[int, ...], prepared: Any) -> Form:
        """Return the regression problem for a kernel [d, c, *sizes] at these ranks.

        ``prepared`` is an instance of ``preparation``, or None where the kind has none.
        """

    @abstractmethod
    def links(self, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[LinkShape, ...]:
        """Return the links that replace one convolution whose kernel has the shape (d, c, *sizes)."""

    def cost(self, shape: ConvShape, ranks: tuple[int, ...]) -> int:
        """Return the multiply-accumulates of one sample at one choice of ranks."""
        return int(self.macs(shape, np.array([ranks]))[0])

    def rank_choices(self, shape: ConvShape, multiple: int = 1, least: int = 0) -> Array:
        """Return all ranks [m, number of ranks] that the form can have, in lexicographic order.

        There are none where the form does not take the kernel. If ``least`` is not 0, it and its multiples by powers of
        two are ranks as well, up to the first multiple.
        """
        if not self.takes(shape):
            return np.empty((0, len(self.rank_names)), np.int64)
        step = self.rank_step(shape, multiple)
        below = [least << power for power in range(step.bit_length())] if least else []
        lower = sorted({rank for own in below if (rank := self.rank_step(shape, own)) < step})
        sides = [
            np.array([rank for rank in (*lower, *range(step, highest + 1, step)) if rank <= highest], np.int64)
            for highest in self.highest_ranks(shape)
        ]
        return np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], axis=1)

    def lowest_cost(self, shape: ConvShape, multiple: int = 1) -> int | None:
        """Return the multiply-accumulates at the lowest ranks, or None where there are no ranks to choose."""
        step = self.rank_step(shape, multiple)
        if not self.takes(shape) or min(self.highest_ranks(shape)) < step:
            return None
        return self.cost(shape, (step,) * len(self.rank_names))


def form_of(kind: FormKind, kernel: Array, ranks: tuple[int, ...], prepared: PreparedKernel) -> Form:
    """Return the regression problem for a kernel [d, c, *sizes], given all preparations of this kernel."""
    return kind.form(kernel, ranks, prepared[kind.preparation] if kind.preparation else None)


def affordable(kinds: Iterable[FormKind], shape: ConvShape, memory: int) -> tuple[FormKind, ...]:
    """Return the kinds that take a layer and whose statistics of it fit in so many bytes."""
    return tuple(kind for kind in kinds if kind.takes(shape) and kind.statistics_bytes(shape) <= memory)


def worthwhile(kinds: Iterable[FormKind], shape: ConvShape) -> tuple[FormKind, ...]:
    """Return the kinds that take a layer and cost less than it does, at their lowest ranks."""
    costs = ((kind, kind.lowest_cost(shape)) for kind in kinds)
    return tuple(kind for kind, cost in costs if cost is not None and cost < shape.macs)


def preparations(kinds: Sequence[FormKind], shape: ConvShape) -> tuple[type[Preparation], ...]:
    """Return the classes of preparation that these kinds need for a layer, without repetitions."""
    return tuple(dict.fromkeys(kind.preparation for kind in kinds if kind.preparation and kind.takes(shape)))


def placeholder(kind: FormKind, kernel: tuple[int, ...], group: int, ranks: tuple[int, ...]) -> Factorization:
    """Return links of the right shapes with random values, to measure what a form costs before anything is solved.

    The values keep responses near the size of the inputs, because numbers close to zero would take longer.

    Parameters
    ----------
    kind
        The form.
    kernel
        The shape (d of all groups, c of one group, *sizes) of the original kernel.
    group
        The number of groups.
    ranks
        The ranks of one group, from the input on.
    """
    d, c, *sizes = kernel
    rng = np.random.default_rng(0)
    links = [replace(link, filters=link.filters * group) for link in kind.links((d // group, c, *sizes), ranks)]
    values = []
    for link in links:
        own = link.kernel_shape(sizes)
        scale = np.float32((12 / math.prod(own[1:])) ** 0.5)
        values.append((rng.random(own, np.float32) - np.float32(0.5)) * scale)
    return replace(compose(links, sizes, values, np.ones(d, np.float32)), group=group)
