"""The plain data of the report about times that were measured with the stopwatch."""

from onnx_lowrank.latency.by_clock import LatencyPlan
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.table import ORIGINAL
from onnx_lowrank.report.latency_schema import LatencyPlanReport, MeasuredLayer, MeasuredReport


def latency_plan(plan: LatencyPlan) -> LatencyPlanReport:
    """Return the report of the search behind a plan by the clock."""
    result, trial, setting = plan.found, plan.found.measured, plan.clocked.stopwatch.setting
    before = trial.before_ms if trial else plan.clocked.original_ms
    after = trial.after_ms if trial else result.predicted_ms
    ratio = trial.ratio if trial else before / after
    return LatencyPlanReport(
        device=setting.device,
        onnxruntime=setting.onnxruntime,
        threads=setting.threads,
        batch=setting.batch,
        before_ms=round(before, 4),
        # The original may have taken another time in the trial than when the layers were measured.
        from_layers_ms=round(result.from_layers_ms * before / plan.clocked.original_ms, 4),
        trial_ms=round(after, 4) if trial else None,
        trial_ratio=round(ratio, 4) if trial else None,
        predicted_ms=round(after, 4),
        predicted_ratio=round(ratio, 4),
        correction=round(result.correction, 4),
        rounds=result.rounds,
        measurements=plan.clocked.stopwatch.measurements,
    )


def measured_report(clocked: Clocked) -> MeasuredReport:
    """Return the report of the times that the latency table holds of a model."""
    layers = []
    for name, geometry in clocked.deployment.geometries.items():
        times = clocked.costs(name).times
        form, ranks = min(times, key=lambda choice: times[choice])
        fastest = f"{form} {', '.join(map(str, ranks))}" if form else "as it is"
        layers.append(MeasuredLayer(name, str(geometry), times[ORIGINAL], fastest, times[form, ranks], len(times)))
    setting, stopwatch = clocked.stopwatch.setting, clocked.stopwatch
    return MeasuredReport(
        setting.device,
        str(setting),
        clocked.multiple.narrowest,
        clocked.original_ms,
        tuple(layers),
        stopwatch.measurements,
    )
