import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cli_for_tests import ARGUMENTS, INSTANT, files, raising, result

from onnx_lowrank import errors
from onnx_lowrank.cli import compress as cli
from onnx_lowrank.pipeline import Result

pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"{}"])
def test_a_bad_plan_is_bad_data(content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("plan.json").write_bytes(content)
    assert cli.main([*ARGUMENTS, "--plan", "plan.json"], INSTANT) == 3
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
        (partial(errors.QualityError, report=None), 7),
    ],
)
def test_every_error_is_one_line_and_its_exit_code(
    kind: Callable[[str], Exception], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(ARGUMENTS, raising(kind("layer conv[1]:\n  what is wrong"))) == code
    assert capsys.readouterr() == ("", "onnx-lowrank: error: layer conv[1]: what is wrong\n")
    assert files() == {"in.onnx"}


def test_no_kind_of_error_is_missing_above() -> None:
    assert {kind.__name__ for kind in errors.LowRankError.__subclasses__()} == {
        *("UsageError", "ModelError", "DataError", "TargetError"),
        *("ValidationError", "EnvironmentFault", "QualityError"),
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
def test_other_ends(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ARGUMENTS, raising(error)) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"onnx-lowrank: {line}") and err.count("\n") == 1
    assert files() == {"in.onnx"}


def test_the_traceback_comes_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--traceback"], raising(errors.ModelError("bad"))) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("onnx-lowrank: error: bad\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM between processes there")
def test_sigterm_unwinds_the_stack(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def compress(*_: object) -> Result:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(5)
            return result()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(ARGUMENTS, replace(INSTANT, compress=compress)) == 143
    assert capsys.readouterr().err == "onnx-lowrank: terminated\n"
    assert cleaned and files() == {"in.onnx"}
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("option", ["--report", "--plan"])
def test_an_unwritable_place_is_refused_before_any_work(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = raising(AssertionError("work was done"))
    line = ["in.onnx", "--dry-run"] if option == "--plan" else ARGUMENTS
    assert cli.main([*line, option, "nowhere/file"], pipeline) == 6
    assert "nowhere" in capsys.readouterr().err
    assert cli.main(["in.onnx", "nowhere/out.onnx"], pipeline) == 6
    assert files() == {"in.onnx"}


def test_a_report_that_cannot_be_written_leaves_no_scraps() -> None:
    def compress(*_: object) -> Result:
        Path("report.json").mkdir()  # after the places were checked
        return result()

    assert cli.main([*ARGUMENTS, "--report", "report.json"], replace(INSTANT, compress=compress)) == 6
    assert files() == {"in.onnx", "out.onnx", "report.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert cli.main(ARGUMENTS, INSTANT) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_printed_is_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(ARGUMENTS, INSTANT) == 6
    assert capsys.readouterr().err == "onnx-lowrank: error: cannot print: No space left on device\n"


@pytest.mark.parametrize("missing", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, missing, None)
    assert cli.main(ARGUMENTS, INSTANT) == 0
    assert cli.main([]) == 2
