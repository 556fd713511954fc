"""Compare synthetic images with the SVD of the weights, where there are no data at all; print a Markdown table.

usage: python tools/data_free_table.py MODEL LABELLED [--calibration DATA] [--images 300] [--speedup 4] [--form auto]
                                       [--limit 500] [--preprocess caffe] [--json FILE]

LABELLED is anything that the option --test of onnx-lowrank takes: a folder with a sub-folder of photos for each class,
or an .npz with labels. It serves as the judge alone. With --calibration, which takes anything that the option --data
takes, another row shows what real samples are worth. The first output of the model must be class scores, and its batch
size must be free.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import measuring
from measuring import CommandRun, percent
from scoring import Scores, score_models

HEADER = ("calibration", "relative error", "agreement", "top-1", "conv MACs", "seconds")


def table_row(name: str, run: CommandRun | None, scores: Scores) -> list[str]:
    """Return the cells of one run, or those of the original, which has none."""
    measured = [f"{scores.relative_error:.4f}", percent(scores.agreement), percent(scores.top1)]
    if run is None:
        return [name, *measured, "the same", "–"]
    return [name, *measured, f"{run.report['speedup']['macs']:.3f}× fewer", f"{run.seconds:.1f}"]


def main() -> None:
    parser = measuring.tool_parser(__doc__)
    parser.add_argument("labelled", type=Path, metavar="LABELLED", help="samples with labels")
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="real samples without labels, to compare with")
    measuring.add_speedup(parser)
    args = parser.parse_args()

    shared = measuring.command_options(args, args.speedup)
    rows = {"none: SVD of the weights": [*shared, "--solver=weights"], "none: synthetic images": shared}
    if args.calibration:
        rows["real samples"] = [*shared, f"--data={args.calibration}"]
    with tempfile.TemporaryDirectory() as folder:
        runs, models = measuring.run_rows(args.model, rows, Path(folder))
        original, *scores = measuring.in_own_process(
            score_models, [args.model, *models], args.labelled, args.limit, args.preprocess
        )
    scored = dict(zip(runs, scores, strict=True))

    cells = [table_row("(the original)", None, original)]
    cells += [table_row(name, runs[name], scored[name]) for name in runs]
    print(measuring.markdown(HEADER, cells))
    print(f"\nErrors, agreement and top-1 were measured on {original.samples} labelled samples.")
    measuring.write_json(
        args.json,
        {
            "model": args.model.name,
            "original": asdict(original),
            "calibration": {name: measuring.json_row(runs[name], scored[name]) for name in runs},
        },
    )


if __name__ == "__main__":
    main()
