"""Verdict: what the errors of the outputs mean, and whether the result may be written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.quality import AGREEMENT, DAMAGED, DEGRADED, ERROR, LIMIT_OF, NONE, RUINED, Requirement, verdict
from onnx_lowrank.report.output_schema import OutputReport, farthest
from onnx_lowrank.stages.demand import demand, unmeasurable
from onnx_lowrank.stages.measure import Measured
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run

REFUSED = "nothing was written; {}; --require moves the limit"
"""The end of a refusal, with advice."""


@dataclass(frozen=True)
class Judged:
    """What is to become of the result.

    Attributes
    ----------
    verdict
        "kept", "degraded", "damaged" or "ruined" (see ``quality``); None where no output could be compared.
    refusal
        Why the result is not written, in one line; None where it is.
    """

    verdict: str | None
    refusal: str | None = None


def judge(run: Run, prepared: Prepared, measured: Measured) -> Judged:
    """Judge the result by its farthest output, and warn of one that is damaged and written all the same.

    Parameters
    ----------
    run
        The surroundings; its options say what is required.
    prepared
        The samples and the plan.
    measured
        The errors of the outputs, and the measures of what they are for.

    Raises
    ------
    ModelError
        If what is required cannot be measured on these outputs.
    """
    required, outputs = run.options.requirement, measured.outputs
    asked, far = demand(required, measured), farthest(outputs)
    if far is None:
        if required.measure == ERROR and required.given:
            raise unmeasurable(required, "floating-point outputs that can be compared", ())
        if asked is None or asked.met:
            return Judged(None)
        return Judged(None, f"the result is not good enough: {asked.text}: {REFUSED.format('lower --speedup')}")
    error = outputs[far].centred_error
    found = verdict(error)
    seen = "no solver saw" if prepared.sampled.sampling.validation else "the solver saw"
    bad = found in (DAMAGED, RUINED)
    told = f"the result is {found if bad else 'not good enough'}: {_centred(far, outputs[far])} that {seen}"
    met = asked.met if asked else required.measure == NONE or error <= required.limit
    limit = asked.text if asked else f"at most {required.limit:g} is accepted"
    if met and not bad:
        return Judged(found)  # The advice costs a search for ranks at every speedup that it considers.
    # A measure of another kind says nothing about the error that goes with it, and what is accepted may be too much.
    wanted = min(required.limit, LIMIT_OF[DEGRADED]) if required.measure == ERROR else LIMIT_OF[DEGRADED]
    advice = _advice(prepared, error, wanted)
    if not met:
        return Judged(found, f"{told}, and {limit}: {REFUSED.format(advice)}")
    run.warn(f"{told}; {advice}")
    return Judged(found)


def check_declared(required: Requirement, outputs: Sequence[TensorSpec]) -> None:
    """Refuse a requirement that cannot be measured, as far as the outputs' declarations tell.

    Raises
    ------
    ModelError
        If no output is declared as class scores, or as floating-point where the centred error is required.
    """
    # A sequence or a map has the type object, and is never compared.
    known = [spec for spec in outputs if np.issubdtype(spec.dtype, np.floating)]
    declared = [f"{spec.name} {_shape(spec)}" for spec in outputs]
    scores = [spec for spec in known if spec.shape is None or (len(spec.shape) == 2 and spec.shape[1] != 1)]
    if required.measure == AGREEMENT and not scores:
        raise unmeasurable(required, "class scores [samples, classes]", declared)
    if required.measure == ERROR and required.given and not known:
        raise unmeasurable(required, "floating-point outputs", declared)


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "of unknown shape"
    return f"[{', '.join('?' if side is None else str(side) for side in spec.shape)}]"


def _samples(output: OutputReport) -> str:
    return f"{output.samples} sample" + ("s" if output.samples != 1 else "")


def _centred(name: str, output: OutputReport) -> str:
    interval = ""
    if output.centred_low is not None:
        interval = f" ({output.centred_low:.3g} to {output.centred_high:.3g})"
    return f"output {name!r} has a centred error of {output.centred_error:.3g}{interval} on {_samples(output)}"


def _advice(prepared: Prepared, error: float, wanted: float) -> str:
    """Say what to do, with an estimate where the plan and the error allow one."""
    if prepared.reach.user_plan:
        factorised = any(site.form for site in prepared.reach.user_plan.sites)
        return "raise the ranks of the plan" if factorised else "leave layers as they are with --exclude"
    outlook = prepared.planned.outlook
    milder = outlook.milder(error, wanted) if outlook else None
    if milder is None:
        return "lower --speedup"
    estimate = f"{milder.error:.2g} ({milder.low:.2g} to {milder.high:.2g}; from the energy that its plan keeps)"
    if milder.error <= wanted:
        return f"--speedup {milder.speedup:g} is estimated to bring the error to {estimate}"
    return f"even --speedup {milder.speedup:g} is estimated to leave an error of {estimate}"
