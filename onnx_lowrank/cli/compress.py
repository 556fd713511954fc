"""The command ``onnx-lowrank``: runs the pipeline; what happened becomes tables, lines and an exit code."""

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from onnx_lowrank import pipeline
from onnx_lowrank.cli import process
from onnx_lowrank.cli import tables as draw
from onnx_lowrank.cli.arguments import PROGRAM, arguments
from onnx_lowrank.cli.progress_bars import Stages
from onnx_lowrank.cli.tables import measured_table
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.files import write_text
from onnx_lowrank.graph.files.load import weights_files
from onnx_lowrank.graph.files.save import check_writable, data_file
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Listener, silent
from onnx_lowrank.report.schema import FileReport, PlanReport, Report
from onnx_lowrank.stages.request import Request

_speaker = process.Speaker(PROGRAM)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # not both exist
        return os.path.realpath(one) == os.path.realpath(other)


def _check_files(args: argparse.Namespace) -> None:
    """Refuse to overwrite what is read, and outputs that cannot be written, before any work."""
    read = {"IN": args.model, "--data": args.data, "--test": args.test}
    written = {"OUT": None if args.dry_run else args.out, "--report": args.report}
    written["--latency-table"] = getattr(args, "latency_table", None) and Path(args.latency_table)
    (written if args.dry_run else read)["--plan"] = args.plan
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
    # Usually none of them is there, and a large model need not be read twice.
    existing = [(name, path) for name, path in places if path.exists()]
    weights = weights_files(args.model) if existing else ()
    for name, path in existing:
        if any(_same(path, other) for other in weights):
            raise UsageError(f"{name} would replace {path}, which holds weights of IN: choose another name")


def _written(report: Report, out: Path) -> Report:
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(report, output=FileReport(str(out), digest, report.output.bytes))


def _fewer(report: Report | PlanReport) -> str:
    which = "conv and fully connected MACs" if report.macs.gemm_before else "conv MACs"
    return f"{report.speedup.macs:.2f}× fewer {which}"


def _summary(report: Report) -> str:
    parts = [_fewer(report)]
    if report.latency_plan and report.speedup.latency:
        parts.insert(0, f"{report.speedup.latency.ratio:.2f}× faster by the clock")
    if report.outputs:
        parts.append(f"relative error {max(output.relative_error for output in report.outputs.values()):.3g}")
    agreements = [o.top1_agreement for o in report.outputs.values() if o.top1_agreement is not None]
    if agreements:
        parts.append(f"top-1 agreement {min(agreements):.1%}")
    if report.accuracy:
        parts.append(f"top-1 accuracy {report.accuracy.before:.1%} → {report.accuracy.after:.1%}")
    return ", ".join(parts)


def _layers(options: Options) -> str:
    return "layers" if options.include_gemm else "convolutions"


def _dry_run(args: argparse.Namespace, request: Request, listener: Listener) -> tuple[list[Table], str]:
    planned = pipeline.plan_only(request, listener)
    if args.plan:
        write_text(args.plan, planned.plan.to_json())
    tables = [
        draw.costs_table(planned.macs, None, planned.latency_plan),
        draw.sites_table(planned.sites),
        draw.skipped_table(planned.skipped, _layers(request.options)),
    ]
    done = f"wrote the plan {args.plan}" if args.plan else "dry run"
    by_clock = planned.latency_plan
    clock = f", {by_clock.predicted_ratio:.2f}× faster by the clock" if by_clock else ""
    return tables, f"{done}: {_fewer(planned)}{clock}"


def _compress(args: argparse.Namespace, request: Request, listener: Listener) -> tuple[list[Table], str]:
    if args.plan:
        try:
            text = args.plan.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"cannot read the plan {args.plan}: {error.strerror}") from error
        request = replace(request, plan=Plan.from_json(text, str(args.plan)))
    result = pipeline.compress(request, listener)
    result.save(args.out, external_data=True if args.save_as_external_data else None)
    report = _written(result.report, args.out)
    if args.report:
        write_text(args.report, report.to_json())
    tables = [
        draw.costs_table(report.macs, report, report.latency_plan),
        draw.outputs_table(report.outputs),
        draw.sites_table(report.sites),
        draw.refitted_table(report.refitted),
        draw.skipped_table(report.skipped, _layers(request.options)),
    ]
    return tables, f"wrote {args.out}: {_summary(report)}"


def _measure(args: argparse.Namespace, request: Request, listener: Listener) -> tuple[list[Table], str]:
    measured = pipeline.measure_only(request, listener)
    done = f"{measured.measurements} new measurements in {args.latency_table}: {measured.setting}"
    return [measured_table(measured)], done


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace, Request, Listener], tuple[list[Table], str]]:
    if args.measure_latency:
        return _measure
    return _dry_run if args.dry_run else _compress


def _run(args: argparse.Namespace, options: Options) -> None:
    started = time.monotonic()
    _check_files(args)
    with Stages(_speaker.say) as stages:
        progress = silent if args.quiet else stages
        request = Request(args.model, args.data, options, args.preprocess, test=args.test)
        tables, done = _command(args)(args, request, Listener(progress, _speaker.warn))
    if not args.quiet:
        process.print_tables(tables, f"{done}, {draw.duration(time.monotonic() - started)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        The arguments; those of the process by default.
    """
    traces = False

    def work() -> None:
        nonlocal traces
        args, options = arguments(argv)
        traces = args.traceback
        _run(args, options)

    return process.run(work, _speaker, "lower --memory or --images", lambda: traces)


def console() -> None:
    """Run the command as a process."""
    process.leave(main())
