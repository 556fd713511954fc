"""Models above 2 GB, which no library takes from memory: they go by files, and come out beside their weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models_for_tests import build, conv, photo, plain, relu, three_convs, weights
from numpy.typing import NDArray
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files import external
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.latency.trial import WholeTrials, placeholder_factors
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import measure_only
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]


def models_opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What ONNX Runtime is given from now on: a model's bytes, or its path."""
    opened: list[object] = []
    inference_session = onnxruntime.InferenceSession

    def spy(model: object, *arguments: Any, **options: Any) -> Any:
        opened.append(model)
        return inference_session(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    return opened


def test_a_large_model_goes_by_files_and_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo(3, (16, 3, 12, 10))
    expected = compress(plain(), data, 1.5, threads=1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    opened = models_opened(monkeypatch)
    monkeypatch.setattr(external, "_LARGEST", 1000)
    monkeypatch.setattr(external, "_EXTERNAL_FROM", 64)
    large = compress(plain(), data, 1.5, threads=1)
    assert sum(isinstance(model, str) for model in opened) >= 3
    assert list(scratch.iterdir()) == []
    assert large.model == expected.model
    assert large.report.outputs == expected.report.outputs
    large.save(tmp_path / "out.onnx")
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file())
    # The name of the weights' file, written once for every tensor, is not known before.
    assert abs(large.report.output.bytes - size) < 50 * len(large.model.graph.initializer)
    assert (tmp_path / "out.onnx.data").exists()
    assert load(tmp_path / "out.onnx").proto == expected.model


def test_no_model_above_the_limit_is_timed_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 45_000  # one layer is smaller, the whole model, rewritten or not, larger
    opened = models_opened(monkeypatch)
    monkeypatch.setattr(external, "_LARGEST", limit)
    model = three_convs(32)
    by_clock = Options(
        target="latency", threads=1, latency_table=str(tmp_path / "t.json"), form="channel", rank_multiple=16,
        input_shapes={"x": (1, 3, 20, 20)},
    )  # fmt: skip
    measure_only(Request(model, options=by_clock))
    assert sum(isinstance(given, str) for given in opened) >= 1  # the original's time
    loaded = load(model)
    sites = find_sites(normalise(loaded.proto)).sites
    plan = Plan(tuple(SitePlan(site.name, "channel", (24,)) for site in sites))
    feeds = {"x": photo(1, (1, 3, 20, 20))}
    before = len(opened)
    open_session = opener(by_clock.providers, by_clock.threads, spinning=True)
    assert WholeTrials(loaded, sites, feeds, placeholder_factors, open_session).measure(plan).ratio > 0
    assert sum(isinstance(given, str) for given in opened[before:]) == 2
    assert all(len(given) <= limit for given in opened if isinstance(given, bytes))


def wide_classifier(path: Path) -> None:
    """Two convolutions and two fully connected layers of 1.1 GB each, random: 2.2 GB beside the file."""
    rng = np.random.default_rng(0)
    width = 16_500

    def matrix(rows: int) -> Array:
        return (rng.standard_normal((rows, width), np.float32) / np.float32(rows**0.5)).astype(np.float32)

    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        helper.make_node("Flatten", ["r2"], ["flat"]), helper.make_node("MatMul", ["flat", "f1"], ["h"]),
        relu("h", "rh"), helper.make_node("MatMul", ["rh", "f2"], ["y"]),
    ]  # fmt: skip
    stored = {"w1": weights(1, 32, 3, 3, 3), "w2": weights(2, 64, 32, 3, 3)}
    small = dict.fromkeys(("f1", "f2"), np.zeros((1, 1), np.float32))  # the checker takes no more from memory
    model = build(nodes, stored | small, input_shape=("N", 3, 16, 16), output_shape=("N", width))
    del model.graph.initializer[-2:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(matrix(rows), name) for name, rows in (("f1", 64 * 16 * 16), ("f2", width))
    )
    onnx.save(model, path, save_as_external_data=True, location="weights.bin")


@pytest.mark.slow
def test_more_than_2_gb_go_through_within_the_memory_of_a_small_machine(tmp_path: Path) -> None:
    wide_classifier(tmp_path / "in.onnx")
    assert (tmp_path / "weights.bin").stat().st_size > 2**31
    np.save(tmp_path / "data.npy", photo(1, (24, 3, 16, 16)))
    # On its own, so that the peak is that of the command.
    command = [sys.executable, "-m", "onnx_lowrank", "in.onnx", "out.onnx", "--speedup=2", "--data=data.npy", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    # Unlike Popen's own wait, this one tells the peak.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    assert usage.ru_maxrss * 1024 < 20 * 2**30
    assert (tmp_path / "out.onnx").stat().st_size < 2**20 < 2**31 < (tmp_path / "out.onnx.data").stat().st_size
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": photo(2, (1, 3, 16, 16))})
    assert made.shape == (1, 16_500) and np.isfinite(made).all()
