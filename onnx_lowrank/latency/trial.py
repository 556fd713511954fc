"""A plan as a model that can be timed before anything is solved: how fast it is does not depend on its weights."""

from collections.abc import Callable, Sequence

from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.placeholder import placeholder
from onnx_lowrank.graph.load import LoadedModel
from onnx_lowrank.graph.normalise import normalise
from onnx_lowrank.graph.rewrite import rewrite
from onnx_lowrank.graph.save import export
from onnx_lowrank.graph.sites import ConvSite
from onnx_lowrank.plan.plan import Plan, SitePlan

Factors = Callable[[ConvSite, SitePlan], Factorization]
"""Some factorisation of a site in a form at ranks."""


def meaningless(site: ConvSite, choice: SitePlan) -> Factorization:
    """Factors of the right shapes."""
    assert choice.form is not None
    shape = tuple(int(size) for size in site.kernel.shape)
    return placeholder(choice.form, shape, choice.ranks)


def trial(loaded: LoadedModel, sites: Sequence[ConvSite], plan: Plan, factors: Factors) -> bytes:
    """The whole model, rewritten as planned, serialised."""
    graph = normalise(loaded.proto)
    for site, choice in zip(sites, plan.sites, strict=True):
        if choice.form:
            rewrite(graph, site, factors(site, choice))
    return bytes(export(graph, loaded).SerializeToString())
