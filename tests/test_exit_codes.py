"""Every exit code is provoked through the command, and a failure leaves the folder as it was."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import contents, disturbed
from models_for_tests import build, conv, photo, relu, weights

from onnx_lowrank.cli import compress

ROOT = Path(__file__).resolve().parents[1]
LINE = ["in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5"]
RUN = "import sys; from onnx_lowrank.cli import compress; sys.exit(compress.main(sys.argv[1:]))"
pytestmark = pytest.mark.usefixtures("good_files")
posix = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python script that runs the command as a process of its own."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8")


def ends(code: int, message: str, limit: str, *arguments: str) -> None:
    """Run the command in a limited process; check its exit code and last line, and that the folder is as before."""
    before = contents()
    process = start(f"{limit}\n{RUN}", *arguments)
    _, err = process.communicate()
    lines = [line for line in err.splitlines() if "error: " in line]
    assert process.returncode == code, err
    assert len(lines) == 1 and re.search(message, lines[0]), err
    assert "Traceback" not in err
    assert contents() == before


def test_the_help_names_the_codes_that_are_tested_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress.main(["--help"]) == 0
    section = capsys.readouterr().out.split("exit codes:\n")[1]
    codes = [int(code) for code in re.findall(r"\b\d+\b", section)]
    assert codes == [0, 1, 2, 3, 4, 5, 6, 7, 130, 143]


def test_0_done() -> None:
    assert compress.main([*LINE, "--quiet"]) == 0
    onnx.checker.check_model("out.onnx", full_check=True)


def test_1_an_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> NoReturn:
        raise KeyError("x")

    before = contents()
    assert compress.main([*LINE, "--quiet"], disturbed("factorise", fail)) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "internal error" in err and "this is a bug" in err
    assert contents() == before


@pytest.mark.parametrize(("given", "message"), [(["--speedup", "0"], "speedup is 0"), (["--sped", "2"], "--sped")])
def test_2_the_command_line(given: list[str], message: str, refuses: Callable[..., str]) -> None:
    assert message in refuses(2, *LINE, *given)


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


def test_5_a_broken_promise(refuses: Callable[..., str]) -> None:
    # The original takes the square root of nonnegative responses, since its kernel and its inputs are nonnegative. The
    # truncated kernel has negative entries, which make negative responses.
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": np.maximum(weights(2, 8, 8, 3, 3) - 0.1, 0)}
    nodes = [conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2")]
    onnx.save(build([*nodes, onnx.helper.make_node("Sqrt", ["c2"], ["y"])], stored), "in.onnx")
    assert "output 'y' is not finite where the original's is" in refuses(5, *LINE, "--solver", "weights")


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
import onnx_lowrank.cli.compress, onnxruntime, resource
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + 300_000_000, -1))
"""
    ends(6, "memory ran out", limit, "in.onnx", "out.onnx", "--data", "large.npy", "--threads", "1")


def test_7_a_ruined_result(refuses: Callable[..., str]) -> None:
    Path("out.onnx").write_bytes(b"precious")
    onnx.save(models_for_tests.classifier("MatMul"), "in.onnx")
    np.save("data.npy", photo(1, (60, 3, 12, 10)))
    line = refuses(7, *LINE, "--speedup", "6")
    assert "the result is ruined: output 'y' has a centred error of " in line
    assert "at most 0.5 is accepted: nothing was written; " in line and "--speedup" in line and "--require" in line


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@posix
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["130", "143"])
def test_130_and_143_interrupted_and_terminated(number: int, code: int) -> None:
    Path("out.onnx").write_bytes(b"precious")
    # Jobs that a shell runs in the background ignore interrupts, and so do their children.
    script = f"""
import os, signal, sys
from cli_for_tests import disturbed
from onnx_lowrank.cli import compress
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(compress.main(sys.argv[1:], disturbed("factorise", lambda: os.kill(os.getpid(), {int(number)}))))
"""
    before = contents()
    process = start(script, *LINE, "--quiet")
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (code, 1), err
    assert {130: "interrupted", 143: "terminated"}[code] in err
    assert contents() == before


@posix
def test_killed_while_it_writes_the_old_output_stays() -> None:
    """No line can be printed, and a temporary file may stay; the old model and its weights are whole."""
    old = {"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 0}
    onnx.save(models_for_tests.plain(), "out.onnx", **old)
    before = contents()
    kill = "import os; os.fsync = lambda descriptor: os.kill(os.getpid(), 9)"  # while the new files are flushed
    process = start(f"{kill}\n{RUN}", *LINE, "--quiet", "--save-as-external-data")
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
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for name in ("07.png", "30.png"):
        assert any(f"{name} cannot be used" in line for line in lines)
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["data"]["calibration"] + report["data"]["validation"] == 38
    Path("photos", "01.png").write_bytes(b"")
    assert "at most 2 of 40 are left out" in refuses(3, *line, warns=True)
