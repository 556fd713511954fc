"""Print the SHA-256 of everything that many runs of the command write, to compare two states of the code.

usage: python tools/same_bytes.py [--package FOLDER] [--against FILE] [--vgg16 MODEL --photos FOLDER] > hashes.txt

A change that only moves code must leave every line as it was. Record the lines before the change, and afterwards run
the tool again with --against: it prints the lines that differ, and exits with 1 if there are any. --package names the
folder that holds the package `onnx_lowrank`, for example another checkout; the default is this one.

Every run hashes the plan of a dry run and the model that is written. The runs are the embedded model in all forms, by
all solvers, symmetric and asymmetric; the same model with other options, such as factorised fully connected layers;
plain, grouped, residual and branching networks of the tests; and, if they are given, VGG-16 at 4× with 100 photos. The
bytes are the same on the same machine only, because other processors add up in another order.
"""

import argparse
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import models_for_tests  # noqa: E402
import odd_models_for_tests  # noqa: E402

from onnx_lowrank.factorise.forms.channel import CHANNEL  # noqa: E402
from onnx_lowrank.options import AUTO, FORM_CHOICES, SOLVERS  # noqa: E402

MNIST = [str(ROOT / "models" / "mnist_calib.npz"), "--preprocess", "unit", "--images", "200"]


@dataclass(frozen=True)
class Case:
    """One run: its name, the file of the model, and the options for the data and for everything else."""

    name: str
    model: Path
    data: list[str]
    options: list[str]


def grouped() -> onnx.ModelProto:
    """Return a network of a stem and two convolutions in groups, the last of them behind a PRelu."""
    conv, weights = models_for_tests.conv, models_for_tests.weights
    stored = {"w1": weights(1, 16, 3, 3, 3), "w2": weights(2, 24, 8, 3, 3), "w3": weights(3, 24, 6, 3, 3)}
    stored |= {"b3": weights(4, 24), "slope": np.abs(weights(5, 24, 1, 1))}
    nodes = [
        conv("conv1", "x", "w1", "c1"), models_for_tests.relu("c1", "r1"),
        conv("conv2", "r1", "w2", "c2", group=2), onnx.helper.make_node("PRelu", ["c2", "slope"], ["r2"], "prelu"),
        conv("conv3", "r2", "w3", "y", "b3", group=4),
    ]  # fmt: skip
    return models_for_tests.build(nodes, stored)


def small_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases that take a second or two each."""
    embedded = ROOT / "models" / "mnist_vgg.onnx"
    for form, solver, symmetric in itertools.product(FORM_CHOICES, SOLVERS, (False, True)):
        flags = ["--symmetric"] if symmetric else []
        options = ["--speedup", "3" if form == CHANNEL.name else "4", "--form", form, "--solver", solver, *flags]
        yield Case(f"embedded {form} {solver} {'symmetric' if symmetric else 'asymmetric'}", embedded, MNIST, options)
    for name, extra in {
        "greedy": ["--ranks", "greedy"],
        "uniform": ["--ranks", "uniform"],
        "include-gemm": ["--include-gemm", "--include", "."],
        "multiple": ["--rank-multiple", "16"],
        "little-memory": ["--memory", "1MiB"],
        "no-refit": ["--no-refit"],
        "preset": ["--preset", "tensorrt"],
    }.items():
        yield Case(f"embedded {name}", embedded, MNIST, ["--speedup", "2", *extra])
    np.save(folder / "data.npy", models_for_tests.photo(1, (60, 3, 12, 10)))
    data = [str(folder / "data.npy")]
    networks = {
        "plain": models_for_tests.plain(),
        "grouped": grouped(),
        "residual": models_for_tests.residual(),
        "deep-residual": models_for_tests.deep_residual(4, 16),
        "branches": models_for_tests.branches(),
        "scattered-weights": odd_models_for_tests.scattered_weights(),
        "classifier": models_for_tests.classifier("MatMul and Add"),
    }
    for name, model in networks.items():
        onnx.save(model, folder / f"{name}.onnx")
        for form in (AUTO, CHANNEL.name) if name == "scattered-weights" else FORM_CHOICES:
            options = ["--speedup", "1.3", "--form", form, "--include", "."]
            yield Case(f"{name} {form}", folder / f"{name}.onnx", data, options)
    options = ["--speedup", "1.5", "--include-gemm"]
    yield Case("classifier include-gemm", folder / "classifier.onnx", data, options)
    yield Case("residual no-residual", folder / "residual.onnx", data, ["--speedup", "1.3", "--no-residual"])


def sha256(path: Path) -> str:
    """Return the hash of a file, or a dash where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "–"


def lines(case: Case, folder: Path, package: Path) -> Iterator[str]:
    """Yield a line for each file that a case writes: its hash, the exit code, and its name."""
    plan, out = folder / "plan.json", folder / "out.onnx"
    environment = os.environ | {"PYTHONPATH": str(package), "OPENBLAS_NUM_THREADS": "1"}
    common = [sys.executable, "-m", "onnx_lowrank", "--quiet", "--data", *case.data, *case.options, str(case.model)]
    for name, file, arguments in (("plan", plan, ["--dry-run", "--plan", str(plan)]), ("model", out, [str(out)])):
        file.unlink(missing_ok=True)
        completed = subprocess.run([*common, *arguments], env=environment, cwd=folder, capture_output=True, check=False)
        yield f"{sha256(file)} exit {completed.returncode} {name} {case.name}"


def all_lines(package: Path, vgg16: Path | None, photos: Path | None) -> Iterator[str]:
    """Yield the lines of all cases."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = list(small_cases(folder))
        if vgg16 and photos:
            data = [str(photos.resolve()), "--preprocess", "caffe", "--images", "100"]
            cases.append(Case("vgg16", vgg16.resolve(), data, ["--speedup", "4"]))
        for case in cases:
            yield from lines(case, folder, package.resolve())


def name_of(line: str) -> str:
    """Return the part of a line behind the hash and the exit code."""
    return line.partition(" exit ")[2].partition(" ")[2]


def differences(recorded: Sequence[str], current: Sequence[str]) -> list[str]:
    """Return a text for every line that was recorded with another hash or exit code, or not at all."""
    before = {name_of(line): line for line in recorded}
    pairs = [(before.get(name_of(line), "not recorded"), line) for line in current]
    return [f"{old}\n  now {new}" for old, new in pairs if old != new]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT, metavar="FOLDER", help="a checkout (default: this one)")
    parser.add_argument("--against", type=Path, metavar="FILE", help="the lines that were recorded before")
    parser.add_argument("--vgg16", type=Path, metavar="MODEL", help="the model that tools/make_vgg16.py makes")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="the photos that calibrate it")
    args = parser.parse_args()
    current = []
    for line in all_lines(args.package, args.vgg16, args.photos):
        print(line, flush=True)
        current.append(line)
    if args.against is None:
        return 0
    differing = differences(args.against.read_text(encoding="utf-8").splitlines(), current)
    print(f"{len(current)} lines, {len(differing)} differ", *differing, sep="\n", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
