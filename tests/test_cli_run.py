import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_for_tests import ARGUMENTS, INSTANT, PLAN, REPORT, Recorder, files, result, rows
from models_for_tests import photo, plain, run_model

from onnx_lowrank.cli import compress as cli
from onnx_lowrank.cli.tables import NONE
from onnx_lowrank.pipeline import Result
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.schema import SCHEMA
from onnx_lowrank.stages.request import Request

pytestmark = pytest.mark.usefixtures("working_folder")


def test_a_run_prints_its_tables_and_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ARGUMENTS, INSTANT) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    table = rows(out)
    assert table["conv MACs"] == ["15.35 G", "3.828 G", "4.01× fewer"]
    assert table["all MACs"] == ["15.47 G", "3.951 G", "3.92× fewer"]
    assert table["parameters"] == ["138.4 M", "128 M", "1.08× fewer"]
    assert table["file size"] == ["527.8 MiB", "263.9 MiB", "2.00× smaller"]
    assert table["latency of one sample"] == ["120 ms", "45.1 ms", "2.67× faster (2.60 to 2.75)"]
    assert table["top-1 accuracy of 500 samples"] == ["71.2 %", "70.8 %", "-0.4 points"]
    agreement = "98.0 % of 100 samples (93.0 to 99.5 %)"
    assert table["logits"] == ["0.0105 (0.0095 to 0.0116)", "0.00312", "1.25", agreement]
    assert table["boxes"] == ["0.0042", "0.002", "0.5", NONE]
    assert table["conv[0]"] == [
        "3×3",
        "3→64",
        "Relu",
        NONE,
        NONE,
        "86.7 M",
        "86.7 M",
        "100.0 %",
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
        "33.5 %",
        "0.0123",
        "0.0101",
        "nonlinear",
    ]
    assert table["depthwise"] == ["it has 32 groups"]
    last = out.splitlines()[-1]
    summary = (
        f"4.01× fewer conv MACs, kept with a centred error of 0.0105 (0.0095 to 0.0116), top-1 agreement {agreement}, "
    )
    assert last.startswith(f"wrote out.onnx: {summary}")
    assert last.endswith(" s")


def test_a_run_writes_the_model_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--report", "report.json"], INSTANT) == 0
    assert files() == {"in.onnx", "out.onnx", "report.json"}
    written = json.loads(Path("report.json").read_text())
    assert written["schema"] == SCHEMA and written["outputs"]["logits"]["top1_agreement"] == 0.98
    assert written["output"]["path"] == "out.onnx"
    assert written["output"]["sha256"] == sha256(Path("out.onnx").read_bytes()).hexdigest()


@pytest.mark.parametrize(("option", "data_files"), [([], set()), (["--save-as-external-data"], {"out.onnx.data"})])
def test_the_weights_go_to_a_file_of_their_own_only_if_asked_for(option: list[str], data_files: set[str]) -> None:
    assert cli.main([*ARGUMENTS, *option], INSTANT) == 0
    assert files() == {"in.onnx", "out.onnx"} | data_files
    before, after = (run_model(model, {"x": photo()}) for model in (plain(), onnx.load("out.onnx")))
    assert np.array_equal(before["y"], after["y"])


def test_quiet_prints_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    def compress(request: Request, listener: Listener) -> Result:
        listener.warn("no data:\nsynthetic images")
        return result()

    assert cli.main([*ARGUMENTS, "--quiet"], replace(INSTANT, compress=compress)) == 0
    assert capsys.readouterr() == ("", "onnx-lowrank: warning: no data: synthetic images\n")
    assert Path("out.onnx").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--dry-run"], INSTANT) == 0
    out = capsys.readouterr().out
    assert rows(out)["conv1"][3:5] == ["channel", "20"] and rows(out)["conv MACs"][-1] == "4.01× fewer"
    assert "dry run: 4.01× fewer conv MACs, " in out.splitlines()[-1]
    assert files() == {"in.onnx"}


def test_a_measurement_prints_the_times_of_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["in.onnx", "--measure-latency", "--latency-table", "times.json"], INSTANT) == 0
    out = capsys.readouterr().out
    assert rows(out)["conv1"] == ["3×3", "10.5", "4.25", "cp 20", "7"]
    assert out.splitlines()[-1].startswith("7 new measurements in times.json: a processor, 1 thread, ")
    assert files() == {"in.onnx"}


def test_a_plan_is_saved_and_replayed() -> None:
    recorder = Recorder()
    assert cli.main(["in.onnx", "--dry-run", "--plan", "plan.json"], recorder.pipeline) == 0
    assert files() == {"in.onnx", "plan.json"}
    assert cli.main([*ARGUMENTS, "--plan", "plan.json"], recorder.pipeline) == 0
    assert [request.plan for request in recorder.requests] == [None, PLAN]


def test_a_replayed_plan_has_no_speedup_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    replayed = result(replace(REPORT, speedup=replace(REPORT.speedup, requested=None)))
    Path("plan.json").write_text(PLAN.to_json())
    pipeline = replace(INSTANT, compress=lambda *_: replayed)
    assert cli.main([*ARGUMENTS, "--plan", "plan.json", "--report", "report.json"], pipeline) == 0
    assert "wrote out.onnx: 4.01× fewer conv MACs, " in capsys.readouterr().out
    assert json.loads(Path("report.json").read_text())["speedup"]["requested"] is None


def test_it_runs_in_another_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*ARGUMENTS, "--quiet"], INSTANT)))
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
