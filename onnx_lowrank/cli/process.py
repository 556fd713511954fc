"""What the commands share: one line for every error, exit codes, SIGTERM, and files that appear whole or not at all.

Tables go to standard output; warnings, progress and errors to standard error.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rich.table import Table

from onnx_lowrank.cli.tables import one_line, render
from onnx_lowrank.errors import EnvironmentFault, LowRankError


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that temporary files are removed on the way out."""


def print_tables(tables: Sequence[Table], last: str) -> None:
    """Print the tables that have rows, and a last line, to standard output where there is one.

    Raises
    ------
    EnvironmentFault
        Where it cannot be printed.
    """
    if sys.stdout is not None:
        _print(f"{render([table for table in tables if table.row_count], sys.stdout)}{one_line(last)}\n")


def _print(text: str) -> None:
    """Print to standard output; a reader that has gone away (``| head``) has seen enough."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # What is left in the buffer would fail again when Python exits.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise EnvironmentFault(f"cannot print: {error.strerror}") from error


class Speaker:
    """Says lines on standard error, each behind the command's name."""

    def __init__(self, program: str) -> None:
        self._program = program

    def say(self, text: str) -> None:
        """One line; nothing where standard error is closed."""
        if sys.stderr is None:
            return
        with contextlib.suppress(OSError):
            print(f"{self._program}: {one_line(text)}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """One line that begins with the word."""
        self.say(f"warning: {text}")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _classify(error: BaseException, less_memory: str) -> tuple[int, str]:
    """Return the exit code of an error and the line that says it."""
    match error:
        case LowRankError():
            return error.exit_code, f"error: {error}"
        case KeyboardInterrupt():
            return 130, "interrupted"
        case Terminated():
            return 143, "terminated"
        case MemoryError() | OSError(errno=errno.ENOMEM):
            return EnvironmentFault.exit_code, f"error: memory ran out: {less_memory}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return EnvironmentFault.exit_code, f"error: no room for temporary files (TMPDIR moves them): {error}"
    return 1, f"internal error: {type(error).__name__}: {error} (this is a bug; run with --traceback and report it)"


def run(work: Callable[[], None], speaker: Speaker, less_memory: str, traces: Callable[[], bool]) -> int:
    """Do a command's work and return its exit code.

    Parameters
    ----------
    work
        All of it, the reading of the command line too.
    speaker
        Says the error's line.
    less_memory
        What to do where memory ran out.
    traces
        Whether the traceback was asked for, as far as the command line was understood.
    """
    try:
        with _terminable():
            work()
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if traces():
            traceback.print_exception(error)
        code, text = _classify(error, less_memory)
        speaker.say(text)
        return code
    return 0


def leave(code: int) -> None:
    """End the process."""
    with contextlib.suppress(EnvironmentFault):
        _print("")  # what argparse printed may still wait in the buffer
    sys.exit(code)
