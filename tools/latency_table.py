"""Plans by the clock against plans by MACs at equal measured speed, by the real command; print Markdown tables.

usage: python tools/latency_table.py MODEL --calibration DATA [--validation LABELLED] [--ratios 2,2.5] [--threads 1,2]
                                     [--table FILE] [--rank-multiple 1] [--images 300] [--form auto] [--limit 500]
                                     [--preprocess caffe] [--solver nonlinear] [--input-shapes NAME:SHAPE]
                                     [--keep FOLDER] [--json FILE]

For every number of threads the layers are measured once (into --table), and for every ratio the model is compressed
with --target latency. Then the MACs target is raised until a model that is planned by MACs (at multiples of
--rank-multiple, a number or auto) is measured to be as fast, and that one is solved too. All are measured once more,
in turns with the original. "off" is the measured time over the predicted one, which is taken from the predicted ratio
to the original's time now: a machine may be slower or faster than when the plan was made. Relative errors are those of
the first output on samples that no solver saw: of LABELLED, with the top-1, or without it on the few that the reports
are about. What is out of reach is a row without numbers.

The second table says what a second thread gains: the ratio of every layer's times with the fewest and the most
threads, as it is and as planned for the last ratio.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measuring import (
    PROVIDERS,
    Scores,
    apart,
    command_options,
    common_arguments,
    compare,
    error,
    markdown,
    percent,
    run_command,
    warn,
)

from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.errors import TargetError
from onnx_lowrank.latency.deployment import timed_batch
from onnx_lowrank.latency.trial import WholeTrials, factors_from_weights
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import measure_only, prepare
from onnx_lowrank.progress import Listener
from onnx_lowrank.runtime.session import Session, opener
from onnx_lowrank.stages.plan import choose, layers_to_choose, site_energies
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

HEADER = (
    *("threads, ratio, plan", "conv MACs", "predicted ms", "measured ms", "off", "measured ratio"),
    *("relative error", "top-1", "seconds"),
)

BUDGET = Budget(rounds=40, seconds=60.0, fewest=8)
"""For all models of one number of threads and one ratio."""

CLOSE, MOST = 1.02, 14
"""A plan by MACs is as fast where its ratio is at most so many times the one asked for, or after so many trials."""


@dataclass(frozen=True)
class Timed:
    """Milliseconds of a run, and the ratio to the original with its interval."""

    ms: float
    ratio: float
    low: float
    high: float


def measure_layers(model: Path, options: Options) -> tuple[float, dict[str, Any]]:
    """(seconds, what the table now knows)."""
    start = time.perf_counter()
    measured = measure_only(Request(model, options=options), Listener(warn=warn))
    return time.perf_counter() - start, asdict(measured)


def plan_by_macs(
    model: Path, data: Path, options: Options, preprocess: Preprocess, ratio: float
) -> tuple[float, float, str]:
    """(MACs ratio, measured ratio, plan) of the mildest plan by MACs that is measured to be so fast."""
    run = Run.start(Request(model, data, options, preprocess), Listener(warn=warn))
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
    counted, profiled, deployment = prepared.counted, prepared.profiled, prepared.reach.deployment
    layers = layers_to_choose(site_energies(counted, profiled, run.kinds), counted.shapes, prepared.reach.multiple)
    conv = sum(counted.macs.conv.values())
    highest = conv / (conv - sum(layer.untouched - int(layer.costs[0]) for layer in layers))
    open_session = opener(options.providers, options.threads, spinning=True)
    trials = WholeTrials(deployment, factors_from_weights(profiled.kernels, run.forms), open_session)
    low, high, speedup, best = 1.0, highest, ratio, None
    for _ in range(MOST):
        speedup = min(speedup, 0.999 * highest)
        plan = choose(layers, conv, Options(speedup=speedup, ranks=options.ranks))
        reached = trials.measure(plan).ratio
        print(f"by MACs: {speedup:.3f}× fewer, {reached:.2f}× faster", file=sys.stderr, flush=True)
        if reached >= ratio:
            high = speedup
            best = min(best or (speedup, reached, plan.to_json()), (speedup, reached, plan.to_json()))
            if reached <= CLOSE * ratio:
                break
        else:
            low = speedup
            if speedup >= 0.999 * highest:
                break
        # The clock falls about as the MACs do; between two trials the middle is safer.
        speedup = (low * high) ** 0.5 if best else speedup * max(1.02, ratio / reached)
        if best and high / low < 1.003:
            break
    if best is None:
        raise TargetError(f"no plan by MACs is {ratio:g} times as fast")
    return best


def time_models(models: Sequence[Path], data: Path, options: Options, preprocess: Preprocess) -> list[Timed]:
    """All models in turns; the first is the original."""
    run = Run.start(Request(models[0], data, options, preprocess), Listener(warn=warn))
    original = read(run)
    sampling = sample(run, original).sampling
    feeds = sampling.source.feeds(timed_batch(sampling, options))
    sessions = [Session(str(model), PROVIDERS, options.threads, str(model)) for model in models]
    times = take_turns([lambda s=session: s(feeds) for session in sessions], BUDGET)  # type: ignore[misc]
    speeds = [times.speed(i) for i in range(len(models))]
    return [Timed(1e3 * times.median(i), s.value, s.low, s.high) for i, s in enumerate(speeds)]


def row(name: str, report: dict[str, Any], timed: Timed, scores: Scores | None, seconds: float) -> list[str]:
    planned = report["latency_plan"]
    predicted = timed.ratio * timed.ms / planned["predicted_ratio"] if planned else None
    relative = scores.relative_error if scores else next(iter(report["outputs"].values()))["relative_error"]
    return [
        *(name, f"{report['speedup']['macs']:.2f}×", f"{predicted:.1f}" if predicted else ""),
        *(f"{timed.ms:.1f}", f"{100 * (timed.ms / predicted - 1):+.1f} %" if predicted else ""),
        *(f"{timed.ratio:.2f} ({timed.low:.2f} to {timed.high:.2f})", error(relative)),
        *(percent(scores.top1) if scores else "", f"{seconds:.0f}"),
    ]


def threads_table(tables: dict[int, dict[str, Any]], sites: dict[int, list[dict[str, Any]]]) -> str:
    """What more threads gain, by layer."""
    few, many = min(tables), max(tables)
    header = ("layer", f"as it is, {few} → {many} threads", "gain", "planned for " + f"{few} → {many}", "gain")
    rows = []
    for one, other in zip(sites[few], sites[many], strict=True):
        cells = [one["name"]]
        for key in ("ms_before", "ms_after"):
            cells += [f"{one[key]:.2f} → {other[key]:.2f} ms", f"{one[key] / other[key]:.2f}×"]
        rows.append(cells)
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA", help="samples without labels")
    parser.add_argument("--validation", type=Path, metavar="LABELLED", help="samples with labels")
    parser.add_argument("--ratios", default="2,2.5", help="by the clock (default: %(default)s)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default: %(default)s)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="a latency table to read and to fill")
    parser.add_argument("--rank-multiple", default="1", help="of the plans by MACs (default: %(default)s)")
    parser.add_argument("--solver", default="nonlinear", help="as of onnx-lowrank (default: %(default)s)")
    parser.add_argument("--input-shapes", action="append", default=[], help="as of onnx-lowrank")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the factorised models stay")
    common_arguments(parser)
    args = parser.parse_args()
    shapes = parse_shapes(args.input_shapes) if args.input_shapes else {}
    multiple: int | str = args.rank_multiple if args.rank_multiple == "auto" else int(args.rank_multiple)

    rows, document, tables = [], [], {}
    sites: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        table = args.table or folder / "latency.json"
        for threads in map(int, args.threads.split(",")):
            alike = Options(threads=threads, form=args.form, images=args.images, input_shapes=shapes)
            by_clock = replace(alike, target="latency", latency_table=str(table))
            seconds, tables[threads] = apart(measure_layers, args.model, by_clock)
            new = tables[threads]["measurements"]
            print(f"{threads} threads: {new} new measurements, {seconds:.1f} s", file=sys.stderr, flush=True)
            for ratio in map(float, args.ratios.split(",")):
                args.speedup = ratio
                name = f"{threads}, {ratio:g}×"
                fast, lean = (folder / f"{threads}t-{ratio:g}x-{kind}.onnx" for kind in ("clock", "macs"))
                common = [f"--data={args.calibration}", f"--threads={threads}", f"--solver={args.solver}"]
                common += [f"--input-shapes={text}" for text in args.input_shapes]
                given = [*common, *command_options(args), "--target=latency", f"--latency-table={table}"]
                try:
                    runs = [run_command(args.model, fast, *given)]
                except SystemExit as stop:
                    if stop.code != TargetError.exit_code:
                        raise
                    rows.append([f"{name}, the clock: out of reach", *[""] * (len(HEADER) - 1)])
                    continue
                sites[threads] = runs[0].report["sites"]
                reached = runs[0].report["speedup"]["latency"]["ratio"]
                options = replace(alike, speedup=1, rank_multiple=multiple)
                compared = [args.model, fast]
                try:
                    _, _, plan = apart(plan_by_macs, args.model, args.calibration, options, args.preprocess, reached)
                except TargetError as refusal:
                    rows.append([f"{name}, MACs: {refusal}", *[""] * (len(HEADER) - 1)])
                else:
                    (folder / "plan.json").write_text(plan, encoding="utf-8")
                    replay = [f"--images={args.images}", f"--preprocess={args.preprocess.preset}"]
                    given = [*common, *replay, f"--plan={folder / 'plan.json'}"]
                    runs.append(run_command(args.model, lean, *given))
                    compared.append(lean)
                timed = apart(time_models, compared, args.calibration, options, args.preprocess)
                scores: Sequence[Scores | None] = [None] * len(compared)
                if args.validation:
                    scores = apart(compare, compared, args.validation, args.limit, args.preprocess)
                named = zip(("the clock", "MACs"), runs, timed[1:], scores[1:], strict=False)
                for kind, run, of_model, score in named:
                    rows.append(row(f"{name}, {kind}", run.report, of_model, score, run.seconds))
                    document.append(
                        {"threads": threads, "ratio": ratio, "plan": kind, "timed": asdict(of_model)}
                        | {"scores": asdict(score) if score else None, "original_ms": timed[0].ms}
                        | {"seconds": run.seconds, "report": run.report}
                    )
                as_it_is = f", top-1 {percent(scores[0].top1)}" if scores[0] else ""
                print(f"{name}: {timed[0].ms:.1f} ms as it is{as_it_is}", file=sys.stderr, flush=True)
    print(markdown(HEADER, rows))
    if len(sites) > 1:
        print(f"\n{threads_table(tables, sites)}")
    if args.json:
        args.json.write_text(json.dumps({"tables": tables, "rows": document}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
