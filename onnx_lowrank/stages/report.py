"""The stage that turns the results of all other stages into the plain data of the report."""

import math
from dataclasses import asdict

import onnx

from onnx_lowrank._version import __version__
from onnx_lowrank.data.photos.folder import ImageSource
from onnx_lowrank.graph.files.external import fingerprint
from onnx_lowrank.graph.files.load import parameters
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.plan.importance import Importance
from onnx_lowrank.report.importance_schema import ImportanceReport
from onnx_lowrank.report.integers_schema import FloatReport, IntegersReport, RoundedReport
from onnx_lowrank.report.plan_schema import PlanReport
from onnx_lowrank.report.refined_schema import RefinedReport
from onnx_lowrank.report.schema import (
    SCHEMA,
    CostReport,
    FileReport,
    MacsReport,
    RefittedReport,
    Report,
    SiteReport,
    SkippedReport,
    SpeedupReport,
)
from onnx_lowrank.report.width_schema import WidthReport
from onnx_lowrank.stages.integers import Integers
from onnx_lowrank.stages.kept import trade_off
from onnx_lowrank.stages.latency_report import latency_plan
from onnx_lowrank.stages.measure import Measured
from onnx_lowrank.stages.plan import why_left_alone
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.refined import RefinedStretch
from onnx_lowrank.stages.refit import Refitted
from onnx_lowrank.stages.resources import peak_rss_bytes
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import Solution
from onnx_lowrank.stages.verdict import Judged
from onnx_lowrank.stages.walk import Walked
from onnx_lowrank.stages.widths import WidthSet


def plan_report(run: Run, prepared: Prepared) -> PlanReport:
    """Return the report of a plan and its costs, before anything is solved."""
    macs, by_clock = _macs(prepared), prepared.planned.by_clock
    return PlanReport(
        sites=_sites(run, prepared, {}),
        skipped=_skipped(prepared),
        macs=macs,
        speedup=SpeedupReport(_requested(run), macs.speedup, None),
        plan=prepared.planned.plan,
        rank_multiple=prepared.reach.multiple.narrowest,
        latency_plan=latency_plan(by_clock) if by_clock else None,
        fit=prepared.fit,
        importance=_importance(prepared.planned.importance),
        widths=_widths(prepared),
        trade_off=trade_off(run, prepared),
    )


def report(
    run: Run, prepared: Prepared, walked: Walked, measured: Measured, judged: Judged, model: onnx.ModelProto
) -> Report:
    """Return the report of a finished run."""
    options, original = run.options, prepared.read.loaded
    traded = trade_off(run, prepared, measured)
    sampling, macs, by_clock = prepared.sampled.sampling, _macs(prepared), prepared.planned.by_clock
    inputs = {
        "preprocess": asdict(prepared.sampled.preprocess) if _preprocessed(prepared) else None,
        "data": run.request.data_label,
        "plan": run.request.plan is not None,
    }
    return Report(
        schema=SCHEMA,
        tool={"name": "onnx-lowrank", "version": __version__},
        input=FileReport(str(original.path) if original.path else None, original.sha256, original.bytes),
        output=None if judged.refusal else FileReport(None, *fingerprint(model)),
        options=asdict(options) | inputs,
        data={
            "description": sampling.source.description,
            "synthetic": sampling.source.synthetic,
            "calibration": sampling.samples,
            "validation": sum(map(len, sampling.validation)),
        },
        provider=measured.provider,
        seed=options.seed,
        macs=macs,
        speedup=SpeedupReport(_requested(run), macs.speedup, measured.latency),
        parameters=(parameters(original.proto), parameters(model)),
        outputs=measured.outputs,
        verdict=judged.verdict,
        sites=_sites(run, prepared, walked.solutions),
        skipped=_skipped(prepared),
        refitted=tuple(map(_refitted, walked.refitted)),
        accuracy=measured.accuracy,
        cost=_cost(run, prepared, walked),
        warnings=tuple(run.warnings),
        rank_multiple=prepared.reach.multiple.narrowest,
        latency_plan=latency_plan(by_clock) if by_clock else None,
        fit=prepared.fit,
        importance=_importance(prepared.planned.importance),
        widths=_widths(prepared),
        tasks=measured.tasks,
        labelled=measured.labelled,
        trade_off=traded,
        refined=tuple(map(_refined, walked.refined)),
        integers=_integers(walked.integers, measured) if walked.integers else None,
    )


def _integers(integers: Integers, measured: Measured) -> IntegersReport:
    return IntegersReport(
        integers.weight_bits,
        tuple(RoundedReport(each.layer.label, each.error) for each in integers.layers),
        tuple(FloatReport(skip.name, skip.reason) for skip in integers.left),
        dict(measured.variants),
    )


def _importance(importance: Importance) -> ImportanceReport | None:
    if not importance.trials:
        return None
    return ImportanceReport(
        exponent=importance.exponent,
        weights={name: round(weight, 6) for name, weight in importance.weights.items()},
        # A rehearsal that ruined the outputs has no error that JSON could hold.
        rehearsals={
            f"{exponent:g}": error if math.isfinite(error) else None for exponent, error in importance.trials.items()
        },
    )


def _widths(prepared: Prepared) -> tuple[WidthReport, ...]:
    chosen = {width.name: width.width for width in prepared.planned.plan.widths}
    names = {site.output: site.name for site in prepared.original.sites}
    names |= {layer.output: layer.name for layer in prepared.original.dense}

    def width(one: WidthSet) -> WidthReport:
        count = one.channels.count
        after = chosen.get(one.name, count)
        readers = tuple(dict.fromkeys(names[reader.output] for reader in one.channels.readers))
        return WidthReport(one.name, count, after, readers, one.curve.error(after))

    return tuple(width(one) for one in prepared.widths.sets)


