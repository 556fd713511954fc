"""What every idea is worth: one classifier factorised in every combination of the choices given; Markdown, CSV, a plot.

usage: python tools/ablation.py MODEL --calibration DATA --validation LABELLED --out FOLDER [--preprocess caffe]
           [--speedups 2,3,4,5,8] [--forms channel,spatial,3d,auto] [--ranks uniform,greedy,exact]
           [--solvers weights,linear,nonlinear] [--inputs symmetric,asymmetric] [--images 300] [--limit 500]
           [--row SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS]... [--tap TENSOR]

All combinations of the lists are measured. For fewer, such as one choice changed at a time, name them with --row, once
or several times: the combinations of the lists in each, and only these. A part left empty is what its own option says.

    --row :auto:exact:nonlinear:asymmetric --row 4:channel,3d:exact:nonlinear:asymmetric --row 4:spatial:exact:weights:

The solver "weights" looks at no data: with the form spatial it is the scheme of Jaderberg et al. (BMVC 2014), with the
form channel the truncated SVD of the kernel (Denton et al., NIPS 2014).

The original is profiled once for all rows. FOLDER/rows.csv grows by a line a row; a row that is there already is not
run again, so the tool goes on where it stopped, and several calls with different choices fill one table.
FOLDER/ranks.csv has the form and the ranks (from the input on) of every layer in every row. --tap measures the relative
error of a tensor inside the network, such as the pooled features, in place of the output's. The plot (FOLDER/plot.png)
needs matplotlib.
"""

import argparse
import contextlib
import csv
import itertools
import sys
import time
from collections import deque
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BATCH, Array, markdown, percent, round_classes, warn

from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import UsageError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import prepare
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.progress import Listener
from onnx_lowrank.stages.plan import plan
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import Profiled, needed_preparations, prepare_kernels
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import steps
from onnx_lowrank.stages.walk import walk

INPUTS = ("symmetric", "asymmetric")
COLOURS = (*(f"C{i}" for i in range(10)), "navy", "gold")


@dataclass(frozen=True)
class Key:
    """One combination of choices."""

    speedup: float
    form: str
    ranks: str
    solver: str
    inputs: str

    @property
    def method(self) -> str:
        """All but the speedup, as a reader knows it."""
        how = self.solver_name if self.solver == "weights" else f"{self.solver} {self.inputs}"
        return f"{self.form}, {self.ranks}, {how}"

    @property
    def solver_name(self) -> str:
        """The solver, with whose scheme it is where it looks at no data."""
        schemes = {"spatial": "weights (Jaderberg)", "channel": "weights (SVD)"}
        return schemes.get(self.form, self.solver) if self.solver == "weights" else self.solver

    @property
    def key(self) -> "Key":
        """Without what came of it; the weights look at no inputs, so that is one combination and not two."""
        inputs = "symmetric" if self.solver == "weights" else self.inputs
        return Key(self.speedup, self.form, self.ranks, self.solver, inputs)

    def options(self, images: int) -> Options:
        """As the pipeline takes them, checked."""
        if self.inputs not in INPUTS:
            raise UsageError(f"inputs is {self.inputs!r}: choose one of {', '.join(INPUTS)}")
        return Options(
            speedup=self.speedup,
            form=self.form,
            ranks=self.ranks,
            solver=self.solver,
            symmetric=self.inputs == "symmetric",
            images=images,
        )


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

    def run(self, run: Run, network: Network) -> tuple[Array, Array]:
        """The tapped tensor and the class scores over all samples."""
        session = run.open_session(whole(network, [self.tap, self.scores]), "the model")
        parts = [session(self.source.feeds(self.chosen[i : i + BATCH])) for i in range(0, len(self.chosen), BATCH)]
        tapped, scores = (np.concatenate([part[name] for part in parts]) for name in (self.tap, self.scores))
        return tapped.astype(np.float64), scores


