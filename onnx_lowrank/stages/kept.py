"""The quality that was asked for, as samples that took no part in choosing show it of the result."""

from dataclasses import replace

from onnx_lowrank.quality import ACCURACY, AGREEMENT, MEASURES, Requirement
from onnx_lowrank.report.output_schema import farthest, least_agreeing
from onnx_lowrank.report.trade_off_schema import KeptReport, TradeOffReport
from onnx_lowrank.stages.intervals import lost_interval
from onnx_lowrank.stages.measure import Measured
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run


def trade_off(run: Run, prepared: Prepared, measured: Measured | None = None) -> TradeOffReport | None:
    """Return the models that were solved and the quality of the result; None where there was no choice.

    The user is warned where the result does not keep the quality on samples that took no part.
    """
    if prepared.trade_off is None:
        return None
    required = run.options.kept
    kept = _kept(required, measured) if required is not None and measured is not None else None
    if kept is not None and kept.holds is False and kept.value is not None:
        run.warn(
            f"--keep {required} holds on the samples that chose, and not on the others: {in_words(kept)}; ask for a "
            "little more, or give more samples"
        )
    return replace(prepared.trade_off, kept=kept)


def told(measure: str, value: float) -> str:
    """Return a value with its measure in words."""
    if measure == AGREEMENT:
        return f"an agreement of {100 * value:.2f} %"
    if measure == ACCURACY:
        return f"{value:.2f} points of accuracy lost"
    return f"{MEASURES[measure].title} {MEASURES[measure].shown(value)}"


def in_words(kept: KeptReport) -> str:
    """Return the value of a result that could be measured, with its interval."""
    assert kept.value is not None
    interval = ""
    if kept.low is not None and kept.high is not None:
        percent = 100 if kept.measure == AGREEMENT else 1
        interval = f" ({percent * kept.low:.3g} to {percent * kept.high:.3g})"
    return f"{told(kept.measure, kept.value)}{interval} on {kept.samples} samples that took no part"


def _kept(required: Requirement, measured: Measured) -> KeptReport:
    value: float | None = None
    low: float | None = None
    high: float | None = None
    samples = 0
    outputs, accuracy = measured.outputs, measured.accuracy
    if required.measure == ACCURACY:
        if accuracy is not None:
            samples, value = accuracy.samples, 100 * (accuracy.before - accuracy.after)
            low, high = lost_interval(accuracy.lost, accuracy.gained, accuracy.samples)
    elif required.of_a_task:
        found = [report for report in measured.tasks if required.measure in report.measures]
        if found:
            worst = min(found, key=lambda report: report.measures[required.measure].value)
            each, samples = worst.measures[required.measure], worst.samples
            value, low, high = each.value, each.low, each.high
    elif required.measure == AGREEMENT:
        if name := least_agreeing(outputs):
            output = outputs[name]
            samples, value, low, high = output.samples, output.top1_agreement, output.top1_low, output.top1_high
    elif name := farthest(outputs):
        output = outputs[name]
        samples, value, low, high = output.samples, output.centred_error, output.centred_low, output.centred_high
    holds = None if value is None else required.met_by(value)
    return KeptReport(required.measure, required.limit, value, low, high, samples, holds)
