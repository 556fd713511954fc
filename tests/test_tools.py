"""The measuring tools, on the embedded model and with few samples: every row is there and holds numbers."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_for_tests import photo, three_convs

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
SMALL = ("--preprocess=unit", "--images=24", "--limit=40", "--speedup=2")


def run(tool: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # The tools run the command of the checkout, as the tests do.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)


def table(text: str) -> dict[str, dict[str, str]]:
    """The cells of the one Markdown table, by row and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, rule, *rows = lines
    assert all(set(cell) <= set("-:") for cell in rule)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_solver_table_has_a_row_for_each_solver_and_states_the_bare_time(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    arguments = (f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}")
    done = run("solver_table.py", str(MODELS / "mnist_vgg.onnx"), *arguments, *SMALL, f"--json={out}")
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    names = ["linear, symmetric", "nonlinear, symmetric", "linear, asymmetric", "nonlinear, asymmetric (default)"]
    assert list(rows) == [*names, "SVD of the weights"]
    for row in rows.values():
        assert 2 <= float(row["conv MACs"].split("×")[0]) <= 2.02
        assert 0 < float(row["relative error"]) < 1
        assert float(row["seconds"]) > 0
        assert float(row["peak memory"].removesuffix(" GiB")) > 0
        assert float(row["forward passes"]) > 0
    assert "on the 24 calibration samples" in done.stdout
    assert "on 40 labelled samples" in done.stdout
    document = json.loads(out.read_text(encoding="utf-8"))
    assert list(document["solvers"]) == list(rows)
    assert document["bare"]["samples"] == 24
    assert document["bare"]["seconds"] > 0
    for solver in document["solvers"].values():
        assert solver["samples"] == 40
        assert solver["report"]["schema"] == 1


def test_solver_table_takes_rows_of_its_own() -> None:
    arguments = (f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}")
    given = ("--row=one=--solver=weights", "--row=the other=--form=channel --solver=weights")
    done = run("solver_table.py", str(MODELS / "mnist_vgg.onnx"), *arguments, *SMALL, *given)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert list(rows) == ["one", "the other"]
    assert rows["one"]["relative error"] != rows["the other"]["relative error"]
    done = run("solver_table.py", str(MODELS / "mnist_vgg.onnx"), *arguments, *SMALL, "--row=unnamed")
    assert done.returncode == 2 and "'unnamed' has no '='" in done.stderr


def test_speedup_table_has_a_row_for_each_speedup_and_measures_a_tensor_inside(tmp_path: Path) -> None:
    arguments = (f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}")
    few = ("--preprocess=unit", "--images=24", "--limit=40", "--speedups=2,4", f"--keep={tmp_path}")
    errors, tapped = [], []
    for tap in ((), ("--tap=logits",), ("--tap=/relu6/Relu_output_0",)):
        done = run("speedup_table.py", str(MODELS / "mnist_vgg.onnx"), *arguments, *few, *tap)
        assert done.returncode == 0, done.stderr
        rows = table(done.stdout)
        assert list(rows) == ["2×", "4×"]
        errors.append([float(row["relative error"]) for row in rows.values()])
        assert 0 < errors[-1][0] < errors[-1][1] < 1
        tapped.append([row["of the tensor tapped"] for row in rows.values()])
    assert errors[0] == errors[1] == errors[2]
    assert tapped[0] == ["–", "–"]
    assert [float(error) for error in tapped[1]] == errors[1] != [float(error) for error in tapped[2]]
    assert "on the 24 calibration samples" in done.stdout and "on 40 labelled samples" in done.stdout
    assert (tmp_path / "2x.onnx").exists() and (tmp_path / "4x.onnx").exists()


def test_data_free_table_has_a_row_for_each_kind_of_calibration() -> None:
    files = (str(MODELS / "mnist_vgg.onnx"), str(MODELS / "mnist_test.npz"))
    done = run("data_free_table.py", *files, f"--calibration={MODELS / 'mnist_calib.npz'}", *SMALL)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert list(rows) == ["(the original)", "none: SVD of the weights", "none: synthetic images", "real samples"]
    assert rows["(the original)"]["relative error"] == "0.0000"
    for name in list(rows)[1:]:
        assert float(rows[name]["relative error"]) > 0
        assert 2 <= float(rows[name]["conv MACs"].split("×")[0]) <= 2.02


def test_an_error_of_the_command_ends_the_tool_with_its_exit_code() -> None:
    files = (str(MODELS / "mnist_vgg.onnx"), str(MODELS / "mnist_test.npz"))
    done = run("data_free_table.py", *files, *SMALL, "--speedup=1000")
    assert done.returncode == 4
    assert "out of reach" in done.stderr
    assert "Traceback" not in done.stderr


def test_ablation_measures_each_row_once(tmp_path: Path) -> None:
    files = [f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}"]
    fixed = ["--preprocess=unit", "--forms=channel", "--ranks=exact", "--images=16", "--limit=50"]
    choices = ["--speedups=2", "--solvers=weights,linear", "--inputs=symmetric", f"--out={tmp_path}"]
    command = ("ablation.py", str(MODELS / "mnist_vgg.onnx"), *files, *fixed, *choices)
    first = run(*command)
    assert first.returncode == 0, first.stderr
    header, *rows = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("speedup,form,ranks,solver,inputs,conv_macs,relative_error,agreement,top1,seconds")
    assert [row.split(",")[:5] for row in rows] == [
        ["2.0", "channel", "exact", solver, "symmetric"] for solver in ("weights", "linear")
    ]
    for row in rows:
        macs, error, agreement, top1, seconds = map(float, row.split(",")[5:])
        assert 2 <= macs <= 2.02 and 0 < error < 1 and seconds > 0
        assert 0.5 < agreement <= 1 and 0.5 < top1 <= 1
    # Rows that were measured again would have taken other seconds.
    again = run(*command[:-3], "--solvers=weights,linear,nonlinear", *command[-2:])
    assert again.returncode == 0, again.stderr
    header_now, *rows_now = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert (header_now, rows_now[:2]) == (header, rows) and len(rows_now) == 3
    assert rows_now[2].split(",")[3] == "nonlinear"
    assert again.stderr.count("Row(") == 1
    assert again.stdout == (tmp_path / "table.md").read_text(encoding="utf-8")


def test_ablation_takes_unions_of_rows_and_writes_the_ranks(tmp_path: Path) -> None:
    files = [f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}"]
    fixed = ["--preprocess=unit", "--images=16", "--limit=50", "--speedups=2,4", f"--out={tmp_path}"]
    # The last one names what the first one has, too, and the weights take no inputs.
    rows = ["--row=:spatial:greedy:weights:", "--row=4:3d,auto::linear:asymmetric", "--row=2:spatial:greedy:weights:"]
    done = run("ablation.py", str(MODELS / "mnist_vgg.onnx"), *files, *fixed, *rows, "--ranks=greedy")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "rows.csv").open(encoding="utf-8") as stream:
        measured = [tuple(row.values())[:5] for row in csv.DictReader(stream)]
    assert measured == [
        ("2.0", "spatial", "greedy", "weights", "symmetric"),
        ("4.0", "spatial", "greedy", "weights", "symmetric"),
        ("4.0", "3d", "greedy", "linear", "asymmetric"),
        ("4.0", "auto", "greedy", "linear", "asymmetric"),
    ]
    assert done.stdout.count("| weights (Jaderberg) | – |") == 2
    with (tmp_path / "ranks.csv").open(encoding="utf-8") as stream:
        ranks = [tuple(row.values()) for row in csv.DictReader(stream)]
    layers = [f"/conv{i}/Conv" for i in range(2, 7)]
    assert [row[:5] for row in ranks[::5]] == measured
    assert [row[5] for row in ranks] == layers * 4
    for *key, _, form, numbers in ranks:
        assert form in (("channel", "spatial", "3d", "cp", "") if key[1] == "auto" else (key[1], ""))
        assert len(numbers.split()) == {"channel": 1, "spatial": 1, "3d": 2, "cp": 1, "": 0}[form]
    three = ["/".join(row[7].split()) or "–" for row in ranks if row[1] == "3d"]
    assert f"| 4× | 3d | greedy | linear | {', '.join(three)} |" in done.stdout
    assert ("no plot" in done.stderr) != (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [("4:auto", "five parts"), ("x:auto:exact:linear:", "'x'"), ("4:cubic:::", "form"), ("4::::both", "inputs")],
)
def test_ablation_refuses_rows_that_mean_nothing(row: str, says: str, tmp_path: Path) -> None:
    files = [f"--calibration={MODELS / 'mnist_calib.npz'}", f"--validation={MODELS / 'mnist_test.npz'}"]
    done = run("ablation.py", str(MODELS / "mnist_vgg.onnx"), *files, f"--out={tmp_path / 'out'}", f"--row={row}")
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_real_graphs_measures_each_graph_once_and_says_why_one_is_left_alone(tmp_path: Path) -> None:
    command = ("real_graphs.py", str(tmp_path), "--sources=onnx", "--only=test_Conv2d_padding$", "--images=8")
    first = run(*command)
    assert first.returncode == 0, first.stderr
    row = table(first.stdout)["test_Conv2d_padding"]
    assert row["exit"] == "0" and row["sites"] == "1" and row["data"] == "synthetic"
    relative, largest = row["relative (largest) difference at full rank"].rstrip(")").split(" (")
    assert 0 < float(relative) < 1e-5 and 0 < float(largest) < 1e-5
    before, after = row["conv MACs at 2×"].split(" → ")
    assert float(before) >= 2 * float(after) > 0
    again = run(*command[:-2], "--only=test_Conv(2d_padding|Transpose2d)$", command[-1])
    rows = table(again.stdout)
    assert rows["test_Conv2d_padding"] == row
    assert rows["test_ConvTranspose2d"]["exit"] == "3"
    assert "ConvTranspose is not supported" in rows["test_ConvTranspose2d"]["says"]
    assert "Traceback" not in first.stderr + again.stderr


