"""ONNX Runtime's execution providers: their names, and whether they are installed."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx_lowrank.errors import EnvironmentFault, UsageError

CPU = "CPUExecutionProvider"


_SHORT_NAMES = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def check_installation(warn: Callable[[str], None]) -> None:
    """Complain where the onnxruntime distributions overwrite each other or are missing.

    Raises
    ------
    EnvironmentFault
        Where no usable ONNX Runtime can be imported.
    """
    # By name: to read what every installed distribution says of itself takes longer than a small model does.
    names = ("onnxruntime", "onnxruntime-gpu")
    found = [name for name in names if any(True for _ in importlib.metadata.distributions(name=name))]
    mend = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
    try:
        import onnxruntime

        usable = hasattr(onnxruntime, "InferenceSession")
    except ImportError:
        usable = False
    if not usable:
        state = (
            f"{' and '.join(found)} installed, but it cannot be imported" if found else "ONNX Runtime is not installed"
        )
        raise EnvironmentFault(f"{state}: {mend}")
    if len(found) == 2:
        warn(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: {mend}")


def provider_names(providers: Sequence[str]) -> tuple[str, ...]:
    """Full ONNX Runtime names for "cpu", "cuda", "tensorrt" or full names.

    Raises
    ------
    UsageError
        For a name that this installation does not know.
    """
    import onnxruntime

    known = onnxruntime.get_available_providers()
    names = tuple(_SHORT_NAMES.get(name.lower(), name) for name in providers)
    for given, name in zip(providers, names, strict=True):
        if name not in known:
            raise UsageError(f"provider {given!r} is not in this ONNX Runtime: choose from {_shortened(known)}")
    return tuple(dict.fromkeys(names))  # the runtime warns where one is named twice


def _shortened(names: Sequence[str]) -> str:
    """Providers as the user may write them."""
    short = {long: short for short, long in _SHORT_NAMES.items()}
    return ", ".join(sorted(short.get(name, name) for name in names))


def runtime_version() -> str:
    """That of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def device_name(provider: str) -> str:
    """What runs the models: the graphics card for a provider that uses one, else the processor and its cores."""
    if provider in (_SHORT_NAMES["cuda"], _SHORT_NAMES["tensorrt"]):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            names: list[str] = subprocess.check_output(query, encoding="utf-8", timeout=20).splitlines()
            if names:
                return names[0].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({cores} cores)"
    return f"{platform.processor() or platform.machine()} ({cores} cores)"
