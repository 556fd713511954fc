"""The command ``onnx-lowrank-bench``: models against the first of them, on the stopwatch."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from onnx_lowrank._version import __version__
from onnx_lowrank.bench.benchmark import BUDGET, Settings, benchmark
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.cli import process
from onnx_lowrank.cli import tables as draw
from onnx_lowrank.cli.arguments import DATA_HELP, PREPROCESS_HELP, Parser, comma_list, path_argument
from onnx_lowrank.cli.progress_bars import Stages
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.files import write_text
from onnx_lowrank.graph.files.save import check_writable
from onnx_lowrank.progress import silent
from onnx_lowrank.report.bench_schema import BenchReport, Measurement

PROGRAM = "onnx-lowrank-bench"

MOST_ROUNDS = 100_000
"""Where only the seconds are limited."""

EPILOG = f"""\
All models take turns in one process, in an order that is drawn anew for every round. The ratio is the median over the
rounds, with its 95 % confidence interval. Without --rounds and --seconds it measures {BUDGET.rounds} rounds, or for
{BUDGET.seconds:g} seconds, for each number of threads and each batch. Exit codes are those of onnx-lowrank.
"""

_speaker = process.Speaker(PROGRAM)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, such as 1,2") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROGRAM,
        description="How fast ONNX models run against the first one, measured in turns on ONNX Runtime.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "models", metavar="MODEL", type=path_argument, nargs="+", help="ONNX files; the first is the base"
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add = parser.add_argument_group("what to measure").add_argument
    add(
        "--threads", metavar="LIST", type=_numbers, default=(0,), help="such as 1,2 (default: the runtime's own choice)"
    )
    add(
        "--batch", metavar="LIST", type=_numbers, default=(), help="such as 1,8 (default: 1, or what the models demand)"
    )
    add("--input-shapes", metavar="SHAPES", help="of open inputs: x:1x3x224x224, several with commas between")
    add("--providers", metavar="LIST", type=comma_list, default=("cpu",), help="the first one must run (default: cpu)")
    add("--data", metavar="PATH", type=path_argument, help=DATA_HELP.replace("synthetic images", "noise"))
    add("--preprocess", metavar="SPEC", default="imagenet", help=PREPROCESS_HELP)
    add = parser.add_argument_group("how long").add_argument
    add("--rounds", metavar="N", type=int, help="runs of every model; at least 6 for a 95 %% interval")
    add("--seconds", metavar="S", type=float, help="for each number of threads and each batch, warm-up included")
    add("--seed", metavar="N", type=int, default=0, help="of the order and of the made-up inputs (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--profile", metavar="N", type=int, default=0, help="list the N costliest nodes of every model, and operators")
    add("--json", metavar="FILE", type=path_argument, help="write everything that was measured")
    add("--quiet", action="store_true", help="print warnings and errors only")
    add("--traceback", action="store_true", help="show where an error was raised")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        threads=args.threads,
        batches=args.batch,
        shapes=None if args.input_shapes is None else parse_shapes([args.input_shapes]),
        providers=args.providers,
        budget=_budget(args.rounds, args.seconds),
        profile=args.profile,
        seed=args.seed,
    )


def _budget(rounds: int | None, seconds: float | None) -> Budget:
    if rounds is not None and rounds < 1:
        raise UsageError(f"rounds is {rounds}: give at least 1, and at least 6 for a 95 % interval")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"seconds is {seconds:g}: give a number above 0")
    if rounds is None and seconds is None:
        return BUDGET
    return Budget(rounds=MOST_ROUNDS if rounds is None else rounds, seconds=seconds)


def _check_files(args: argparse.Namespace) -> None:
    if args.json is None:
        return
    for name, other in (*(("MODEL", model) for model in args.models), ("--data", args.data)):
        if other is not None and args.json.exists() and other.exists() and args.json.samefile(other):
            raise UsageError(f"{name} and --json are the same file, {args.json}: choose another name for --json")
    check_writable(args.json)


def _labels(models: Sequence[str]) -> list[str]:
    """Short names that differ wherever the paths do."""
    short = [Path(model).name for model in models]
    return short if len(set(short)) == len(set(models)) else list(models)


def _threads(number: int) -> str:
    return str(number) if number else "default"


def _times_table(report: BenchReport) -> Table:
    table = draw.empty_table(
        f"Milliseconds of a run on {report.provider}",
        *("threads", "batch", "model", "median", "middle half", "rounds", "against the first"),
        words=("model", "against the first"),
    )
    labels = _labels([model.path for model in report.models])
    for setting in report.measurements:
        for i, (label, measured) in enumerate(zip(labels, setting.models, strict=True)):
            low, high = measured.quartiles_ms
            speed = draw.speed(measured.ratio, measured.ratio_low, measured.ratio_high) if i else draw.NONE
            table.add_row(
                *((_threads(setting.threads), str(setting.batch)) if i == 0 else ("", "")),
                *(draw.one_line(label), f"{measured.median_ms:.4g}", f"{low:.4g} to {high:.4g}"),
                *(str(setting.rounds) if i == 0 else "", speed),
            )
    return table


def _profile_tables(report: BenchReport, setting: Measurement) -> list[Table]:
    labels = _labels([model.path for model in report.models])
    where = f"threads {_threads(setting.threads)}, batch {setting.batch}"
    tables = []
    for label, profile in zip(labels, setting.profiles, strict=False):
        title = f"{draw.one_line(label)}, {where}: {profile.median_ms:.4g} ms, the costliest nodes"
        nodes = draw.empty_table(title, "node", "operator", "ms", "share", words=("node", "operator"))
        for node in profile.nodes:
            nodes.add_row(draw.one_line(node.name or ""), node.op, f"{node.median_ms:.3g}", f"{node.share:.1%}")
        operators = draw.empty_table("Operators", "operator", "nodes", "ms", "share", words=("operator",))
        for row in profile.operators:
            operators.add_row(row.op, str(row.nodes), f"{row.median_ms:.3g}", f"{row.share:.1%}")
        tables += [nodes, operators]
    return tables


def _run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    settings, how = _settings(args), parse(args.preprocess)
    _check_files(args)
    with Stages(_speaker.say) as stages:
        progress = silent if args.quiet else stages
        report = benchmark(
            args.models, args.data, settings=settings, preprocess=how, progress=progress, warn=_speaker.warn
        )
    if args.json:
        write_text(args.json, report.to_json())
    if not args.quiet:
        tables = [_times_table(report)]
        for setting in report.measurements:
            tables += _profile_tables(report, setting)
        done = f"wrote {args.json}" if args.json else f"ONNX Runtime {report.runtime}, {report.device}"
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
        args = _parser().parse_intermixed_args(argv)
        traces = args.traceback
        _run(args)

    return process.run(work, _speaker, "measure fewer models, or a smaller --batch", lambda: traces)


def console() -> None:
    """Run the command as a process."""
    process.leave(main())


if __name__ == "__main__":
    console()
