import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cli_for_tests import ARGUMENTS, PLAN, Install, Result, files, rows

from onnx_lowrank.cli import compress as cli
from onnx_lowrank.cli.tables import NONE
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.report.schema import SCHEMA

pytestmark = pytest.mark.usefixtures("instant_pipeline")


def test_a_run_prints_its_tables_and_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ARGUMENTS) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    table = rows(out)
    assert table["conv MACs"] == ["15.35 G", "3.828 G", "4.01× fewer"]
    assert table["all MACs"] == ["15.47 G", "3.951 G", "3.92× fewer"]
    assert table["parameters"] == ["138.4 M", "128 M", "1.08× fewer"]
    assert table["file size"] == ["527.8 MiB", "263.9 MiB", "2.00× smaller"]
    assert table["latency of one sample"] == ["120 ms", "45.1 ms", "2.67× faster (2.60 to 2.75)"]
    assert table["top-1 accuracy of 500 samples"] == ["71.2%", "70.8%", "-0.4 points"]
    assert table["logits"] == ["0.00312", "1.25", "98.5%"]
    assert table["boxes"] == ["0.002", "0.5", NONE]
    assert table["conv[0]"] == [
        "3×3",
        "3→64",
        "Relu",
        NONE,
        NONE,
        "86.7 M",
        "86.7 M",
        "100.0%",
        NONE,
        NONE,
        "left alone",
    ]
    assert table["conv1"] == [
        "3×3",
        "64→64",
        NONE,
        "channel",
        "20",
        "1.85 G",
        "620 M",
        "33.5%",
        "0.0123",
        "0.0101",
        "nonlinear",
    ]
    assert table["depthwise"] == ["it has 32 groups"]
    last = out.splitlines()[-1]
    assert last.startswith("wrote out.onnx: 4.01× fewer conv MACs, relative error 0.00312, top-1 agreement 98.5%, ")
    assert last.endswith(" s")


def test_a_run_writes_the_model_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--report", "report.json"]) == 0
    assert files() == {"in.onnx", "out.onnx", "report.json"}
    written = json.loads(Path("report.json").read_text())
    assert written["schema"] == SCHEMA and written["outputs"]["logits"]["top1_agreement"] == 0.985
    assert written["output"]["path"] == "out.onnx"
    assert written["output"]["sha256"] == sha256(Path("out.onnx").read_bytes()).hexdigest()


@pytest.mark.parametrize(("option", "expected"), [([], b"inside"), (["--save-as-external-data"], b"external")])
def test_where_the_weights_go(option: list[str], expected: bytes) -> None:
    assert cli.main([*ARGUMENTS, *option]) == 0
    assert Path("out.onnx").read_bytes() == expected


def test_quiet_prints_warnings_only(pipeline_does: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def compress(*_: object, warn: Callable[[str], None], **__: object) -> Result:
        warn("no data:\nsynthetic images")
        return Result()

    pipeline_does(compress)
    assert cli.main([*ARGUMENTS, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "onnx-lowrank: warning: no data: synthetic images\n")
    assert Path("out.onnx").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert rows(out)["conv1"][3:5] == ["channel", "20"] and rows(out)["conv MACs"][-1] == "4.01× fewer"
    assert "dry run: 4.01× fewer conv MACs, " in out.splitlines()[-1]
    assert files() == {"in.onnx"}


def test_a_plan_is_saved_and_replayed(pipeline_does: Install) -> None:
    seen = []

    def compress(*_: object, plan: Plan, **__: object) -> Result:
        seen.append(plan)
        return Result()

    pipeline_does(compress)
    assert cli.main(["in.onnx", "--dry-run", "--plan", "plan.json"]) == 0
    assert files() == {"in.onnx", "plan.json"}
    assert cli.main([*ARGUMENTS, "--plan", "plan.json"]) == 0
    assert seen == [PLAN]


def test_a_replayed_plan_has_no_speedup_to_print(pipeline_does: Install, capsys: pytest.CaptureFixture[str]) -> None:
    class Replayed(Result):
        report = replace(Result.report, speedup=replace(Result.report.speedup, requested=None))

    Path("plan.json").write_text(PLAN.to_json())
    pipeline_does(lambda *_, **__: Replayed())
    assert cli.main([*ARGUMENTS, "--plan", "plan.json", "--report", "report.json"]) == 0
    assert "wrote out.onnx: 4.01× fewer conv MACs, " in capsys.readouterr().out
    assert json.loads(Path("report.json").read_text())["speedup"]["requested"] is None


def test_it_runs_in_another_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*ARGUMENTS, "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_the_module_is_the_command() -> None:
    root = Path(cli.__file__).parents[1]
    command = [sys.executable, "-m", "onnx_lowrank", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=root, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
