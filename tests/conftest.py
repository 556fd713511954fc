import os
from collections.abc import Callable
from pathlib import Path

# Before NumPy is loaded. Products of small matrices on several threads wait for one another by spinning: on cores that
# do something else too, that makes the tests twenty times slower.
for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import PLAN_REPORT, Install, Result, contents

from onnx_lowrank import pipeline
from onnx_lowrank.cli import compress


@pytest.fixture
def instant_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pipeline that succeeds at once, in a working folder that is empty but for in.onnx."""
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").touch()
    monkeypatch.setattr(pipeline, "compress", lambda *_, **__: Result())
    monkeypatch.setattr(pipeline, "plan_only", lambda *_, **__: PLAN_REPORT)


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


@pytest.fixture
def good_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder with a good model and good data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(models_for_tests.plain(), "in.onnx")
    np.save("data.npy", models_for_tests.photo(1, (12, 3, 12, 10)))


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; check how it fails and that the folder is as before; return what it says."""

    def check(code: int, *arguments: str, warns: bool = False) -> str:
        before = contents()
        assert compress.main(list(arguments)) == code
        out, err = capsys.readouterr()
        lines = err.splitlines()
        if warns:
            assert all(line.startswith("onnx-lowrank: warning: ") for line in lines[:-1])
            lines = lines[-1:]
        assert out == "" and len(lines) == 1, err
        assert lines[0].startswith("onnx-lowrank: error: ")
        assert "Traceback" not in err and "bug" not in err
        assert contents() == before
        return lines[0]

    return check
