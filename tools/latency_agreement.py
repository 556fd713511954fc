"""Compare the latency in the report with that of onnx-lowrank-bench; print a Markdown table.

usage: python tools/latency_agreement.py MODEL --data DATA [--repeat 1] [-- OPTIONS]

The command compresses the model, and the benchmark then measures the original and the result on the same data. The
table shows both ratios with their intervals and whether these overlap. OPTIONS are those of onnx-lowrank, written as
--name=value; --threads and --providers among them are passed on to the benchmark. Run it on a machine that does nothing
else.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measuring

PASSED_ON = ("--threads", "--providers", "--preprocess", "--input-shapes")


def passed_on(options: Sequence[str]) -> list[str]:
    """Return those options of the command, written as --name=value, that the benchmark has as well."""
    return [option for option in options if option.partition("=")[0] in PASSED_ON]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the ONNX file")
    add("--data", required=True, metavar="DATA", help="as for onnx-lowrank")
    add("--repeat", type=int, default=1, metavar="N", help="the number of runs (default: %(default)s)")
    own, options = measuring.split_options(sys.argv[1:])
    args = parser.parse_args(own)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.onnx"
        for number in range(1, args.repeat + 1):
            run = measuring.run_command(args.model, out, f"--data={args.data}", *options)
            told = run.report["speedup"]["latency"]
            measured = measuring.bench((args.model, out), args.data, passed_on(options), folder)
            overlap = told["ratio_low"] <= measured["ratio_high"] and measured["ratio_low"] <= told["ratio_high"]
            rows.append(
                (str(number), measuring.interval(told), measuring.interval(measured), "yes" if overlap else "no")
            )
            measuring.progress(f"run {number}: {run.seconds:.1f} s")
    print(measuring.markdown(("run", "in the report", "onnx-lowrank-bench", "intervals overlap"), rows))


if __name__ == "__main__":
    main()
