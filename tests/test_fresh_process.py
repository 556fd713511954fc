"""The latency of the report: measured in a process of its own, or here with a warning that says so."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from models_for_tests import one_conv, photo, plain, weights

from onnx_lowrank import compress
from onnx_lowrank.bench.fresh_process import NoMeasurementError, Task, measure_in_fresh_process
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.providers import CPU
from onnx_lowrank.stages import speed

SMALL, LARGE = one_conv(weights(1, 4, 3, 1, 1)), one_conv(weights(2, 256, 3, 7, 7))
FEEDS = {"x": photo(3, (1, 3, 64, 64))}
TASK = Task(("the model", "the rewritten model"), (CPU,), 1, FEEDS, Budget(rounds=6, seconds=0.5))


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Temporary files go to a folder of the test, and are gone at its end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def test_another_process_measures_the_same_models_whatever_lies_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "onnx", "pickle"):
        Path(f"{name}.py").write_text("raise SystemExit('not this one')")
    rounds = measure_in_fresh_process((LARGE, SMALL), TASK)
    assert rounds.seconds.shape == (6, 2)
    assert rounds.speed(1).low > 3  # about three thousand times as many MACs


def test_what_a_library_prints_does_not_spoil_the_answer() -> None:
    program = "import os; os.write(2, b'a remark'); from onnx_lowrank.bench import child; child.main(); print('bye')"
    assert measure_in_fresh_process((SMALL, LARGE), TASK, python(program)).seconds.shape == (6, 2)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (["/no/such/python"], "cannot be started"),
        (python("raise SystemExit('no room for another process')"), "no room for another process"),
        (python("import os; os._exit(3)"), "exit code 3"),
        (
            python("import sys; sys.stdin.buffer.read(100); raise MemoryError('at the first model')"),
            "at the first model",
        ),
        (python("import sys; sys.stdout.write('not what was asked'); sys.stdin.buffer.read()"), "exit code 0"),
        (python("import sys, pickle; pickle.dump(3, sys.stdout.buffer)"), "exit code 0"),
    ],
    ids=["no program", "refuses", "dies", "dies at a model", "talks nonsense", "answers something else"],
)
def test_a_process_that_does_not_measure_says_why(program: Sequence[str], reason: str) -> None:
    with pytest.raises(NoMeasurementError, match=reason):
        measure_in_fresh_process((LARGE, SMALL), TASK, program)


def test_a_model_that_cannot_be_opened_is_named() -> None:
    broken = onnx.ModelProto()
    with pytest.raises(NoMeasurementError, match="ONNX Runtime cannot load the rewritten model"):
        measure_in_fresh_process((SMALL, broken), TASK)


def test_a_program_in_a_bundle_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(NoMeasurementError, match="no"):
        measure_in_fresh_process((SMALL, LARGE), TASK)


@pytest.mark.skipif(os.name != "posix", reason="asks for a process by its number")
def test_an_interruption_ends_the_other_process_too(tmp_path: Path) -> None:
    note = tmp_path / "number"

    def models() -> Iterator[onnx.ModelProto]:
        while not (note.exists() and note.read_text()):
            pass
        raise KeyboardInterrupt
        yield

    program = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    with pytest.raises(KeyboardInterrupt):
        measure_in_fresh_process(models(), TASK, python(program))  # type: ignore[arg-type]
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


# ---- the report


def refused(models: object, task: object) -> Any:
    raise NoMeasurementError("no room")


def test_without_another_process_this_one_measures_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_in_fresh_process", refused)
    result = compress(plain(), photo(1, (12, 3, 12, 10)), 1.5, require="none", threads=1)
    latency = result.report.speedup.latency
    assert latency and not latency.fresh_process and latency.rounds >= 6
    (warning,) = (text for text in result.report.warnings if "latency" in text)
    assert "(no room)" in warning and "onnx-lowrank-bench" in warning and "\n" not in warning


def test_the_latency_of_a_report_is_that_of_the_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_in_fresh_process", measure_in_fresh_process)
    warnings = list[str]()
    (latency,) = speed.measure_latency((LARGE, SMALL), FEEDS, 1, Options(threads=1), warnings.append)
    assert latency.fresh_process and latency.ratio_low > 3
    assert warnings == []


def test_a_model_that_no_process_runs_is_an_error_and_not_a_fallback() -> None:
    with pytest.raises(Exception, match="cannot load the rewritten model"):
        speed.measure_latency((SMALL, onnx.ModelProto()), FEEDS, 1, Options(threads=1), lambda text: None)
