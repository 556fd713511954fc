"""ONNX Runtime as it is found on a machine: its installations, its providers, and the models that it refuses."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from models_for_tests import photo, plain

from onnx_lowrank.bench.node_times import breakdown
from onnx_lowrank.errors import EnvironmentFault, ModelError, UsageError
from onnx_lowrank.runtime.providers import check_installation, provider_names
from onnx_lowrank.runtime.session import Session, trace

CPU = ("CPUExecutionProvider",)


def installed(folder: Path, *names: str) -> list[str]:
    """Make a folder that says of these distributions that they are installed; return a search path with it alone."""
    for name in names:
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    return [str(folder)]


def test_one_installation_is_no_trouble(tmp_path: Path) -> None:
    warnings: list[str] = []
    check_installation(warnings.append, installed(tmp_path, "numpy", "onnxruntime-gpu"))
    check_installation(warnings.append)  # that of these tests
    assert warnings == []


def test_two_distributions_on_top_of_each_other_are_named_with_the_way_out(tmp_path: Path) -> None:
    warnings: list[str] = []
    check_installation(warnings.append, installed(tmp_path, "onnxruntime", "onnxruntime-gpu"))
    (text,) = warnings
    assert "overwrite each other" in text and "pip uninstall -y onnxruntime onnxruntime-gpu" in text


@pytest.mark.parametrize(
    ("names", "message"), [(("onnxruntime", "onnxruntime-gpu"), "cannot be imported"), ((), "not installed")]
)
def test_what_uninstalling_one_of_two_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))  # an empty package
    with pytest.raises(EnvironmentFault, match=message) as caught:
        check_installation(lambda text: None, installed(tmp_path, *names))
    assert "pip uninstall" in str(caught.value) and "\n" not in str(caught.value)


def test_providers_have_short_names_and_unknown_ones_are_refused() -> None:
    assert provider_names(["cpu"]) == provider_names(CPU) == CPU
    assert provider_names(["cpu", *CPU, "CPU"]) == CPU
    with pytest.raises(UsageError, match=r"'warp'.*cpu"):
        provider_names(["warp"])


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="this ONNX Runtime knows no CUDA"
)
@pytest.mark.parametrize("names", [["cuda"], ["cuda", "cpu"], ["tensorrt", "cuda", "cpu"]])
def test_a_provider_that_cannot_run_is_refused_rather_than_replaced(names: list[str]) -> None:
    asked = provider_names(names)
    try:
        session = Session(plain().SerializeToString(), asked, 1, "the model")
    except EnvironmentFault as error:
        assert re.match(rf"{asked[0]} cannot run the model on this machine.*: install .* --providers .*cpu", str(error))
        assert "\n" not in str(error)
    else:  # on a machine that has it
        assert session.provider == asked[0]


def test_a_model_that_is_at_fault_itself_is_not_put_on_the_provider() -> None:
    providers = provider_names(onnxruntime.get_available_providers())
    with pytest.raises(ModelError, match="cannot load the model"):
        Session(b"no model", providers, 1, "the model")


def test_a_model_or_an_input_that_the_runtime_refuses_is_one_line() -> None:
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        Session(b"no model", CPU, 1, "the model")
    assert "\n" not in str(caught.value)
    session = Session(plain().SerializeToString(), CPU, 1, "the model")
    with pytest.raises(ModelError, match="cannot run the model") as caught:
        session({"x": np.zeros((1, 2, 3), np.float32)})
    assert "\n" not in str(caught.value)


def test_a_session_names_its_outputs_and_the_provider_that_runs() -> None:
    session = Session(plain().SerializeToString(), CPU, 1, "the model", spinning=False)
    assert session.provider == CPU[0]
    assert tuple(session({"x": photo()})) == session.outputs


def test_a_trace_names_every_node_that_ran_and_its_provider() -> None:
    events = trace(plain().SerializeToString(), CPU, 1, "the model", {"x": photo()}, 5)
    times = breakdown(events, warmup=2)
    assert times.providers == {CPU[0]: len(times.nodes)}
    # Three convolutions with what is fused into them, and a pooling; whatever the runtime adds has a name of its own.
    operators = {operator.op: operator.nodes for operator in times.operators}
    assert (operators["Conv"], operators["MaxPool"]) == (3, 1)
    assert sum(node.seconds for node in times.nodes) > 0
    assert times.seconds > 0


@pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no OpenVINO"
)
def test_another_provider_really_runs_its_nodes() -> None:
    providers = ("OpenVINOExecutionProvider", *CPU)
    events = trace(plain().SerializeToString(), providers, 1, "the model", {"x": photo()}, 1)
    assert providers[0] in breakdown(events).providers
