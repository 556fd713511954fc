"""What every idea is worth: one classifier factorised in every combination of the choices given; Markdown, CSV, a plot.

usage: python tools/ablation.py MODEL --calibration DATA --validation LABELLED --out FOLDER [--preprocess caffe]
           [--speedups 2,3,4,5,8] [--forms channel,spatial,3d,auto] [--ranks uniform,greedy,exact]
           [--solvers weights,linear,nonlinear] [--inputs symmetric,asymmetric] [--images 300] [--limit 500]
           [--tap TENSOR]

The original is profiled once for all rows. FOLDER/rows.csv grows by a line a row; a row that is there already is not
run again, so the tool goes on where it stopped, and several calls with different choices fill one table. --tap measures
the relative error of a tensor inside the network, such as the pooled features, in place of the output's. The plot
(FOLDER/plot.png) needs matplotlib.
"""

import argparse
import csv
import itertools
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BATCH, Array, markdown, percent, round_classes, warn

from onnx_lowrank.calibration.labels import load_labelled
from onnx_lowrank.calibration.preprocess import parse
from onnx_lowrank.calibration.source import Source
from onnx_lowrank.graph.load import inputs, outputs
from onnx_lowrank.graph.normalise import normalise
from onnx_lowrank.graph.save import export
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Prepared, prepare
from onnx_lowrank.planning import choose, conv_shapes, cut_columns
from onnx_lowrank.progress import silent
from onnx_lowrank.walk import walk


@dataclass(frozen=True)
class Key:
    """One combination of choices."""

    speedup: float
    form: str
    ranks: str
    solver: str
    inputs: str


@dataclass(frozen=True)
class Row(Key):
    """A combination and what came of it."""

    conv_macs: float
    relative_error: float
    agreement: float
    top1: float
    seconds: float


@dataclass(frozen=True)
class Judge:
    """The samples on which every row is measured, and what the original says of them."""

    source: Source
    chosen: list[int]
    labels: Array
    tap: str
    scores: str

    def run(self, run: Prepared, graph: object) -> tuple[Array, Array]:
        """(tapped tensor, class scores) over all samples."""
        session = run.open_session(whole(graph, [self.tap, self.scores]).SerializeToString(), "the model")
        parts = [session(self.source.feeds(self.chosen[i : i + BATCH])) for i in range(0, len(self.chosen), BATCH)]
        tapped, scores = (np.concatenate([part[name] for part in parts]) for name in (self.tap, self.scores))
        return tapped.astype(np.float64), scores


def factorise(run: Prepared, key: Key, judge: Judge, reference: tuple[Array, Array]) -> Row:
    """One row: plan, walk, measure."""
    start = time.perf_counter()
    options = Options(
        speedup=key.speedup,
        form=key.form,
        ranks=key.ranks,
        solver=key.solver,
        symmetric=key.inputs == "symmetric",
        images=len(run.sampling.source),
    )
    blind = key.solver == "weights"
    shapes = conv_shapes(run.sites, run.macs)
    targets = {} if blind else dict(run.targets)
    columns = cut_columns(run.sites, frozenset(run.columns), {}) if blind else run.columns
    conv = sum(run.macs.conv.values())
    plan = choose(run.sites, shapes, targets, columns, conv, options)
    costs = {site.name: (shapes[site.name].macs, shapes[site.name].cost(site.form, site.ranks)) for site in plan.sites}
    graph = normalise(run.loaded.proto)
    walk(graph, run.sites, plan, targets, columns, costs, run.macs.all, run.sampling, run.open_session, options, silent)
    seconds = time.perf_counter() - start
    tapped, scores = judge.run(run, normalise(export(graph, run.loaded)))
    predicted = scores.argmax(axis=1)
    return Row(
        speedup=key.speedup,
        form=key.form,
        ranks=key.ranks,
        solver=key.solver,
        inputs=key.inputs,
        conv_macs=conv / (conv - sum(before - after for before, after in costs.values())),
        relative_error=float(np.square(tapped - reference[0]).sum() / np.square(reference[0]).sum()),
        agreement=float((predicted == reference[1].argmax(axis=1)).mean()),
        top1=float((predicted == judge.labels).mean()),
        seconds=seconds,
    )


