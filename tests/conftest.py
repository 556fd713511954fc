import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before NumPy is loaded. Products of small matrices on several threads wait for one another by spinning: on cores that
# do something else too, that makes the tests twenty times slower.
for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import contents
from latency_for_tests import measured_here

from onnx_lowrank.cli import compress
from onnx_lowrank.stages import speed


@pytest.fixture(autouse=True, scope="session")
def latency_measured_here() -> Iterator[None]:
    """Runs measure the latency in this process, because another one takes a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "measure_in_fresh_process", measured_here)
        yield


@pytest.fixture
def working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder that is empty but for in.onnx."""
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").touch()


@pytest.fixture
def good_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder with a good model and good data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(models_for_tests.plain(), "in.onnx")
    np.save("data.npy", models_for_tests.photo(1, (12, 3, 12, 10)))


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; check how it fails and that the folder is as before; return the line that it prints."""

    def check(code: int, *arguments: str, warns: bool = False, pipeline: compress.Pipeline = compress.PIPELINE) -> str:
        before = contents()
        assert compress.main(list(arguments), pipeline) == code
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
