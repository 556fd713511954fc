"""The stage that puts the refinement of a few layers at a time into the walk."""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.calibration.sizes import run_of_any_size
from onnx_lowrank.factorise.blocks.refinement import Course
from onnx_lowrank.graph.channels.trace import ChannelTrace, entries_left, trace_channels
from onnx_lowrank.graph.find.blocks import Stretch, passing_tensors, stretches
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.graph.traverse import behind, position
from onnx_lowrank.options import AUTO
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.carrying_session import open_carrying
from onnx_lowrank.stages.blocks import EnterStep, Held, LeaveStep, Refining
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import Step

Array = NDArray[Any]
Indices = NDArray[np.intp]

STEPS = 150
"""The number of steps where the user names none."""

LOSES_MUCH = 0.05
"""The centred error of the outputs in a rehearsal from which on a plan loses so much that refinement pays."""

MEMORY_SHARE = 8
"""The samples of a stretch, and the activations of the original, each take at most this part of ``--memory``."""


def with_refinement(run: Run, prepared: Prepared, steps: Sequence[Step], stack: contextlib.ExitStack) -> list[Step]:
    """Return the steps of a walk with a refinement behind every stretch of layers that an error has reached.

    Parameters
    ----------
    run
        The surroundings.
    prepared
        The results of the stages up to the plan.
    steps
        The steps of the walk, in the order of the network.
    stack
        Closes the shard in which the original runs beside the approximated network.
    """
    options, sampling = run.options, prepared.sampled.sampling
    count = _steps(run, prepared)
    if not count or options.symmetric or options.solver == "weights":
        return list(steps)
    if len(sampling.sizes):
        if options.refine != AUTO:
            run.warn("layers are not refined together, because the samples have several sizes")
        return list(steps)
    network, values, macs = prepared.path, _values(run, prepared), prepared.counted.macs
    shapes = {name: value.shape for name, value in values.items()}
    maps = {name for name, value in values.items() if value.ndim > 1 and value.dtype.kind in "fV"}
    reached = behind(network, [output for step in steps for output in step.outputs])
    found = [stretch for stretch in stretches(network, shapes) if not reached.isdisjoint(stretch.outputs)]
    wide = prepared.wide_path or network
    opened = open_shards(wide, sampling, run.open_session, prepared.original.macs.all, run.shards)
    original = stack.enter_context(opened)
    trace = trace_channels(wide) if prepared.stay else None
    room, total = options.memory // MEMORY_SHARE, count * len(found)
    told = _Told(run.progress, total)
    placed = [(float(min(position(network, output) for output in step.outputs)), step) for step in steps]
    for number, whole_stretch in enumerate(found):
        stretch = _of_maps(whole_stretch, maps)
        numbers = {name: values[name] for name in whole_stretch.inputs if name not in maps and name in values}
        left = _left(trace, stretch, prepared) if trace else {}
        refining = Refining(stretch, shapes, macs.samples, numbers, original, left, run.open_session, sampling, room)
        heard = partial(told.hear, count * number)
        held, course = Held(), Course(count, options.seed, heard)
        placed.append((stretch.start(network) - 0.5, EnterStep(refining, held)))
        placed.append((stretch.stop(network) - 0.6, LeaveStep(refining, held, course, room, heard)))
    return [step for _, step in sorted(placed, key=lambda pair: pair[0])]


class _Told:
    """The steps of all stretches, each of which is told once: one that is left alone is over at its end."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        if total:
            progress("refine", 0, total)

    def hear(self, before: int, step: int) -> None:
        """Hear that so many steps of a stretch are done, and all those of the stretches before it."""
        if before + step > self._done:
            self._done = before + step
            self._progress("refine", self._done, self._total)


def _left(trace: ChannelTrace, stretch: Stretch, prepared: Prepared) -> dict[str, Indices]:
    """Return the channels that stay of what a stretch delivers, by tensor, where that is known."""
    found = {name: entries_left(trace, name, prepared.stay, axis=1) for name in stretch.outputs}
    return {name: own for name, own in found.items() if own is not None}


def _steps(run: Run, prepared: Prepared) -> int:
    """Return the number of steps that a stretch is refined in."""
    asked, importance = run.options.refine, prepared.planned.importance
    if isinstance(asked, int):
        return asked
    rehearsed = importance.trials.get(importance.exponent, 0.0)
    return STEPS if rehearsed > LOSES_MUCH else 0


def _values(run: Run, prepared: Prepared) -> dict[str, Array]:
    """Return the tensors through which the network can be cut, for the smallest batch."""
    sampling = prepared.sampled.sampling
    session = open_carrying(run.open_session, whole(prepared.path, passing_tensors(prepared.path)), "the model")
    feeds = sampling.source.feeds(sampling.single)
    values = feeds | run_of_any_size(session, feeds, sampling)
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _of_maps(stretch: Stretch, maps: Collection[str]) -> Stretch:
    """Return a stretch without the shapes and other whole numbers that it reads and delivers besides its maps."""
    inputs, outputs = (tuple(name for name in names if name in maps) for names in (stretch.inputs, stretch.outputs))
    return replace(stretch, inputs=inputs, outputs=outputs)
