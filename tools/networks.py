"""Run the command on networks that people deploy today, and print a Markdown table with a row for each.

usage: python tools/networks.py [CACHE] [--imagenet FOLDER] [--imagenette FOLDER] [--file NAME=FILE]... [--rows NAMES]
                                [--photos N] [--without IDEA]... [--python INTERPRETER] [--threads N] [--json FILE]
                                [-- OPTIONS]

--imagenet names a folder with one photo of every class of ImageNet, in the order of the classes, of which half
calibrates and half judges; --imagenette one with train/ and val/, which hold a sub-folder for each of ten classes. The
networks come from packages at pinned versions, which are fetched into CACHE (default: a folder among the temporary
ones), and from files that --file names. Nothing of them belongs in the repository. PyTorch and scikit-learn make some
of the networks: --python names an interpreter with the extra "train" of this project, where this one lacks it.

The command runs in a process of its own. The answers of its result are then measured on pictures that took no part,
and onnx-lowrank-bench measures the clock in yet another process. A row is printed as soon as it is measured. --rows
picks rows by the names of networks, such as vgg16, or of single rows, such as vgg16@4. --without leaves an idea out,
and OPTIONS, those of onnx-lowrank, follow the row's own.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import measuring
from network_files import Sources
from network_rows import NETWORKS, Places, Row, rows
from scoring import BATCH, PROVIDERS, warn
from task_measures import Task
from task_pictures import Pictures

from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.input_shapes import parse_shapes, with_shapes
from onnx_lowrank.data.photos.folder import open_images
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.runtime.session import Session

HEADER = ("network", "asked", "measure", "before → after", "clock", "conv MACs", "seconds", "at least")

WITHOUT: Mapping[str, tuple[str, ...]] = {
    "search": ("--objective=energies",),
    "width": ("--width=none",),
    "low rank": ("--width=only",),
    "refinement": ("--refine=0",),
    "filled blocks": ("--rank-multiple=1",),
    "refit": ("--no-refit",),
    "residual": ("--no-residual",),
}
"""The options that leave an idea out, by the idea."""


MeasureRow: TypeAlias = Callable[[Row, Path, Pictures], tuple[list[list[str]], dict[str, Any]]]
"""Measures a row on its model and its pictures; see ``measure_rows``."""


@dataclass(frozen=True)
class Measured:
    """What is known of a row.

    Attributes
    ----------
    before, after
        The measure of the original's answers and of the result's.
    clock
        The numbers of the benchmark for the result.
    run
        The run of the command; its report holds the rest.
    """

    before: float
    after: float
    clock: Mapping[str, float]
    run: measuring.CommandRun

    def cells(self, row: Row) -> list[str]:
        """Return the cells of a row."""
        show = row.network.task.show
        return [
            *(row.name.partition("@")[0], row.shown, row.network.task.name),
            f"{show(self.before)} → {show(self.after)}",
            measuring.interval(self.clock),
            f"{self.run.report['speedup']['macs']:.2f}×",
            f"{self.run.seconds:.0f}",
            row.least,
        ]


def measure(row: Row, model: Path, pictures: Pictures, options: Sequence[str], threads: int) -> Measured:
    """Run the command, and measure what it wrote."""
    network = row.network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.onnx"
        data, own = str(pictures.calibration), (*network.options, f"--threads={threads}")
        run = measuring.run_command(
            model, out, f"--data={data}", f"--images={pictures.count}", *own, *row.asked, *options
        )
        before, after = measuring.in_own_process(judge, (model, out), pictures, network.preprocess, row.name)
        clock = measuring.bench((model, out), data, own, folder)
    return Measured(before, after, clock, run)


def judge(models: Sequence[Path], pictures: Pictures, preprocess: str, name: str) -> tuple[float, ...]:
    """Return the measures of the original, which comes first, and of the others on the pictures that judge."""
    # A task holds functions, which do not travel between processes, so the row's name stands for it.
    task: Task = rows()[name].network.task
    given = [text.partition("=")[2] for text in rows()[name].network.options if text.startswith("--input-shapes=")]
    specs = with_shapes(inputs(load(models[0]).proto), parse_shapes(given))
    files = list(pictures.judging)
    source, readable = open_images(files, files[0].parent, specs, parse(preprocess), Draw(None, warn=warn))
    sessions = [Session(str(model), PROVIDERS, 0, str(model)) for model in models]
    answers: list[list[Any]] = [[] for _ in models]
    batch = _batch(specs)
    for start in range(0, len(source), batch):
        feeds = source.feeds(range(start, min(start + batch, len(source))))
        for own, session in zip(answers, sessions, strict=True):
            own += map(task.read, session(feeds)[session.outputs[0]])
    labels = [pictures.labels[i] for i in readable] if pictures.labels else []
    return tuple(task.compare(answers[0], own, labels) for own in answers)


def _batch(specs: Sequence[TensorSpec]) -> int:
    """Return the number of samples of a run: the one that the model demands, if any."""
    sizes = (spec.shape[spec.axis] for spec in specs if spec.shape and spec.axis is not None)
    return next((size for size in sizes if isinstance(size, int)), BATCH)


def picked(words: Sequence[str]) -> list[Row]:
    """Return the rows that the user names, by their own names or by that of their network."""
    known = rows()
    found = [row for name, row in known.items() if name in words or name.partition("@")[0] in words]
    strange = [word for word in words if not any(word in (row.name, row.name.partition("@")[0]) for row in found)]
    if strange:
        raise SystemExit(f"no row is called {', '.join(strange)}: choose from {', '.join(known)}")
    return found


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE with a file that exists")
    return name, Path(file)


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which networks are measured, and where their files and pictures are."""
    add = parser.add_argument
    add("cache", type=Path, nargs="?", metavar="CACHE", default=Path(tempfile.gettempdir()) / "onnx-lowrank-networks")
    add("--imagenet", type=Path, metavar="FOLDER", help="one photo of every class of ImageNet")
    add("--imagenette", type=Path, metavar="FOLDER", help="train/ and val/ of ten classes")
    add("--file", type=_named_file, action="append", default=[], metavar="NAME=FILE", help="the file of a network")
    add("--rows", type=measuring.comma_list, default=list(NETWORKS), metavar="NAMES", help="default: all")
    add("--photos", type=int, metavar="N", help="at most so many pictures to calibrate and to judge, for a trial")
    add("--python", default=sys.executable, help="the interpreter with the extra 'train' (default: this one)")
    add("--json", type=Path, metavar="FILE", help="also write everything that was measured to this file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_places(parser)
    parser.add_argument("--without", action="append", choices=WITHOUT, default=[], help="leave an idea out")
    threads = "the threads of ONNX Runtime (default: its own choice)"
    parser.add_argument("--threads", type=int, default=0, help=threads)
    return parser


def measure_rows(args: argparse.Namespace, header: Sequence[str], measure_one: MeasureRow) -> None:
    """Measure the rows that the user picks, and print and write each as soon as it is measured.

    Parameters
    ----------
    args
        The arguments of ``add_places``.
    header
        The header of the table.
    measure_one
        Returns the lines of a row for the table, and everything that was measured for JSON.
    """
    chosen = picked(args.rows)
    args.cache.mkdir(parents=True, exist_ok=True)
    places = Places(args.imagenet, args.imagenette, args.cache.resolve())
    sources = Sources(places.cache, args.python, tuple(args.file), args.imagenette)
    print(measuring.markdown(header, ()), flush=True)
    document: list[dict[str, Any]] = []
    for row in chosen:
        try:
            model, pictures = sources.file(row.network.model), row.network.pictures(places).first(args.photos)
            lines, values = measure_one(row, model, pictures)
        except (SystemExit, OSError, subprocess.CalledProcessError) as error:
            # The other rows may still be measured; the command has said itself what was wrong.
            label = [row.name.partition("@")[0], row.shown, f"not measured: {error}"]
            print(f"| {' | '.join([*label, *[''] * (len(header) - len(label))])} |", flush=True)
            continue
        for line in lines:
            print(f"| {' | '.join(line)} |", flush=True)
        document.append(values)
        measuring.write_json(args.json, {"rows": document})
    if len(document) < len(chosen):
        raise SystemExit(f"{len(chosen) - len(document)} of {len(chosen)} rows were not measured")


def main() -> None:
    own_words, options = measuring.split_options(sys.argv[1:])
    args = _parser().parse_args(own_words)
    options = [*(option for idea in args.without for option in WITHOUT[idea]), *options]

    def measure_one(row: Row, model: Path, pictures: Pictures) -> tuple[list[list[str]], dict[str, Any]]:
        measured = measure(row, model, pictures, options, args.threads)
        return [measured.cells(row)], {
            "row": row.name,
            "asked": [*row.asked, *options],
            "measure": row.network.task.name,
            "before": measured.before,
            "after": measured.after,
            "clock": measured.clock,
            "seconds": measured.run.seconds,
            "at_least": row.least,
            "report": measured.run.report,
        }

    measure_rows(args, HEADER, measure_one)


if __name__ == "__main__":
    main()
