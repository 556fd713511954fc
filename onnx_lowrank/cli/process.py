"""The surroundings of both commands: exit codes, one line for every error, SIGTERM, and printing.

Tables go to standard output. Warnings, progress and errors go to standard error.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from rich.table import Table

from onnx_lowrank.cli.tables import one_line, render
from onnx_lowrank.errors import EnvironmentFault, LowRankError, UsageError


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that temporary files are removed on the way out."""


@dataclass(frozen=True)
class Command:
    """A program, as its user sees it.

    Attributes
    ----------
    name
        The name that starts every line on standard error.
    short_usage
        The lines that appear when the program is called without arguments.
    less_memory
        The advice for a user whose machine ran out of memory.
    """

    name: str
    short_usage: str
    less_memory: str

    def say(self, text: str) -> None:
        """Print one line on standard error, or nothing where that is closed."""
        _print_error(f"{self.name}: {one_line(text)}")

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        self.say(f"warning: {text}")


def run(command: Command, work: Callable[[Sequence[str]], None], argv: Sequence[str] | None) -> int:
    """Do the work of a command and return its exit code.

    Parameters
    ----------
    command
        The program that is running.
    work
        Parses the arguments and does everything they ask for.
    argv
        The arguments; None stands for those of the process.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words:
        _print_error(command.short_usage)
        return UsageError.exit_code
    try:
        with _terminable():
            work(words)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if "--traceback" in words:
            traceback.print_exception(error)
        code, text = _classify(error, command.less_memory)
        command.say(text)
        return code
    return 0


def leave(code: int) -> None:
    """End the process with an exit code."""
    with contextlib.suppress(EnvironmentFault):
        _print("")  # flushes what argparse printed
    sys.exit(code)


def print_tables(tables: Sequence[Table], last: str) -> None:
    """Print every table that has rows, and a last line, on standard output; do nothing where that is closed.

    Raises
    ------
    EnvironmentFault
        If standard output cannot be written, for example because the disk is full.
    """
    if sys.stdout is not None:
        _print(f"{render([table for table in tables if table.row_count], sys.stdout)}{one_line(last)}\n")


def _print(text: str) -> None:
    """Print on standard output. A reader that has gone away (``| head``) has seen enough, so that is no error."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # Python flushes the rest of the buffer when it exits, which would fail again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise EnvironmentFault(f"cannot print: {error.strerror}") from error


def _print_error(text: str) -> None:
    """Print on standard error, where it is open."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the clean-up
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
    """Return the exit code of an error and the line that describes it."""
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
