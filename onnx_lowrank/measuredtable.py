"""What ``--measure-latency`` prints."""

from rich.table import Table

from onnx_lowrank.console import empty_table, one_line
from onnx_lowrank.report.schema import MeasuredReport


def measured_table(measured: MeasuredReport) -> Table:
    """List the layers' measured times."""
    table = empty_table(
        f"Measured milliseconds; the model takes {measured.model_ms:.3g}, the rank step is {measured.rank_multiple}",
        *("layer", "convolution", "as it is", "fastest", "form and ranks", "points"),
        words=("layer", "convolution", "form and ranks"),
    )
    for layer in measured.layers:
        times = (f"{layer.ms:.3g}", f"{layer.fastest_ms:.3g}")
        table.add_row(one_line(layer.name), layer.geometry, *times, layer.fastest, str(layer.points))
    return table
