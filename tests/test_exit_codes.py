"""Every row of the table of exit codes, provoked through the command; failures leave the folder as it was."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import contents
from models_for_tests import photo

from onnx_lowrank import pipeline
from onnx_lowrank.cli import compress
from onnx_lowrank.graph.files.save import export

ROOT = Path(__file__).resolve().parents[1]
LINE = ["in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5"]
RUN = "import sys; from onnx_lowrank import cli; sys.exit(cli.main(sys.argv[1:]))"
pytestmark = pytest.mark.usefixtures("good_files")
posix = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")


def start(before: str, *arguments: str) -> "subprocess.Popen[str]":
    """The command as a process of its own, which runs some Python first."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", f"{before}\n{RUN}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8")


def ends(code: int, said: str, before: str, *arguments: str) -> None:
    """Run the command as a process; check its exit code and last line, and that the folder is as before."""
    there = contents()
    process = start(before, *arguments)
    _, err = process.communicate()
    lines = [line for line in err.splitlines() if "error: " in line]
    assert process.returncode == code, err
    assert len(lines) == 1 and re.search(said, lines[0]), err
    assert "Traceback" not in err
    assert contents() == there


def test_the_table_and_the_help_name_the_codes_that_are_tested_here() -> None:
    text = (ROOT / "onnx_lowrank" / "cli" / "README.md").read_text(encoding="utf-8")
    section = text.split("## Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 4, 5, 6, 130, 143}


def test_0_done() -> None:
    assert compress.main([*LINE, "--quiet"]) == 0
    onnx.checker.check_model("out.onnx", full_check=True)


def test_1_an_internal_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(pipeline, "walk", fail)
    before = contents()
    assert compress.main([*LINE, "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "internal error" in err and "this is a bug" in err
    assert contents() == before


@pytest.mark.parametrize(("given", "said"), [(["--speedup", "0"], "speedup is 0"), (["--sped", "2"], "--sped")])
def test_2_the_command_line(given: list[str], said: str, refuses: Callable[..., str]) -> None:
    assert said in refuses(2, *LINE, *given)


def test_3_the_model_or_the_data(refuses: Callable[..., str]) -> None:
    assert "no such file" in refuses(3, "none.onnx", *LINE[1:])
    np.savez("data.npz", x=np.full(3, {"a": 1}, object))
    assert "a pickle" in refuses(3, *LINE, "--data", "data.npz")
    np.save("bad.npy", np.full((6, 3, 12, 10), np.nan, np.float32))
    assert "NaN or infinity" in refuses(3, *LINE, "--data", "bad.npy")


@pytest.mark.parametrize("scale", [1e30, np.inf])
def test_3_activations_that_are_not_finite(scale: float, refuses: Callable[..., str]) -> None:
    model = models_for_tests.residual()
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["x", "scale"], ["scaled"]))
    model.graph.node[1].input[0] = "scaled"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "scale"))
    onnx.save(model, "in.onnx")
    assert "the responses of" in refuses(3, *LINE)


def test_4_a_speedup_out_of_reach(refuses: Callable[..., str]) -> None:
    assert "out of reach" in refuses(4, *LINE[:-1], "100")


def test_5_a_broken_promise(refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*given: Any) -> onnx.ModelProto:
        model = export(*given)
        model.graph.output[0].name = model.graph.node[0].output[0]
        return model

    monkeypatch.setattr("onnx_lowrank.pipeline.export", spoiled)
    assert "has the outputs" in refuses(5, *LINE)


@posix
@pytest.mark.parametrize("more", [[], ["--save-as-external-data"]])
def test_6_a_disk_that_is_full(more: list[str]) -> None:
    for name in ("out.onnx", "out.onnx.data")[: 1 + len(more)]:
        Path(name).write_bytes(b"precious")
    # The system refuses to let any file grow beyond a kilobyte, as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))"
    ends(6, r"out\.onnx: cannot be written", limit, *LINE, *more)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("samples", [6, 1], ids=["of the data", "of a response"])
def test_6_memory_that_runs_out(samples: int) -> None:
    np.lib.format.open_memmap("large.npy", "w+", np.float32, (samples, 3, 3000, 3000)).flush()
    # What is mapped so far, and 300 MB; a sample takes 108 MB and its responses at the first convolution 288 MB.
    limit = """
import onnx_lowrank.cli, onnxruntime, resource
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + 300_000_000, -1))
"""
    ends(6, "memory ran out", limit, "in.onnx", "out.onnx", "--data", "large.npy", "--threads", "1")


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@posix
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["130", "143"])
def test_130_and_143_interrupted_and_terminated(number: int, code: int) -> None:
    Path("out.onnx").write_bytes(b"precious")
    # Jobs that a shell runs in the background ignore interrupts, and so does what they start.
    stop = f"""
import os, signal, onnx_lowrank.walk as walk
signal.signal(signal.SIGINT, signal.default_int_handler)
solve = walk.solve_groups
def solve_and_stop(*given, **named):
    os.kill(os.getpid(), {int(number)})
    return solve(*given, **named)
walk.solve_groups = solve_and_stop
"""
    before = contents()
    process = start(stop, *LINE, "--quiet")
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (code, 1), err
    assert {130: "interrupted", 143: "terminated"}[code] in err
    assert contents() == before


@posix
def test_killed_while_it_writes_the_old_output_stays() -> None:
    """Nothing can be said, and a temporary file may stay; the old model and its weights are whole."""
    old = {"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 0}
    onnx.save(models_for_tests.plain(), "out.onnx", **old)
    before = contents()
    kill = "import os; from onnx_lowrank.graph import save; save._flush = lambda stream: os.kill(os.getpid(), 9)"
    process = start(kill, *LINE, "--quiet", "--save-as-external-data")
    process.communicate()
    assert process.returncode == -9
    after = contents()
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".out.onnx.") and name.endswith(".tmp") for name in after.keys() - before.keys())


def test_broken_photos_are_named_and_gone_past_up_to_a_limit(
    refuses: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Path("photos").mkdir()
    for number in range(40):
        pixels = (photo(number, (12, 10, 3)) * 40 + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(Path("photos", f"{number:02}.png"))
    line = [*LINE, "--data", "photos", "--preprocess", "unit,resize=12x10", "--report", "report.json", "--quiet"]
    for number in (7, 30):
        Path("photos", f"{number:02}.png").write_bytes(b"\x89PNG broken")
    assert compress.main(line) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "07.png cannot be used" in "".join(said) and "30.png cannot be used" in "".join(said)
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["data"]["calibration"] + report["data"]["validation"] == 38
    Path("photos", "01.png").write_bytes(b"")
    assert "at most 2 of 40 are left out" in refuses(3, *line, warns=True)
