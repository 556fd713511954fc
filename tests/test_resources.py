"""The resources of a run: temporary files, memory, time, progress, and no chance."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import classifier, deep_residual, photo, residual
from progress_for_tests import Steps

from onnx_lowrank import Result, compress
from onnx_lowrank.calibration.store import LARGE, TensorStore
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.progress import Listener
from onnx_lowrank.stages.request import Request

ROOT = Path(__file__).resolve().parents[1]
MODEL, CALIBRATION = ROOT / "models" / "mnist_vgg.onnx", ROOT / "models" / "mnist_calib.npz"


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for salt in ("1", "2"):
        out = tmp_path / f"{salt}.onnx"
        command = [sys.executable, "-m", "onnx_lowrank", str(MODEL), str(out), f"--data={CALIBRATION}", "--images=10"]
        # Sets of names have another order in each process. The threads are those that a user gets.
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        done = subprocess.run(
            command, cwd=ROOT, env=environment | {"PYTHONHASHSEED": salt}, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        written.append(out.read_bytes())
    assert written[0] == written[1]


class Watch:
    """A progress that looks into the temporary folder at every step of the walk, and fails there if it is to fail."""

    def __init__(self, folder: Path, failure: type[BaseException] | None = None) -> None:
        self.folder, self.failure, self.seen = folder, failure, set[str]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        files = {path.name for path in self.folder.rglob("*.npz")} if stage == "factorise" else set()
        self.seen |= files
        if files and self.failure:
            raise self.failure


# The process itself takes more than this, so that no memory is left for activations.
TEMPORARY_FILES: dict[str, Any] = {"memory": 512 << 20, "images": 20, "solver": "linear", "form": "channel"}


@pytest.mark.parametrize("failure", [None, InterruptedError, KeyboardInterrupt])
def test_activations_go_to_temporary_files_and_these_are_removed(
    failure: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    watch = Watch(tmp_path, failure)
    with pytest.raises(failure) if failure else contextlib.nullcontext():
        compress(MODEL, CALIBRATION, 4, threads=1, progress=watch, **TEMPORARY_FILES)
    assert watch.seen
    assert list(tmp_path.iterdir()) == []


def test_the_least_memory_is_kept_to_with_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    watch = Watch(tmp_path)
    compress(MODEL, CALIBRATION, 4, images=40, threads=1, solver="linear", memory=1 << 20, progress=watch)
    assert watch.seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_large_tensors_are_held_in_memory_of_their_own(dtype: type, layout: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (2, 3, LARGE // 6 + 1)).astype(dtype, order=layout)  # type: ignore[call-overload]
    assert values.nbytes >= LARGE
    store = TensorStore(on_disk=False)
    store.write(3, {"x": values})
    held, before = store.read(3)["x"], values.copy()
    assert held.dtype == values.dtype and held.shape == values.shape
    assert not np.shares_memory(held, values)
    values[...] = 0
    np.testing.assert_array_equal(held, before)


def test_what_crosses_another_cut_is_not_held_twice() -> None:
    first, second, third = (TensorStore(on_disk=False) for _ in range(3))
    first.write(0, {"x": np.ones((2, LARGE), np.float32)})
    second.write(0, first.read(0))
    third.write(0, {"part": second.read(0)["x"][1:]})
    first.drop(0)
    assert np.shares_memory(second.read(0)["x"], third.read(0)["part"])
    np.testing.assert_array_equal(second.read(0)["x"], np.ones((2, LARGE), np.float32))


def test_memory_changes_the_work_and_not_the_result() -> None:
    def run(memory: int) -> Result:
        return compress(deep_residual(12), photo(1, (12, 3, 16, 16)), 2, threads=1, memory=memory)

    # 512 MiB are enough for all rows, which decide the result, and leave nothing for activations.
    small, large = run(512 << 20), run(4 << 30)
    assert small.model.SerializeToString() == large.model.SerializeToString()
    assert small.report.sites == large.report.sites
    assert small.report.cost.forward_passes > large.report.cost.forward_passes


def test_a_deep_network_is_run_about_twice() -> None:
    result = compress(deep_residual(25), photo(1, (12, 3, 16, 16)), 2, threads=1)
    assert len(result.report.sites) == 50
    assert sum(not site.kept for site in result.report.sites) > 25
    # Once for the original, and once for the network approximated so far.
    assert 1 < result.report.cost.forward_passes <= 2.2


@pytest.mark.parametrize("solver", ["linear", "weights"])
def test_every_stage_of_a_run_begins_and_ends(solver: str) -> None:
    steps = Steps()
    report = compress(
        residual(), photo(1, (12, 3, 12, 10)), 1.5, threads=1, require="none", solver=solver, progress=steps
    ).report
    assert list(steps.by_stage) == ["load", "data", "profile", "fit", "plan", "factorise", "validate", "latency"]
    steps.check()
    timed = ["load", "data", "profile", "fit", "plan", "weigh", "factorise", "validate", "total"]
    assert list(report.cost.seconds) == timed


def test_a_run_with_labelled_samples_measures_their_accuracy(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=photo(2, (6, 3, 12, 10)), labels=np.arange(6) % 5)
    model, test, steps = classifier("transB 1"), tmp_path / "test.npz", Steps()
    data = photo(1, (12, 3, 12, 10))
    compress(model, data, 1.5, threads=1, solver="linear", test=test, progress=steps, require="none")
    assert list(steps.by_stage)[-3:] == ["validate", "test", "latency"]
    steps.check()


def test_a_dry_run_ends_with_the_plan() -> None:
    steps = Steps()
    plan_only(Request(residual(), photo(1, (12, 3, 12, 10)), Options(speedup=1.5, threads=1)), Listener(steps))
    assert list(steps.by_stage) == ["load", "data", "profile", "fit", "plan"]
    steps.check()


def test_the_stages_account_for_the_time_of_a_run() -> None:
    seconds = dict(
        compress(MODEL, CALIBRATION, 4, images=40, threads=1, form="cp", solver="linear").report.cost.seconds
    )
    total = seconds.pop("total")
    assert 0.9 * total < sum(seconds.values()) <= total + 0.01
