"""The ranks at which a layer is measured before any plan is known.

Time is a staircase in the rank, with steps of the machine's block of channels, so only multiples of a step are
measured, and of those a geometric selection: between two neighbours the planner interpolates, and what it then
chooses is measured itself. What saves less than nothing, or more than any network asks for, is not measured.
"""

import itertools
from collections.abc import Iterable

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple

LEAST = 1 / 16
"""Of a layer's MACs: cheaper choices are out of the table, and so out of reach."""

RATIO = 1.45
"""Between neighbouring ranks of a form with one rank."""

SIDE = 4
"""Ranks in each direction of the grid of a form with several ranks."""


def ranks_to_measure(
    shape: ConvShape, kinds: Iterable[FormKind], multiple: RankMultiple
) -> list[tuple[str, tuple[int, ...]]]:
    """The forms and ranks of a layer, at multiples of what ``multiple`` says."""
    wanted: list[tuple[str, tuple[int, ...]]] = []
    for kind in kinds:
        if not kind.takes(shape):
            continue
        # Where MACs say that a layer is too small for any block, the clock may say otherwise.
        step = multiple.of(kind, shape) or multiple.narrowest
        highest, own = kind.highest_ranks(shape), kind.rank_step(shape, step)
        if len(highest) == 1:
            share = kind.cost(shape, (1,)) / shape.macs
            wanted += [(kind.name, (r,)) for r in _geometric(LEAST / share, min(1 / share, highest[0]), own, RATIO)]
        else:
            sides = [_side(shape, kind, axis, own) for axis in range(len(highest))]
            # A corner that costs a little more than the layer may bracket ranks that cost less.
            corners = [ranks for ranks in itertools.product(*sides) if kind.cost(shape, ranks) < 1.3 * shape.macs]
            wanted += [(kind.name, ranks) for ranks in corners]
    return wanted


def _side(shape: ConvShape, kind: FormKind, axis: int, step: int) -> list[int]:
    """Ranks of one side of the grid: up to where, at the lowest ranks of the other sides, nothing is saved."""
    highest = kind.highest_ranks(shape)

    def cost(rank: int) -> int:
        return kind.cost(shape, tuple(rank if i == axis else step for i in range(len(highest))))

    ends = []
    for share in (LEAST / 2, 0.8):
        low, high = 1.0, float(highest[axis])
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(round(middle)) < share * shape.macs else (low, middle)
        ends.append(low)
    ratio = max(RATIO, (ends[1] / max(ends[0], 1.0)) ** (1 / (SIDE - 1)))
    return _geometric(ends[0], ends[1], step, ratio)


def _geometric(low: float, high: float, step: int, ratio: float) -> list[int]:
    """Multiples of ``step`` from about ``low`` to the last one below ``high``, each about ``ratio`` times the last."""
    last = int(high / step) * step
    if last < step:
        return []
    found = [last]
    while (rank := min(found[-1] - step, max(1, round(found[-1] / ratio / step)) * step)) >= step:
        if found[-1] <= low:
            break
        found.append(rank)
    return found[::-1]
