"""A plan as a model that can be timed before anything is solved: how fast it is does not depend on its weights."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.kind import PreparedKernel, form_of, placeholder
from onnx_lowrank.factorise.forms.table import FormTable
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


def meaningless(forms: FormTable) -> Factors:
    """Factors of the right shapes, whose values mean nothing."""

    def factors(site: ConvSite, choice: SitePlan) -> Factorization:
        assert choice.form is not None
        shape = tuple(int(size) for size in site.kernel.shape)
        return placeholder(forms[choice.form], shape, site.group, choice.ranks)

    return factors


def weights_alone(prepared: Mapping[str, tuple[PreparedKernel, ...]], forms: FormTable) -> Factors:
    """Factors that the weights alone give, so that the values inside the network are of the usual size.

    ``prepared`` holds what is known of the kernel of every group, by site name. What was made once is kept.
    """
    known: dict[SitePlan, Factorization] = {}

    def factors(site: ConvSite, choice: SitePlan) -> Factorization:
        if choice not in known:
            assert choice.form is not None
            kind = forms[choice.form]
            biases = np.split(site.bias, site.group)
            known[choice] = side_by_side(
                [
                    from_weights(form_of(kind, kernel, choice.ranks, _quick(own)), kernel, bias)
                    for kernel, bias, own in zip(site.kernels, biases, prepared[site.name], strict=True)
                ]
            )
        return known[choice]

    return factors


def _quick(prepared: PreparedKernel) -> PreparedKernel:
    """The same for factors that need not be good: good ones take time that a trial does not have."""
    return {kind: own.quick() for kind, own in prepared.items()}


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
