"""The command onnx-lowrank-bench on small models, end to end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_for_tests import contents, rows
from models_for_tests import build, conv, photo, plain, residual, weights
from onnx import TensorProto, helper
from test_report import conforms

from onnx_lowrank.bench.benchmark import Settings, benchmark
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.cli import bench
from onnx_lowrank.errors import UsageError

NUMBER = {int, float}
SHARES = [
    {"name": {str, None}, "op": str, "nodes": int, "provider": {str, None}, "median_ms": NUMBER, "share": NUMBER},
]
SCHEMA: dict[str, Any] = {
    "schema": int,
    "tool": {"name": str, "version": str},
    "runtime": str,
    "device": str,
    "provider": str,
    "options": {
        "threads": [int],
        "batches": [int],
        "shapes": {dict, None},
        "providers": [str],
        "budget": {"rounds": int, "seconds": {*NUMBER, None}, "fewest": int, "turn": NUMBER},
        "profile": int,
        "seed": int,
    },
    "data": str,
    "models": [{"path": str, "sha256": str, "bytes": int, "nodes": {dict, None}}],
    "measurements": [
        {
            "threads": int,
            "batch": int,
            "warmup_rounds": int,
            "settled": bool,
            "rounds": int,
            "models": [
                {
                    "median_ms": float,
                    "quartiles_ms": [float],
                    "ratio": float,
                    "ratio_low": float,
                    "ratio_high": float,
                    "confidence": float,
                }
            ],
            "profiles": [{"median_ms": float, "nodes": SHARES, "operators": SHARES}],
        }
    ],
    "warnings": [str],
}

QUICK = ["--rounds", "6", "--threads", "1", "--input-shapes", "x:1x3x12x10"]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder with two models of the same open input, and one whose input is fixed."""
    monkeypatch.chdir(tmp_path)
    onnx.save(plain(), "a.onnx")
    onnx.save(residual(), "b.onnx")
    onnx.save(build([conv("c", "x", "w", "y")], {"w": weights(1, 4, 3, 3, 3)}, input_shape=(2, 3, 8, 8)), "fixed.onnx")


