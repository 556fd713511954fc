"""Compare the four solvers and the SVD of the weights, or any other options, on one classifier; print a Markdown table.

usage: python tools/solver_table.py MODEL --calibration DATA --validation LABELLED [--images 300] [--speedup 4]
                                    [--form auto] [--limit 500] [--preprocess caffe] [--row NAME=OPTIONS]...
                                    [--json FILE]

DATA is what onnx-lowrank's --data takes; LABELLED what its --test takes: a folder with a sub-folder of photos for each
class, or an .npz with labels. The first --limit / classes samples of every class are looked at. The model's first
output must be class scores, and its batch size free. Each --row is a run with options of its own, in place of the
solvers: --row "with shortcuts=--residual" --row "without=--no-residual".

First the original runs alone on the calibration samples, with ONNX Runtime's defaults and in batches of 8. Then every
solver runs as a process of its own: the real command, whose whole time is divided by that of the original. Run this on
a machine that does nothing else.
"""

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from measuring import (
    Run,
    Scores,
    apart,
    bare_seconds,
    command_options,
    common_arguments,
    compare,
    error,
    markdown,
    percent,
    run_command,
)

SOLVERS = {
    "linear, symmetric": ("--solver=linear", "--symmetric"),
    "nonlinear, symmetric": ("--solver=nonlinear", "--symmetric"),
    "linear, asymmetric": ("--solver=linear",),
    "nonlinear, asymmetric (default)": ("--solver=nonlinear",),
    "SVD of the weights": ("--solver=weights",),
}
HEADER = (
    *("solver", "relative error", "agreement", "top-1", "conv MACs", "latency", "seconds", "× bare run"),
    *("peak memory", "forward passes"),
)


def row(name: str, run: Run, scores: Scores, bare: float) -> list[str]:
    cost = run.report["cost"]
    return [
        name,
        error(scores.relative_error),
        percent(scores.agreement),
        percent(scores.top1),
        f"{run.report['speedup']['macs']:.3f}× fewer",
        f"{run.report['speedup']['latency']['ratio']:.2f}×",
        f"{run.seconds:.1f}",
        f"{run.seconds / bare:.2f}",
        f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB",
        f"{cost['forward_passes']:.2f}",
    ]


def named_options(text: str) -> tuple[str, tuple[str, ...]]:
    """The name of a row, and the options of its run."""
    name, equals, options = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '=' between a name and options")
    return name, tuple(shlex.split(options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file of a classifier")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA", help="samples without labels")
    parser.add_argument("--validation", type=Path, required=True, metavar="LABELLED", help="samples with labels")
    parser.add_argument(
        "--row", type=named_options, action="append", metavar="NAME=OPTIONS", help="a run in place of the solvers"
    )
    common_arguments(parser)
    args = parser.parse_args()
    rows: dict[str, tuple[str, ...]] = dict(args.row or SOLVERS.items())

    samples, bare = apart(bare_seconds, args.model, args.calibration, args.images, args.preprocess)
    print(f"original: {bare:.3g} s for {samples} samples", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        outs = [Path(folder) / f"{number}.onnx" for number in range(len(rows))]
        for (name, options), out in zip(rows.items(), outs, strict=True):
            runs[name] = run_command(args.model, out, f"--data={args.calibration}", *command_options(args), *options)
            print(f"{name}: {runs[name].seconds:.1f} s", file=sys.stderr, flush=True)
        original, *scores = apart(compare, [args.model, *outs], args.validation, args.limit, args.preprocess)

    print(markdown(HEADER, [row(name, runs[name], s, bare) for name, s in zip(runs, scores, strict=True)]))
    print(
        f"\nBare run: ONNX Runtime alone takes {bare:.3g} s for the original on the {samples} calibration samples. "
        f"Errors, agreement and top-1 on {original.samples} labelled samples, of which the original gets "
        f"{percent(original.top1)} right."
    )
    if args.json:
        document = {
            "model": args.model.name,
            "bare": {"samples": samples, "seconds": bare},
            "original": asdict(original),
            "solvers": {
                name: {**asdict(s), "seconds": runs[name].seconds, "report": runs[name].report}
                for name, s in zip(runs, scores, strict=True)
            },
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
