import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from onnx_lowrank import cli, errors, pipeline
from onnx_lowrank.console import NONE
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report import (
    SCHEMA,
    AccuracyReport,
    CostReport,
    FileReport,
    Latency,
    MacsReport,
    OutputReport,
    PlanReport,
    Report,
    SiteReport,
    SkippedReport,
    SpeedupReport,
)

MACS = MacsReport(15_470_264_320, 3_951_000_000, 15_346_630_656, 3_828_000_000)
SITES = (
    SiteReport("conv[0]", None, (3, 3), (3, 64), {}, 86_704_128, 86_704_128, "Relu", None, None, True, "left alone"),
    SiteReport(
        *("conv1", "channel", (3, 3), (64, 64), {"d'": 20}, 1_849_688_064, 620_000_000, None),
        *(0.0123, 0.0101, False, "nonlinear"),
    ),
)
SKIPPED = (SkippedReport("depthwise", "it has 32 groups"),)
REPORT = Report(
    schema=SCHEMA,
    tool={"name": "onnx-lowrank", "version": "0"},
    input=FileReport("in.onnx", "0", 553_438_000),
    output=FileReport(None, "1", 276_719_000),
    options={},
    data={},
    provider="CPUExecutionProvider",
    seed=0,
    macs=MACS,
    speedup=SpeedupReport(4, 4.0091, Latency(120.4, 45.1, 2.67)),
    parameters=(138_357_544, 128_000_000),
    outputs={"logits": OutputReport(0.00312, 1.25, 0.985), "boxes": OutputReport(0.002, 0.5, None)},
    sites=SITES,
    skipped=SKIPPED,
    accuracy=AccuracyReport(500, 0.712, 0.708),
    cost=CostReport({"total": 1.0}, 2.1, 1, 300, 3000),
    warnings=(),
)
PLAN = Plan((SitePlan("conv[0]", None), SitePlan("conv1", "channel", (20,))))
ARGUMENTS = ["in.onnx", "out.onnx"]

Install = Callable[[Callable[..., Any]], None]


class Result:
    """A result that saves a few bytes."""

    report = REPORT

    def save(self, path: Path, external_data: bool | None = None) -> None:
        path.write_bytes(b"external" if external_data else b"inside")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder but for in.onnx, and a pipeline that succeeds at once."""
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").touch()
    monkeypatch.setattr(pipeline, "compress", lambda *_, **__: Result())
    monkeypatch.setattr(
        pipeline,
        "plan_only",
        lambda *_, **__: PlanReport(SITES, SKIPPED, MACS, SpeedupReport(4, 4.0091, None), PLAN),
    )
    return tmp_path


@pytest.fixture
def pipeline_does(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a function in the pipeline's place."""
    return lambda function: monkeypatch.setattr(pipeline, "compress", function)


