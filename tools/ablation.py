"""Factorise one classifier in every combination of the choices given, to see what each idea is worth.

usage: python tools/ablation.py MODEL --calibration DATA --validation LABELLED --out FOLDER [--preprocess caffe]
           [--speedups 2,3,4,5,8] [--forms channel,spatial,3d,cp,auto] [--ranks uniform,greedy,exact]
           [--solvers weights,linear,nonlinear] [--inputs symmetric,asymmetric] [--images 300] [--limit 500]
           [--row SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS]... [--tap TENSOR]

The results are a Markdown table, two CSV files and a plot. All combinations of the lists are measured. To measure
fewer, for example one choice changed at a time, name them with --row once or several times: only the combinations of
the lists in each --row are measured. A part that is left empty takes the list of the option of that name.

    --row :auto:exact:nonlinear:asymmetric --row 4:channel,3d:exact:nonlinear:asymmetric --row 4:spatial:exact:weights:

The solver "weights" looks at no data. With the form spatial it is the scheme of Jaderberg et al. (BMVC 2014), and with
the form channel the truncated SVD of the kernel (Denton et al., NIPS 2014).

The original is profiled once for all rows. FOLDER/rows.csv grows by one line a row. A row that is already there is not
measured again, so the tool continues where it stopped, and several calls with different choices fill one table.
FOLDER/ranks.csv holds the form and the ranks, from the input on, of every layer in every row. --tap measures the
relative error of a tensor inside the network, such as the pooled features, instead of that of the output. The plot,
FOLDER/plot.png, needs matplotlib.
"""

import argparse
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ablation_tables as tables
import numpy as np
from ablation_plot import plot
from ablation_tables import INPUTS, Combination, Row
from measuring import comma_list, percent, progress
from scoring import BATCH, Array, in_turn_from_every_class, relative_error, warn

