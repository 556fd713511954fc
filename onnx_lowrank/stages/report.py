"""From what a run holds to the report's plain data."""

import math
from dataclasses import asdict

from onnx_lowrank._version import __version__
from onnx_lowrank.graph.files.external import fingerprint
from onnx_lowrank.graph.files.load import parameters
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.latency.by_clock import LatencyPlan
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.table import ORIGINAL
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import SitePlan
from onnx_lowrank.report.latency_schema import Latency, LatencyPlanReport, MeasuredLayer, MeasuredReport
from onnx_lowrank.report.schema import (
    SCHEMA,
    CostReport,
    FileReport,
    MacsReport,
    PlanReport,
    RefittedReport,
    Report,
    SiteReport,
    SkippedReport,
    SpeedupReport,
)
from onnx_lowrank.stages.plan import conv_shapes, why_left_alone
from onnx_lowrank.stages.refit import Refitted
from onnx_lowrank.stages.resources import peak_rss_bytes
from onnx_lowrank.stages.run import Checked, Prepared
from onnx_lowrank.stages.walk import Solution


def plan_report(run: Prepared, options: Options) -> PlanReport:
    """The plan and what it will cost, before anything is solved."""
    macs = _macs(run)
    speedup = _speedup(run, options, None)
    by_clock = latency_plan(run.by_clock) if run.by_clock else None
    return PlanReport(_sites(run, options, {}), _skipped(run), macs, speedup, run.plan, run.multiple, by_clock)


def report(run: Prepared, options: Options, measured: Checked) -> Report:
    """Everything about a finished run."""
    original = run.loaded
    macs = _macs(run)
    sampling = run.sampling
    # The profile runs the original once over the samples (not for the weights' solver); the walk reports its own.
    profiled = sampling.samples if options.solver != "weights" else 0
    executed = sum(run.macs.all.values()) * (profiled + len(sampling.batches[0])) + measured.walked.macs_executed
    return Report(
        schema=SCHEMA,
        tool={"name": "onnx-lowrank", "version": __version__},
        input=FileReport(str(original.path) if original.path else None, original.sha256, original.bytes),
        output=FileReport(None, *fingerprint(measured.model)),
        options=asdict(options) | asdict(run.given),
        data={
            "description": sampling.source.description,
            "synthetic": sampling.source.synthetic,
            "calibration": sampling.samples,
            "validation": sum(map(len, sampling.validation)),
        },
        provider=measured.provider,
        seed=options.seed,
        macs=macs,
        speedup=_speedup(run, options, measured.latency),
        parameters=(parameters(original.proto), parameters(measured.model)),
        outputs=measured.outputs,
        sites=_sites(run, options, measured.walked.solutions),
        skipped=_skipped(run),
        refitted=tuple(map(_refitted, measured.walked.refitted)),
        accuracy=measured.accuracy,
        cost=CostReport(
            seconds=run.clock.total(),
            forward_passes=executed / (sampling.samples * sum(run.macs.all.values())),
            peak_rss_bytes=peak_rss_bytes(),
            images=len(sampling.source),
            rows_per_site=max((s.rows for s in measured.walked.solutions.values()), default=0),
        ),
        warnings=measured.warnings,
        rank_multiple=run.multiple,
        latency_plan=latency_plan(run.by_clock) if run.by_clock else None,
    )


def latency_plan(plan: LatencyPlan) -> LatencyPlanReport:
    """How a plan by the clock came about."""
    found, setting = plan.found, plan.clocked.stopwatch.setting
    before = found.measured.before_ms if found.measured else plan.clocked.original_ms
    after = found.measured.after_ms if found.measured else found.predicted_ms
    ratio = found.measured.ratio if found.measured else before / after
    return LatencyPlanReport(
        device=setting.device,
        onnxruntime=setting.onnxruntime,
        threads=setting.threads,
        batch=setting.batch,
        before_ms=round(before, 4),
        # From the original's time in the same rounds: it may have been another when the layers were measured.
        from_layers_ms=round(found.from_layers_ms * before / plan.clocked.original_ms, 4),
        trial_ms=round(after, 4) if found.measured else None,
        trial_ratio=round(ratio, 4) if found.measured else None,
        predicted_ms=round(after, 4),
        predicted_ratio=round(ratio, 4),
        correction=round(found.correction, 4),
        rounds=found.rounds,
        measurements=plan.clocked.stopwatch.measured,
    )


