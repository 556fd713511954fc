"""The command ``onnx-lowrank``: runs the pipeline; what happened becomes tables, lines and an exit code.

The only file that prints. Tables go to standard output; warnings, progress and errors to standard error.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from onnx_lowrank import console as draw
from onnx_lowrank import pipeline
from onnx_lowrank.arguments import PROGRAM, arguments
from onnx_lowrank.errors import DataError, EnvironmentFault, LowRankError, UsageError
from onnx_lowrank.graph.load import weights_files
from onnx_lowrank.graph.save import check_writable, data_file
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import silent
from onnx_lowrank.report import FileReport, Report


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that temporary files are removed on the way out."""


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


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    scratch = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _print(text: str) -> None:
    """Print to standard output; a reader that has gone away (``| head``) has seen enough."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # What is left in the buffer would fail again when Python exits.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise EnvironmentFault(f"cannot print: {error.strerror}") from error


def _say(text: str) -> None:
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(f"{PROGRAM}: {draw.one_line(text)}", file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _written(report: Report, out: Path) -> Report:
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(report, output=FileReport(str(out), digest, report.output.bytes))


def _summary(report: Report) -> str:
    parts = [f"{report.speedup.macs:.2f}× fewer conv MACs"]
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


def _dry_run(args: argparse.Namespace, work: dict[str, Any]) -> tuple[list[Table], str]:
    planned = pipeline.plan_only(args.model, args.data, **work)
    if args.plan:
        _write(args.plan, planned.plan.to_json())
    tables = [
        draw.costs_table(planned.macs, None, planned.latency_plan),
        draw.sites_table(planned.sites),
        draw.skipped_table(planned.skipped),
    ]
    done = f"wrote the plan {args.plan}" if args.plan else "dry run"
    by_clock = planned.latency_plan
    clock = f", {by_clock.predicted_ratio:.2f}× faster by the clock" if by_clock else ""
    return tables, f"{done}: {planned.speedup.macs:.2f}× fewer conv MACs{clock}"


def _compress(args: argparse.Namespace, work: dict[str, Any]) -> tuple[list[Table], str]:
    plan = None
    if args.plan:
        try:
            text = args.plan.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"cannot read the plan {args.plan}: {error.strerror}") from error
        plan = Plan.from_json(text, str(args.plan))
    result = pipeline.compress(args.model, args.data, plan=plan, test=args.test, **work)
    result.save(args.out, external_data=True if args.save_as_external_data else None)
    report = _written(result.report, args.out)
    if args.report:
        _write(args.report, report.to_json())
    tables = [
        draw.costs_table(report.macs, report, report.latency_plan),
        draw.outputs_table(report.outputs),
        draw.sites_table(report.sites),
        draw.refitted_table(report.refitted),
        draw.skipped_table(report.skipped),
    ]
    return tables, f"wrote {args.out}: {_summary(report)}"


def _measure(args: argparse.Namespace, work: dict[str, Any]) -> tuple[list[Table], str]:
    measured = pipeline.measure_only(args.model, args.data, **work)
    done = f"{measured.measurements} new measurements in {args.latency_table}: {measured.setting}"
    return [draw.measured_table(measured)], done


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace, dict[str, Any]], tuple[list[Table], str]]:
    if args.measure_latency:
        return _measure
    return _dry_run if args.dry_run else _compress


def _run(args: argparse.Namespace, options: Options) -> None:
    started = time.monotonic()
    _check_files(args)
    with draw.Stages(_say) as stages:
        progress = silent if args.quiet else stages
        work = {"options": options, "preprocess": args.preprocess, "progress": progress, "warn": _warn}
        tables, done = _command(args)(args, work)
    if sys.stdout is not None and not args.quiet:
        text = draw.render([table for table in tables if table.row_count], sys.stdout)
        _print(f"{text}{draw.one_line(done)}, {draw.duration(time.monotonic() - started)}\n")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _classify(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an error and the line that says it."""
    match error:
        case LowRankError():
            return error.exit_code, f"error: {error}"
        case KeyboardInterrupt():
            return 130, "interrupted"
        case Terminated():
            return 143, "terminated"
        case MemoryError():
            return EnvironmentFault.exit_code, "error: memory ran out: lower --memory or --images"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return EnvironmentFault.exit_code, f"error: no room for temporary files (TMPDIR moves them): {error}"
    return 1, f"internal error: {type(error).__name__}: {error} (this is a bug; run with --traceback and report it)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        The arguments; those of the process by default.
    """
    args = None
    try:
        with _terminable():
            args, options = arguments(argv)
            _run(args, options)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if args and args.traceback:
            traceback.print_exception(error)
        code, text = _classify(error)
        _say(text)
        return code
    return 0


def console() -> None:
    """Run the command as a process."""
    code = main()
    with contextlib.suppress(EnvironmentFault):
        _print("")  # what argparse printed may still wait in the buffer
    sys.exit(code)
