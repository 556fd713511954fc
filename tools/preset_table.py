"""Print how well a network and photos fit each other under every preset, and what the command says of each.

usage: python tools/preset_table.py MODEL PHOTOS [--images 60] [--preprocess SPEC]... [--seed 0]

The comparison is the stage ``fit`` of the pipeline, without the compressing. For each preset that is given with
--preprocess, or else for each one that the tool would compare, a row says what was measured under it and whether a run
with this preset warns, and names the presets that fit better. A last row is that of --preprocess auto.
"""

import argparse
import os
from pathlib import Path

from measuring import markdown

from onnx_lowrank.data.photos.alternatives import alternatives
from onnx_lowrank.data.photos.preprocess import AUTOMATIC, parse
from onnx_lowrank.options import Options
from onnx_lowrank.report.fit_schema import FitReport, PresetReport
from onnx_lowrank.stages.fit import Fitted, fit
from onnx_lowrank.stages.read import Read, read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

HEADER = (
    "preset",
    "samples",
    "divergence",
    "contrast",
    "dependence",
    "confidence",
    "information",
    "fits better",
    "CPU",
)


def fitted(request: Request) -> tuple[Read, Fitted, float]:
    """Run the stages up to the comparison, and return the CPU seconds of this one."""
    run = Run.start(request)
    model = read(run)
    sampled = sample(run, model)
    before = os.times()
    found = fit(run, model, sampled)
    after = os.times()
    return model, found, after.user + after.system - before.user - before.system


def row(preset: str, report: FitReport, seconds: float) -> list[str]:
    """Return the cells of one preset."""
    shown = report.inputs and next(iter(report.inputs.values())).preset
    own = next((each for each in report.presets if each.preset == shown), None)
    better = ", ".join(each.preset for each in report.presets if each.better)
    if preset == AUTOMATIC:
        better = report.conclusion
    return [preset, *numbers(own), better or "–", f"{seconds:.1f} s"]


def numbers(report: PresetReport | None) -> list[str]:
    """Return what was measured, as text."""
    if report is None:
        return ["–"] * 6
    values = (report.divergence, report.contrast, report.dependence, report.confidence, report.information)
    return [str(report.samples), *("–" if value is None else f"{value:.3g}" for value in values)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the ONNX file")
    add("photos", type=Path, metavar="PHOTOS", help="a folder of photos, or arrays")
    add("--images", type=int, default=60, help="the number of samples (default: %(default)s)")
    add("--preprocess", action="append", metavar="SPEC", help="a preset; may be given several times")
    add("--seed", type=int, default=0, help="the seed of the choice of samples (default: %(default)s)")
    args = parser.parse_args()

    options = Options(images=args.images, seed=args.seed, threads=1)
    presets = list(args.preprocess or ())
    if not presets:
        (spec,) = read(Run.start(Request(args.model, options=options))).inputs
        presets = [each.name for each in alternatives(parse("imagenet"), spec)]
    rows = []
    for preset in (*presets, AUTOMATIC):
        _, found, seconds = fitted(Request(args.model, args.photos, options, preset))
        rows.append(row(preset, found.report, seconds))
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