@pytest.fixture
def pipeline_raises(pipeline_does: Install) -> Callable[[BaseException], None]:
    """Let the pipeline fail."""

    def install(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        pipeline_does(fail)

    return install


def files() -> set[str]:
    return {path.name for path in Path().iterdir()}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of every table row by the first one."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_a_run_prints_its_tables_and_what_it_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ARGUMENTS) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    table = rows(out)
    assert table["conv MACs"] == ["15.35 G", "3.828 G", "4.01× fewer"]
    assert table["all MACs"] == ["15.47 G", "3.951 G", "3.92× fewer"]
    assert table["parameters"] == ["138.4 M", "128 M", "1.08× fewer"]
    assert table["file size"] == ["527.8 MiB", "263.9 MiB", "2.00× smaller"]
    assert table["latency of one sample"] == ["120 ms", "45.1 ms", "2.67× faster"]
    assert table["top-1 accuracy of 500 samples"] == ["71.2%", "70.8%", "-0.4 points"]
    assert table["logits"] == ["0.00312", "1.25", "98.5%"]
    assert table["boxes"] == ["0.002", "0.5", NONE]
    assert table["conv[0]"] == [
        "3×3",
        "3→64",
        "Relu",
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
    assert rows(out)["conv1"][3] == "20" and rows(out)["conv MACs"][-1] == "4.01× fewer"
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


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"{}"])
def test_a_bad_plan_is_bad_data(content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("plan.json").write_bytes(content)
    assert cli.main([*ARGUMENTS, "--plan", "plan.json"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "plan.json" in err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.ModelError, 3),
        (errors.DataError, 3),
        (errors.TargetError, 4),
        (errors.ValidationError, 5),
        (errors.EnvironmentFault, 6),
    ],
)
def test_every_error_is_one_line_and_its_exit_code(
    kind: type[Exception],
    code: int,
    pipeline_raises: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline_raises(kind("layer conv[1]:\n  what is wrong"))
    assert cli.main(ARGUMENTS) == code
    assert capsys.readouterr() == ("", "onnx-lowrank: error: layer conv[1]: what is wrong\n")
    assert files() == {"in.onnx"}


def test_no_kind_of_error_is_missing_above() -> None:
    assert {kind.__name__ for kind in errors.LowRankError.__subclasses__()} == {
        *("UsageError", "ModelError", "DataError", "TargetError", "ValidationError", "EnvironmentFault")
    }


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 6, "error: memory ran out: lower --memory or --images"),
        (OSError(errno.ENOSPC, "No space left"), 6, "error: no room for temporary files (TMPDIR moves them): "),
        (KeyError("x"), 1, "internal error: KeyError: 'x' (this is a bug; run with --traceback and report it)"),
    ],
)
def test_other_ends(
    error: BaseException,
    code: int,
    line: str,
    pipeline_raises: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline_raises(error)
    assert cli.main(ARGUMENTS) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"onnx-lowrank: {line}") and err.count("\n") == 1
    assert files() == {"in.onnx"}


def test_the_traceback_comes_when_asked_for(
    pipeline_raises: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline_raises(errors.ModelError("bad"))
    assert cli.main([*ARGUMENTS, "--traceback"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("onnx-lowrank: error: bad\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM between processes there")
def test_sigterm_unwinds_the_stack(pipeline_does: Install, capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def compress(*_: object, **__: object) -> Result:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(5)
            return Result()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    pipeline_does(compress)
    assert cli.main(ARGUMENTS) == 143
    assert capsys.readouterr().err == "onnx-lowrank: terminated\n"
    assert cleaned and files() == {"in.onnx"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_runs_in_another_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*ARGUMENTS, "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("option", ["--report", "--plan"])
def test_an_unwritable_place_is_refused_before_any_work(
    option: str, pipeline_raises: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline_raises(AssertionError("work was done"))
    line = ["in.onnx", "--dry-run"] if option == "--plan" else ARGUMENTS
    assert cli.main([*line, option, "nowhere/file"]) == 6
    assert "nowhere" in capsys.readouterr().err
    assert cli.main(["in.onnx", "nowhere/out.onnx"]) == 6
    assert files() == {"in.onnx"}


def test_a_report_that_cannot_be_written_leaves_no_scraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "check_writable", lambda path: None)
    Path("report.json").mkdir()
    assert cli.main([*ARGUMENTS, "--report", "report.json"]) == 6
    assert files() == {"in.onnx", "out.onnx", "report.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert cli.main(ARGUMENTS) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_printed_is_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(ARGUMENTS) == 6
    assert capsys.readouterr().err == "onnx-lowrank: error: cannot print: No space left on device\n"


@pytest.mark.parametrize("missing", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, missing, None)
    assert cli.main(ARGUMENTS) == 0
    assert cli.main([]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_the_module_is_the_command() -> None:
    root = Path(cli.__file__).parents[1]
    command = [sys.executable, "-m", "onnx_lowrank", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=root, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
