"""What a speedup costs: one classifier at several speedups, by the real command; print a Markdown table.

usage: python tools/speedup_table.py MODEL --calibration DATA --validation LABELLED [--speedups 3,4,5,8] [--images 300]
                                     [--form auto] [--limit 500] [--preprocess caffe] [--tap TENSOR] [--keep FOLDER]
                                     [--json FILE]

LABELLED is what onnx-lowrank's --test takes: a folder with a sub-folder of photos for each class, or an .npz with
labels; it only judges. The relative error is that of the first output; --tap adds that of a tensor inside the network,
such as the pooled features. --keep holds on to the factorised models. "× bare run" is the whole time of the command
over that of only running the original on the same samples with ONNX Runtime, measured just before.
"""

import argparse
import json
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

HEADER = (
    *("speedup", "conv MACs", "top-1", "change", "agreement", "relative error", "of the tensor tapped"),
    *("latency", "seconds", "× bare run", "peak memory", "forward passes"),
)


def row(speedup: float, run: Run, scores: Scores, original: Scores, bare: float) -> list[str]:
    report, cost = run.report, run.report["cost"]
    return [
        *(f"{speedup:g}×", f"{report['speedup']['macs']:.3f}× fewer", percent(scores.top1)),
        *(f"{100 * (scores.top1 - original.top1):+.2f}", percent(scores.agreement), error(scores.relative_error)),
        "–" if scores.tapped_error is None else error(scores.tapped_error),
        *(f"{report['speedup']['latency']['ratio']:.2f}×", f"{run.seconds:.0f}", f"{run.seconds / bare:.2f}"),
        *(f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB", f"{cost['forward_passes']:.2f}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file of a classifier")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA", help="samples without labels")
    parser.add_argument("--validation", type=Path, required=True, metavar="LABELLED", help="samples with labels")
    numbers = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--speedups", type=numbers, default=[3.0, 4.0, 5.0, 8.0], help="(default: 3,4,5,8)")
    parser.add_argument("--tap", metavar="TENSOR", help="a tensor whose relative error is measured, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the factorised models stay")
    common_arguments(parser)
    args = parser.parse_args()

    samples, bare = apart(bare_seconds, args.model, args.calibration, args.images, args.preprocess)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outs = [folder / f"{speedup:g}x.onnx" for speedup in args.speedups]
        runs = []
        for speedup, out in zip(args.speedups, outs, strict=True):
            args.speedup = speedup
            runs.append(run_command(args.model, out, f"--data={args.calibration}", *command_options(args)))
            print(f"{speedup:g}×: {runs[-1].seconds:.1f} s", file=sys.stderr, flush=True)
        models = [args.model, *outs]
        original, *scores = apart(compare, models, args.validation, args.limit, args.preprocess, args.tap)

    made = list(zip(args.speedups, runs, scores, strict=True))
    print(markdown(HEADER, [row(speedup, run, of_run, original, bare) for speedup, run, of_run in made]))
    print(
        f"\nBare run: ONNX Runtime alone takes {bare:.3g} s for the original on the {samples} calibration samples. "
        f"Top-1, its change in points, agreement and error on {original.samples} labelled samples, of which the "
        f"original gets {percent(original.top1)} right."
    )
    if args.json:
        rows = [{"speedup": x, "seconds": r.seconds, "report": r.report, **asdict(s)} for x, r, s in made]
        document = {"bare": {"samples": samples, "seconds": bare}, "original": asdict(original), "speedups": rows}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
