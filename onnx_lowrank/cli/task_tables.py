"""The tables of what the outputs are for, with and without labels."""

from collections.abc import Callable

from rich.table import Table

from onnx_lowrank.cli.tables import NONE, empty_table, one_line
from onnx_lowrank.quality import MEASURES
from onnx_lowrank.report.task_schema import LabelledReport, MeasureReport, TaskReport

DETAILS: dict[str, Callable[[float], str]] = {
    "true_boxes": lambda value: f"{value:.0f} {'box' if value == 1 else 'boxes'} of the original",
    "peak": "peak {:.4g}".format,
    "classes": lambda value: f"{value:.0f} {'class' if value == 1 else 'classes'}",
    "lowest": "lowest {:.3f}".format,
}
"""How the details of a task are written."""


def tasks_table(tasks: tuple[TaskReport, ...]) -> Table:
    """List how well the result does what the outputs are for."""
    table = empty_table(
        "What the outputs are for: the original's answers are the truth",
        *("task", "outputs", "measure", "value", "samples", ""),
        text=("task", "outputs", ""),
    )
    for report in tasks:
        task = f"{report.task}, {report.kind}" if report.kind else report.task
        details = ", ".join(DETAILS[name](value) for name, value in report.details.items() if name in DETAILS)
        for name, value in report.measures.items():
            outputs = one_line(", ".join(report.outputs))
            table.add_row(task, outputs, MEASURES[name].title, measured(name, value), str(report.samples), details)
    return table


def labelled_table(report: LabelledReport) -> Table:
    """Compare both models on labelled samples."""
    table = empty_table(
        f"{report.task.capitalize()} on {report.samples} labelled samples",
        *("measure", "original", "result"),
        text=("measure",),
    )
    for name, before in report.before.items():
        table.add_row(MEASURES[name].title, measured(name, before), measured(name, report.after.get(name)))
    return table


def main_measure(report: TaskReport) -> tuple[str, str]:
    """Return the name and the value of the first measure of a task."""
    name, value = next(iter(report.measures.items()))
    return MEASURES[name].title, measured(name, value)


def labelled_measure(report: LabelledReport) -> tuple[str, str, str]:
    """Return the name of the first measure, and its values before and after, without intervals."""
    name, before = next(iter(report.before.items()))
    after, measure = report.after.get(name), MEASURES[name]
    return measure.title, measure.shown(before.value), measure.shown(after.value) if after else NONE


def measured(name: str, value: MeasureReport | None) -> str:
    """Format the value of a measure with its confidence interval, for example 0.934 (0.901 to 0.958)."""
    return NONE if value is None else MEASURES[name].shown_within(value.value, value.low, value.high)