def test_all_settings_are_measured_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["a.onnx", "b.onnx", *QUICK, "--threads", "1,2", "--batch", "1,3", "--profile", "2", "--json", "times.json"]
    assert bench.main(line) == 0
    report = json.loads(Path("times.json").read_text())
    conforms(report, SCHEMA, "report")
    assert report["schema"] == 1 and report["tool"]["name"] == "onnx-lowrank-bench"
    assert [model["path"] for model in report["models"]] == ["a.onnx", "b.onnx"]
    assert [(m["threads"], m["batch"]) for m in report["measurements"]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    for measurement in report["measurements"]:
        assert measurement["rounds"] == 6
        base, other = measurement["models"]
        assert (base["ratio"], base["ratio_low"], base["ratio_high"]) == (1, 1, 1)
        assert 0 < other["ratio_low"] <= other["ratio"] <= other["ratio_high"]
        assert base["confidence"] == other["confidence"] == pytest.approx(1 - 2 / 2**6, abs=1e-4)
        for timed in (base, other):
            low, high = timed["quartiles_ms"]
            assert low <= timed["median_ms"] <= high
        for profile in measurement["profiles"]:
            assert len(profile["nodes"]) == 2
            assert profile["nodes"][0]["median_ms"] >= profile["nodes"][1]["median_ms"]
            assert "Conv" in {row["op"].removeprefix("Fused") for row in profile["operators"]}
            assert profile["operators"] == sorted(profile["operators"], key=lambda row: -row["median_ms"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("wrote times.json, ")
    assert "Milliseconds of a run on CPUExecutionProvider" in out
    assert "a.onnx, threads 2, batch 3: " in out


def test_the_table_names_the_models_and_the_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["a.onnx", "b.onnx", *QUICK]) == 0
    out = capsys.readouterr().out
    (base,) = (line for line in out.splitlines() if "a.onnx" in line)
    (other,) = (line for line in out.splitlines() if "b.onnx" in line)
    assert base.split()[:3] == ["1", "1", "a.onnx"] and base.endswith("–")
    assert other.split()[0] == "b.onnx" and (" to " in other) and other.endswith(")")
    assert rows(out)["threads"][:2] == ["batch", "model"]


def test_models_of_the_same_name_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new").mkdir()
    onnx.save(residual(), "new/a.onnx")
    assert bench.main(["a.onnx", str(Path("new/a.onnx")), *QUICK]) == 0
    assert str(Path("new/a.onnx")) in capsys.readouterr().out


def test_one_model_and_the_batch_that_it_demands() -> None:
    (measurement,) = benchmark(["fixed.onnx"], settings=Settings((1,), budget=Budget(rounds=2))).measurements
    assert (measurement.batch, measurement.rounds) == (2, 2)
    assert measurement.models[0].confidence == 0.5  # two rounds bound little


def test_an_open_first_dimension_is_the_batch_whatever_the_shape_says() -> None:
    settings = Settings((1,), (5,), {"x": (1, 3, 12, 10)}, budget=Budget(rounds=1))
    assert benchmark(["a.onnx"], settings=settings).measurements[0].batch == 5
    settings = Settings((1,), (), {"x": (4, 3, 12, 10)}, budget=Budget(rounds=1))
    assert benchmark(["a.onnx"], settings=settings).measurements[0].batch == 4


def test_it_runs_on_the_samples_that_are_given() -> None:
    np.save("data.npy", photo(1, (2, 3, 12, 10)))
    settings = Settings((1,), (3,), budget=Budget(rounds=1))  # more than there are: they come again
    report = benchmark(["a.onnx", "b.onnx"], Path("data.npy"), settings=settings)
    assert report.data == "2 samples in data.npy"
    assert benchmark(["fixed.onnx"], settings=Settings((1,), budget=Budget(rounds=1))).data == "made up"


def test_inputs_of_several_types_are_made_up() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 4])
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    z = helper.make_tensor_value_info("z", TensorProto.INT64, ["N", 4])
    nodes = [
        helper.make_node("Where", ["mask", "image", "image"], ["y"]),
        helper.make_node("Neg", ["ids"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "net", [image, ids, mask], [y, z])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "mixed.onnx")
    report = benchmark(["mixed.onnx"], settings=Settings((1,), (2,), budget=Budget(rounds=1), profile=5))
    assert {row.op for row in report.measurements[0].profiles[0].operators} == {"Where", "Neg"}


def test_quiet_prints_nothing_and_still_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["fixed.onnx", "--rounds", "1", "--quiet", "--json", "times.json"]) == 0
    assert capsys.readouterr().out == "" and Path("times.json").exists()


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("--quiet", 2, "the following arguments are required: MODEL"),
        ("a.onnx --rounds 0", 2, "rounds is 0"),
        ("a.onnx --seconds 0", 2, "seconds is 0"),
        ("a.onnx --seconds inf", 2, "seconds is inf"),
        ("a.onnx --threads one", 2, "--threads: 'one' is not a list of whole numbers"),
        ("a.onnx --threads -1", 2, "threads: give numbers of at least 0"),
        ("a.onnx --batch 0", 2, "batch: give numbers of at least 1"),
        ("a.onnx --profile -1", 2, "profile is -1"),
        ("a.onnx --seed -1", 2, "seed is -1"),
        ("a.onnx --providers ,", 2, "providers is empty"),
        ("a.onnx --providers npu", 2, "provider 'npu' is not in this ONNX Runtime: choose from"),
        ("a.onnx --input-shapes x:what", 2, "--input-shapes: 'x:what' is not a shape"),
        ("a.onnx --input-shapes z:1x3x8x8", 2, "--input-shapes names 'z': the inputs are x"),
        ("a.onnx --input-shapes x:1x4x8x8", 2, "that the model fixes for"),
        ("a.onnx fixed.onnx --batch 1 --data data.npy", 2, "fixed.onnx takes batches of 2, not 1"),
        ("a.onnx --preprocess torch", 2, "there is no preset 'torch'"),
        ("a.onnx --json a.onnx", 2, "MODEL and --json are the same file"),
        ("a.onnx --json nowhere/times.json", 6, "nowhere"),
        ("a.onnx", 3, "a.onnx takes 'x' of any size (Nx3xHxW): give --input-shapes"),
        ("missing.onnx", 3, "missing.onnx: no such file"),
        ("a.onnx data.npy", 3, "data.npy: not an ONNX"),
        ("a.onnx --data nothing.npy", 3, "nothing.npy do not exist"),
    ],
)
def test_what_is_refused_is_one_line_and_leaves_nothing(
    line: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("data.npy", photo(1, (4, 3, 12, 10)))
    before = contents()
    assert bench.main(line.split()) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("onnx-lowrank-bench: error: ") and err.count("\n") == 1
    assert message in err
    assert contents() == before


def test_a_provider_that_cannot_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code = bench.main(["a.onnx", *QUICK, "--providers", "cuda,cpu"])
    err = capsys.readouterr().err
    if code == 0:
        pytest.skip("CUDA runs here")
    # 2 where this ONNX Runtime was built without it, 6 where it cannot be loaded.
    assert code in (2, 6) and err.count("\n") == 1 and "cpu" in err


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(UsageError, match="threads"):
        Settings(threads=())
    with pytest.raises(UsageError, match="no model"):
        benchmark([])


def test_times_that_had_no_chance_to_settle_are_warned_of() -> None:
    warnings: list[str] = []
    report = benchmark(["fixed.onnx"], settings=Settings((1,), budget=Budget(seconds=1e-9)), warn=warnings.append)
    assert report.warnings == tuple(warnings) and "before the times had settled" in warnings[0]
    (measurement,) = report.measurements
    assert (measurement.settled, measurement.warmup_rounds, measurement.rounds) == (False, 1, 6)


def test_the_module_is_the_command() -> None:
    root = Path(bench.__file__).parents[1]
    command = [sys.executable, "-m", "onnx_lowrank.cli.bench", "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=root, check=True)
    assert done.stdout.startswith("usage: onnx-lowrank-bench ") and done.stderr == ""
