"""Compare plans by the clock with plans by MACs at equal measured speed, by the real command; print Markdown tables.

usage: python tools/latency_table.py MODEL --calibration DATA [--validation LABELLED] [--ratios 2,2.5] [--threads 1,2]
                                     [--table FILE] [--rank-multiple 1] [--images 300] [--form auto] [--limit 500]
                                     [--preprocess caffe] [--solver nonlinear] [--input-shapes NAME:SHAPE]
                                     [--keep FOLDER] [--json FILE]

For every number of threads the layers are measured once, and the times go into --table. For every ratio the model is
compressed with --target latency. Then the ratio of MACs is raised until a model that is planned by MACs is measured to
be as fast, and that model is solved as well. Its ranks are multiples of --rank-multiple, which is a number or auto.
Finally all models are measured once more, in turns with the original.

The column "off" compares the measured time with the predicted one. The prediction is the predicted ratio applied to the
time that the original takes now, because the machine may be slower or faster than when the plan was made. Relative
errors are those of the first output on samples that no solver saw: on LABELLED, together with the top-1, or else on the
few samples that the report of the command is about. A plan that is out of reach has a row without numbers.

The second table shows what more threads gain: for every layer the times with the fewest and with the most threads, for
the original and as planned for the last ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import measuring
from macs_plan import plan_by_macs
from measuring import CommandRun, error_text, number_list, percent
from scoring import PROVIDERS, Scores, score_models, warn

from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.errors import TargetError
from onnx_lowrank.latency.deployment import timed_batch
from onnx_lowrank.options import AUTO, SOLVERS, Options
from onnx_lowrank.pipeline import measure_only
from onnx_lowrank.progress import Listener
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

HEADER = (
    *("threads, ratio, plan", "conv MACs", "predicted ms", "measured ms", "off", "measured ratio"),
    *("relative error", "top-1", "seconds"),
)

BUDGET = Budget(rounds=40, seconds=60.0, fewest=8)
"""The turns of all models at one number of threads and one ratio."""


@dataclass(frozen=True)
class RunTime:
    """The milliseconds of a run, and the ratio of the original's time to it with its interval."""

    ms: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class PlannedModel:
    """A compressed model: the kind of its plan, the run that wrote it, its time and its scores."""

    kind: str
    run: CommandRun
    time: RunTime
    scores: Scores | None


