"""Models measured in turns in a process of their own, where nothing remains of what this one did before.

What a process did before, such as solving, can slow the models down that it runs afterwards, and not all of them alike.
So another Python opens them: it reads a ``Task`` from its standard input and answers on its standard output (see
``child``). It runs nothing of the program that called this one.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import onnx

from onnx_lowrank.bench.turns import Budget, Rounds, run_in_turns
from onnx_lowrank.graph.files.external import as_input
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Session

CHILD = "onnx_lowrank.bench.child"

PATIENCE = 10
"""The seconds that the other process has to end after its answer."""


class NoMeasurementError(Exception):
    """The other process could not be started, or did not answer; the text says why."""


@dataclass(frozen=True)
class Task:
    """What is measured, besides the models.

    Attributes
    ----------
    labels
        The names of the models in error messages.
    providers
        ONNX Runtime's names, in order of preference.
    threads
        The number of ONNX Runtime's threads; 0 leaves it to the runtime.
    feeds
        The batch that all models run on.
    budget
        The time that it may take.
    seed
        The seed of the order within the rounds.
    """

    labels: tuple[str, ...]
    providers: tuple[str, ...]
    threads: int
    feeds: Feeds
    budget: Budget
    seed: int = 0

    def measure(self, sessions: Sequence[Session]) -> Rounds:
        """Measure the models, which are open in this process."""
        return run_in_turns(sessions, [self.feeds] * len(sessions), self.budget, self.seed)


def measure_in_fresh_process(
    models: Sequence[onnx.ModelProto], task: Task, program: Sequence[str] | None = None
) -> Rounds:
    """Measure models in a process of their own, which is gone when this function returns or raises.

    Parameters
    ----------
    models
        The models.
    task
        What is measured.
    program
        The command that starts the process; None for the Python that runs here.

    Raises
    ------
    NoMeasurementError
        If no process can be started, or it does not answer.
    """
    command = program or _python()
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise NoMeasurementError(f"it cannot be started: {error}") from error
        try:
            answer = _asked(child, models, task)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
        finally:
            child.kill()  # It has ended, or is not wanted any more.
            code = child.wait()
        if answer is None:
            raise NoMeasurementError(_last_line(errors) or f"it ended with exit code {code}")
    return answer


def _python() -> list[str]:
    """Return the command that starts the child with the Python that runs here.

    Raises
    ------
    NoMeasurementError
        If the running program is not Python itself, as in a bundle.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise NoMeasurementError("this program is not run by a Python of its own")
    # -P: the working folder may hold files with the names of modules.
    return [sys.executable, "-P", "-m", CHILD]


def _asked(child: "subprocess.Popen[bytes]", models: Sequence[onnx.ModelProto], task: Task) -> Rounds | None:
    """Hand the task and the models over; return the answer, or None where there is none."""
    assert child.stdin and child.stdout
    try:
        pickle.dump(task, child.stdin)
        for model in models:  # One after the other: each may take gigabytes.
            with as_input(model) as source:
                pickle.dump(source, child.stdin)
                child.stdin.flush()
                child.stdout.read(1)  # The child has opened it, so that a file may go.
        answer = pickle.load(child.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        return None
    finally:
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # What a dead process has not read cannot be written any more.
                stream.close()
    return answer if isinstance(answer, Rounds) else None


def _last_line(errors: IO[bytes]) -> str:
    """Return the last line that a process printed, which names the exception that ended it."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
