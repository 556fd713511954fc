"""The ranks at which a layer is measured before any plan is known.

Time is a staircase in the rank, with steps of the machine's block of channels, so only multiples of a step are
measured, and of those a geometric selection: between two neighbours the planner interpolates, and what it then
chooses is measured itself. What saves less than nothing, or more than any network asks for, is not measured.
"""

import itertools

from onnx_lowrank.factorise.forms.conv_shape import ConvShape

LEAST = 1 / 16
"""Of a layer's MACs: cheaper choices are out of the table, and so out of reach."""

RATIO = 1.45
"""Between neighbouring ranks of a form with one rank."""

SIDE = 4
"""Ranks in each direction of the 3D form's grid."""


def ranks_to_measure(shape: ConvShape, forms: tuple[str, ...], step: int) -> list[tuple[str, tuple[int, ...]]]:
    """(form, ranks) of a layer, at multiples of ``step``."""
    wanted: list[tuple[str, tuple[int, ...]]] = []
    for form in forms:
        highest = shape.highest_ranks(form)
        if not shape.takes(form):
            continue
        if len(highest) == 1:
            share = shape.cost(form, (1,)) / shape.macs
            own = shape.step(form, step)
            wanted += [(form, (r,)) for r in _geometric(LEAST / share, min(1 / share, highest[0]), own, RATIO)]
        else:
            columns, rank = (_side(shape, i, highest[i], step) for i in (0, 1))
            pairs = itertools.product(columns, rank)
            # A corner that costs a little more than the layer may bracket ranks that cost less.
            wanted += [(form, pair) for pair in pairs if shape.cost(form, pair) < 1.3 * shape.macs]
    return wanted


def _side(shape: ConvShape, which: int, highest: int, step: int) -> list[int]:
    """Ranks of one side of the 3D grid: up to where, at the lowest rank of the other side, nothing is saved."""
    other = (step, step)
    low, high = 1.0, float(highest)
    ends = []
    for share in (LEAST / 2, 0.8):
        low, high = 1.0, float(highest)
        for _ in range(30):
            middle = (low + high) / 2
            pair = (round(middle), other[1]) if which == 0 else (other[0], round(middle))
            low, high = (middle, high) if shape.cost("3d", pair) < share * shape.macs else (low, middle)
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
