"""Compare runs of the command on an idle machine with runs beside busy processes; print a Markdown table.

usage: python tools/busy_machine.py MODEL --data DATA [--busy 2] [--rounds 3] [--package FOLDER] [-- OPTIONS]

The settings take turns in every round: idle, beside processes that compute without end, and beside them with one thread
in the libraries of linear algebra (OPENBLAS_NUM_THREADS=1 and its like). The table shows the median seconds of a run by
the clock and on the processors, and the seconds over those of the first row. OPTIONS are those of onnx-lowrank.
--package names the folder of another checkout, which is measured in the same rounds as this one. Run it on a machine
that does nothing else.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import measuring

ROOT = Path(__file__).resolve().parent.parent

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}

SPIN = "while True: pass"


@dataclass(frozen=True)
class Setting:
    """One row of the table: what runs beside the command, and the environment of the command."""

    name: str
    busy: int
    environment: Mapping[str, str]


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processors busy."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_of(command: Sequence[str], setting: Setting) -> tuple[float, float]:
    """Return the seconds of one run, by the clock and on the processors; end this program where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    environment.update(setting.environment)
    with busy_processes(setting.busy):
        before, start = os.times(), time.perf_counter()
        code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode
        wall, after = time.perf_counter() - start, os.times()
    if code:
        raise SystemExit(code)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent  # without the busy processes, which have not been waited for yet


def settings(busy: int, packages: Sequence[Path]) -> Iterator[Setting]:
    """Yield the rows of the table."""
    for package in packages:
        name = f" ({package.name})" if len(packages) > 1 else ""
        environment = {"PYTHONPATH": str(package)}
        yield Setting(f"idle{name}", 0, environment)
        yield Setting(f"beside {busy} busy processes{name}", busy, environment)
        yield Setting(f"beside {busy} busy processes, one thread{name}", busy, environment | ONE_THREAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the ONNX file")
    add("--data", required=True, metavar="DATA", help="as for onnx-lowrank")
    add("--busy", type=int, default=2, metavar="N", help="the number of busy processes (default: %(default)s)")
    add("--rounds", type=int, default=3, metavar="N", help="the runs in every setting (default: %(default)s)")
    add("--package", type=Path, metavar="FOLDER", help="another checkout to measure")
    own, options = measuring.split_options(sys.argv[1:])
    args = parser.parse_args(own)
    packages = [ROOT] if args.package is None else [ROOT, args.package.resolve()]
    rows = list(settings(args.busy, packages))
    times: dict[str, list[tuple[float, float]]] = {row.name: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(args.model.resolve()), str(Path(folder) / "out.onnx"), "--data", args.data, "--quiet"]
        command = [sys.executable, "-m", "onnx_lowrank", *files, *options]
        for number in range(1, args.rounds + 1):
            for row in rows:
                times[row.name].append(seconds_of(command, row))
                measuring.progress(f"round {number}, {row.name}: {times[row.name][-1][0]:.1f} s")
    first = statistics.median(wall for wall, _ in times[rows[0].name])
    lines = []
    for name, measured in times.items():
        wall, spent = (statistics.median(values) for values in zip(*measured, strict=True))
        lines.append((name, f"{wall:.1f}", f"{spent:.1f}", f"{wall / first:.2f}×"))
    print(measuring.markdown(("setting", "seconds", "on the processors", "against the first"), lines))


if __name__ == "__main__":
    main()
