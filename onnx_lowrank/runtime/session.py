"""Sessions of ONNX Runtime: the only place that opens them, with the providers and the threads of a run."""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import EnvironmentFault, ModelError
from onnx_lowrank.graph.files.external import LARGEST, as_input
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.held_values import as_held, fed_value, is_array, is_tensor
from onnx_lowrank.runtime.providers import CPU, ON_NVIDIA, provider_names, runtime_version, short_names

WARNING, FATAL = 2, 4
"""Severities of ONNX Runtime's log: the default, and the highest."""


class Session:
    """A model that can be run.

    Parameters
    ----------
    model
        A serialised model, or the path of one.
    providers
        ONNX Runtime's names, in order of preference. The first one must run; a node that it does not know falls to the
        next one, and at last to the CPU.
    threads
        The number of threads; 0 leaves it to the runtime.
    label
        The model's name in error messages.
    spinning
        Whether idle threads wait for work by spinning, as the runtime's own default is. They stop at the end of a run.
        By the runtime's default they would spin on for milliseconds, and take the cores from whatever the process does
        next, such as running another model.
    trace
        The path of the runtime's profile without its ending; None where no profile is written.

    Attributes
    ----------
    provider
        The provider that runs the nodes that it knows.
    outputs
        The names of the model's outputs.
    types
        The types of the outputs as ONNX Runtime spells them, by name, such as "tensor(float)".

    Raises
    ------
    ModelError
        If ONNX Runtime refuses the model.
    EnvironmentFault
        If the first of the providers cannot run here.
    """

    def __init__(
        self,
        model: bytes | str,
        providers: Sequence[str],
        threads: int,
        label: str,
        *,
        spinning: bool = True,
        trace: str | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = FATAL  # what goes wrong is raised; the runtime's log would only repeat it
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, trace
        self._label = label
        self._session = _open(model, options, providers, label)
        self.provider: str = self._session.get_providers()[0]
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        self.types: dict[str, str] = {output.name: output.type for output in self._session.get_outputs()}
        self._inputs = {given.name: given.name for given in self._session.get_inputs()}
        self._arrays = all(map(is_array, self.types.values()))

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run the model on one batch and return all outputs by name.

        What the model does not take is left out, such as the key of a network's noise where the network draws it. An
        output of a type that NumPy does not know is returned as ONNX Runtime holds it.

        Raises
        ------
        ModelError
            If the run fails, for example because the inputs do not fit.
        """
        known = ((name, value) for name, value in feeds.items() if name in self._inputs)
        fed = {self._inputs[name]: fed_value(name, value) for name, value in known}
        try:
            values = self._session.run(None, fed) if self._arrays else self._run_held(fed)
        except Exception as error:
            _raise_if_memory_ran_out(error)
            raise ModelError(f"ONNX Runtime cannot run {self._label}: {_first_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))

    def named(self, names: Mapping[str, str]) -> "Session":
        """Return the same session with other names for some inputs and outputs, by their names in the model."""
        renamed = copy(self)
        renamed.outputs = tuple(names.get(name, name) for name in self.outputs)
        renamed.types = {names.get(name, name): kind for name, kind in self.types.items()}
        renamed._inputs = {names.get(inner, name): inner for name, inner in self._inputs.items()}
        return renamed

    def _run_held(self, fed: Mapping[str, Any]) -> list[Any]:
        """Run the model where NumPy does not know the types of all outputs."""
        values = self._session.run_with_ort_values(None, {name: as_held(value) for name, value in fed.items()})
        kinds = (self.types[name] for name in self.outputs)
        return [value.numpy() if is_tensor(kind) else value for kind, value in zip(kinds, values, strict=True)]

    def end_trace(self) -> list[dict[str, Any]]:
        """Return the events of the runtime's profile of all runs so far, in the Chrome trace format."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return events


Opener: TypeAlias = Callable[[onnx.ModelProto | bytes, str], Session]
"""Opens a model, under a name for error messages, with a run's providers and threads.

A model above 2 GB is given as a ModelProto, because it cannot be serialised.
"""


def opener(providers: Sequence[str], threads: int, *, spinning: bool, largest: int = LARGEST) -> Opener:
    """Return the one way in which a run opens its sessions.

    Parameters
    ----------
    providers, threads, spinning
        See ``Session``; the providers may have short names.
    largest
        The bytes of weights up to which a model is handed over in memory and not by way of a file.
    """
    names = provider_names(providers)

    def open_session(model: onnx.ModelProto | bytes, label: str) -> Session:
        if isinstance(model, bytes):
            return Session(model, names, threads, label, spinning=spinning)
        with as_input(model, largest) as source:
            return Session(source, names, threads, label, spinning=spinning)

    return open_session


def trace(
    model: bytes | str, providers: Sequence[str], threads: int, label: str, feeds: Feeds, runs: int
) -> list[dict[str, Any]]:
    """Return the events that ONNX Runtime's profiler notes of some runs on one batch.

    The profiler takes time itself, so these runs are a little slower than others. See ``Session`` for the other
    parameters and the errors.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
        session = Session(model, providers, threads, label, trace=str(Path(folder) / "trace"))
        for _ in range(runs):
            session(feeds)
        return session.end_trace()


def _open(model: bytes | str, options: Any, providers: Sequence[str], label: str) -> Any:
    """Open a session of the runtime whose first provider is the first one asked for; see ``Session``."""
    import onnxruntime

    def attempt(names: Sequence[str]) -> Any:
        # The runtime's own fallback would replace a provider that fails, even in the middle of a run. What it logs of
        # a provider that it cannot load, the refusal says in one line.
        onnxruntime.set_default_logger_severity(FATAL)
        try:
            return onnxruntime.InferenceSession(model, options, providers=list(names), enable_fallback=0)
        finally:
            onnxruntime.set_default_logger_severity(WARNING)

    first = providers[0]
    if first in ON_NVIDIA and hasattr(onnxruntime, "preload_dlls"):
        # This finds the libraries of NVIDIA's Python packages. It prints those that it misses; the refusal says more.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    reason = ""
    try:
        session = attempt(providers)
    except Exception as error:  # the runtime's exceptions share no base class of their own
        _raise_if_memory_ran_out(error)
        refusal = ModelError(f"ONNX Runtime cannot load {label}: {_first_line(error)}")
        if first == CPU:
            raise refusal from error
        # The other providers show whether the model is at fault or the first provider.
        try:
            session = attempt([name for name in dict.fromkeys((*providers[1:], CPU)) if name != first])
        except Exception:
            raise refusal from error
        reason = f" ({_first_line(error)})"
    if session.get_providers()[0] != first:
        raise EnvironmentFault(
            f"{first} cannot run {label} on this machine{reason}: install the device's driver and the libraries that "
            f"ONNX Runtime {runtime_version()} needs for it (onnxruntime.ai/docs/execution-providers), or choose what "
            f"runs here with --providers {short_names(session.get_providers())}"
        )
    return session


def _raise_if_memory_ran_out(error: Exception) -> None:
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "Failed to allocate memory")):
        raise MemoryError from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Some begin with the place in the runtime's own source: "/…/state.cc:729 void f(int) ".
    return re.sub(r"^\S+\.(?:cc|h):\d+ [^)]*\)\s*", "", lines[0]) if lines else type(error).__name__
