"""From what the stopwatch has measured to the report's plain data."""

from onnx_lowrank.latency.by_clock import LatencyPlan
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.table import ORIGINAL
from onnx_lowrank.report.latency_schema import LatencyPlanReport, MeasuredLayer, MeasuredReport


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
        # Relative to the original's time in the same rounds, which may differ from when the layers were measured.
        from_layers_ms=round(found.from_layers_ms * before / plan.clocked.original_ms, 4),
        trial_ms=round(after, 4) if found.measured else None,
        trial_ratio=round(ratio, 4) if found.measured else None,
        predicted_ms=round(after, 4),
        predicted_ratio=round(ratio, 4),
        correction=round(found.correction, 4),
        rounds=found.rounds,
        measurements=plan.clocked.stopwatch.measurements,
    )


def measured_report(clocked: Clocked) -> MeasuredReport:
    """What the latency table knows of a model."""
    layers = []
    for name, geometry in clocked.deployment.geometries.items():
        times = clocked.costs(name).times
        form, ranks = min(times, key=lambda choice: times[choice])
        fastest = f"{form} {', '.join(map(str, ranks))}" if form else "as it is"
        layers.append(MeasuredLayer(name, str(geometry), times[ORIGINAL], fastest, times[form, ranks], len(times)))
    setting, stopwatch = clocked.stopwatch.setting, clocked.stopwatch
    return MeasuredReport(
        setting.device, str(setting), clocked.multiple, clocked.original_ms, tuple(layers), stopwatch.measurements
    )
