"""All tasks, in the order in which they are looked for; an output that one of them has found is left to it."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from onnx_lowrank.errors import ModelError
from onnx_lowrank.measures import detection, embedding, image, segmentation
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.heads.table import HEADS
from onnx_lowrank.measures.task import Task

AUTO = "auto"
"""Tasks, or a head, that are recognised where the answers prove them."""

WITHOUT = ("classification", "none")
"""Choices without a measure of their own: of classes, the agreement is measured for every output of class scores."""


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Attributes
    ----------
    name
        The name in options and in the report.
    needs
        The outputs that it is about, in words.
    measures
        The names of its measures, the most important one first.
    find
        Looks for outputs that serve the task in what a network answered to a few batches. ``sure`` says whether the
        values have to prove it; otherwise a shape that fits is enough.
    """

    name: str
    needs: str
    measures: tuple[str, ...]
    find: Callable[..., tuple[Task, ...]]


TASKS = {
    kind.name: kind
    for kind in (
        TaskKind(detection.NAME, detection.NEEDS, tuple(detection.THRESHOLDS), detection.find),
        TaskKind(image.NAME, image.NEEDS, ("psnr", "ssim"), image.find),
        TaskKind(segmentation.NAME, segmentation.NEEDS, ("miou",), segmentation.find),
        TaskKind(embedding.NAME, embedding.NEEDS, ("cosine",), embedding.find),
    )
}
"""The kinds of tasks by name."""

TASK_CHOICES = (AUTO, *TASKS, *WITHOUT)

HEAD_CHOICES = (AUTO, *HEADS)


@np.errstate(all="ignore")  # the answers of a network may be anything
def recognise(batches: Sequence[Batch], task: str = AUTO, head: str = AUTO) -> tuple[Task, ...]:
    """Return what the outputs of a network are for.

    Parameters
    ----------
    batches
        What it answered to a few samples.
    task
        One of the ``TASK_CHOICES``.
    head
        One of the ``HEAD_CHOICES``; any but ``AUTO`` stands for detection.

    Returns
    -------
    tuple[Task, ...]
        Empty where nothing is sure.

    Raises
    ------
    ModelError
        If a task or a head is given that no output fits.
    """
    if head != AUTO:
        # What is proven goes before what only has the shape.
        heads: tuple[Task, ...] = detection.find(batches, head=head) or detection.find(batches, sure=False, head=head)
        return heads or _refused(batches, f"--boxes {head} needs {HEADS[head].needs}", "name another head")
    if task in WITHOUT or not batches:
        return ()
    if task != AUTO:
        kind = TASKS[task]
        given = kind.find(batches) or kind.find(batches, sure=False)
        return given or _refused(batches, f"--task {task} needs {kind.needs}", "name another task, or none")
    found: tuple[Task, ...] = ()
    for kind in TASKS.values():
        taken = {name for each in found for name in each.outputs}
        found = (*found, *kind.find([_without(batch, taken) for batch in batches]))
    return found


def _without(batch: Batch, names: Container[str]) -> Batch:
    """Return a batch less some of the outputs."""
    return replace(batch, outputs={name: value for name, value in batch.outputs.items() if name not in names})


def _refused(batches: Sequence[Batch], needs: str, advice: str) -> NoReturn:
    outputs = batches[0].outputs if batches else {}
    shapes = [f"{name} {list(getattr(value, 'shape', ()))}" for name, value in outputs.items()]
    raise ModelError(f"{needs}, and the model has the outputs {', '.join(shapes) or 'none'}: {advice}")
