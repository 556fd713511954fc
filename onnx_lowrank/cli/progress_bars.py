"""Progress bars for long stages, on standard error, with the time that each is expected to take yet."""

import os
import sys
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from onnx_lowrank.cli.tables import duration, one_line

PATIENCE = 2.0
"""Seconds that a stage takes before it is shown."""

PAUSE = 30.0
"""Where there is no terminal, the seconds between two lines about the same stage."""


def time_left(seconds: float, done: float, total: float | None) -> str:
    """Return how long the rest of a stage takes if all its steps take the same; empty where nothing tells.

    Parameters
    ----------
    seconds
        The time of the steps that are done.
    done, total
        The numbers of steps.
    """
    if not total or not 0 < done < total:
        return ""
    return f"about {duration(seconds * (total - done) / done)} left"


class TimeLeftColumn(ProgressColumn):
    """The time that is left of a stage."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        return Text(time_left(task.elapsed or 0.0, task.completed, task.total))


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
            TimeLeftColumn(),
            console=Console(stderr=True, force_terminal=self._terminal),
            redirect_stdout=False,
        )
        self._lock = threading.RLock()
        self._tasks: dict[str, TaskID] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._announced: set[str] = set()
        self._begun: dict[str, float] = {}
        self._said: dict[str, float] = {}
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
                self._bars.reset(self._tasks[stage], visible=self._bars.tasks[self._tasks[stage]].visible)
                self._watch(stage)
            if done == 0:
                self._begun[stage] = time.monotonic()
            self._bars.update(self._tasks[stage], completed=done, total=total)
            if done >= total and (timer := self._timers.pop(stage, None)):
                timer.cancel()
            self._remind(stage, done, total)

    def _remind(self, stage: str, done: int, total: int) -> None:
        """Say how much is left of a stage that takes long, where no bar shows it."""
        now = time.monotonic()
        if self._terminal or stage not in self._announced or now < self._said[stage] + PAUSE:
            return
        if left := time_left(now - self._begun.get(stage, now), done, total):
            self._said[stage] = now
            self._say(f"{stage} {done}/{total}, {left}")

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
                self._said[stage] = time.monotonic()
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
