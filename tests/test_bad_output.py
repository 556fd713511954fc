"""Outputs and options that cannot be: an exit code, one line, and nothing left behind."""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from cli_for_tests import WatchedSamples
from models_for_tests import photo, plain

from onnx_lowrank.cli import compress
from onnx_lowrank.errors import EnvironmentFault
from onnx_lowrank.runtime.providers import provider_names
from onnx_lowrank.runtime.session import Session

pytestmark = pytest.mark.usefixtures("good_files")


@pytest.mark.parametrize("option", ["OUT", "--report"])
def test_an_output_that_cannot_be_written(option: str, refuses: Callable[..., str]) -> None:
    Path("folder").mkdir()
    good = ["in.onnx", "--data", "data.npy"]
    for place, reason in (("nowhere/out.onnx", "no folder nowhere"), ("folder", "is a folder")):
        places = [place] if option == "OUT" else ["out.onnx", option, place]
        assert reason in refuses(6, *good, *places)


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.EACCES, "open"), (errno.EROFS, "open"), (errno.ENOSPC, "write"), (errno.EACCES, "replace")],
)
def test_an_output_that_the_system_refuses(
    number: int, step: str, refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif step == "write":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        opened = Path.open

        def open_or_fail(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            return fail() if "x" in mode or "w" in mode else opened(path, mode, *rest, **named)

        monkeypatch.setattr(Path, "open", open_or_fail)
    line = refuses(6, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5")
    assert "out.onnx: cannot be written" in line and os.strerror(number) in line


def test_an_output_that_the_system_refuses_leaves_the_old_one(
    refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.onnx").write_bytes(b"precious")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    refuses(6, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_read_only_folder(refuses: Callable[..., str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "cannot be written" in refuses(6, "in.onnx", "locked/out.onnx", "--data", "data.npy")


def test_a_speedup_out_of_reach_names_the_one_that_is_not(
    refuses: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuses(4, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "100")
    reach = re.search(r"out of reach: .* gets (\d+\.\d+)", line)
    assert reach
    assert compress.main(["in.onnx", "out.onnx", "--data", "data.npy", "--quiet", "--speedup", reach[1]]) == 0
    capsys.readouterr()
    Path("out.onnx").unlink()
    refuses(4, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", f"{float(reach[1]) + 0.01:.2f}")


def test_a_rank_multiple_too_coarse_for_the_speedup(refuses: Callable[..., str]) -> None:
    line = refuses(4, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "4", "--rank-multiple", "4")
    assert "at the lowest multiples of 4 as ranks this model gets" in line and "lower --rank-multiple" in line


@pytest.mark.parametrize("speedup", ["nan", "inf", "-inf", "0", "-1", "0.99", "abc", "", "4x", "1e400"])
def test_a_speedup_without_a_meaning(speedup: str, refuses: Callable[..., str]) -> None:
    assert "speedup" in refuses(2, "in.onnx", "out.onnx", "--data", "data.npy", f"--speedup={speedup}")


def test_a_provider_that_is_not_there(refuses: Callable[..., str]) -> None:
    assert "provider 'npu'" in refuses(2, "in.onnx", "out.onnx", "--data", "data.npy", "--providers", "npu")


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="this ONNX Runtime knows no CUDA"
)
def test_a_provider_that_cannot_run_is_not_replaced_by_the_next(refuses: Callable[..., str]) -> None:
    with contextlib.suppress(EnvironmentFault):
        Session("in.onnx", provider_names(["cuda"]), 1, "the model")
        pytest.skip("CUDA runs here")
    line = refuses(6, "in.onnx", "out.onnx", "--data", "data.npy", "--providers", "cuda,cpu")
    assert "CUDAExecutionProvider cannot run the model on this machine" in line and "--providers cpu" in line


def test_a_plan_for_another_model(refuses: Callable[..., str]) -> None:
    Path("plan.json").write_text('{"schema": 1, "sites": [{"name": "elsewhere", "form": "channel", "ranks": [3]}]}')
    assert "elsewhere" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--plan", "plan.json")


@pytest.mark.parametrize(
    ("weights", "line", "reason"),
    [
        ("out.onnx.data", ["out.onnx"], "OUT's weights would replace out.onnx.data"),
        ("in.onnx.data", ["in.onnx.data"], "OUT would replace in.onnx.data"),
        ("in.onnx.data", ["out.onnx", "--report", "in.onnx.data"], "--report would replace in.onnx.data"),
    ],
)
def test_the_weights_beside_the_input_are_not_overwritten(
    weights: str, line: list[str], reason: str, refuses: Callable[..., str]
) -> None:
    onnx.save(plain(), "in.onnx", save_as_external_data=True, location=weights, size_threshold=0)
    assert reason in refuses(2, "in.onnx", *line, "--data", "data.npy")


def test_old_weights_of_the_output_are_replaced() -> None:
    onnx.save(plain(), "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    Path("out.onnx.data").write_bytes(b"old")
    assert (
        compress.main(["in.onnx", "out.onnx", "--data", "data.npy", "--form", "channel", "--speedup", "1.5", "--quiet"])
        == 0
    )
    assert Path("out.onnx.data").stat().st_size > 3


@pytest.mark.parametrize("given", [["--speedup", "100"], ["--plan", "plan.json"]])
def test_what_cannot_be_is_refused_before_the_network_is_profiled(
    given: list[str], refuses: Callable[..., str]
) -> None:
    samples = WatchedSamples("x", photo(1, (12, 3, 12, 10)))
    Path("plan.json").write_text('{"schema": 1, "sites": [{"name": "conv2", "form": "channel", "ranks": [99]}]}')
    refuses(3 if "--plan" in given else 4, "in.onnx", "out.onnx", *given, pipeline=samples.pipeline)
    # One sample tells the MACs, and two whether they may share a run; a profile would read them all.
    assert {sample for batch in samples.batches for sample in batch} <= {0, 1}


def test_a_plan_for_a_skipped_convolution_hears_why(refuses: Callable[..., str]) -> None:
    Path("plan.json").write_text('{"schema": 1, "sites": [{"name": "conv2", "form": "channel", "ranks": [3]}]}')
    line = refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--plan", "plan.json", "--exclude", "conv2")
    assert "conv2" in line and "excluded by --exclude" in line
