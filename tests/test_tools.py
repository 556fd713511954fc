"""The tools run on the embedded model with few samples, and every row of their tables is there and holds numbers."""

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

from onnx_lowrank.factorise.forms.table import AUTO, FORMS

ROOT = Path(__file__).resolve().parents[1]
MODEL = str(ROOT / "models" / "mnist_vgg.onnx")
CALIBRATION, LABELLED = (str(ROOT / "models" / name) for name in ("mnist_calib.npz", "mnist_test.npz"))
SAMPLES = (f"--calibration={CALIBRATION}", f"--validation={LABELLED}")
FEW = ("--preprocess=unit", "--images=24", "--limit=40")
FEWER = ("--preprocess=unit", "--images=16", "--limit=50")


def run(tool: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # The tools run the command of the checkout, as the tests do.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)


def run_well(tool: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    completed = run(tool, *arguments)
    assert completed.returncode == 0, completed.stderr
    return completed


def table(text: str) -> dict[str, dict[str, str]]:
    """Return the cells of the only Markdown table in a text, by row and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, rule, *rows = lines
    assert all(set(cell) <= set("-:") for cell in rule)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_solver_table_has_a_row_for_each_solver_and_states_the_bare_time(tmp_path: Path) -> None:
    json_file = tmp_path / "table.json"
    completed = run_well("solver_table.py", MODEL, *SAMPLES, *FEW, "--speedup=2", f"--json={json_file}")
    rows = table(completed.stdout)
    names = ["linear, symmetric", "nonlinear, symmetric", "linear, asymmetric", "nonlinear, asymmetric (default)"]
    assert list(rows) == [*names, "SVD of the weights"]
    for row in rows.values():
        assert 2 <= float(row["conv MACs"].split("×")[0]) <= 2.02
        assert 0 < float(row["relative error"]) < 1
        assert float(row["seconds"]) > 0
        assert float(row["peak memory"].removesuffix(" GiB")) > 0
        assert float(row["forward passes"]) > 0
    assert "on the 24 calibration samples" in completed.stdout
    assert "on 40 labelled samples" in completed.stdout
    document = json.loads(json_file.read_text(encoding="utf-8"))
    assert list(document["solvers"]) == list(rows)
    assert document["bare"]["samples"] == 24
    assert document["bare"]["seconds"] > 0
    for solver in document["solvers"].values():
        assert solver["samples"] == 40
        assert solver["report"]["schema"] == 1


def test_solver_table_takes_rows_of_its_own() -> None:
    own_rows = ("--row=one=--solver=weights", "--row=the other=--form=channel --solver=weights")
    rows = table(run_well("solver_table.py", MODEL, *SAMPLES, *FEW, "--speedup=2", *own_rows).stdout)
    assert list(rows) == ["one", "the other"]
    assert rows["one"]["relative error"] != rows["the other"]["relative error"]
    refused = run("solver_table.py", MODEL, *SAMPLES, *FEW, "--row=unnamed")
    assert refused.returncode == 2 and "'unnamed' has no '='" in refused.stderr


def test_speedup_table_has_a_row_for_each_speedup_and_measures_a_tensor_inside(tmp_path: Path) -> None:
    choices = ("--speedups=2,4", f"--keep={tmp_path}")
    errors, tapped = [], []
    for tap in ((), ("--tap=logits",), ("--tap=/relu6/Relu_output_0",)):
        completed = run_well("speedup_table.py", MODEL, *SAMPLES, *FEW, *choices, *tap)
        rows = table(completed.stdout)
        assert list(rows) == ["2×", "4×"]
        errors.append([float(row["relative error"]) for row in rows.values()])
        assert 0 < errors[-1][0] < errors[-1][1] < 1
        tapped.append([row["of the tensor tapped"] for row in rows.values()])
    assert errors[0] == errors[1] == errors[2]
    assert tapped[0] == ["–", "–"]
    assert [float(error) for error in tapped[1]] == errors[1] != [float(error) for error in tapped[2]]
    assert "on the 24 calibration samples" in completed.stdout and "on 40 labelled samples" in completed.stdout
    assert (tmp_path / "2x.onnx").exists() and (tmp_path / "4x.onnx").exists()


def test_data_free_table_has_a_row_for_each_kind_of_calibration() -> None:
    completed = run_well("data_free_table.py", MODEL, LABELLED, f"--calibration={CALIBRATION}", *FEW, "--speedup=2")
    rows = table(completed.stdout)
    assert list(rows) == ["(the original)", "none: SVD of the weights", "none: synthetic images", "real samples"]
    assert rows["(the original)"]["relative error"] == "0.0000"
    for name in list(rows)[1:]:
        assert float(rows[name]["relative error"]) > 0
        assert 2 <= float(rows[name]["conv MACs"].split("×")[0]) <= 2.02


def test_an_error_of_the_command_ends_the_tool_with_its_exit_code() -> None:
    refused = run("data_free_table.py", MODEL, LABELLED, *FEW, "--speedup=1000")
    assert refused.returncode == 4
    assert "out of reach" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ablation_measures_each_row_once(tmp_path: Path) -> None:
    choices = ["--speedups=2", "--forms=channel", "--ranks=exact", "--inputs=symmetric"]
    command = ("ablation.py", MODEL, *SAMPLES, *FEWER, *choices, f"--out={tmp_path}")
    first = run_well(*command, "--solvers=weights,linear")
    header, *rows = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("speedup,form,ranks,solver,inputs,conv_macs,relative_error,agreement,top1,seconds")
    assert [row.split(",")[:5] for row in rows] == [
        ["2.0", "channel", "exact", solver, "symmetric"] for solver in ("weights", "linear")
    ]
    for row in rows:
        macs, error, agreement, top1, seconds = map(float, row.split(",")[5:])
        assert 2 <= macs <= 2.02 and 0 < error < 1 and seconds > 0
        assert 0.5 < agreement <= 1 and 0.5 < top1 <= 1
    assert first.stderr.count("2×, channel, exact, ") == 2
    # A row that was measured again would have taken a different time.
    again = run_well(*command, "--solvers=weights,linear,nonlinear")
    header_now, *rows_now = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert (header_now, rows_now[:2]) == (header, rows) and len(rows_now) == 3
    assert rows_now[2].split(",")[3] == "nonlinear"
    assert again.stderr.count("2×, channel, exact, ") == 1
    assert again.stdout == (tmp_path / "table.md").read_text(encoding="utf-8")


def test_ablation_takes_unions_of_rows_and_writes_the_ranks(tmp_path: Path) -> None:
    # The last row is part of the first one, because the solver "weights" looks at no inputs.
    rows = ["--row=:spatial:greedy:weights:", "--row=4:3d,auto::linear:asymmetric", "--row=2:spatial:greedy:weights:"]
    choices = ("--speedups=2,4", "--ranks=greedy", f"--out={tmp_path}")
    completed = run_well("ablation.py", MODEL, *SAMPLES, *FEWER, *choices, *rows)
    with (tmp_path / "rows.csv").open(encoding="utf-8") as stream:
        measured = [tuple(row.values())[:5] for row in csv.DictReader(stream)]
    assert measured == [
        ("2.0", "spatial", "greedy", "weights", "symmetric"),
        ("4.0", "spatial", "greedy", "weights", "symmetric"),
        ("4.0", "3d", "greedy", "linear", "asymmetric"),
        ("4.0", "auto", "greedy", "linear", "asymmetric"),
    ]
    assert completed.stdout.count("| weights (Jaderberg) | – |") == 2
    with (tmp_path / "ranks.csv").open(encoding="utf-8") as stream:
        ranks = [tuple(row.values()) for row in csv.DictReader(stream)]
    layers = [f"/conv{i}/Conv" for i in range(2, 7)]
    assert [row[:5] for row in ranks[::5]] == measured
    assert [row[5] for row in ranks] == layers * 4
    for _, asked_form, *_, form, numbers in ranks:
        assert form in ((*FORMS.names, "") if asked_form == AUTO else (asked_form, ""))
        assert len(numbers.split()) == (len(FORMS[form].rank_names) if form else 0)
    three = ["/".join(row[7].split()) or "–" for row in ranks if row[1] == "3d"]
    assert f"| 4× | 3d | greedy | linear | {', '.join(three)} |" in completed.stdout
    assert ("no plot" in completed.stderr) != (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [("4:auto", "five parts"), ("x:auto:exact:linear:", "'x'"), ("4:cubic:::", "form"), ("4::::both", "inputs")],
)
def test_ablation_refuses_rows_that_mean_nothing(row: str, reason: str, tmp_path: Path) -> None:
    refused = run("ablation.py", MODEL, *SAMPLES, f"--out={tmp_path / 'out'}", f"--row={row}")
    assert refused.returncode == 2
    assert reason in refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr
    assert not (tmp_path / "out").exists()


def test_real_graphs_measures_each_graph_once_and_says_why_one_is_left_alone(tmp_path: Path) -> None:
    command = ("real_graphs.py", str(tmp_path), "--sources=onnx", "--images=8")
    first = run_well(*command, "--only=test_Conv2d_padding$")
    row = table(first.stdout)["test_Conv2d_padding"]
    assert row["exit"] == "0" and row["sites"] == "1" and row["data"] == "synthetic"
    relative, largest = row["relative (largest) difference at full rank"].rstrip(")").split(" (")
    assert 0 < float(relative) < 1e-5 and 0 < float(largest) < 1e-5
    before, after = row["conv MACs at 2×"].split(" → ")
    assert float(before) >= 2 * float(after) > 0
    again = run(*command, "--only=test_Conv2d_(padding|depthwise)$")
    rows = table(again.stdout)
    assert rows["test_Conv2d_padding"] == row
    assert rows["test_Conv2d_depthwise"]["exit"] == "3"
    assert "depthwise convolution" in rows["test_Conv2d_depthwise"]["message"]
    assert "Traceback" not in first.stderr + again.stderr


def test_networks_prints_a_row_and_keeps_what_was_measured(tmp_path: Path) -> None:
    json_file = tmp_path / "table.json"
    command = ("networks.py", str(tmp_path / "cache"), "--rows=embedded", "--photos=30", f"--json={json_file}")
    completed = run_well(*command, "--without=filled blocks", "--", "--solver=weights", "--form=channel")
    (row,) = table(completed.stdout).values()
    assert row["asked"] == "4× MACs" and row["measure"] == "top-1, %"
    before, after = map(float, row["before → after"].split(" → "))
    assert 90 < before <= 100 and 30 < after <= 100
    ratio, low, high = map(float, row["clock"].replace("×", "").replace(" to ", " (").rstrip(")").split(" ("))
    assert 0 < low <= ratio <= high
    (kept,) = json.loads(json_file.read_text(encoding="utf-8"))["rows"]
    assert (kept["before"], kept["asked"]) == (
        pytest.approx(before, abs=0.01),
        ["--speedup=4", "--rank-multiple=1", "--solver=weights", "--form=channel"],
    )
    assert kept["report"]["rank_multiple"] == 1


def test_networks_says_which_folder_a_row_lacks_and_which_rows_there_are(tmp_path: Path) -> None:
    refused = run("networks.py", str(tmp_path), "--rows=embedded,nothing")
    assert refused.returncode == 1 and "no row is called nothing: choose from mobilenetv2@1.2" in refused.stderr
    lacking = run("networks.py", str(tmp_path), "--rows=vgg16@4")
    assert lacking.returncode == 1 and "name photos for its head with --imagenette" in lacking.stdout
    assert "1 of 1 rows were not measured" in lacking.stderr and "Traceback" not in lacking.stderr


@pytest.mark.slow
def test_latency_table_compares_the_clock_with_macs_at_equal_speed(tmp_path: Path) -> None:
    json_file, latency_table = tmp_path / "table.json", tmp_path / "latency.json"
    model, samples = tmp_path / "net.onnx", tmp_path / "data.npz"
    onnx.save(three_convs(64, (32, 32)), model)
    np.savez(samples, x=photo(0, (24, 3, 32, 32)), labels=np.arange(24))
    data = (f"--calibration={samples}", f"--validation={samples}")
    few = ("--preprocess=unit", "--images=24", "--limit=20", "--solver=weights", "--form=channel", "--rank-multiple=8")
    choices = ("--threads=1", "--ratios=1,99", f"--json={json_file}", f"--table={latency_table}")
    rows = table(run_well("latency_table.py", str(model), *data, *few, *choices).stdout)
    assert [name for name in rows if name.startswith("1, 99×")] == ["1, 99×, the clock: out of reach"]
    row = rows["1, 1×, the clock"]
    assert float(row["predicted ms"]) > 0 and float(row["measured ms"]) > 0
    assert 0 <= float(row["relative error"]) < 2
    assert float(row["top-1"].removesuffix(" %")) <= 100
    assert json.loads(latency_table.read_text(encoding="utf-8"))["settings"][0]["layers"]
    first = json.loads(json_file.read_text(encoding="utf-8"))["rows"][0]
    assert (first["plan"], first["threads"]) == ("the clock", 1)
    assert first["report"]["latency_plan"]["trial_ratio"] >= 1
