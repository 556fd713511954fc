"""What is possible without any data: synthetic images against the SVD of the weights; print a Markdown table.

usage: python tools/data_free_table.py MODEL LABELLED [--calibration DATA] [--images 300] [--speedup 4] [--form auto]
                                       [--limit 500] [--preprocess caffe] [--json FILE]

LABELLED is what onnx-lowrank's --test takes: a folder with a sub-folder of photos for each class, or an .npz with
labels; it only judges. With --calibration (what --data takes) a row with real samples shows what they are worth. The
model's first output must be class scores, and its batch size free.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from measuring import Run, Scores, apart, command_options, common_arguments, compare, markdown, percent, run_command

HEADER = ("calibration", "relative error", "agreement", "top-1", "conv MACs", "seconds")


def row(name: str, run: Run | None, scores: Scores) -> list[str]:
    measured = [f"{scores.relative_error:.4f}", percent(scores.agreement), percent(scores.top1)]
    if run is None:
        return [name, *measured, "the same", "–"]
    return [name, *measured, f"{run.report['speedup']['macs']:.3f}× fewer", f"{run.seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file of a classifier")
    parser.add_argument("test", type=Path, metavar="LABELLED", help="samples with labels")
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="real samples without labels, to compare with")
    common_arguments(parser)
    args = parser.parse_args()

    ways = {"none: SVD of the weights": ["--solver=weights"], "none: synthetic images": []}
    if args.calibration:
        ways["real samples"] = [f"--data={args.calibration}"]
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        outs = [Path(folder) / f"{number}.onnx" for number in range(len(ways))]
        for (name, options), out in zip(ways.items(), outs, strict=True):
            runs[name] = run_command(args.model, out, *command_options(args), *options)
            print(f"{name}: {runs[name].seconds:.1f} s", file=sys.stderr, flush=True)
        original, *scores = apart(compare, [args.model, *outs], args.test, args.limit, args.preprocess)

    rows = [row("(the original)", None, original)]
    rows += [row(name, runs[name], of_run) for name, of_run in zip(runs, scores, strict=True)]
    print(markdown(HEADER, rows))
    print(f"\nErrors, agreement and top-1 on {original.samples} labelled samples.")
    if args.json:
        document = {
            "model": args.model.name,
            "original": asdict(original),
            "calibration": {
                name: {**asdict(s), "seconds": runs[name].seconds, "report": runs[name].report}
                for name, s in zip(runs, scores, strict=True)
            },
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
