"""The command ``onnx-lowrank``: arguments to options, and what happened to tables, lines and an exit code.

The only file that prints. Tables go to standard output; warnings, progress and errors to standard error.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from onnx_lowrank import console as draw
from onnx_lowrank import pipeline
from onnx_lowrank._version import __version__
from onnx_lowrank.calibration.preprocess import PRESETS, parse
from onnx_lowrank.errors import DataError, EnvironmentFault, LowRankError, UsageError
from onnx_lowrank.graph.save import check_writable
from onnx_lowrank.options import ALLOCATIONS, FORMS, SOLVERS, Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import silent
from onnx_lowrank.report import FileReport, Report

PROGRAM = "onnx-lowrank"

EPILOG = """\
exit codes:
  0    done
  1    an internal error, which is a bug
  2    the command line: options that have no meaning or contradict each other
  3    the model or the data cannot be read, or do not fit
  4    the speedup is out of reach
  5    the rewritten model broke a promise; nothing was written
  6    the machine: the output cannot be written, ONNX Runtime is broken, memory ran out
  130  interrupted (143 by SIGTERM); nothing was written

OUT appears only when it is whole and validated.
"""

DATA_HELP = "calibration samples without labels: a folder of photos, .npy or .npz (default: synthetic images)"
PREPROCESS_HELP = (
    f"how photos become inputs: a preset ({', '.join(PRESETS)}), and changes to it as in caffe,resize=none "
    "(default: %(default)s)"
)
TEST_HELP = "labelled samples for the accuracy before and after: an .npz, or a folder with a sub-folder for each class"

UNITS = {"": 1, "b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that temporary files are removed on the way out."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Refuse as every other error does: on one line."""
        raise UsageError(f"{message} (see {PROGRAM} --help)")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write for example 4GiB or 500MB")
    return round(float(match[1]) * UNITS[match[2]])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = _Parser(
        PROGRAM,
        description="Low-rank factorisation of the convolutions in an ONNX file: fewer multiply-accumulates (MACs), "
        "nearly the same answers, no labels and no training framework.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="IN", type=_path, help="the ONNX file to compress")
    parser.add_argument("out", metavar="OUT", type=_path, nargs="?", help="the ONNX file to write (not by --dry-run)")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")

    # An option of `Options` that is not given is absent, so that class alone states the defaults.
    group = parser.add_argument_group("what to reach", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add("--speedup", metavar="X", type=float, help=f"conv MACs before over after (default: {default.speedup:g})")
    add("--form", choices=FORMS, help=f"how a convolution is split (default: {default.form})")
    add("--solver", choices=SOLVERS, help=f"weights: the kernel's SVD, without data (default: {default.solver})")
    add("--symmetric", action="store_true", help="solve every layer on the original network's inputs")
    add("--ranks", choices=ALLOCATIONS, help=f"how the layers share the budget (default: {default.ranks})")
    add("--include", metavar="RE", help="only Conv nodes whose name matches this regular expression")
    add("--exclude", metavar="RE", help="leave Conv nodes whose name matches alone")
    add("--images", metavar="N", type=int, help=f"calibration samples to use (default: {default.images})")
    add("--seed", metavar="N", type=int, help=f"of every random choice (default: {default.seed})")
    add("--memory", metavar="SIZE", type=_bytes, help=f"for activations (default: {default.memory >> 30}GiB)")
    add("--providers", metavar="LIST", type=_names, help=f"such as cuda,cpu (default: {','.join(default.providers)})")
    add("--threads", metavar="N", type=int, help="of ONNX Runtime (default: its own choice)")

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="PATH", type=_path, help=DATA_HELP)
    add("--preprocess", metavar="SPEC", default="imagenet", help=PREPROCESS_HELP)
    add("--test", metavar="PATH", type=_path, help=TEST_HELP)

    add = parser.add_argument_group("plan and output").add_argument
    add("--dry-run", action="store_true", help="choose the ranks and print them; with --plan, save them")
    add("--plan", metavar="FILE", type=_path, help="replay a saved plan; with --dry-run, the file to save it to")
    add("--report", metavar="FILE", type=_path, help="write everything about the run as JSON")
    add("--save-as-external-data", action="store_true", help="keep the weights in a file beside OUT")
    add("--quiet", action="store_true", help="print warnings and errors only")
    add("--traceback", action="store_true", help="show where an error was raised")
    return parser


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    # Intermixed: OUT may follow an option.
    args = _parser().parse_intermixed_args(argv)
    args.preprocess = parse(args.preprocess)
    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    if args.dry_run:
        for name, purpose in (("report", "write"), ("test", "measure")):
            if getattr(args, name):
                raise UsageError(f"--dry-run leaves nothing to {purpose}: drop --{name} or --dry-run")
    elif args.out is None:
        raise UsageError("OUT is missing: name the ONNX file to write, or only look with --dry-run")
    elif args.plan:
        for name in ("speedup", "ranks"):
            if name in given:
                raise UsageError(f"--plan replays ranks that are already chosen: drop --{name} or --plan")
    return args, Options(**given)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # not both exist
        return os.path.realpath(one) == os.path.realpath(other)


def _check_files(args: argparse.Namespace) -> None:
    """Refuse to overwrite what is read, and outputs that cannot be written, before any work."""
    read = {"IN": args.model, "--data": args.data, "--test": args.test}
    written = {"OUT": None if args.dry_run else args.out, "--report": args.report}
    (written if args.dry_run else read)["--plan"] = args.plan
    others = {name: path for name, path in (read | written).items() if path}
    for name, path in written.items():
        others.pop(name, None)
        for other, other_path in others.items():
            if path and _same(path, other_path):
                raise UsageError(f"{other} and {name} are the same file, {path}: choose another name for {name}")
        if path:
            check_writable(path)


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
    tables = [draw.costs_table(planned.macs), draw.sites_table(planned.sites), draw.skipped_table(planned.skipped)]
    done = f"wrote the plan {args.plan}" if args.plan else "dry run"
    return tables, f"{done}: {planned.speedup.macs:.2f}× fewer conv MACs"


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
        draw.costs_table(report.macs, report),
        draw.outputs_table(report.outputs),
        draw.sites_table(report.sites),
        draw.skipped_table(report.skipped),
    ]
    return tables, f"wrote {args.out}: {_summary(report)}"


def _run(args: argparse.Namespace, options: Options) -> None:
    started = time.monotonic()
    _check_files(args)
    with draw.Stages(_say) as stages:
        progress = silent if args.quiet else stages
        work = {"options": options, "preprocess": args.preprocess, "progress": progress, "warn": _warn}
        tables, done = (_dry_run if args.dry_run else _compress)(args, work)
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
            args, options = _arguments(argv)
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
