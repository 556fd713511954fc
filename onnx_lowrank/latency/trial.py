"""A plan as a model that can be timed before anything is solved: how fast it is does not depend on its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import Cuts, from_weights, make_form
from onnx_lowrank.factorise.forms.placeholder import placeholder
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.layer_times import measure_models
from onnx_lowrank.latency.search import WholeTime
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime.session import opener

Factors = Callable[[ConvSite, SitePlan], Factorization]
"""Some factorisation of a site in a form at ranks."""


def meaningless(site: ConvSite, choice: SitePlan) -> Factorization:
    """Factors of the right shapes."""
    assert choice.form is not None
    shape = tuple(int(size) for size in site.kernel.shape)
    return placeholder(choice.form, shape, site.group, choice.ranks)


def weights_alone(cuts: Mapping[str, tuple[Cuts, ...]]) -> Factors:
    """Factors that the weights alone give, so that the values inside the network are of the usual size.

    ``cuts`` holds those of every group by site name. What was made once is kept.
    """
    made: dict[SitePlan, Factorization] = {}

    def factors(site: ConvSite, choice: SitePlan) -> Factorization:
        if choice not in made:
            assert choice.form is not None
            of_groups = [_quick(cut) for cut in cuts.get(site.name, (Cuts(),) * site.group)]
            biases = np.split(site.bias, site.group)
            made[choice] = side_by_side(
                [
                    from_weights(make_form(choice.form, kernel, choice.ranks, cut), kernel, bias)
                    for kernel, bias, cut in zip(site.kernels, biases, of_groups, strict=True)
                ]
            )
        return made[choice]

    return factors


def _quick(cuts: Cuts) -> Cuts:
    """Good factors take time that a trial does not need."""
    return replace(cuts, polyadic=replace(cuts.polyadic, sweeps=0)) if cuts.polyadic else cuts


def trial(loaded: LoadedModel, sites: Sequence[ConvSite], plan: Plan, factors: Factors) -> onnx.ModelProto:
    """The whole model, rewritten as planned."""
    graph = normalise(loaded.proto)
    for site, choice in zip(sites, plan.sites, strict=True):
        if choice.form:
            rewrite(graph, site, factors(site, choice))
    return export(graph, loaded)


def folds(loaded: LoadedModel) -> bool:
    """Whether the model has nodes that become part of a convolution, which may make it faster or slower as it is."""
    return bool(normalise(loaded.proto).folded)


def whole_times(
    loaded: LoadedModel, sites: Sequence[ConvSite], feeds: Feeds, options: Options, factors: Factors
) -> Callable[[Plan], WholeTime]:
    """Measures plans as whole models, in turns with the original, with the run's providers and threads."""
    open_session = opener(options.providers, options.threads, spinning=True)
    original = open_session(loaded.proto, "the model")

    def measure(plan: Plan) -> WholeTime:
        rewritten = open_session(trial(loaded, sites, plan, factors), "the rewritten model")
        (before, after), speed = measure_models([original, rewritten], feeds)
        return WholeTime(before, after, speed.value, speed.low)

    return measure
