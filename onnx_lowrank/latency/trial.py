"""Whole models on trial: a plan is timed before anything is solved, because speed does not depend on the weights."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.kind import form_of, placeholder
from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.edit.rewrite import Replacement, rewrite_together
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.latency.deployment import Deployment
from onnx_lowrank.latency.layer_times import MeasureModels, measure_models
from onnx_lowrank.latency.proposals import WholeTime
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime.session import Opener

Factors: TypeAlias = Callable[[ConvSite, SitePlan], Factorization]
"""Makes some factorisation of a site in the planned form, at the planned ranks."""


class WholeTrials:
    """Plans on trial: each is timed as a whole model, in turns with the original.

    Parameters
    ----------
    deployment
        The original, its sites and the batch that the models run on.
    factors
        Makes the weights of the rewritten layers.
    open_session
        Opens the models as they are deployed.
    measure_models
        Takes the times of the two models.
    """

    def __init__(
        self,
        deployment: Deployment,
        factors: Factors,
        open_session: Opener,
        measure_models: MeasureModels = measure_models,
    ) -> None:
        self._deployment, self._factors = deployment, factors
        self._open, self._measure = open_session, measure_models
        self._feeds = deployment.feeds
        self._original = open_session(deployment.loaded.proto, "the model")

    def measure(self, plan: Plan) -> WholeTime:
        """Time the model that is rewritten as planned."""
        rewritten = self._open(trial_model(self._deployment, plan, self._factors), "the rewritten model")
        times = self._measure([self._original, rewritten], self._feeds)
        before_ms, after_ms = times.milliseconds
        return WholeTime(before_ms, after_ms, times.speed.value, times.speed.low)


def trial_model(deployment: Deployment, plan: Plan, factors: Factors) -> onnx.ModelProto:
    """Return the whole model, rewritten as planned with factors that nobody solved for."""
    network = deployment.network.copy()
    for family in deployment.families:
        planned = [(site, plan[site.name]) for site in family.members]
        rewrite_together(network, [Replacement(site, factors(site, choice)) for site, choice in planned if choice.form])
    return export(network, deployment.loaded)


def placeholder_factors(forms: FormTable) -> Factors:
    """Return a maker of factors of the right shapes whose values mean nothing."""

    def factors(site: ConvSite, choice: SitePlan) -> Factorization:
        assert choice.form is not None
        shape = tuple(int(size) for size in site.kernel.shape)
        return placeholder(forms[choice.form], shape, site.group, choice.ranks)

    return factors


def factors_from_weights(kernels: Mapping[str, tuple[PreparedKernel, ...]], forms: FormTable) -> Factors:
    """Return a maker of the factors that the weights alone give; it keeps what it has made.

    With these the values inside the network have their usual size, which meaningless factors do not ensure.

    Parameters
    ----------
    kernels
        What the forms have derived from the kernels of all groups, by site name.
    forms
        The table of forms.
    """
    known: dict[SitePlan, Factorization] = {}

    def factors(site: ConvSite, choice: SitePlan) -> Factorization:
        if choice not in known:
            assert choice.form is not None
            kind, biases = forms[choice.form], np.split(site.bias, site.group)
            groups = zip(site.kernels, biases, kernels[site.name], strict=True)
            known[choice] = side_by_side(
                [
                    from_weights(form_of(kind, kernel, choice.ranks, _quick(prepared)), kernel, bias)
                    for kernel, bias, prepared in groups
                ]
            )
        return known[choice]

    return factors


def _quick(prepared: PreparedKernel) -> PreparedKernel:
    """Leave out what makes factors good: it takes time, and a trial needs no good factors."""
    return {kind: own.quick() for kind, own in prepared.items()}
