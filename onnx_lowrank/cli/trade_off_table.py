"""The table of the models that were solved with ``--keep`` or ``--curve``."""

from rich.table import Table

from onnx_lowrank.cli.tables import NONE, empty_table, percent
from onnx_lowrank.quality import AGREEMENT, MEASURES
from onnx_lowrank.report.trade_off_schema import KeptReport, TradeOffReport
from onnx_lowrank.stages.kept import in_words


def trade_off_table(report: TradeOffReport) -> Table:
    """List what every speedup costs, on samples that no solver saw."""
    by_clock = any(point.latency is not None for point in report.points)
    judged = any(point.value is not None for point in report.points)
    clock = ("planned\nby the clock",) if by_clock else ()
    kept = (f"{report.measure}\nexpected", "95 %\nsure") if judged else ()
    table = empty_table(
        f"What a speedup costs, on {report.samples} samples that no solver saw",
        *("asked", "MACs", *clock, "centred error", "top-1 agreement", *kept, ""),
        text=("",),
    )
    for point in report.points:
        error = NONE if point.centred_error is None else f"{point.centred_error:.3g}"
        times = (NONE if point.latency is None else f"{point.latency:.2f}×",) if by_clock else ()
        asked = tuple(_value(report.measure, each) for each in (point.value, point.bound)) if judged else ()
        marks = ["the result"] if point.chosen else []
        if point.keeps is not None:
            marks.append("keeps it" if point.keeps else "does not keep it")
        row = (f"{point.speedup:.4g}×", f"{point.macs:.2f}×", *times, error, percent(point.top1_agreement), *asked)
        table.add_row(*row, ", ".join(marks), style="bold" if point.chosen else "")
    return table


def kept_summary(kept: KeptReport) -> str:
    """Say in a few words what the result keeps on samples that took no part."""
    return f"--keep {kept.measure}={kept.limit:g}: {in_words(kept)}" if kept.value is not None else ""


def _value(measure: str | None, value: float | None) -> str:
    if value is None:
        return NONE
    if measure is None or measure == AGREEMENT:
        return f"{100 * value:.2f} %"
    return MEASURES[measure].shown(value)
