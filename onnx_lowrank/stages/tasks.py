"""What the outputs are for: recognised from what the original answers to a few samples, and measured on others.

The original's answers are the truth, so no labels are needed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnx_lowrank.errors import ModelError
from onnx_lowrank.interface import Feeds
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.table import AUTO, TASKS, WITHOUT, recognise
from onnx_lowrank.measures.tally import Estimate, Tally
from onnx_lowrank.measures.task import Task
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Warn
from onnx_lowrank.report.task_schema import MeasureReport, TaskReport
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.stages.comparable import comparable
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.parts_of_outputs import parts
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled
from onnx_lowrank.stages.session_pair import SessionPair

SAMPLES = 8
"""The number of samples from which a task is recognised."""

MOST_BYTES = 1 << 28
"""The bytes of answers beyond which no more samples are looked at."""


def find_tasks(session: Session, sampled: Sampled, declared: DeclaredShapes, options: Options) -> tuple[Task, ...]:
    """Return what the outputs of the original are for, as far as the first calibration samples prove it.

    Parameters
    ----------
    session
        The original.
    sampled
        The samples.
    declared
        The dimensions of the outputs that count samples.
    options
        ``task`` and ``boxes`` may say what they are for.

    Raises
    ------
    ModelError
        If no output fits what the options say.
    """
    if options.task in WITHOUT and options.boxes == AUTO:
        return ()
    seen: list[Batch] = []
    held = 0
    for batch in sampled.sampling.batches:
        feeds = sampled.source.feeds(batch)
        seen.append(as_batch(len(batch), feeds, session(feeds), declared))
        held += sum(getattr(value, "nbytes", 0) for value in seen[-1].outputs.values())
        if sum(each.samples for each in seen) >= SAMPLES or held > MOST_BYTES:
            break
    return recognise(seen, options.task, options.boxes)


def check_tasks(run: Run, read: Read, sampled: Sampled) -> None:
    """Refuse a task, a requirement or labels that the outputs do not serve, before the long work.

    Raises
    ------
    ModelError
        If no output serves what was asked for.
    """
    options = run.options
    demands = [required for required in (options.kept, options.requirement) if required is not None]
    wanted = {kind.name: each for each in demands for kind in TASKS.values() if each.measure in kind.measures}
    labelled = sampled.labelled_task
    if options.task in (AUTO, *WITHOUT) and options.boxes == AUTO and not wanted and not labelled:
        return
    found = {task.name for task in tasks_of(run, read, sampled)}
    asked = {name: f"--{required.option} {required}" for name, required in wanted.items()} | (
        {labelled: "--test"} if labelled else {}
    )
    for name, option in asked.items():
        if name not in found:
            outputs = ", ".join(spec.name for spec in read.outputs)
            hint = "say how they are read with --boxes" if name == "detection" else f"--task {name} takes them as such"
            raise ModelError(
                f"{option} needs {TASKS[name].needs}, and the outputs ({outputs}) are not recognised as such: {hint}"
            )


def tasks_of(run: Run, read: Read, sampled: Sampled) -> tuple[Task, ...]:
    """Return what the outputs are for, from a session of its own.

    A session whose runs change what it holds, as a normalisation that still trains does, would answer differently when
    the models are compared.
    """
    if run.options.task in WITHOUT and run.options.boxes == AUTO:
        return ()
    session = run.open_session(read.loaded.proto, "the model")
    known = comparable(SessionPair(session, session), read.loaded.proto, read.loaded.proto, run.open_session)
    declared = DeclaredShapes.of(read.inputs, read.outputs, sampled.output_axes)
    return find_tasks(known.original, sampled, declared, run.options)


def as_batch(samples: int, feeds: Feeds, outputs: Mapping[str, Any], declared: DeclaredShapes) -> Batch:
    """Return what a model was fed and answered, with the samples along the first dimension."""
    arrays = {name: declared.samples_first(name, value) for name, value in parts(outputs).items() if _is_array(value)}
    return Batch(samples, feeds, arrays)


def _is_array(value: object) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "ndim")


class Tallies:
    """The measures of all tasks, added up from batch to batch.

    Parameters
    ----------
    tasks
        The tasks.
    declared
        The dimensions of the outputs that count samples.
    warn
        Receives a line for a task whose outputs no longer look as they did when it was recognised.
    """

    def __init__(self, tasks: Sequence[Task], declared: DeclaredShapes, warn: Warn) -> None:
        self._tallies = [Tally(task) for task in tasks]
        self._declared, self._warn = declared, warn

    @property
    def outputs(self) -> frozenset[str]:
        """The names of all outputs that are measured."""
        return frozenset(name for tally in self._tallies for name in tally.task.outputs)

    def add(self, samples: int, feeds: Feeds, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Add what both models answered to a batch."""
        batches = [as_batch(samples, feeds, outputs, self._declared) for outputs in (before, after)]
        remaining = []
        for tally in self._tallies:
            more = tally.with_batch(*batches)
            if more is None:
                names = ", ".join(map(repr, tally.task.outputs))
                self._warn(f"{tally.task.name} is not measured: {names} have another shape on some samples")
            else:
                remaining.append(more)
        self._tallies = remaining

    def reports(self) -> tuple[TaskReport, ...]:
        """Return the measures of all tasks that have a value."""
        reports = []
        for tally in self._tallies:
            measures = as_reports(tally.estimates())
            if measures:
                task, count = tally.task, len(tally.scores)
                details = {name: each for name, each in task.details(tally.scores).items() if math.isfinite(each)}
                reports.append(TaskReport(task.name, task.kind, task.outputs, count, measures, details))
            else:
                self._warn(f"{tally.task.name} is not measured: the original's answers to these samples are empty")
        return tuple(reports)


def as_reports(estimates: Mapping[str, Estimate]) -> dict[str, MeasureReport]:
    """Return estimates as the report holds them."""
    return {name: MeasureReport(each.value, each.low, each.high) for name, each in estimates.items()}