def read_rows(path: Path) -> list[Row]:
    """The rows measured so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        kinds = {field.name: float if field.type is float else str for field in fields(Row)}
        lines: list[dict[str, Any]] = [{k: kinds[k](v) for k, v in line.items()} for line in csv.DictReader(stream)]
        return [Row(**line) for line in lines]


def append_row(path: Path, row: Row) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def table(rows: list[Row]) -> str:
    """All rows, by speedup, form, ranks, solver and inputs."""
    header = ("speedup", "form", "ranks", "solver", "inputs", "conv MACs", "relative error", "agreement", "top-1", "s")
    body = [
        (
            *(f"{r.speedup:g}×", r.form, r.ranks, r.solver, r.inputs if r.solver != "weights" else "–"),
            *(f"{r.conv_macs:.3f}×", f"{r.relative_error:.4f}", percent(r.agreement), percent(r.top1)),
            f"{r.seconds:.0f}",
        )
        for r in sorted(rows, key=lambda r: (r.speedup, r.form, r.ranks, r.solver, r.inputs))
    ]
    return markdown(header, body)


def plot(rows: list[Row], base: float, path: Path) -> None:
    """Top-1 against speedup, a curve for every method that has at least two speedups."""
    try:
        from matplotlib import pyplot
    except ImportError:
        warn("no plot: install matplotlib")
        return
    figure, axes = pyplot.subplots(figsize=(8, 5))
    methods = {(r.form, r.ranks, r.solver, r.inputs) for r in rows}
    for method in sorted(methods):
        points = sorted((r.conv_macs, r.top1) for r in rows if (r.form, r.ranks, r.solver, r.inputs) == method)
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), marker="o", label=", ".join(method))
    axes.axhline(base, color="gray", linestyle=":", label="original")
    axes.set_xlabel("conv MACs before / after")
    axes.set_ylabel("top-1")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = lambda text: text.split(",")  # noqa: E731
    add("model", type=Path)
    add("--calibration", type=Path, required=True)
    add("--validation", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--preprocess", type=parse, default="caffe")
    add("--speedups", type=lambda text: [float(x) for x in text.split(",")], default=[2.0, 3.0, 4.0, 5.0, 8.0])
    add("--forms", type=names, default=["channel", "spatial", "3d", "auto"])
    add("--ranks", type=names, default=["uniform", "greedy", "exact"])
    add("--solvers", type=names, default=["weights", "linear", "nonlinear"])
    add("--inputs", type=names, default=["symmetric", "asymmetric"])
    add("--images", type=int, default=300)
    add("--limit", type=int, default=500)
    add("--tap", help="tensor whose relative error is measured (default: the first output)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    whole_run = Options(speedup=1, images=args.images)  # everything is profiled, nothing is planned
    run = prepare(args.model, args.calibration, whole_run, args.preprocess, None, None, silent, warn)
    source, labels = load_labelled(args.validation, inputs(run.loaded.proto), args.preprocess, on_warning=warn)
    chosen = round_classes(labels, args.limit)
    scores = outputs(run.loaded.proto)[0].name
    judge = Judge(source, chosen, labels[chosen], args.tap or scores, scores)
    reference = judge.run(run, normalise(run.loaded.proto))
    base = float((reference[1].argmax(axis=1) == judge.labels).mean())
    print(f"original: top-1 {percent(base)} of {len(chosen)} samples", file=sys.stderr, flush=True)

    path = args.out / "rows.csv"
    rows = read_rows(path)
    done = {Key(**{field.name: getattr(row, field.name) for field in fields(Key)}) for row in rows}
    for choice in itertools.product(args.speedups, args.forms, args.ranks, args.solvers, args.inputs):
        key = Key(*choice)
        if key.solver == "weights" and key.inputs != args.inputs[0]:
            continue  # the weights look at no inputs
        if key not in done:
            rows.append(factorise(run, key, judge, reference))
            append_row(path, rows[-1])
            print(rows[-1], file=sys.stderr, flush=True)
    text = table(rows)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(rows, base, args.out / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
