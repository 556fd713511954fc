"""Warnings about weights that stay in the file although they are factorised, since something else reads them too."""

from collections.abc import Iterator

from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.left_alone import listed, short


def kept_weights(network: Network, counted: Counted, plan: Plan) -> list[str]:
    """Return a line for every weight that is stored beside its factors, or has several sets of factors.

    Parameters
    ----------
    network
        The original.
    counted
        Its layers.
    plan
        The choices for all sites.
    """
    lines = []
    for family in counted.families:
        factorised = [name for name in family.names if plan[name].form]
        if not factorised:
            continue
        choices = {(plan[name].form, plan[name].ranks) for name in factorised}
        if len(choices) > 1:
            lines.append(
                f"{listed(family.names)} share a weight, and the plan has {len(choices)} choices for them: each takes "
                "factors of its own, and the file may grow"
            )
        others = list(_other_readers(network, counted, plan, family))
        if others:
            lines.append(
                f"the weight of {listed(factorised)} is stored beside its factors, since {listed(others)} "
                f"read{'s' if len(others) == 1 else ''} it as well: the file grows by the factors"
            )
    return lines


def _other_readers(network: Network, counted: Counted, plan: Plan, family: Family) -> Iterator[str]:
    """Yield who reads the weight of a factorised site, other than factorised sites, each with the reason."""
    outputs = {site.output for site in family.members if plan[site.name].form}
    weights = {network.nodes[position(network, output)].inputs[1].name for output in outputs}
    sites = {site.output: f"{site.name} (left alone by the plan)" for site in counted.sites}
    skipped = {skip.output: f"{skip.name} ({short(skip.reason)})" for skip in counted.skipped if skip.output}
    for node in network.nodes:
        output = node.outputs[0].name
        if output not in outputs and not weights.isdisjoint(network.reads(node)):
            yield sites.get(output) or skipped.get(output) or f"{node.op} {node.name or output}"
