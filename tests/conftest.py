from collections.abc import Callable
from pathlib import Path

import pytest
from cli_for_tests import PLAN_REPORT, Install, Result

from onnx_lowrank import pipeline


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
