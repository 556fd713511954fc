"""The command ``onnx-lowrank-bench``: it compares the speed of models with that of the first one."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from onnx_lowrank.bench.benchmark import BUDGET, Settings, benchmark
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.cli import process
from onnx_lowrank.cli import tables as draw
from onnx_lowrank.cli.parser import (
    PREPROCESS_HELP,
    PROVIDERS_HELP,
    Parser,
    comma_list,
    data_help,
    exit_codes,
    path_argument,
    whole_numbers,
)
from onnx_lowrank.cli.progress_bars import ProgressBars
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.files import write_text
from onnx_lowrank.graph.files.save import check_writable
from onnx_lowrank.progress import silent
from onnx_lowrank.report.bench_schema import BenchReport, Measurement

PROGRAM = "onnx-lowrank-bench"

DESCRIPTION = """\
Compare the speed of ONNX models on ONNX Runtime. All models take turns in one
process, in an order that is drawn anew for every round, and each of them is
compared with the first one in the same round."""

EXAMPLES = {
    "model.onnx small.onnx": "Compare two models on one sample of noise.",
    "model.onnx small.onnx --threads 1,4 --batch 1,8 --json times.json": "Compare them in four settings, and save the "
    "results as JSON.",
    "model.onnx small.onnx --input-shapes x:1x3x224x224 --profile 10": "Fix an open input size, and list the ten "
    "costliest nodes of each model.",
}

SHORT_USAGE = f"""\
usage:   {PROGRAM} MODEL [MODEL ...] [options]
example: {PROGRAM} {next(iter(EXAMPLES))}
{PROGRAM} --help explains all options."""

EPILOG = f"""\
A ratio is the median over the rounds, printed with its 95 % confidence interval.
Without --rounds and --seconds, each number of threads and each batch is measured
for {BUDGET.rounds} rounds or {BUDGET.seconds:g} seconds, whichever ends first.

{exit_codes(0, 1, 2, 3, 6, 130)}"""

COMMAND = process.Command(PROGRAM, SHORT_USAGE, "measure fewer models, or a smaller --batch")

MOST_ROUNDS = 100_000
"""The number of rounds where only the seconds are limited."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv
        The arguments; None stands for those of the process.
    """
    return process.run(COMMAND, lambda words: _run(_parser().parse_line(words)), argv)


def console() -> None:
    """Run the command as a process."""
    process.leave(main())


def _parser() -> Parser:
    parser = Parser(PROGRAM, ("[options] MODEL [MODEL ...]",), DESCRIPTION, EXAMPLES, EPILOG)
    add = parser.add_argument_group("files").add_argument
    add("models", metavar="MODEL", type=path_argument, nargs="+", help="ONNX files; all are compared with the first")
    add = parser.add_argument_group("settings to measure").add_argument
    add(
        "--threads",
        metavar="LIST",
        type=whole_numbers,
        default=(0,),
        help="numbers of threads, such as 1,2 (default: ONNX Runtime's own choice)",
    )
    add(
        "--batch",
        metavar="LIST",
        type=whole_numbers,
        default=(),
        help="numbers of samples in a run, such as 1,8 (default: 1, or the number that the models demand)",
    )
    add("--providers", metavar="LIST", type=comma_list, default=("cpu",), help=f"{PROVIDERS_HELP} (default: cpu)")
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="PATH", type=path_argument, help=data_help("samples to run the models on", "noise"))
    add("--preprocess", metavar="SPEC", default="imagenet", help=PREPROCESS_HELP)
    add(
        "--input-shapes",
        metavar="SHAPES",
        help="sizes of open inputs: x:1x3x224x224, or several of these separated by commas",
    )
    add = parser.add_argument_group("length").add_argument
    add("--rounds", metavar="N", type=int, help="number of rounds; a 95 %% interval takes at least 6")
    add("--seconds", metavar="S", type=float, help="time for each number of threads and each batch, including warm-up")
    add("--seed", metavar="N", type=int, default=0, help="seed for the order and for the noise (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--profile", metavar="N", type=int, default=0, help="list the operators and N costliest nodes of each model")
    add("--json", metavar="FILE", type=path_argument, help="write everything that was measured as JSON")
    parser.add_general_options()
    return parser


def _run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    settings, preprocess = _settings(args), parse(args.preprocess)
    if preprocess.automatic:
        raise UsageError("--preprocess: auto is for compressing: name the preset that it chose")
    _check_files(args)
    with ProgressBars(COMMAND.say) as bars:
        report = benchmark(
            args.models,
            args.data,
            settings=settings,
            preprocess=preprocess,
            progress=silent if args.quiet else bars,
            warn=COMMAND.warn,
        )
    if args.json:
        write_text(args.json, report.to_json())
    if not args.quiet:
        tables = [_times_table(report)]
        for measurement in report.measurements:
            tables += _profile_tables(report, measurement)
        done = f"wrote {args.json}" if args.json else f"ONNX Runtime {report.runtime}, {report.device}"
        process.print_tables(tables, f"{done}, {draw.duration(time.monotonic() - started)}")


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


def _times_table(report: BenchReport) -> Table:
    table = draw.empty_table(
        f"Milliseconds of a run on {report.provider}",
        *("threads", "batch", "model", "median", "middle half", "rounds", "against the first"),
        text=("model", "against the first"),
    )
    labels = _labels([model.path for model in report.models])
    for measurement in report.measurements:
        for i, (label, model) in enumerate(zip(labels, measurement.models, strict=True)):
            low, high = model.quartiles_ms
            speed = draw.speed(model.ratio, model.ratio_low, model.ratio_high) if i else draw.NONE
            table.add_row(
                *((_threads(measurement.threads), str(measurement.batch)) if i == 0 else ("", "")),
                *(draw.one_line(label), f"{model.median_ms:.4g}", f"{low:.4g} to {high:.4g}"),
                *(str(measurement.rounds) if i == 0 else "", speed),
            )
    return table


def _profile_tables(report: BenchReport, measurement: Measurement) -> list[Table]:
    labels = _labels([model.path for model in report.models])
    setting = f"threads {_threads(measurement.threads)}, batch {measurement.batch}"
    tables = []
    for label, profile in zip(labels, measurement.profiles, strict=False):
        title = f"{draw.one_line(label)}, {setting}: {profile.median_ms:.4g} ms, the costliest nodes"
        nodes = draw.empty_table(title, "node", "operator", "ms", "share", text=("node", "operator"))
        for node in profile.nodes:
            nodes.add_row(draw.one_line(node.name or ""), node.op, f"{node.median_ms:.3g}", f"{node.share:.1%}")
        operators = draw.empty_table("Operators", "operator", "nodes", "ms", "share", text=("operator",))
        for row in profile.operators:
            operators.add_row(row.op, str(row.nodes), f"{row.median_ms:.3g}", f"{row.share:.1%}")
        tables += [nodes, operators]
    return tables


def _labels(models: Sequence[str]) -> list[str]:
    """Return the file names of the models, or the whole paths where two file names are the same."""
    short = [Path(model).name for model in models]
    return short if len(set(short)) == len(set(models)) else list(models)


def _threads(number: int) -> str:
    return str(number) if number else "default"


if __name__ == "__main__":
    console()
