"""ONNX Runtime as it is installed on this machine: its execution providers, and the devices that they run on."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx_lowrank.errors import EnvironmentFault, UsageError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

ON_NVIDIA = (CUDA, TENSORRT)
"""The providers that run on a graphics card of NVIDIA."""

FULL_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""ONNX Runtime's names of the providers, by the short names that a user may write."""

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
"""The Python distributions that install the package onnxruntime; each overwrites the files of the other."""


def check_installation(warn: Callable[[str], None], search_path: Sequence[str] | None = None) -> None:
    """Refuse an installation of ONNX Runtime that cannot be used; warn where two overwrite each other.

    Parameters
    ----------
    warn
        Receives the warning.
    search_path
        The folders in which Python distributions are looked for; None for those of this process.

    Raises
    ------
    EnvironmentFault
        If no usable ONNX Runtime can be imported.
    """
    # Asking for two names is fast; reading the metadata of every distribution takes longer than a small model does.
    folders = sys.path if search_path is None else list(search_path)
    found = {name: importlib.metadata.distributions(name=name, path=folders) for name in DISTRIBUTIONS}
    installed = [name for name, distributions in found.items() if any(True for _ in distributions)]
    mend = "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
    try:
        import onnxruntime

        usable = hasattr(onnxruntime, "InferenceSession")
    except ImportError:
        usable = False
    if not usable:
        state = (
            f"{' and '.join(installed)} installed, but it cannot be imported"
            if installed
            else "ONNX Runtime is not installed"
        )
        raise EnvironmentFault(f"{state}: {mend}")
    if len(installed) == 2:
        warn(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: {mend}")


def provider_names(providers: Sequence[str]) -> tuple[str, ...]:
    """Return ONNX Runtime's names of providers, each once.

    Parameters
    ----------
    providers
        Short names ("cpu", "cuda", "tensorrt", in any case) or ONNX Runtime's own names.

    Raises
    ------
    UsageError
        If this installation does not have a provider.
    """
    import onnxruntime

    known = onnxruntime.get_available_providers()
    names = tuple(FULL_NAMES.get(name.lower(), name) for name in providers)
    for given, name in zip(providers, names, strict=True):
        if name not in known:
            raise UsageError(f"provider {given!r} is not in this ONNX Runtime: choose from {short_names(known)}")
    return tuple(dict.fromkeys(names))  # the runtime warns where one is named twice


def short_names(names: Sequence[str]) -> str:
    """Return providers as text that the user may write after ``--providers``."""
    short = {full: short for short, full in FULL_NAMES.items()}
    return ", ".join(sorted(short.get(name, name) for name in names))


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def device_name(provider: str) -> str:
    """Return the name of the device that a provider runs on: a graphics card, or the processor and its cores."""
    if provider in ON_NVIDIA:
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
