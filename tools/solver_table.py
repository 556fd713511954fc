"""Compare the solvers and the SVD of the weights, or any other options, on one classifier; print a Markdown table.

usage: python tools/solver_table.py MODEL --calibration DATA --validation LABELLED [--images 300] [--speedup 4]
                                    [--form auto] [--limit 500] [--preprocess caffe] [--row NAME=OPTIONS]...
                                    [--json FILE]

DATA is anything that the option --data of onnx-lowrank takes. LABELLED is anything that its option --test takes: a
folder with a sub-folder of photos for each class, or an .npz with labels. The samples are taken in turn from every
class until there are --limit of them. The first output of the model must be class scores, and its batch size must be
free. Each --row is a run with options of its own; the rows that are given replace the solvers. Two of them can show,
for example, what shortcuts are worth: --row "with shortcuts=--residual" --row "without=--no-residual".

First the original runs alone on the calibration samples, with ONNX Runtime's defaults and in batches of 8. Then every
solver runs in a process of its own. This is the real command, and its whole time is divided by that of the original.
Run the tool on a machine that does nothing else.
"""

import argparse
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path

import measuring
from measuring import CommandRun, error_text, percent
from scoring import Scores, bare_run, score_models

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


def table_row(name: str, run: CommandRun, scores: Scores, bare_seconds: float) -> list[str]:
    """Return the cells of one run."""
    cost = run.report["cost"]
    return [
        name,
        error_text(scores.relative_error),
        percent(scores.agreement),
        percent(scores.top1),
        f"{run.report['speedup']['macs']:.3f}× fewer",
        f"{run.report['speedup']['latency']['ratio']:.2f}×",
        f"{run.seconds:.1f}",
        f"{run.seconds / bare_seconds:.2f}",
        f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB",
        f"{cost['forward_passes']:.2f}",
    ]


def named_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split the argument of --row into the name of the row and the options of its run."""
    name, equals, options = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '=' between a name and options")
    return name, tuple(shlex.split(options))


def main() -> None:
    parser = measuring.tool_parser(__doc__)
    measuring.add_samples(parser)
    measuring.add_speedup(parser)
    parser.add_argument(
        "--row", type=named_options, action="append", metavar="NAME=OPTIONS", help="a run; replaces the solvers"
    )
    args = parser.parse_args()
    shared = [f"--data={args.calibration}", *measuring.command_options(args, args.speedup)]
    rows = {name: [*shared, *options] for name, options in args.row or SOLVERS.items()}

    samples, bare_seconds = measuring.in_own_process(
        bare_run, args.model, args.calibration, args.images, args.preprocess
    )
    measuring.progress(f"original: {bare_seconds:.3g} s for {samples} samples")
    with tempfile.TemporaryDirectory() as folder:
        runs, models = measuring.run_rows(args.model, rows, Path(folder))
        original, *scores = measuring.in_own_process(
            score_models, [args.model, *models], args.validation, args.limit, args.preprocess
        )
    scored = dict(zip(runs, scores, strict=True))

    print(measuring.markdown(HEADER, [table_row(name, runs[name], scored[name], bare_seconds) for name in runs]))
    print(
        f"\n{measuring.bare_run_note(samples, bare_seconds)} Errors, agreement and top-1 were measured on "
        f"{original.samples} labelled samples, of which the original gets {percent(original.top1)} right."
    )
    measuring.write_json(
        args.json,
        {
            "model": args.model.name,
            "bare": {"samples": samples, "seconds": bare_seconds},
            "original": asdict(original),
            "solvers": {name: measuring.json_row(runs[name], scored[name]) for name in runs},
        },
    )


if __name__ == "__main__":
    main()