def factorise(
    whole_run: Run, prepared: Prepared, key: Key, judge: Judge, reference: tuple[Array, Array]
) -> tuple[Row, Plan]:
    """One row: plan, walk, measure; fully connected layers keep their weights."""
    start = time.perf_counter()
    options = key.options(len(prepared.sampled.source))
    run = replace(
        whole_run, request=replace(whole_run.request, options=options), kinds=whole_run.forms.allowed(options.form)
    )
    counted, profiled = replace(prepared.counted, dense=()), prepared.profiled
    if key.solver == "weights":
        needed = needed_preparations(counted.shapes, run.kinds, None)
        profiled = Profiled({}, prepare_kernels(counted.sites, needed, {}))
    planned = plan(run, counted, Reach(prepared.reach.deployment), profiled)
    own = replace(prepared, counted=counted, profiled=profiled, planned=planned)
    network, loaded, sampling = prepared.read.network, prepared.read.loaded, prepared.sampled.sampling
    with open_shards(network, sampling, run.open_session, counted.macs.all) as shard:
        walked = walk(run, network, deque(steps(run, own)), shard)
    seconds = time.perf_counter() - start
    tapped, scores = judge.run(run, normalise(export(walked.network, loaded)))
    predicted = scores.argmax(axis=1)
    conv = sum(counted.macs.conv.values())
    saved = sum(shape.macs - planned.macs[name] for name, shape in counted.shapes.items())
    row = Row(
        speedup=key.speedup,
        form=key.form,
        ranks=key.ranks,
        solver=key.solver,
        inputs=key.inputs,
        conv_macs=conv / (conv - saved),
        relative_error=float(np.square(tapped - reference[0]).sum() / np.square(reference[0]).sum()),
        agreement=float((predicted == reference[1].argmax(axis=1)).mean()),
        top1=float((predicted == judge.labels).mean()),
        seconds=seconds,
    )
    return row, planned.plan


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


