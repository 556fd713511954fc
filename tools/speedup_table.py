"""Compare several speedups on one classifier, by the real command; print a Markdown table.

usage: python tools/speedup_table.py MODEL --calibration DATA --validation LABELLED [--speedups 3,4,5,8] [--images 300]
                                     [--form auto] [--limit 500] [--preprocess caffe] [--tap TENSOR] [--keep FOLDER]
                                     [--json FILE]

LABELLED is anything that the option --test of onnx-lowrank takes: a folder with a sub-folder of photos for each class,
or an .npz with labels. It serves as the judge alone. The relative error is that of the first output; --tap adds the
relative error of a tensor inside the network, such as the pooled features. --keep leaves the factorised models in a
folder. "× bare run" is the whole time of the command divided by the time that ONNX Runtime alone takes for the original
on the same samples, measured just before.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import measuring
from measuring import CommandRun, error_text, percent
from scoring import Scores, bare_run, score_models

HEADER = (
    *("speedup", "conv MACs", "top-1", "change", "agreement", "relative error", "of the tensor tapped"),
    *("latency", "seconds", "× bare run", "peak memory", "forward passes"),
)


def table_row(speedup: float, run: CommandRun, scores: Scores, original: Scores, bare_seconds: float) -> list[str]:
    """Return the cells of one run."""
    report, cost = run.report, run.report["cost"]
    return [
        *(f"{speedup:g}×", f"{report['speedup']['macs']:.3f}× fewer", percent(scores.top1)),
        *(f"{100 * (scores.top1 - original.top1):+.2f}", percent(scores.agreement), error_text(scores.relative_error)),
        "–" if scores.tapped_error is None else error_text(scores.tapped_error),
        *(f"{report['speedup']['latency']['ratio']:.2f}×", f"{run.seconds:.0f}", f"{run.seconds / bare_seconds:.2f}"),
        *(f"{cost['peak_rss_bytes'] / 2**30:.2f} GiB", f"{cost['forward_passes']:.2f}"),
    ]


def main() -> None:
    parser = measuring.tool_parser(__doc__)
    measuring.add_samples(parser)
    add = parser.add_argument
    add("--speedups", type=measuring.number_list, default=[3.0, 4.0, 5.0, 8.0], help="(default: 3,4,5,8)")
    add("--tap", metavar="TENSOR", help="a tensor whose relative error is also measured")
    add("--keep", type=Path, metavar="FOLDER", help="the folder in which the factorised models stay")
    args = parser.parse_args()

    samples, bare_seconds = measuring.in_own_process(
        bare_run, args.model, args.calibration, args.images, args.preprocess
    )
    runs, models = [], [args.model]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for speedup in args.speedups:
            models.append(folder / f"{speedup:g}x.onnx")
            options = measuring.command_options(args, speedup)
            runs.append(measuring.run_command(args.model, models[-1], f"--data={args.calibration}", *options))
            measuring.progress(f"{speedup:g}×: {runs[-1].seconds:.1f} s")
        original, *scores = measuring.in_own_process(
            score_models, models, args.validation, args.limit, args.preprocess, args.tap
        )

    rows = list(zip(args.speedups, runs, scores, strict=True))
    cells = [table_row(speedup, run, own, original, bare_seconds) for speedup, run, own in rows]
    print(measuring.markdown(HEADER, cells))
    print(
        f"\n{measuring.bare_run_note(samples, bare_seconds)} Top-1, its change in points, agreement and errors were "
        f"measured on {original.samples} labelled samples, of which the original gets {percent(original.top1)} right."
    )
    measuring.write_json(
        args.json,
        {
            "bare": {"samples": samples, "seconds": bare_seconds},
            "original": asdict(original),
            "speedups": [{"speedup": speedup, **measuring.json_row(run, own)} for speedup, run, own in rows],
        },
    )


if __name__ == "__main__":
    main()
