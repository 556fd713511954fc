"""Files: what is read is checked, and what is written is whole."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import plain, residual
from odd_models_for_tests import decorated

from onnx_lowrank.errors import EnvironmentFault, ModelError
from onnx_lowrank.graph.files.load import inputs, load, outputs
from onnx_lowrank.graph.files.save import check_writable, rename, write


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("external", [False, True])
def test_what_is_written_is_read_again(tmp_path: Path, external: bool) -> None:
    model = decorated()
    path = tmp_path / "model.onnx"
    write(model, path, external_data=external)
    expected = ["model.onnx", "model.onnx.data"] if external else ["model.onnx"]
    assert listing(tmp_path) == expected
    loaded = load(path)
    assert loaded.external_data is external
    assert loaded.proto == model
    first = [(tmp_path / name).read_bytes() for name in expected]
    assert loaded.bytes == pytest.approx(sum(map(len, first)), rel=0.5)
    write(model, path, external_data=external)
    assert [(tmp_path / name).read_bytes() for name in expected] == first
    assert model == decorated()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write(plain(), tmp_path / "model.onnx", external_data=False)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", range(1, 5))
def test_a_failure_at_any_step_changes_nothing(
    tmp_path: Path, external: bool, existing: bool, error: BaseException, failing: int
) -> None:
    path = tmp_path / "model.onnx"
    if existing:
        write(residual(), path, external_data=True)
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    calls = 0

    def failing_once(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise error
        rename(source, target)

    expected = EnvironmentFault if isinstance(error, OSError) else KeyboardInterrupt
    with contextlib.suppress(expected):
        write(plain(), path, external_data=external, replace=failing_once)
        assert calls < failing
    if calls >= failing:
        assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be killed")
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("step", range(1, 6))
def test_whoever_is_killed_leaves_the_old_model_or_the_new_one_or_none(
    tmp_path: Path, external: bool, step: int
) -> None:
    path = tmp_path / "model.onnx"
    write(residual(), path, external_data=True)
    script = (
        "import os, sys; import onnx; from onnx_lowrank.graph.files.save import rename, write\n"
        "left = int(sys.argv[4])\n"
        "def killed(source, target):\n"
        "    global left\n"
        "    left -= 1\n"
        "    rename(source, target) if left else os.kill(os.getpid(), 9)\n"
        "write(onnx.load(sys.argv[1]), sys.argv[2], external_data=sys.argv[3] == 'True', replace=killed)\n"
    )
    source = tmp_path / "source"
    onnx.save(plain(), source)
    arguments = [str(source), str(path), str(external), str(step)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=Path(__file__).parents[1])
    assert done.returncode in (0, -9)
    # Killed before its last step it has not written; with nothing to be moved aside there is only that step.
    assert (done.returncode == 0) is (step > (4 if external else 1))
    if path.exists():
        assert load(path).proto == (plain() if done.returncode == 0 else residual())
    else:
        assert external and step > 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files, in place of a full disk")
@pytest.mark.parametrize("external", [False, True])
def test_a_disk_without_room_leaves_nothing(tmp_path: Path, external: bool) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(EnvironmentFault, match=r"cannot be written \(File too large\)"):
            write(plain(), tmp_path / "model.onnx", external_data=external)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not listing(tmp_path)


@pytest.mark.parametrize("call", [check_writable, lambda path: write(plain(), path, external_data=False)])
def test_places_that_cannot_be_written_are_named(tmp_path: Path, call: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "model.onnx", "there is no folder"),
        (tmp_path / "file" / "model.onnx", "there is no folder"),
        (Path(os.devnull), "not an ordinary file"),
    ):
        with pytest.raises(EnvironmentFault, match=reason):
            call(path)
    call(tmp_path / "model.onnx")
    check_writable(tmp_path / "other.onnx")
    assert "other.onnx" not in listing(tmp_path)


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = plain().SerializeToString()
    missing = onnx.ModelProto()
    missing.CopyFrom(plain())
    missing.graph.node[0].input[0] = "nowhere"
    new, old = plain(), plain()
    new.opset_import[0].version = 999
    old.ir_version = 0
    files = {
        "empty": b"", "text": b"not a model at all", "cut": whole[: len(whole) // 2], "other": b"\x89PNG\r\n\x1a\n" * 9,
        "no_graph": onnx.ModelProto(ir_version=8).SerializeToString(), "dangling": missing.SerializeToString(),
        "opset": new.SerializeToString(), "ir": old.SerializeToString(),
    }  # fmt: skip
    paths = [tmp_path, tmp_path / "absent.onnx"]
    for name, data in files.items():
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(data)
    write(plain(), tmp_path / "external.onnx", external_data=True)
    (tmp_path / "external.onnx.data").unlink()
    for path in [*paths, tmp_path / "external.onnx"]:
        with pytest.raises(ModelError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path_factory: Any, data: Any) -> None:
    whole = bytearray(plain().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    with contextlib.suppress(ModelError):
        load(path)


def test_a_given_proto_is_copied() -> None:
    model = plain()
    loaded = load(model)
    assert loaded.proto == model
    assert loaded.proto is not model
    assert loaded.path is None
    model.graph.node[0].input[0] = "changed"
    assert loaded.proto.graph.node[0].input[0] == "x"


def test_inputs_and_outputs_are_described() -> None:
    model = decorated()
    (spec,) = inputs(model)
    assert (spec.name, spec.dtype, spec.shape) == ("x", np.dtype(np.float32), ("N", 3, "H", "W"))
    assert outputs(model)[0].shape == ("N", None, None, None)
