"""How wide the blocks may be that ranks fill, given the speedup in multiply-accumulates (MACs).

The widest ones suit all processors, but with them a network of few channels may not reach the speedup.
"""

from collections.abc import Iterator, Sequence

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import affordable
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK, RankMultiple, from_wide_to_narrow
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.plan.allocate import budget_for
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.hidden_sets import HiddenSet, least_macs
from onnx_lowrank.stages.room import statistics_room
from onnx_lowrank.stages.run import Run


def lowest_macs_of_all(run: Run, counted: Counted, multiple: RankMultiple, hidden: Sequence[HiddenSet]) -> int:
    """Return the least MACs that the speedup can leave, by ranks alone or with every set of channels at its narrowest.

    Parameters
    ----------
    run, counted
        The surroundings and the layers.
    multiple
        The numbers that ranks are multiples of.
    hidden
        The sets of channels that may become narrower.
    """
    room = statistics_room(run.options.memory)
    lowest = sum(counted.macs.aimed_at.values()) - most_saved(counted, run.kinds, multiple, room)
    return min(lowest, least_macs(counted, hidden, run.kinds, multiple)) if hidden else lowest


def within_reach(run: Run, counted: Counted, hidden: Sequence[HiddenSet] = ()) -> Iterator[RankMultiple]:
    """Yield the blocks with which some plan has the speedup, from wide to narrow; every rank comes last in any case."""
    budget = budget_for(sum(counted.macs.aimed_at.values()), run.options.speedup)
    for multiple in from_wide_to_narrow():
        if multiple == EVERY_RANK or lowest_macs_of_all(run, counted, multiple, hidden) <= budget:
            yield multiple


def most_saved(counted: Counted, kinds: FormTable, multiple: RankMultiple, room: int) -> int:
    """Return the MACs that all layers together save at their lowest ranks if statistics may take ``room`` bytes."""

    def saved(shapes: tuple[ConvShape, ...]) -> int:
        lowest = lowest_macs(shapes, affordable(kinds, shapes[0], room), multiple)
        return sum(shape.macs for shape in shapes) - lowest

    return sum(saved(counted.shapes_of(family)) for family in counted.families)
