"""Progress bars for long stages, on standard error."""

import os
import sys
import threading
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from onnx_lowrank.cli.tables import one_line

PATIENCE = 2.0
"""Seconds that a stage takes before it is shown."""


class ProgressBars:
    """A `Progress` that shows every stage that takes longer than a moment.

    On a terminal such a stage gets a bar; anywhere else it gets one line.

    Parameters
    ----------
    say
        Prints one line where there is no terminal.
    patience
        Seconds after which a stage is shown.
    """

    def __init__(self, say: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._say = say
        self._patience = patience
        self._terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True, force_terminal=self._terminal),
            redirect_stdout=False,
        )
        self._lock = threading.RLock()
        self._tasks: dict[str, TaskID] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._announced: set[str] = set()
        self._closed = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Record a step; the first step of a stage starts its timer."""
        with self._lock:
            if self._closed:
                return
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(one_line(stage), visible=False)
                self._watch(stage)
            elif done == 0 and stage not in self._timers:
                self._watch(stage)
            self._bars.update(self._tasks[stage], completed=done, total=total)
            if done >= total and (timer := self._timers.pop(stage, None)):
                timer.cancel()

    def _watch(self, stage: str) -> None:
        # A timer rather than a check at every step, because one step may take minutes.
        timer = self._timers[stage] = threading.Timer(self._patience, self._show, [stage])
        timer.daemon = True
        timer.start()

    def _show(self, stage: str) -> None:
        with self._lock:
            if self._closed or stage not in self._timers:
                return
            if self._terminal:
                self._bars.update(self._tasks[stage], visible=True)
                self._bars.start()
            elif stage not in self._announced:
                self._announced.add(stage)
                self._say(f"{stage} …")

    def __enter__(self) -> "ProgressBars":
        return self

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._closed = True
            for timer in self._timers.values():
                timer.cancel()
            if self._bars.live.is_started:
                self._bars.stop()