@pytest.mark.slow
def test_latency_table_compares_the_clock_with_macs_at_equal_speed(tmp_path: Path) -> None:
    out, table_file = tmp_path / "table.json", tmp_path / "latency.json"
    model, samples = tmp_path / "net.onnx", photo(0, (24, 3, 32, 32))
    onnx.save(three_convs(64, (32, 32)), model)
    np.savez(tmp_path / "data.npz", x=samples, labels=np.arange(24))
    data = (f"--calibration={tmp_path / 'data.npz'}", f"--validation={tmp_path / 'data.npz'}")
    few = ("--preprocess=unit", "--images=24", "--limit=20", "--solver=weights", "--form=channel", "--rank-multiple=8")
    asked = ("--threads=1", "--ratios=1,99", f"--json={out}", f"--table={table_file}")
    done = run("latency_table.py", str(model), *data, *few, *asked)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert [name for name in rows if name.startswith("1, 99×")] == ["1, 99×, the clock: out of reach"]
    row = rows["1, 1×, the clock"]
    assert float(row["predicted ms"]) > 0 and float(row["measured ms"]) > 0
    assert 0 <= float(row["relative error"]) < 2
    assert float(row["top-1"].removesuffix(" %")) <= 100
    assert json.loads(table_file.read_text(encoding="utf-8"))["settings"][0]["layers"]
    document = json.loads(out.read_text(encoding="utf-8"))
    first = document["rows"][0]
    assert (
        first["plan"] == "the clock" and first["threads"] == 1 and first["report"]["latency_plan"]["trial_ratio"] >= 1
    )
