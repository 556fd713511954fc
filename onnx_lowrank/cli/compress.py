"""The command ``onnx-lowrank``: it runs the pipeline and turns the result into tables, files and an exit code."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from onnx_lowrank.cli import process
from onnx_lowrank.cli import tables as draw
from onnx_lowrank.cli.arguments import CommandLine, arguments
from onnx_lowrank.cli.compress_parser import PROGRAM, SHORT_USAGE
from onnx_lowrank.cli.integers_table import alternatives_table, integers_table
from onnx_lowrank.cli.progress_bars import ProgressBars
from onnx_lowrank.cli.refined_table import refined_table
from onnx_lowrank.cli.task_tables import labelled_measure, labelled_table, main_measure, tasks_table
from onnx_lowrank.cli.trade_off_table import kept_summary, trade_off_table
from onnx_lowrank.errors import DataError, QualityError, UsageError
from onnx_lowrank.files import write_text
from onnx_lowrank.graph.files.load import weights_files
from onnx_lowrank.graph.files.save import check_writable, data_file
from onnx_lowrank.pipeline import Result, compress, measure_only, plan_only
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Listener, silent
from onnx_lowrank.report.latency_schema import MeasuredReport
from onnx_lowrank.report.output_schema import farthest, least_agreeing
from onnx_lowrank.report.plan_schema import PlanReport
from onnx_lowrank.report.schema import FileReport, Report
from onnx_lowrank.stages.request import Request

COMMAND = process.Command(PROGRAM, SHORT_USAGE, "lower --memory or --images")


@dataclass(frozen=True)
class Pipeline:
    """The functions of ``onnx_lowrank.pipeline`` that the command calls; a caller may put others in their place."""

    compress: Callable[[Request, Listener], Result]
    plan_only: Callable[[Request, Listener], PlanReport]
    measure_only: Callable[[Request, Listener], MeasuredReport]


PIPELINE = Pipeline(compress, plan_only, measure_only)

Printout = tuple[list[Table], str]
"""The tables that a run prints, and the beginning of its last line."""


def main(argv: Sequence[str] | None = None, pipeline: Pipeline = PIPELINE) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        The arguments; None stands for those of the process.
    pipeline
        The functions that do the work.
    """
    return process.run(COMMAND, lambda words: _run(arguments(words), pipeline), argv)


def console() -> None:
    """Run the command as a process."""
    process.leave(main())


def _run(line: CommandLine, pipeline: Pipeline) -> None:
    started = time.monotonic()
    _check_files(line)
    with ProgressBars(COMMAND.say) as bars:
        listener = Listener(silent if line.quiet else bars, COMMAND.warn)
        if line.measure_latency:
            tables, done = _measure(line, pipeline, listener)
        elif line.out is None:
            tables, done = _dry_run(line, pipeline, listener)
        else:
            tables, done = _compress(line, line.out, pipeline, listener)
    if not line.quiet:
        process.print_tables(tables, f"{done}, {draw.duration(time.monotonic() - started)}")


def _compress(line: CommandLine, out: Path, pipeline: Pipeline, listener: Listener) -> Printout:
    request = replace(line.request, plan=_read_plan(line.plan)) if line.plan else line.request
    try:
        result = pipeline.compress(request, listener)
    except QualityError as refusal:
        if line.report and isinstance(refusal.report, Report):
            write_text(line.report, refusal.report.to_json())
        raise
    result.save(out, external_data=True if line.external_data else None)
    report = _with_output(result.report, out)
    if line.report:
        write_text(line.report, report.to_json())
    tables = [
        *_fit_tables(report),
        draw.costs_table(report.macs, report, report.latency_plan),
        draw.outputs_table(report.outputs),
        *_width_tables(report),
        *_task_tables(report),
        *_trade_off_tables(report),
        *_integer_tables(report),
        draw.sites_table(report.sites),
        draw.refitted_table(report.refitted),
        refined_table(report.refined),
        draw.skipped_table(report.skipped, _layers(line)),
    ]
    return tables, f"wrote {out}: {_summary(report)}"


def _integer_tables(report: Report) -> list[Table]:
    integers, latency = report.integers, report.speedup.latency
    if integers is None:
        return []
    times = [alternatives_table(integers, latency)] if integers.alternatives and latency else []
    return [*times, integers_table(integers)]


