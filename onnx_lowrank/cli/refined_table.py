"""The line on layers that were refined together."""

import math
from collections.abc import Sequence

from rich.table import Table

from onnx_lowrank.cli.tables import duration, empty_table
from onnx_lowrank.report.refined_schema import RefinedReport


def refined_table(stretches: Sequence[RefinedReport]) -> Table:
    """Sum up the refinement of neighbouring layers in one line."""
    table = empty_table(
        "Neighbouring layers refined together",
        *("stretches", "refined", "error of what they deliver", "time"),
        text=("error of what they deliver",),
    )
    tried = [stretch for stretch in stretches if stretch.error_before is not None]
    if tried:
        before, after = (_mean([error or 0.0 for error in errors]) for errors in zip(*map(_errors, tried), strict=True))
        refined = sum(not stretch.kept for stretch in stretches)
        time = duration(sum(stretch.seconds for stretch in stretches))
        table.add_row(str(len(stretches)), str(refined), f"{before:.3g} → {after:.3g} (geometric mean)", time)
    return table


def _errors(stretch: RefinedReport) -> tuple[float | None, float | None]:
    return stretch.error_before, stretch.error_after


def _mean(errors: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(math.log(max(error, 1e-30)) for error in errors) / len(errors))
