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
from google.protobuf.message import EncodeError
from models_for_tests import build, conv, photo, plain, relu, run_model, three_convs, weights
from numpy.typing import NDArray
from onnx import helper

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.files.external import as_input, fingerprint
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export, write
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.latency.layer_times import measure_models
from onnx_lowrank.latency.trial import placeholder_factors
from onnx_lowrank.plan.plan import SitePlan
from onnx_lowrank.runtime.session import opener

Array = NDArray[Any]

LIMIT = 1000
"""Bytes of weights that stand for the 2 GB of a message; the models here have more."""


class TooLarge:
    """A model that protobuf does not serialise, as those above 2 GB; all else it does as the model itself."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proto, name)

    def SerializeToString(self, **_: object) -> bytes:  # noqa: N802 the name that protobuf gives it
        raise EncodeError("Failed to serialize proto")


def test_a_large_model_goes_to_the_runtime_by_files_and_answers_the_same() -> None:
    open_session = opener(["cpu"], 1, spinning=False, largest=LIMIT)
    (answer,) = open_session(TooLarge(plain()), "the model")({"x": photo()}).values()
    np.testing.assert_array_equal(answer, run_model(plain(), {"x": photo()}, optimise=True)["y"])
    with pytest.raises(EncodeError):
        opener(["cpu"], 1, spinning=False)(TooLarge(plain()), "the model")


def test_the_files_of_a_large_model_are_gone_afterwards() -> None:
    with as_input(TooLarge(plain()), LIMIT) as source:
        assert isinstance(source, str)
        assert load(source).proto == plain()
    assert not Path(source).parent.exists()


def test_a_large_model_is_checked_by_files() -> None:
    validate(TooLarge(plain()), TooLarge(plain()), LIMIT)
    broken = plain()
    broken.graph.node.pop(3)
    with pytest.raises(ValidationError, match="not valid ONNX"):
        validate(TooLarge(broken), TooLarge(plain()), LIMIT)


def test_a_large_model_is_written_beside_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    write(TooLarge(plain()), path, external_data=False, largest=LIMIT)
    assert (tmp_path / "out.onnx.data").exists()
    assert load(path).proto == plain()
    sha256, size = fingerprint(TooLarge(plain()), LIMIT)
    assert sha256 != fingerprint(plain())[0] and fingerprint(TooLarge(plain()), LIMIT) == (sha256, size)
    # The name of the weights' file, written once for every tensor, is not known before.
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert abs(size - written) < 50 * len(plain().graph.initializer)


def test_a_large_model_is_timed_by_files_as_it_is_and_as_planned() -> None:
    loaded = load(three_convs(32))
    network = normalise(loaded.proto)
    rewritten = network.copy()
    for site in find_sites(network).sites:
        rewrite(rewritten, site, placeholder_factors(FORMS)(site, SitePlan(site.name, "channel", (24,))))
    open_session = opener(["cpu"], 1, spinning=True, largest=LIMIT)
    models = (loaded.proto, export(rewritten, loaded))
    times = measure_models(
        [open_session(TooLarge(model), "a model") for model in models], {"x": photo(1, (1, 3, 20, 20))}
    )
    assert min(times.milliseconds) > 0 and times.speed.value > 0


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
@pytest.mark.parametrize("target", ["macs", "latency"])
def test_more_than_2_gb_go_through_within_the_memory_of_a_small_machine(tmp_path: Path, target: str) -> None:
    wide_classifier(tmp_path / "in.onnx")
    assert (tmp_path / "weights.bin").stat().st_size > 2**31
    np.save(tmp_path / "data.npy", photo(1, (24, 3, 16, 16)))
    # The fully connected layers take most of the time, so hardly any speedup can be had by the clock.
    goal = ["--speedup=2"] if target == "macs" else ["--speedup=1", "--target=latency"]
    # On its own, so that the peak is that of the command.
    command = [sys.executable, "-m", "onnx_lowrank", "in.onnx", "out.onnx", *goal, "--data=data.npy", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr:
        messages = process.stderr.read()
    # Unlike Popen's own wait, this one tells the peak.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, messages
    assert usage.ru_maxrss * 1024 < 20 * 2**30
    assert (tmp_path / "out.onnx").stat().st_size < 2**20 < 2**31 < (tmp_path / "out.onnx.data").stat().st_size
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": photo(2, (1, 3, 16, 16))})
    assert answer.shape == (1, 16_500) and np.isfinite(answer).all()
