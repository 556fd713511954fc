"""What the measuring tools share: run the command, run models with ONNX Runtime, compare them, print a table.

The command runs as its own process, and so does everything that runs a model here: on Linux a process inherits the
peak memory of the one that started it, and the peak that the command reports would be this program's.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.options import DEFAULTS, FORM_CHOICES
from onnx_lowrank.runtime.session import Session

BATCH = 8
PROVIDERS = ("CPUExecutionProvider",)

P = ParamSpec("P")
T = TypeVar("T")
Array = NDArray[Any]


@dataclass(frozen=True)
class Run:
    """One run of the command: the seconds of the whole process, and its report."""

    seconds: float
    report: dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """A model on labelled samples: its top-1, and how close it is to the original (Σ(out − ref)² / Σ ref²).

    ``tapped_error`` is the relative error of a tensor inside the network, where one was asked for.
    """

    samples: int
    top1: float
    agreement: float
    relative_error: float
    tapped_error: float | None = None


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def common_arguments(parser: ArgumentParser) -> None:
    """Add the options that all tools have."""
    add = parser.add_argument
    add("--speedup", type=float, default=4.0, help="conv MACs before over after (default: %(default)g)")
    add("--form", default=DEFAULTS.form, choices=FORM_CHOICES, help="as of onnx-lowrank (default: %(default)s)")
    add("--images", type=int, default=300, help="calibration samples (default: %(default)s)")
    add("--limit", type=int, default=500, help="labelled samples, in turn from every class (default: %(default)s)")
    add("--preprocess", type=parse, default="caffe", metavar="SPEC", help="as of onnx-lowrank (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the measured values as JSON, too")


def command_options(args: Namespace) -> list[str]:
    """The common options as the command takes them."""
    options = {"speedup": args.speedup, "form": args.form, "images": args.images}
    return [f"--{name}={value}" for name, value in options.items()] + [f"--preprocess={args.preprocess.preset}"]


def run_command(model: Path, out: Path, *options: str) -> Run:
    """Compress with the real command; its warnings and errors go to standard error, and an error ends this program."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "onnx_lowrank",
            str(model),
            str(out),
            f"--report={report}",
            "--quiet",
            *options,
        ]
        start = time.perf_counter()
        code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        seconds = time.perf_counter() - start
        if code:
            raise SystemExit(code)
        return Run(seconds, json.loads(report.read_text(encoding="utf-8")))


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def bare_seconds(model: Path, data: Path, images: int, preprocess: Preprocess) -> tuple[int, float]:
    """(samples, seconds) of running the model on the calibration samples: ONNX Runtime's defaults, batches of 8.

    The clock runs inside the runtime alone: opening the model, a first run to warm up and reading photos are left out.
    """
    specs = inputs(load(model).proto)
    source = open_source(data, specs, preprocess=preprocess, count=images, seed=0, on_warning=warn)
    session = Session(str(model), PROVIDERS, 0, str(model))
    session(source.feeds(range(min(BATCH, len(source)))))
    seconds = 0.0
    for start in range(0, len(source), BATCH):
        feeds = source.feeds(range(start, min(start + BATCH, len(source))))
        began = time.perf_counter()
        session(feeds)
        seconds += time.perf_counter() - began
    return len(source), seconds


def round_classes(labels: NDArray[np.int64], limit: int) -> list[int]:
    """The first sample of every class, the second of every class and so on, up to ``limit`` of them."""
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turn[own] = np.arange(len(own))
    chosen: list[int] = np.lexsort((labels, turn))[:limit].tolist()
    return chosen


def compare(
    models: Sequence[Path], test: Path, limit: int, preprocess: Preprocess, tap: str | None = None
) -> list[Scores]:
    """Scores of all models on the same labelled samples; the first model is the original.

    With ``tap``, the relative error of the tensor of this name, which all models have, is measured, too.
    """
    source, labels = load_labelled(test, inputs(load(models[0]).proto), preprocess, on_warning=warn)
    chosen = round_classes(labels, limit)
    sessions = [_tapped(model, tap) for model in models]
    scores: list[list[Array]] = [[] for _ in models]
    tapped: list[list[Array]] = [[] for _ in models]
    for start in range(0, len(chosen), BATCH):
        feeds = source.feeds(chosen[start : start + BATCH])
        for i, session in enumerate(sessions):
            made = session(feeds)
            scores[i].append(made[session.outputs[0]].astype(np.float64))
            if tap is not None:
                tapped[i].append(made[tap].astype(np.float64))
    all_scores = [np.concatenate(parts) for parts in scores]
    all_tapped = [np.concatenate(parts) if parts else None for parts in tapped]
    return [
        _scores(of_model, all_scores[0], tensor, all_tapped[0], labels[chosen])
        for of_model, tensor in zip(all_scores, all_tapped, strict=True)
    ]


def _tapped(model: Path, tap: str | None) -> Session:
    if tap is None:
        return Session(str(model), PROVIDERS, 0, str(model))
    graph = normalise(load(model).proto)
    wanted = whole(graph, [graph.outputs[0].name, tap])
    return Session(wanted.SerializeToString(), PROVIDERS, 0, str(model))


def _scores(
    out: Array, ref: Array, tapped: Array | None, tapped_ref: Array | None, labels: NDArray[np.int64]
) -> Scores:
    predicted = out.argmax(axis=1)
    return Scores(
        samples=len(labels),
        top1=float((predicted == labels).mean()),
        agreement=float((predicted == ref.argmax(axis=1)).mean()),
        relative_error=_relative_error(out, ref),
        tapped_error=None if tapped is None or tapped_ref is None else _relative_error(tapped, tapped_ref),
    )


def _relative_error(out: Array, ref: Array) -> float:
    return float(np.square(out - ref).sum() / np.square(ref).sum())


def error(value: float) -> str:
    """A relative error: four decimals, or where it is small two digits."""
    return f"{value:.4f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def percent(share: float) -> str:
    """Two decimals: half a point is a large difference here."""
    return f"{100 * share:.2f} %"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