def _preprocessed(prepared: Prepared) -> bool:
    """Whether the preset made any samples; arrays are taken as they are."""
    labelled = prepared.sampled.labelled
    made = any(each.preset is not None for each in prepared.fit.inputs.values())
    return made or (labelled is not None and isinstance(getattr(labelled[0], "whole", labelled[0]), ImageSource))


def _requested(run: Run) -> float | None:
    return None if run.request.plan or run.options.keep else run.options.speedup


def _macs(prepared: Prepared) -> MacsReport:
    narrow, wide, planned = prepared.counted, prepared.original.macs, prepared.planned.macs
    saved = {site.output: narrow.shapes[site.name].macs - planned[site.name] for site in narrow.sites}

    def after(macs: dict[str, int]) -> int:
        return sum(macs.values()) - sum(saved.get(output, 0) for output in macs)

    parts = ((wide.all, narrow.macs.all), (wide.conv, narrow.macs.conv), (wide.dense, narrow.macs.dense))
    return MacsReport(*(number for before, now in parts for number in (sum(before.values()), after(now))))


def _cost(run: Run, prepared: Prepared, walked: Walked) -> CostReport:
    sampling, macs = prepared.sampled.sampling, sum(prepared.original.macs.all.values())
    # The count runs the smallest batch. The profile runs all samples, unless the weights alone are looked at.
    samples = float(sampling.amounts().sum())
    profiled = samples if run.options.solver != "weights" else 0
    executed = macs * (len(sampling.single) + profiled) + walked.macs_executed
    return CostReport(
        seconds=run.times.rounded(),
        forward_passes=executed / (samples * macs),
        peak_rss_bytes=peak_rss_bytes(),
        images=len(sampling.source),
        rows_per_site=max((solution.rows for solution in walked.solutions.values()), default=0),
    )


def _skipped(prepared: Prepared) -> tuple[SkippedReport, ...]:
    return tuple(SkippedReport(skip.name, skip.reason) for skip in prepared.counted.skipped)


def _sites(run: Run, prepared: Prepared, solutions: dict[str, Solution]) -> tuple[SiteReport, ...]:
    return tuple(_site(run, prepared, site, solutions.get(site.name)) for site in prepared.original.sites)


def _site(run: Run, prepared: Prepared, site: ConvSite, solution: Solution | None) -> SiteReport:
    planned = prepared.planned
    choice = planned.plan[site.name]
    times = planned.by_clock.milliseconds[site.name] if planned.by_clock else None
    outcome = solution.outcome if solution else None
    d, c, *sizes = site.kernel.shape
    return SiteReport(
        name=site.name,
        form=choice.form,
        kernel=tuple(sizes),
        channels=(c * site.group, d),
        ranks=dict(zip(run.forms[choice.form].rank_names, choice.ranks, strict=True)) if choice.form else {},
        macs_before=prepared.original.shapes[site.name].macs,
        macs_after=planned.macs[site.name],
        activation=site.activation.name if site.activation else None,
        shortcut=site.join.shortcut if site.join else None,
        error_linear=outcome.error_linear if outcome else None,
        error_nonlinear=outcome.error_nonlinear if outcome else None,
        kept=choice.form is None and solution is None,
        reason=_description(solution) if choice.form or solution else _why_kept(run, prepared, site),
        group=site.group,
        ms_before=round(times[0], 4) if times else None,
        ms_after=round(times[1], 4) if times else None,
        transposed=site.transposition is not None,
        shares_weight_with=tuple(name for name in prepared.counted.family_of(site.name).names if name != site.name),
    )


def _why_kept(run: Run, prepared: Prepared, site: ConvSite) -> str:
    by_clock, family = prepared.planned.by_clock, prepared.counted.family_of(site.name)
    return why_left_alone(
        prepared.counted.shapes_of(family),
        run.kinds,
        prepared.reach.multiple,
        given=_why_given(run),
        slower=by_clock is not None and not by_clock.clocked.shared_costs(family.names).gains,
    )


def _why_given(run: Run) -> str | None:
    """Return why no plan was sought; None where one was."""
    if run.request.plan is not None:
        return "left alone by the given plan"
    return "rounded, and otherwise left alone" if run.rounds_alone else None


def _description(solution: Solution | None) -> str:
    if solution is None:
        return "planned"
    description = solution.outcome.description if solution.outcome else "from the weights alone"
    if not solution.factorised:
        description = f"reads fewer channels and is fitted again: {description}"
    others = len(solution.names) - 1
    return f"{description}; factors shared with {others} other{'s' if others > 1 else ''}" if others else description


def _refitted(refitted: Refitted) -> RefittedReport:
    fit = refitted.fit
    return RefittedReport(
        name=refitted.name,
        error_before=fit.error_before if fit else None,
        error_after=fit.error_after if fit else None,
        ridge=fit.ridge if fit and fit.ridge is not None and math.isfinite(fit.ridge) else None,
        kept=refitted.kept,
        reason=refitted.reason,
    )


def _refined(refined: RefinedStretch) -> RefinedReport:
    found = refined.refinement
    return RefinedReport(
        outputs=refined.stretch.outputs,
        layers=refined.stretch.layers,
        error_before=found.error_before if found else None,
        error_after=found.error_after if found else None,
        steps=found.steps if found else 0,
        seconds=round(refined.seconds, 3),
        kept=not refined.weights,
        reason=refined.reason,
    )