def measured_report(clocked: Clocked) -> MeasuredReport:
    """What the latency table knows of a model."""
    layers = []
    for name, geometry in clocked.geometries.items():
        times = clocked.costs(name).times
        form, ranks = min(times, key=lambda choice: times[choice])
        fastest = f"{form} {', '.join(map(str, ranks))}" if form else "as it is"
        layers.append(MeasuredLayer(name, str(geometry), times[ORIGINAL], fastest, times[form, ranks], len(times)))
    setting, stopwatch = clocked.stopwatch.setting, clocked.stopwatch
    return MeasuredReport(
        setting.device, str(setting), clocked.multiple, clocked.original_ms, tuple(layers), stopwatch.measured
    )


def _macs(run: Prepared) -> MacsReport:
    saved = {s.output: run.costs[s.name][0] - run.costs[s.name][1] for s in run.sites}
    before = [sum(counted.values()) for counted in (run.macs.all, run.macs.conv, run.macs.dense)]
    conv, gemm = (sum(saved.get(name, 0) for name in counted) for counted in (run.macs.conv, run.macs.dense))
    total, convs, gemms = before
    return MacsReport(total, total - conv - gemm, convs, convs - conv, gemms, gemms - gemm)


def _speedup(run: Prepared, options: Options, latency: Latency | None) -> SpeedupReport:
    return SpeedupReport(None if run.given.plan else options.speedup, _macs(run).speedup, latency)


def _skipped(run: Prepared) -> tuple[SkippedReport, ...]:
    return tuple(SkippedReport(skip.name, skip.reason) for skip in run.skipped)


def _sites(run: Prepared, options: Options, solutions: dict[str, Solution]) -> tuple[SiteReport, ...]:
    shapes = conv_shapes(run.sites, run.macs)
    clocked = run.by_clock.clocked if run.by_clock else None
    reasons = {
        name: why_left_alone(
            shape,
            run.kinds,
            run.multiple,
            given=run.given.plan,
            slower=clocked is not None and not clocked.costs(name).gains,
        )
        for name, shape in shapes.items()
    }
    times = run.by_clock.milliseconds if run.by_clock else {}
    return tuple(
        _site(run, site, choice, solutions.get(site.name), reasons[site.name], times.get(site.name))
        for site, choice in zip(run.sites, run.plan.sites, strict=True)
    )


def _site(
    run: Prepared,
    site: ConvSite,
    choice: SitePlan,
    solution: Solution | None,
    why_alone: str,
    times: tuple[float, float] | None,
) -> SiteReport:
    d, c, *sizes = site.kernel.shape
    costs = run.costs[site.name]
    outcome = solution.outcome if solution else None
    if choice.form is None:
        reason = why_alone
    elif solution is None:
        reason = "planned"
    elif outcome is None:
        reason = "from the weights alone"
    else:
        reason = outcome.description
    return SiteReport(
        name=site.name,
        form=choice.form,
        kernel=tuple(sizes),
        channels=(c * site.group, d),
        ranks=dict(zip(run.forms[choice.form].rank_names, choice.ranks, strict=True)) if choice.form else {},
        macs_before=costs[0],
        macs_after=costs[1],
        activation=site.activation.name if site.activation else None,
        shortcut=site.join.shortcut if site.join else None,
        error_linear=outcome.error_linear if outcome else None,
        error_nonlinear=outcome.error_nonlinear if outcome else None,
        kept=choice.form is None,
        reason=reason,
        group=site.group,
        ms_before=round(times[0], 4) if times else None,
        ms_after=round(times[1], 4) if times else None,
    )


def _refitted(layer: Refitted) -> RefittedReport:
    fit = layer.fit
    return RefittedReport(
        name=layer.name,
        error_before=fit.error_before if fit else None,
        error_after=fit.error_after if fit else None,
        ridge=fit.ridge if fit and fit.ridge is not None and math.isfinite(fit.ridge) else None,
        kept=layer.kept,
        reason=layer.reason,
    )