from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.table import AUTO, FORMS
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.options import ALLOCATION_CHOICES, SOLVERS, Options
from onnx_lowrank.pipeline import prepare
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Listener
from onnx_lowrank.runtime.blas_threads import without_spinning
from onnx_lowrank.stages.choices import site_energies
from onnx_lowrank.stages.plan import plan
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import Profiled, needed_preparations, prepare_kernels
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import steps
from onnx_lowrank.stages.walk import walk
from onnx_lowrank.stages.widths import NO_WIDTHS


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network on all labelled samples: the tapped tensor, float64, and the class scores [n, classes].

    Both are the same tensor unless the user taps another.
    """

    tapped: Array
    scores: Array

    @property
    def classes(self) -> Array:
        """The class [n] with the highest score."""
        return np.asarray(self.scores.argmax(axis=1))


@dataclass(frozen=True)
class LabelledSamples:
    """The samples on which every row is measured.

    Attributes
    ----------
    source
        The samples.
    chosen
        The indices of those that are used.
    labels
        The class of each of them.
    tap, scores
        The names of the tapped tensor and of the class scores.
    """

    source: Source
    chosen: list[int]
    labels: Array
    tap: str
    scores: str

    def outputs(self, run: Run, network: Network) -> Outputs:
        """Run a network on all samples."""
        session = run.open_session(whole(network, [self.tap, self.scores]), "the model")
        parts = [session(self.source.feeds(self.chosen[i : i + BATCH])) for i in range(0, len(self.chosen), BATCH)]
        tapped, scores = (np.concatenate([part[name] for part in parts]) for name in (self.tap, self.scores))
        return Outputs(tapped.astype(np.float64), scores)

    def top1(self, outputs: Outputs) -> float:
        """Return the share of samples whose class a network names."""
        return float((outputs.classes == self.labels).mean())


@dataclass(frozen=True)
class Ablation:
    """The original, profiled once, and what every row needs of it.

    Attributes
    ----------
    run
        The run that profiled it.
    prepared
        The results of its stages.
    samples
        The samples with labels.
    original
        The outputs of the original on them.
    """

    run: Run
    prepared: Prepared
    samples: LabelledSamples
    original: Outputs

    @classmethod
    def of(cls, request: Request, labelled: Path, limit: int, tap: str | None) -> "Ablation":
        """Profile the original, and run it on the labelled samples."""
        run = Run.start(request, Listener(warn=warn))
        with contextlib.ExitStack() as stack:
            prepared = prepare(run, stack)
        read = prepared.read
        source, labels = load_labelled(labelled, read.inputs, request.parsed_preprocess, on_warning=warn)
        chosen = in_turn_from_every_class(labels, limit)
        scores = read.outputs[0].name
        samples = LabelledSamples(source, chosen, labels[chosen], tap or scores, scores)
        return cls(run, prepared, samples, samples.outputs(run, read.network))

    def row(self, combination: Combination) -> tuple[Row, Plan]:
        """Plan, solve and measure one combination; fully connected layers keep their weights."""
        start = time.perf_counter()
        options = combination.options(len(self.prepared.sampled.source))
        request = replace(self.run.request, options=options)
        run = replace(self.run, request=request, kinds=self.run.forms.allowed(options.form))
        prepared = self._planned(run, combination)
        network = self._solved(run, prepared)
        seconds = time.perf_counter() - start
        outputs = self.samples.outputs(run, network)
        row = Row(
            combination,
            conv_macs=speedup(prepared),
            relative_error=relative_error(outputs.tapped, self.original.tapped),
            agreement=float((outputs.classes == self.original.classes).mean()),
            top1=self.samples.top1(outputs),
            seconds=seconds,
        )
        return row, prepared.planned.plan

    def _planned(self, run: Run, combination: Combination) -> Prepared:
        counted, profiled = replace(self.prepared.counted, dense=()), self.prepared.profiled
        if combination.solver == "weights":
            needed = needed_preparations(counted.shapes, run.kinds, None)
            profiled = Profiled({}, prepare_kernels(counted.families, needed, {}))
        basis = replace(
            self.prepared,
            counted=counted,
            profiled=profiled,
            reach=Reach(self.prepared.reach.deployment),
            widths=NO_WIDTHS,
        )
        return replace(basis, planned=plan(run, basis, site_energies(counted, profiled, run.kinds)))

    def _solved(self, run: Run, prepared: Prepared) -> Network:
        read, sampling = prepared.read, prepared.sampled.sampling
        with open_shards(prepared.path, sampling, run.open_session, prepared.counted.macs.all) as shard:
            walked = walk(run, read.network, deque(steps(run, prepared)), shard)
        return normalise(export(walked.network, read.loaded))


def speedup(prepared: Prepared) -> float:
    """Return the ratio of the conv MACs before and after."""
    counted, planned = prepared.counted, prepared.planned
    conv_macs = sum(counted.macs.conv.values())
    saved = sum(shape.macs - planned.macs[name] for name, shape in counted.shapes.items())
    return conv_macs / (conv_macs - saved)


def combinations(lists: Sequence[Sequence[str]], rows: Sequence[str]) -> list[Combination]:
    """Return the combinations that the user asks for, each once and in order.

    Parameters
    ----------
    lists
        Speedups, forms, ranks, solvers and inputs. Without ``rows`` all their combinations are meant.
    rows
        The same five lists as text, such as "2,4:auto:exact:nonlinear:", where an empty part stands for that of
        ``lists``.

    Raises
    ------
    UsageError
        If a row does not have five parts, or a choice is unknown.
    """
    crosses = [lists] if not rows else []
    for row in rows:
        parts = row.split(":")
        if len(parts) != len(lists):
            raise UsageError(f"--row {row}: give five parts, SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS")
        crosses.append([part.split(",") if part else default for part, default in zip(parts, lists, strict=True)])
    chosen: dict[Combination, None] = {}
    for number, *choices in itertools.chain.from_iterable(itertools.product(*cross) for cross in crosses):
        try:
            combination = Combination(float(number), *choices).distinct
        except ValueError:
            raise UsageError(f"speedup is {number!r}: give a number") from None
        combination.options(1)
        chosen[combination] = None
    return list(chosen)


def parse_arguments() -> tuple[argparse.Namespace, list[Combination]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the ONNX file of a classifier")
    add("--calibration", type=Path, required=True, metavar="DATA", help="samples without labels")
    add("--validation", type=Path, required=True, metavar="LABELLED", help="samples with labels")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder of the tables and the plot")
    add("--preprocess", type=parse, default="caffe", metavar="SPEC", help="as for onnx-lowrank (default: %(default)s)")
    lists = {
        "speedups": ["2", "3", "4", "5", "8"],
        "forms": [*FORMS.names, AUTO],
        "ranks": list(reversed(ALLOCATION_CHOICES)),
        "solvers": list(reversed(SOLVERS)),
        "inputs": list(INPUTS),
    }
    for name, default in lists.items():
        add(f"--{name}", type=comma_list, default=default, metavar="LIST", help=f"(default: {','.join(default)})")
    text = "SPEEDUPS:FORMS:RANKS:SOLVERS:INPUTS, in place of all combinations"
    add("--row", action="append", default=[], metavar="LISTS", help=text)
    add("--images", type=int, default=300, help="the number of calibration samples (default: %(default)s)")
    add("--limit", type=int, default=500, help="the number of labelled samples to use (default: %(default)s)")
    add("--tap", metavar="TENSOR", help="the tensor whose relative error is measured (default: the first output)")
    args = parser.parse_args()
    try:
        return args, combinations([getattr(args, name) for name in lists], args.row)
    except UsageError as error:
        parser.error(str(error))


@without_spinning()
def main() -> None:
    args, wanted = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    # At speedup 1 everything is profiled, and the plan leaves every layer alone.
    request = Request(args.model, args.calibration, Options(speedup=1, images=args.images), args.preprocess)
    ablation = Ablation.of(request, args.validation, args.limit, args.tap)
    original_top1 = ablation.samples.top1(ablation.original)
    progress(f"original: top-1 {percent(original_top1)} of {len(ablation.samples.chosen)} samples")

    rows_file, ranks_file = args.out / "rows.csv", args.out / "ranks.csv"
    rows, plans = tables.read_rows(rows_file), tables.read_ranks(ranks_file)
    measured = {row.combination for row in rows}
    for combination in wanted:
        if combination not in measured:
            row, plans[combination] = ablation.row(combination)
            rows.append(row)
            tables.write_ranks(ranks_file, plans)  # comes first, because a row that is there is not measured again
            tables.append_row(rows_file, row)
            progress(f"{combination.speedup:g}×, {combination.method}: {row.seconds:.1f} s")
    text = tables.rows_table(rows)
    if plans:
        text += "\n\n" + tables.ranks_table(plans)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(rows, original_top1, args.out / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