@dataclass(frozen=True)
class Comparison:
    """The models for one number of threads and one ratio.

    Attributes
    ----------
    threads, ratio
        The number of threads, and the ratio of times that is asked for.
    models
        One by the clock and one by MACs, where they can be had.
    refusals
        A text for each that cannot.
    original
        The time of the original; None where nothing was measured.
    """

    threads: int
    ratio: float
    models: tuple[PlannedModel, ...]
    refusals: tuple[str, ...]
    original: RunTime | None = None

    @property
    def name(self) -> str:
        """The beginning of the first cell."""
        return f"{self.threads}, {self.ratio:g}×"

    def rows(self) -> Iterator[list[str]]:
        """Yield the cells of all rows."""
        for model in self.models:
            yield model_row(f"{self.name}, {model.kind}", model)
        for refusal in self.refusals:
            yield [f"{self.name}, {refusal}", *[""] * (len(HEADER) - 1)]

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield everything that is known of the models, for JSON."""
        for model in self.models:
            yield {
                "threads": self.threads,
                "ratio": self.ratio,
                "plan": model.kind,
                "timed": asdict(model.time),
                "scores": asdict(model.scores) if model.scores else None,
                "original_ms": self.original.ms if self.original else None,
                "seconds": model.run.seconds,
                "report": model.run.report,
            }


@dataclass(frozen=True)
class Comparer:
    """Makes the comparisons of one call of the tool.

    Attributes
    ----------
    args
        The arguments of the call.
    folder
        The folder for the models.
    table
        The latency table.
    """

    args: argparse.Namespace
    folder: Path
    table: Path

    def options(self, threads: int) -> Options:
        """Return the choices that all plans share; the numbers of MACs and ranks are still open."""
        shapes = parse_shapes(self.args.input_shapes) if self.args.input_shapes else {}
        return Options(threads=threads, form=self.args.form, images=self.args.images, input_shapes=shapes)

    def measure_layers(self, threads: int) -> dict[str, Any]:
        """Measure all layers, as far as the table does not hold them, and return what it holds now."""
        by_clock = replace(self.options(threads), target="latency", latency_table=str(self.table))
        seconds, layers = measuring.in_own_process(layers_report, self.args.model, by_clock)
        measuring.progress(f"{threads} threads: {layers['measurements']} new measurements, {seconds:.1f} s")
        return layers

    def compare(self, threads: int, ratio: float) -> Comparison:
        """Compress by the clock and by MACs, and measure the models."""
        args, stem = self.args, f"{threads}t-{ratio:g}x"
        by_clock, by_macs = (self.folder / f"{stem}-{kind}.onnx" for kind in ("clock", "macs"))
        options = replace(self.options(threads), speedup=1, rank_multiple=args.rank_multiple)
        try:
            runs = [self._compress_by_clock(by_clock, threads, ratio)]
        except SystemExit as stop:
            if stop.code != TargetError.exit_code:
                raise
            return Comparison(threads, ratio, (), ("the clock: out of reach",))
        models, refusals = [args.model, by_clock], []
        reached = runs[0].report["speedup"]["latency"]["ratio"]
        request = Request(args.model, args.calibration, options, args.preprocess)
        try:
            plan = measuring.in_own_process(plan_by_macs, request, reached)
        except TargetError as refusal:
            refusals.append(f"MACs: {refusal}")
        else:
            runs.append(self._replay(by_macs, threads, plan.to_json()))
            models.append(by_macs)
        times = measuring.in_own_process(time_models, models, request)
        scores: Sequence[Scores | None] = [None] * len(models)
        if args.validation:
            scores = measuring.in_own_process(score_models, models, args.validation, args.limit, args.preprocess)
        top1 = f", top-1 {percent(scores[0].top1)}" if scores[0] else ""
        measuring.progress(f"{threads}, {ratio:g}×: {times[0].ms:.1f} ms for the original{top1}")
        planned = zip(("the clock", "MACs"), runs, times[1:], scores[1:], strict=False)
        return Comparison(threads, ratio, tuple(PlannedModel(*own) for own in planned), tuple(refusals), times[0])

    def _compress_by_clock(self, out: Path, threads: int, ratio: float) -> CommandRun:
        options = [*measuring.command_options(self.args, ratio), "--target=latency", f"--latency-table={self.table}"]
        return measuring.run_command(self.args.model, out, *self._solving(threads), *options)

    def _replay(self, out: Path, threads: int, plan: str) -> CommandRun:
        file = self.folder / "plan.json"
        file.write_text(plan, encoding="utf-8")
        # A plan has its own forms and ranks, so neither a speedup nor a form goes with it.
        options = [f"--images={self.args.images}", f"--preprocess={self.args.preprocess.preset}", f"--plan={file}"]
        return measuring.run_command(self.args.model, out, *self._solving(threads), *options)

    def _solving(self, threads: int) -> list[str]:
        args = self.args
        shapes = [f"--input-shapes={text}" for text in args.input_shapes]
        return [f"--data={args.calibration}", f"--threads={threads}", f"--solver={args.solver}", *shapes]


def layers_report(model: Path, options: Options) -> tuple[float, dict[str, Any]]:
    """Measure all layers; return the seconds that it took, and the report."""
    start = time.perf_counter()
    report = measure_only(Request(model, options=options), Listener(warn=warn))
    return time.perf_counter() - start, asdict(report)


def time_models(models: Sequence[Path], request: Request) -> list[RunTime]:
    """Time all models in turns; the first is the original, which the request names."""
    run = Run.start(request, Listener(warn=warn))
    sampling = sample(run, read(run)).sampling
    feeds = sampling.source.feeds(timed_batch(sampling, request.options))
    sessions = [Session(str(model), PROVIDERS, request.options.threads, str(model)) for model in models]
    times = take_turns([lambda s=session: s(feeds) for session in sessions], BUDGET)  # type: ignore[misc]
    speeds = [times.speed(i) for i in range(len(models))]
    return [RunTime(1e3 * times.median(i), speed.value, speed.low, speed.high) for i, speed in enumerate(speeds)]


def model_row(name: str, model: PlannedModel) -> list[str]:
    """Return the cells of one model."""
    report, timed, scores = model.run.report, model.time, model.scores
    planned = report["latency_plan"]
    predicted = timed.ratio * timed.ms / planned["predicted_ratio"] if planned else None
    relative = scores.relative_error if scores else next(iter(report["outputs"].values()))["relative_error"]
    return [
        *(name, f"{report['speedup']['macs']:.2f}×", f"{predicted:.1f}" if predicted else ""),
        *(f"{timed.ms:.1f}", f"{100 * (timed.ms / predicted - 1):+.1f} %" if predicted else ""),
        *(f"{timed.ratio:.2f} ({timed.low:.2f} to {timed.high:.2f})", error_text(relative)),
        *(percent(scores.top1) if scores else "", f"{model.run.seconds:.0f}"),
    ]


def threads_table(sites: dict[int, list[dict[str, Any]]]) -> str:
    """Return what more threads gain, a row for each layer; ``sites`` has the report's sites by number of threads."""
    few, many = min(sites), max(sites)
    header = ("layer", f"original, {few} → {many} threads", "gain", f"as planned, {few} → {many} threads", "gain")
    rows = []
    for slow, fast in zip(sites[few], sites[many], strict=True):
        cells = [slow["name"]]
        for key in ("ms_before", "ms_after"):
            cells += [f"{slow[key]:.2f} → {fast[key]:.2f} ms", f"{slow[key] / fast[key]:.2f}×"]
        rows.append(cells)
    return measuring.markdown(header, rows)


