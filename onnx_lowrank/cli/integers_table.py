"""The table on a network in integers."""

from rich.table import Table

from onnx_lowrank.cli.tables import NONE, empty_table, one_line, speed
from onnx_lowrank.report.integers_schema import IntegersReport
from onnx_lowrank.report.latency_schema import Latency


def integers_table(integers: IntegersReport) -> Table:
    """List the layers in integers with their errors, and those that stay in floating point with the reasons."""
    rounded, others = len(integers.layers), len(integers.left)
    table = empty_table(
        f"Integers: {rounded} of {rounded + others} layers, {integers.weight_bits}-bit weights",
        *("layer", "error", "what happened"),
        text=("layer", "what happened"),
    )
    for layer in integers.layers:
        error = NONE if layer.error is None else f"{layer.error:.3g}"
        table.add_row(one_line(layer.name), error, "rounded")
    for left in integers.left:
        table.add_row(one_line(left.name), NONE, f"in floating point: {one_line(left.reason)}", style="dim")
    return table


def alternatives_table(integers: IntegersReport, result: Latency) -> Table:
    """Compare the times of the result with those of low rank alone and of integers alone."""
    table = empty_table("By the clock", "", "ms", "against the original", text=("", "against the original"))
    table.add_row("the original", f"{result.before_ms:.3g}", NONE)
    for name, latency in {**integers.alternatives, "low rank and int8": result}.items():
        table.add_row(name, f"{latency.after_ms:.3g}", speed(latency.ratio, latency.ratio_low, latency.ratio_high))
    return table
