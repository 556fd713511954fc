"""What a run takes from the machine and gives back: temporary files, progress, and nothing of chance."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from models_for_tests import deep_residual, photo, residual

from onnx_lowrank import Result, compress
from onnx_lowrank.calibration.store import LARGE, TensorStore

ROOT = Path(__file__).resolve().parents[1]
MODEL, CALIBRATION = ROOT / "models" / "mnist_vgg.onnx", ROOT / "models" / "mnist_calib.npz"


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for salt in ("1", "2"):
        out = tmp_path / f"{salt}.onnx"
        command = [sys.executable, "-m", "onnx_lowrank", str(MODEL), str(out), f"--data={CALIBRATION}", "--images=10"]
        # Sets of names come in another order in each; the threads are those that a user gets.
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        done = subprocess.run(
            command, cwd=ROOT, env=environment | {"PYTHONHASHSEED": salt}, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        written.append(out.read_bytes())
    assert written[0] == written[1]


class Watch:
    """A progress that looks into the temporary folder at every step of the walk, and may fail there."""

    def __init__(self, folder: Path, fail: bool) -> None:
        self.folder, self.fail, self.seen = folder, fail, set[str]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        found = {path.name for path in self.folder.rglob("*.npz")} if stage == "factorise" else set()
        self.seen |= found
        if self.fail and found:
            raise InterruptedError


@pytest.mark.parametrize("fail", [False, True])
def test_activations_go_to_temporary_files_and_these_are_removed(
    fail: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    watch = Watch(tmp_path, fail)
    try:
        # 512 MiB are what the process itself takes: nothing is left for activations.
        compress(
            *(MODEL, CALIBRATION, 4), images=20, threads=1, solver="linear", form="channel", memory=512 << 20,
            progress=watch,
        )  # fmt: skip
    except InterruptedError:
        assert fail
    else:
        assert not fail
    assert watch.seen
    assert list(tmp_path.iterdir()) == []


def test_the_least_memory_is_kept_to_with_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    watch = Watch(tmp_path, fail=False)
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
    apart = store.read(3)["x"]
    assert apart.dtype == values.dtype and apart.shape == values.shape
    np.testing.assert_array_equal(apart, values)
    assert not np.shares_memory(apart, values)
    before = values.copy()
    values[...] = 0
    np.testing.assert_array_equal(apart, before)


def test_memory_changes_the_work_and_not_the_result() -> None:
    def run(memory: int) -> Result:
        # 512 MiB are enough for all rows, which decide the result, and leave nothing for activations.
        return compress(deep_residual(12), photo(1, (12, 3, 16, 16)), 2, threads=1, memory=memory)

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
def test_every_stage_begins_and_ends(solver: str) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        steps.setdefault(stage, []).append((done, total))

    compress(residual(), photo(1, (12, 3, 12, 10)), 1.5, threads=1, solver=solver, progress=progress)
    assert list(steps) == ["load", "data", "profile", "plan", "factorise", "validate", "latency"]
    for stage, reported in steps.items():
        assert reported[0][0] == 0, stage
        assert np.equal(*reported[-1]), stage