def count_list(text: str) -> list[int]:
    """Split a list of whole numbers that is separated by commas."""
    return [int(part) for part in text.split(",")]


def rank_multiple(text: str) -> int | str:
    """Read a whole number, or auto."""
    return text if text == AUTO else int(text)


def parse_arguments() -> argparse.Namespace:
    parser = measuring.tool_parser(__doc__)
    measuring.add_samples(parser, labelled=False)
    add = parser.add_argument
    add("--ratios", type=number_list, default=[2.0, 2.5], help="the ratios of times to reach (default: 2,2.5)")
    add("--threads", type=count_list, default=[1, 2], help="the numbers of threads (default: 1,2)")
    add("--table", type=Path, metavar="FILE", help="the latency table to read and to fill")
    add("--rank-multiple", type=rank_multiple, default=1, help="for the plans by MACs (default: %(default)s)")
    add("--solver", default=SOLVERS[0], choices=SOLVERS, help="as for onnx-lowrank (default: %(default)s)")
    add("--input-shapes", action="append", default=[], metavar="NAME:SHAPE", help="as for onnx-lowrank")
    add("--keep", type=Path, metavar="FOLDER", help="the folder in which the factorised models stay")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    comparisons, layers = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        comparer = Comparer(args, folder, args.table or folder / "latency.json")
        for threads in args.threads:
            layers[threads] = comparer.measure_layers(threads)
            comparisons += [comparer.compare(threads, ratio) for ratio in args.ratios]
    print(measuring.markdown(HEADER, [row for comparison in comparisons for row in comparison.rows()]))
    sites = {own.threads: own.models[0].run.report["sites"] for own in comparisons if own.models}
    if len(sites) > 1:
        print(f"\n{threads_table(sites)}")
    rows = [document for comparison in comparisons for document in comparison.documents()]
    measuring.write_json(args.json, {"tables": layers, "rows": rows})


if __name__ == "__main__":
    main()