def read_ranks(path: Path) -> dict[Key, Plan]:
    """What was chosen for every layer in the rows measured so far."""
    plans: dict[Key, list[SitePlan]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            for speedup, form, ranks, solver, inputs, layer, chosen, of_layer in itertools.islice(
                csv.reader(stream), 1, None
            ):
                site = SitePlan(layer, chosen or None, tuple(map(int, of_layer.split())))
                plans.setdefault(Key(float(speedup), form, ranks, solver, inputs), []).append(site)
    return {key: Plan(tuple(sites)) for key, sites in plans.items()}


def write_ranks(path: Path, plans: dict[Key, Plan]) -> None:
    """A line for every layer; no form and no ranks where it is left alone."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        # The form asked for, which may be "auto", and the form of the layer.
        writer.writerow([*(field.name for field in fields(Key)), "layer", "layer_form", "layer_ranks"])
        for key, plan in plans.items():
            for site in plan.sites:
                writer.writerow([*astuple(key), site.name, site.form or "", " ".join(map(str, site.ranks))])


def ranks_table(plans: dict[Key, Plan]) -> str:
    """The ranks of all layers, from the input on; solvers that go by the same plan share a line."""
    lines: dict[tuple[Any, ...], set[str]] = {}
    for key, chosen in sorted(plans.items(), key=lambda item: astuple(item[0])):
        sites = tuple((site.form, site.ranks) for site in chosen.sites)
        lines.setdefault((key.speedup, key.form, key.ranks, sites), set()).add(key.solver)
    body = []
    for (speedup, form, ranks, sites), solvers in lines.items():
        # Under "auto" the form tells what the numbers mean; elsewhere it is the same in all layers.
        cells = ["/".join(map(str, r)) + (f" {own}" if form == "auto" else "") if own else "–" for own, r in sites]
        body.append((f"{speedup:g}×", form, ranks, ", ".join(sorted(solvers)), ", ".join(cells)))
    return markdown(("speedup", "form", "ranks", "solvers", "ranks of the layers from the input on"), body)


def table(rows: list[Row]) -> str:
    """All rows, by speedup, form, ranks, solver and inputs."""
    header = ("speedup", "form", "ranks", "solver", "inputs", "conv MACs", "relative error", "agreement", "top-1", "s")
    body = [
        (
            *(f"{r.speedup:g}×", r.form, r.ranks, r.solver_name, r.inputs if r.solver != "weights" else "–"),
            *(f"{r.conv_macs:.3f}×", f"{r.relative_error:.4f}", percent(r.agreement), percent(r.top1)),
            f"{r.seconds:.0f}",
        )
        for r in sorted(rows, key=lambda r: (r.speedup, r.form, r.ranks, r.solver, r.inputs))
    ]
    return markdown(header, body)


def plot(rows: list[Row], base: float, path: Path) -> None:
    """Top-1 and relative error against speedup, a curve for every method that has at least two speedups."""
    try:
        import matplotlib
    except ImportError:
        warn("no plot: install matplotlib")
        return
    matplotlib.use("agg")  # files need no screen
    from matplotlib import pyplot

    figure, (accuracy, error) = pyplot.subplots(1, 2, figsize=(12, 5))
    points: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.method, row.conv_macs)):
        points.setdefault(row.method, []).append(row)
    curves = {method: own for method, own in points.items() if len(own) > 1}
    for i, (method, own) in enumerate(curves.items()):
        # Where more than twelve curves share a colour, markers and strokes still tell them apart.
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "markersize": 5, "linewidth": 1.4}
        style |= {"marker": "osD^v<>"[i % 7], "linestyle": ("-", "--", "-.")[i % 3]}
        macs = [row.conv_macs for row in own]
        accuracy.plot(macs, [100 * row.top1 for row in own], label=method, **style)
        error.plot(macs, [row.relative_error for row in own], **style)
    accuracy.axhline(100 * base, color="black", linestyle=":", label="original")
    accuracy.set_ylabel("top-1, %")
    error.set_ylabel("relative error")
    error.set_yscale("log")
    for axes in (accuracy, error):
        axes.set_xlabel("conv MACs before / after")
        axes.grid(alpha=0.3)
    figure.subplots_adjust(wspace=0.25)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def wanted(lists: list[list[str]], rows: list[str]) -> list[Key]:
    """The combinations asked for, each once, in order.

    Parameters
    ----------
    lists
        Speedups, forms, ranks, solvers and inputs: all combinations of them, where there are no ``rows``.
    rows
        Each has the same five as text, "2,4:auto:exact:nonlinear:", an empty part as in ``lists``.

    Raises
    ------
    UsageError
        Where a row has not five parts or a choice is unknown.
    """
    crosses = [lists] if not rows else []
    for row in rows:
        parts = row.split(":")
        if len(parts) != len(lists):
            raise UsageError(f"--row {row}: give five parts, SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS")
        crosses.append([part.split(",") if part else default for part, default in zip(parts, lists, strict=True)])
    keys: dict[Key, None] = {}
    for speedup, *rest in itertools.chain.from_iterable(itertools.product(*cross) for cross in crosses):
        try:
            key = Key(float(speedup), *rest).key
        except ValueError:
            raise UsageError(f"speedup is {speedup!r}: give a number") from None
        key.options(1)
        keys[key] = None
    return list(keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = lambda text: text.split(",")  # noqa: E731
    add("model", type=Path)
    add("--calibration", type=Path, required=True)
    add("--validation", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--preprocess", type=parse, default="caffe")
    add("--speedups", type=names, default=["2", "3", "4", "5", "8"])
    add("--forms", type=names, default=["channel", "spatial", "3d", "cp", "auto"])
    add("--ranks", type=names, default=["uniform", "greedy", "exact"])
    add("--solvers", type=names, default=["weights", "linear", "nonlinear"])
    add("--inputs", type=names, default=list(INPUTS))
    add("--row", action="append", default=[], help="SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS in place of all combinations")
    add("--images", type=int, default=300)
    add("--limit", type=int, default=500)
    add("--tap", help="tensor whose relative error is measured (default: the first output)")
    args = parser.parse_args()
    try:
        keys = wanted([args.speedups, args.forms, args.ranks, args.solvers, args.inputs], args.row)
    except UsageError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)

    whole_run = Options(speedup=1, images=args.images)  # everything is profiled, nothing is planned
    run = Run.start(Request(args.model, args.calibration, whole_run, args.preprocess), Listener(warn=warn))
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
    original = prepared.read
    source, labels = load_labelled(args.validation, original.inputs, args.preprocess, on_warning=warn)
    chosen = round_classes(labels, args.limit)
    scores = original.outputs[0].name
    judge = Judge(source, chosen, labels[chosen], args.tap or scores, scores)
    reference = judge.run(run, original.network)
    base = float((reference[1].argmax(axis=1) == judge.labels).mean())
    print(f"original: top-1 {percent(base)} of {len(chosen)} samples", file=sys.stderr, flush=True)

    path, ranks_path = args.out / "rows.csv", args.out / "ranks.csv"
    rows, plans = read_rows(path), read_ranks(ranks_path)
    done = {row.key for row in rows}
    for key in keys:
        if key not in done:
            row, plans[key] = factorise(run, prepared, key, judge, reference)
            rows.append(row)
            write_ranks(ranks_path, plans)  # first: a row that is there is not run again
            append_row(path, row)
            print(row, file=sys.stderr, flush=True)
    text = table(rows)
    if plans:
        text += "\n\n" + ranks_table(plans)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(rows, base, args.out / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
