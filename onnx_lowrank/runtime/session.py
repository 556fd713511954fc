"""ONNX Runtime: the only place that opens it. Providers, threads, sessions."""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import EnvironmentFault, ModelError
from onnx_lowrank.graph.files.external import LARGEST, as_input
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.providers import _SHORT_NAMES, CPU, _shortened, provider_names, runtime_version

WARNING, FATAL = 2, 4
"""Severities of ONNX Runtime's log: its default, and the highest."""


class Session:
    """A runnable model.

    Parameters
    ----------
    model
        A serialised model, or the path of one.
    providers
        Full names, in order of preference. The first one must run; a node that it does not know falls to the next,
        and at last to the CPU.
    threads
        0 leaves the number to the runtime.
    what
        Names the model in error messages.
    spinning
        Whether idle threads wait for work by spinning, the runtime's default. They stop at the end of a run: the
        runtime's own default is that they spin on, for milliseconds, and take the cores from whatever the process does
        next, such as running another model.
    trace
        The beginning of the path of ONNX Runtime's own profile; None where none is written.

    Raises
    ------
    ModelError
        Where ONNX Runtime refuses the model.
    EnvironmentFault
        Where the first of the providers cannot run here.
    """

    def __init__(
        self,
        model: bytes | str,
        providers: Sequence[str],
        threads: int,
        what: str,
        *,
        spinning: bool = True,
        trace: str | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 4  # what goes wrong is raised; the runtime's own log lines would only repeat it
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, trace
        self._what = what
        self._session = _open(model, options, providers, what)
        self.provider: str = self._session.get_providers()[0]
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """All outputs by name.

        Raises
        ------
        ModelError
            Where the run fails, for example because the inputs do not fit.
        """
        try:
            values = self._session.run(list(self.outputs), feeds)
        except Exception as error:
            _raise_if_memory_ran_out(error)
            raise ModelError(f"ONNX Runtime cannot run {self._what}: {_first_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))

    def end_trace(self) -> list[dict[str, Any]]:
        """The events of ONNX Runtime's profile, in the Chrome trace format, of all runs so far."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return events


def _open(model: bytes | str, options: Any, providers: Sequence[str], what: str) -> Any:
    """Open a session whose first provider is the first one asked for; see ``Session``."""
    import onnxruntime

    def attempt(names: Sequence[str]) -> Any:
        # Without its own fallback, which would replace a provider that fails, even in the middle of a run.
        # What the runtime logs of a provider that it cannot load, the refusal says in one line.
        onnxruntime.set_default_logger_severity(FATAL)
        try:
            return onnxruntime.InferenceSession(model, options, providers=list(names), enable_fallback=0)
        finally:
            onnxruntime.set_default_logger_severity(WARNING)

    first = providers[0]
    if first in (_SHORT_NAMES["cuda"], _SHORT_NAMES["tensorrt"]) and hasattr(onnxruntime, "preload_dlls"):
        # Finds the libraries of NVIDIA's Python packages; what it misses it prints, and the refusal below says more.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    why = ""
    try:
        session = attempt(providers)
    except Exception as error:  # the runtime's exceptions share no base class of their own
        _raise_if_memory_ran_out(error)
        refusal = ModelError(f"ONNX Runtime cannot load {what}: {_first_line(error)}")
        if first == CPU:
            raise refusal from error
        # Is it the model or the provider?
        try:
            session = attempt([name for name in dict.fromkeys((*providers[1:], CPU)) if name != first])
        except Exception:
            raise refusal from error
        why = f" ({_first_line(error)})"
    if session.get_providers()[0] != first:
        raise EnvironmentFault(
            f"{first} cannot run {what} on this machine{why}: install the device's driver and the libraries that "
            f"ONNX Runtime {runtime_version()} needs for it (onnxruntime.ai/docs/execution-providers), or choose what "
            f"runs here with --providers {_shortened(session.get_providers())}"
        )
    return session


def trace(
    model: bytes | str, providers: Sequence[str], threads: int, what: str, feeds: Feeds, runs: int
) -> list[dict[str, Any]]:
    """What ONNX Runtime's own profiler notes of some runs; see ``Session`` for the parameters and errors.

    The profiler itself takes time, so the runs are a little slower than others.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
        session = Session(model, providers, threads, what, trace=str(Path(folder) / "trace"))
        for _ in range(runs):
            session(feeds)
        return session.end_trace()


Opener = Callable[[onnx.ModelProto | bytes, str], Session]
"""Opens a model (named for error messages) with the run's providers and threads; above 2 GB not a serialised one."""


def opener(providers: Sequence[str], threads: int, *, spinning: bool, largest: int = LARGEST) -> Opener:
    """The one way in which a run opens its sessions.

    Parameters
    ----------
    providers, threads, spinning
        As for ``Session``; the providers may have short names.
    largest
        Bytes of weights up to which a model goes to the runtime from memory.
    """
    names = provider_names(providers)

    def open_session(model: onnx.ModelProto | bytes, what: str) -> Session:
        if isinstance(model, bytes):
            return Session(model, names, threads, what, spinning=spinning)
        with as_input(model, largest) as source:
            return Session(source, names, threads, what, spinning=spinning)

    return open_session


def _raise_if_memory_ran_out(error: Exception) -> None:
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "Failed to allocate memory")):
        raise MemoryError from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Some begin with the place in the runtime's own source: "/…/state.cc:729 void f(int) ".
    return re.sub(r"^\S+\.(?:cc|h):\d+ [^)]*\)\s*", "", lines[0]) if lines else type(error).__name__
