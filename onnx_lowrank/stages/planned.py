"""The result of the stage that plans."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.latency.by_clock import LatencyPlan
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.outlook import Outlook
from onnx_lowrank.plan.plan import Plan, SitePlan


@dataclass(frozen=True)
class Planned:
    """The choices for all sites.

    Attributes
    ----------
    plan
        The forms and ranks, in the order of the sites.
    macs
        The MACs of one sample that every site takes as planned, by name.
    by_clock
        The search behind a plan by the clock; None for any other plan.
    outlook
        What milder speedups are estimated to do, where the plan counts MACs; None for any other plan.
    importance
        How the layers were weighed.
    """

    plan: Plan
    macs: Mapping[str, int]
    by_clock: LatencyPlan | None = None
    outlook: Outlook | None = None
    importance: Importance = EQUAL


def planned_macs(plan: Plan, shapes: Mapping[str, ConvShape], forms: FormTable) -> dict[str, int]:
    """Return the MACs of one sample that every site takes as planned, by name."""

    def macs(choice: SitePlan) -> int:
        shape = shapes[choice.name]
        return forms[choice.form].cost(shape, choice.ranks) if choice.form else shape.macs

    return {choice.name: macs(choice) for choice in plan.sites}
