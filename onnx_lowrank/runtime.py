"""ONNX Runtime: the only place that opens it. Providers, threads, sessions, timing."""

import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.errors import EnvironmentFault, ModelError, UsageError
from onnx_lowrank.interface import Feeds

_SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
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
            short = [key for key, value in _SHORT_NAMES.items() if value in known]
            raise UsageError(f"provider {given!r} is not in this ONNX Runtime: choose from {', '.join(short)}")
    return tuple(dict.fromkeys(names))  # the runtime warns where one is named twice


class Session:
    """A runnable model.

    Parameters
    ----------
    model
        A serialised model, or the path of one.
    providers
        Full names, in order of preference; what cannot run on one falls to the next.
    threads
        0 leaves the number to the runtime.
    what
        Names the model in error messages.
    spinning
        Whether idle threads wait by spinning, the runtime's default. It starts the next run a little sooner, and
        takes the cores from whatever the process does between two runs.

    Raises
    ------
    ModelError
        Where ONNX Runtime refuses the model.
    EnvironmentFault
        Where none of the named providers can run here.
    """

    def __init__(
        self, model: bytes | str, providers: Sequence[str], threads: int, what: str, *, spinning: bool = True
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.log_severity_level = 4  # what goes wrong is raised; the runtime's own log lines would only repeat it
        self._what = what
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        except Exception as error:  # the runtime's exceptions share no base class of their own
            _raise_if_memory_ran_out(error)
            raise ModelError(f"ONNX Runtime cannot load {what}: {_first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider not in providers:
            raise EnvironmentFault(
                f"{' and '.join(providers)} cannot run on this machine (ONNX Runtime offers {self.provider}): "
                "add cpu to --providers, or mend the driver"
            )
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


Opener = Callable[[bytes, str], Session]
"""Opens a serialised model (named for error messages) with the run's providers and threads."""


def opener(providers: Sequence[str], threads: int, *, spinning: bool) -> Opener:
    """The one way in which a run opens its sessions; ``spinning`` as for ``Session``."""
    names = provider_names(providers)

    def open_session(model: bytes, what: str) -> Session:
        return Session(model, names, threads, what, spinning=spinning)

    return open_session


def median_milliseconds(sessions: Sequence[Session], feeds: Feeds, rounds: int = 5) -> list[float]:
    """Median milliseconds of a run for each session; they take turns, so that noise hits all of them."""
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session(feeds)
    for _ in range(rounds):
        for session, of_session in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session(feeds)
            of_session.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(of_session) for of_session in times]


def _raise_if_memory_ran_out(error: Exception) -> None:
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "Failed to allocate memory")):
        raise MemoryError from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
