"""The geometry that decides a convolution's cost."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 8
"""Channels that a CPU computes at once, at least. A depthwise convolution whose channels do not fill such blocks leaves
the fast layout, and takes the 1×1 convolutions around it along (measured on the embedded model: 1.4 against 2.9 times
as fast, at the same MACs). The ranks of the CP form are so high that going by blocks loses nothing."""


@dataclass(frozen=True)
class ConvShape:
    """The geometry that decides a convolution's cost.

    A grouped convolution costs what one of its groups would cost at as many times the pixels; the ranks are those of
    one group.

    Attributes
    ----------
    filters, channels
        d, c, of one group.
    kernel
        (height k, width l); with another number of spatial axes, its sizes along those before and behind the cut.
    positions
        Output pixels, of all groups.
    between
        Pixels between the k×1 and the 1×l convolution, of all groups: the output's height times the input's width.
    pixels
        Input pixels, of all groups.
    """

    filters: int
    channels: int
    kernel: tuple[int, int]
    positions: int
    between: int
    pixels: int

    @property
    def macs(self) -> int:
        """d·c·k·l·positions: the convolution as it is."""
        return self.filters * self.channels * self.kernel[0] * self.kernel[1] * self.positions

    @property
    def splits_in_space(self) -> bool:
        """Whether the kernel extends in two directions, so that k×1 and 1×l are smaller than it."""
        return min(self.kernel) > 1

    def takes(self, form: str | None) -> bool:
        """Whether the kernel extends as the form needs it."""
        if form in ("spatial", "3d"):
            return self.splits_in_space
        return form != "cp" or self.kernel != (1, 1)

    def step(self, form: str, multiple: int) -> int:
        """What the ranks of a form are multiples of, where they are to be multiples of a number."""
        # So few channels would leave no choice of ranks.
        blocked = form == "cp" and min(self.filters, self.channels) >= 2 * BLOCK
        return math.lcm(multiple, BLOCK) if blocked else multiple

    @property
    def most_columns(self) -> int:
        """The rank of the kernel as a matrix of its columns, c·k by l·d: the most that d'' can be."""
        return min(self.channels * self.kernel[0], self.kernel[1] * self.filters)

    def channel(self, rank: Array | int) -> Any:
        """Both convolutions of the channel form, d'(c·k·l + d)·positions.

        The paper's budget (§2.5) leaves out the second one, d·d': 11% of a 3×3 layer, all of a 1×1 layer.
        """
        return rank * (self.channels * self.kernel[0] * self.kernel[1] + self.filters) * self.positions

    def spatial(self, columns: Array | int) -> Any:
        """k×1 c→d'' and 1×l d''→d."""
        return columns * (self._vertical + self.kernel[1] * self.filters * self.positions)

    def three(self, columns: Array | int, rank: Array | int) -> Any:
        """k×1 c→d'', 1×l d''→d' and 1×1 d'→d."""
        return columns * self._vertical + rank * (columns * self.kernel[1] + self.filters) * self.positions

    def polyadic(self, rank: Array | int) -> Any:
        """1×1 c→r on every pixel of the input, depthwise k×l, and 1×1 r→d."""
        behind = self.kernel[0] * self.kernel[1] + self.filters
        return rank * (self.channels * self.pixels + behind * self.positions)

    def cost(self, form: str | None, ranks: tuple[int, ...]) -> int:
        """MACs in a form, at ranks from the input on; None is the convolution as it is."""
        if form is None:
            return self.macs
        return int(self.of_form(form)(*ranks))

    def of_form(self, form: str) -> Callable[..., Any]:
        """The cost of a form as a function of its ranks."""
        forms: dict[str, Callable[..., Any]] = {
            "channel": self.channel,
            "spatial": self.spatial,
            "3d": self.three,
            "cp": self.polyadic,
        }
        return forms[form]

    def lowest(self, forms: Iterable[str], multiple: int = 1) -> int:
        """The least MACs that the layer can have: at the lowest ranks in some of these forms, or as it is.

        All ranks are multiples of ``multiple``.
        """
        highest = {form: self.highest_ranks(form) for form in forms if self.takes(form)}
        steps = {form: self.step(form, multiple) for form in highest}
        possible = [form for form, ranks in highest.items() if min(ranks) >= steps[form]]
        return min([self.macs, *(self.cost(form, (steps[form],) * len(highest[form])) for form in possible)])

    def highest_ranks(self, form: str | None) -> tuple[int, ...]:
        """The ranks at which a form holds the whole kernel."""
        d, m = self.filters, self.most_columns
        r = min(d * self.channels, min(d, self.channels) * self.kernel[0] * self.kernel[1])
        return {"channel": (d,), "spatial": (m,), "3d": (m, d), "cp": (r,)}.get(form or "", ())

    @property
    def _vertical(self) -> int:
        return self.channels * self.kernel[0] * self.between
