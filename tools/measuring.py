"""What the measuring tools share: their command line, runs of the real command, and tables.

The command runs in a process of its own, and so does everything that runs a model. On Linux a process inherits the peak
memory of the process that started it, so the peak that the command reports would otherwise be that of the tool.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from scoring import Scores

from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.options import DEFAULTS, FORM_CHOICES

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class CommandRun:
    """One run of the command: the seconds that its process took, and the report that it wrote."""

    seconds: float
    report: dict[str, Any]


def progress(text: str) -> None:
    """Print a line on the progress to standard error."""
    print(text, file=sys.stderr, flush=True)


# ---- the command line of a tool


def tool_parser(manual: str | None) -> ArgumentParser:
    """Return a parser with the arguments of all tools: the model, what it runs on, and a file for the values.

    ``manual`` is the tool's module docstring.
    """
    parser = ArgumentParser(description=manual, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the ONNX file")
    add("--form", default=DEFAULTS.form, choices=FORM_CHOICES, help="as for onnx-lowrank (default: %(default)s)")
    add("--paper-plan", action="store_true", help="plan as the paper does: every rank, all channels, by energies")
    add("--images", type=int, default=300, help="the number of calibration samples (default: %(default)s)")
    add("--limit", type=int, default=500, help="the number of labelled samples to use (default: %(default)s)")
    add("--preprocess", type=parse, default="caffe", metavar="SPEC", help="as for onnx-lowrank (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the measured values to this file as JSON")
    return parser


def add_speedup(parser: ArgumentParser) -> None:
    """Add the one speedup at which a tool compares."""
    text = "the ratio of the conv MACs before and after (default: %(default)g)"
    parser.add_argument("--speedup", type=float, default=4.0, help=text)


def add_samples(parser: ArgumentParser, *, labelled: bool = True) -> None:
    """Add the samples with and without labels; those with labels may be left out where not ``labelled``."""
    add = parser.add_argument
    add("--calibration", type=Path, required=True, metavar="DATA", help="samples without labels")
    add("--validation", type=Path, required=labelled, metavar="LABELLED", help="samples with labels")


def comma_list(text: str) -> list[str]:
    """Split a list that is separated by commas."""
    return text.split(",")


def number_list(text: str) -> list[float]:
    """Split a list of numbers that is separated by commas."""
    return [float(part) for part in text.split(",")]


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the words of a command line into those of the tool and those behind --, which are of onnx-lowrank."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def command_options(args: Namespace, speedup: float) -> list[str]:
    """Return the options of all tools as the command takes them."""
    options = {"speedup": speedup, "form": args.form, "images": args.images}
    plan = ["--rank-multiple=1", "--width=none", "--objective=energies"] if args.paper_plan else []
    return [*(f"--{name}={value}" for name, value in options.items()), f"--preprocess={args.preprocess.preset}", *plan]


# ---- the command


def run_command(model: Path, out: Path, *options: str) -> CommandRun:
    """Compress with the real command.

    Its warnings and errors go to standard error, and an error ends this program with the same exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        program = [sys.executable, "-m", "onnx_lowrank"]
        arguments = [str(model), str(out), f"--report={report}", "--quiet"]
        arguments += ["--require=none", *options]  # A table shows what is ruined beside what is not.
        start = time.perf_counter()
        code = subprocess.run([*program, *arguments], stdin=subprocess.DEVNULL).returncode
        seconds = time.perf_counter() - start
        if code:
            raise SystemExit(code)
        return CommandRun(seconds, json.loads(report.read_text(encoding="utf-8")))


def run_rows(model: Path, rows: Mapping[str, Sequence[str]], folder: Path) -> tuple[dict[str, CommandRun], list[Path]]:
    """Run the command once for every row of a table, with the options of the row.

    Returns
    -------
    runs
        The runs, by the names of the rows.
    models
        The models that they wrote into the folder.
    """
    runs = {}
    models = [folder / f"{number}.onnx" for number in range(len(rows))]
    for (name, options), out in zip(rows.items(), models, strict=True):
        runs[name] = run_command(model, out, *options)
        progress(f"{name}: {runs[name].seconds:.1f} s")
    return runs, models


def bench(models: Sequence[Path], data: str, options: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the numbers of the second model that onnx-lowrank-bench measures, in a process of its own."""
    measured: dict[str, Any] = bench_all(models, data, options, folder)[0]["models"][1]
    return measured


def bench_all(models: Sequence[Path], data: str, options: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Return all measurements of onnx-lowrank-bench, one for each number of threads, in a process of its own."""
    file = folder / "bench.json"
    command = [sys.executable, "-m", "onnx_lowrank.cli.bench", *map(str, models), "--data", data, *options]
    subprocess.run([*command, "--json", str(file), "--quiet"], check=True, stdin=subprocess.DEVNULL)
    measurements: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["measurements"]
    return measurements


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


# ---- writing


def error_text(value: float) -> str:
    """Write a relative error with four decimals, or with two digits where it is small."""
    return f"{value:.4f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def percent(share: float) -> str:
    """Write a share with two decimals, because half a point is a large difference here."""
    return f"{100 * share:.2f} %"


def interval(numbers: Mapping[str, float]) -> str:
    """Write a measured ratio with its interval."""
    return f"{numbers['ratio']:.2f}× ({numbers['ratio_low']:.2f} to {numbers['ratio_high']:.2f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with the first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bare_run_note(samples: int, seconds: float) -> str:
    """Return the sentence under a table with a column "× bare run"."""
    return f"Bare run: ONNX Runtime alone takes {seconds:.3g} s for the original on the {samples} calibration samples."


def json_row(run: CommandRun, scores: Scores) -> dict[str, Any]:
    """Return everything that is known of a row, for JSON."""
    return {**asdict(scores), "seconds": run.seconds, "report": run.report}


def write_json(file: Path | None, document: dict[str, Any]) -> None:
    """Write the measured values, if the user named a file for them."""
    if file:
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