def _dry_run(line: CommandLine, pipeline: Pipeline, listener: Listener) -> Printout:
    planned = pipeline.plan_only(line.request, listener)
    if line.plan:
        write_text(line.plan, planned.plan.to_json())
    tables = [
        *_fit_tables(planned),
        draw.costs_table(planned.macs, None, planned.latency_plan),
        *_width_tables(planned),
        *_trade_off_tables(planned),
        draw.sites_table(planned.sites),
        draw.skipped_table(planned.skipped, _layers(line)),
    ]
    done = f"wrote the plan {line.plan}" if line.plan else "dry run"
    by_clock = planned.latency_plan
    clock = f", {by_clock.predicted_ratio:.2f}× faster by the clock" if by_clock else ""
    return tables, f"{done}: {_fewer_macs(planned)}{clock}"


def _fit_tables(report: Report | PlanReport) -> list[Table]:
    """Return the tables of what the network was fed."""
    if report.fit is None:
        return []
    compared = [draw.presets_table(report.fit)] if report.fit.presets else []
    return [draw.inputs_table(report.fit), *compared]


def _width_tables(report: Report | PlanReport) -> list[Table]:
    """Return the table of the channels that became fewer, if any did."""
    return [draw.widths_table(report.widths)] if any(one.after < one.before for one in report.widths) else []


def _task_tables(report: Report) -> list[Table]:
    """Return the tables of what the outputs are for, as far as that was measured."""
    tables = [tasks_table(report.tasks)] if report.tasks else []
    return [*tables, labelled_table(report.labelled)] if report.labelled else tables


def _trade_off_tables(report: Report | PlanReport) -> list[Table]:
    """Return the table of the models that were solved."""
    return [trade_off_table(report.trade_off)] if report.trade_off else []


def _measure(line: CommandLine, pipeline: Pipeline, listener: Listener) -> Printout:
    measured = pipeline.measure_only(line.request, listener)
    done = f"{measured.measurements} new measurements in {line.options.latency_table}: {measured.setting}"
    return [draw.measured_table(measured)], done


def _check_files(line: CommandLine) -> None:
    """Refuse to overwrite a file that is read, and outputs that cannot be written, before any work is done."""
    read = {"IN": line.model, "--data": line.data, "--test": line.test}
    table = line.options.latency_table
    written = {"OUT": line.out, "--report": line.report, "--latency-table": Path(table) if table else None}
    (written if line.dry_run else read)["--plan"] = line.plan
    others = {name: path for name, path in (read | written).items() if path}
    for name, path in written.items():
        others.pop(name, None)
        for other, other_path in others.items():
            if path and _same(path, other_path):
                raise UsageError(f"{other} and {name} are the same file, {path}: choose another name for {name}")
        if path:
            check_writable(path)
    places = [(name, path) for name, path in written.items() if path]
    places += [("OUT's weights", data_file(path)) for name, path in places if name == "OUT"]
    # Most runs replace nothing, and need not read a large model twice to find its weights.
    existing = [(name, path) for name, path in places if path.exists()]
    weights = weights_files(line.model) if existing else ()
    for name, path in existing:
        if any(_same(path, other) for other in weights):
            raise UsageError(f"{name} would replace {path}, which holds weights of IN: choose another name")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # at least one does not exist
        return os.path.realpath(one) == os.path.realpath(other)


def _read_plan(path: Path) -> Plan:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read the plan {path}: {error.strerror}") from error
    return Plan.from_json(text, str(path))


def _with_output(report: Report, out: Path) -> Report:
    """Return the report with the path and the hash of the file that was written."""
    assert report.output is not None  # only a refusal has none
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(report, output=FileReport(str(out), digest, report.output.bytes))


def _summary(report: Report) -> str:
    parts = [_fewer_macs(report)]
    if report.latency_plan and report.speedup.latency:
        parts.insert(0, f"{report.speedup.latency.ratio:.2f}× faster by the clock")
    if name := farthest(report.outputs):
        parts.append(f"{report.verdict} with a centred error of {draw.centred(report.outputs[name])}")
    if name := least_agreeing(report.outputs):
        parts.append(f"top-1 agreement {draw.agreement(report.outputs[name])}")
    parts += [f"{name} {value}" for name, value in map(main_measure, report.tasks)]
    if report.labelled:
        parts.append("on labelled samples {} {} → {}".format(*labelled_measure(report.labelled)))
    if report.accuracy:
        parts.append(f"top-1 accuracy {draw.percent(report.accuracy.before)} → {draw.percent(report.accuracy.after)}")
    if report.trade_off and report.trade_off.kept:
        parts.append(kept_summary(report.trade_off.kept))
    return ", ".join(filter(None, parts))


def _fewer_macs(report: Report | PlanReport) -> str:
    counted = "conv and fully connected MACs" if report.macs.gemm_before else "conv MACs"
    return f"{report.speedup.macs:.2f}× fewer {counted}"


def _layers(line: CommandLine) -> str:
    return "layers" if line.options.include_gemm else "convolutions"
