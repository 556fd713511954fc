"""The steps around a stretch of a few layers, whose weights are refined together once all of them are solved.

In front of the stretch one step keeps what the approximated network delivers there, or windows of it. Behind the
stretch the other one asks the original network, which runs on the same samples beside it, what the stretch should
deliver, and refines.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import Shard, TensorsQuestion
from onnx_lowrank.factorise.blocks.block import Part
from onnx_lowrank.factorise.blocks.refinement import Course, Refinement, refine
from onnx_lowrank.factorise.blocks.windows import Window, windows
from onnx_lowrank.graph.blocks.read import ReadBlock, as_model, read_block
from onnx_lowrank.graph.find.blocks import Stretch
from onnx_lowrank.graph.network import Network
from onnx_lowrank.runtime.session import Opener
from onnx_lowrank.stages.refined import Entered, RefinedStretch

Array = NDArray[Any]
Indices = NDArray[np.intp]

MOST_WINDOWS = 4
"""The windows of a sample, at most."""

FEWEST_SAMPLES = 16
"""With fewer samples to solve on, a stretch stays as it is."""

ROUND_OFF, TINY = 1e-2, 1e-6
"""The mean difference from what the runtime computes, relative to the mean size of it, up to which a block is right.
Half precision rounds most; what is read in a wrong way differs by much more."""


@dataclass
class Held:
    """What is kept of the samples between the two steps of a stretch.

    Attributes
    ----------
    reason
        Why nothing is kept; None where something is.
    windows
        The windows of each batch, by number; None stands for the whole maps.
    inputs
        What the approximated network delivered in each of them, by batch.
    """

    reason: str | None = "not reached"
    windows: dict[int, list[Window | None]] = field(default_factory=dict)
    inputs: dict[int, list[dict[str, Array]]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The number of bytes that the inputs take."""
        return sum(value.nbytes for own in self.inputs.values() for each in own for value in each.values())

    def clear(self) -> None:
        """Give up what is kept."""
        self.windows, self.inputs = {}, {}


@dataclass(frozen=True)
class Refining:
    """What both steps of a stretch know.

    Attributes
    ----------
    stretch
        The stretch.
    shapes
        The shapes of the tensors that it reads and delivers, for ``samples`` samples.
    samples
        Their number.
    numbers
        What the stretch reads besides them, such as shapes, for so many samples.
    original
        The original network on the samples, of which all batches take part.
    left
        The channels that stay of what the original network delivers, by tensor, where some of them were removed.
    open_session
        Opens the nodes of the stretch as a model of their own.
    sampling
        The samples.
    room
        The number of bytes that samples of a stretch may take.
    """

    stretch: Stretch
    shapes: Mapping[str, tuple[int, ...]]
    samples: int
    numbers: Mapping[str, Array]
    original: Shard
    left: Mapping[str, Indices]
    open_session: Opener
    sampling: Sampling
    room: int

    def bytes_of(self, found: "ReadBlock") -> tuple[int, float]:
        """Return the bytes that a sample takes, or a window of it, and the number of windows that a map has."""
        seen = windows(found.block, {name: tuple(self.shapes[name][2:]) for name in self.stretch.inputs})
        names = (*self.stretch.inputs, *self.stretch.outputs)
        whole = sum(4 * int(np.prod(self.shapes[name])) for name in names) / self.samples
        return (int(whole), 1.0) if seen is None else (int(whole / seen.per_map), seen.per_map)


@dataclass(frozen=True)
class EnterStep:
    """The step in front of a stretch."""

    refining: Refining
    held: Held

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Step``."""
        return self.refining.stretch.outputs

    @property
    def target_bytes(self) -> int:
        """See ``Step``."""
        return 0

    def bytes(self) -> int:
        """See ``Step``."""
        return self.refining.room

    def run(self, shard: Shard, memory: int) -> Entered:
        """See ``Step``; keep what the stretch reads."""
        refining, held = self.refining, self.held
        found = read_block(shard.network, refining.stretch, refining.shapes, refining.numbers)
        held.reason = found if isinstance(found, str) else None if found.trained else "it has no weights of its own"
        if isinstance(found, str) or held.reason:
            return Entered()
        per_window, per_map = refining.bytes_of(found)
        samples = refining.sampling.samples
        per_sample = int(np.clip(min(refining.room // max(1, per_window * samples), per_map), 1, MOST_WINDOWS))
        batches = refining.sampling.first_batches(max(1, refining.room // max(1, per_window * per_sample)))
        sizes = {name: tuple(refining.shapes[name][2:]) for name in refining.stretch.inputs}
        seen = windows(found.block, sizes) if per_map > 1 else None
        for batch in range(batches):
            generator = np.random.default_rng([refining.sampling.seed, batch])
            drawn = [seen.draw(generator) for _ in range(per_sample)] if seen else [None]
            held.windows[batch] = list(drawn)
        held.inputs = dict(
            shard.tensors(_question(refining, held, refining.stretch.inputs, refining.stretch.behind), memory)
        )
        shard.mark()
        return Entered()


@dataclass(frozen=True)
class LeaveStep:
    """The step behind a stretch, which refines it.

    Attributes
    ----------
    refining, held
        What the step in front of the stretch has kept.
    course
        How long the refinement goes on.
    memory
        The number of bytes that the original's activations may take.
    heard
        Hears at the end how many steps are done or will never be.
    """

    refining: Refining
    held: Held
    course: Course
    memory: int
    heard: Callable[[int], object] = int

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Step``."""
        return self.refining.stretch.outputs

    @property
    def target_bytes(self) -> int:
        """See ``Step``; the inputs are held from the step in front of the stretch on."""
        return self.held.bytes

    def bytes(self) -> int:
        """See ``Step``."""
        return self.refining.room + self.memory

    def run(self, shard: Shard, memory: int) -> RefinedStretch:
        """See ``Step``; the weights change only if the judging samples gain by it."""
        start, before = time.perf_counter(), self.refining.original.macs_executed
        refinement, weights, reason = self._refined(shard)
        if self.held.reason is None:
            shard.refined(weights)
        self.held.clear()
        self.heard(self.course.steps)
        seconds, macs = time.perf_counter() - start, self.refining.original.macs_executed - before
        return RefinedStretch(self.refining.stretch, weights, refinement, seconds, reason, macs)

    def _refined(self, shard: Shard) -> tuple[Refinement | None, dict[str, Array], str]:
        """Return the refinement, the new weights as they are stored, and the outcome in a few words."""
        refining, held = self.refining, self.held
        found = held.reason or read_block(shard.network, refining.stretch, refining.shapes, refining.numbers)
        if isinstance(found, str):
            return None, {}, f"left alone: {found}"
        if not self._agrees(shard.network, found):
            return None, {}, "left alone: it computes something else than is known of its nodes"
        solving, judging = self._parts()
        if any(
            len(own) != refining.shapes[name][1] for part in solving + judging for name, own in part.targets.items()
        ):
            return None, {}, "left alone: some of the channels that it delivers were removed"
        if sum(part.samples for part in solving) < FEWEST_SAMPLES or not judging:
            return None, {}, "left alone: there are too few samples"
        result = refine(found.block, found.weights, found.trained, (solving, judging), self.course)
        if not result.weights:
            return result, {}, "left alone: held-out samples gain nothing"
        if not found.fits(result.weights):
            return result, {}, "left alone: the new weights do not fit their type"
        return result, found.as_stored(result.weights), "refined"

    def _agrees(self, network: Network, found: ReadBlock) -> bool:
        """Whether the runtime computes the same as the block from the samples that come first."""
        refining = self.refining
        (held, *_), *_ = self.held.inputs.values()
        inputs = {name: value[: refining.samples] for name, value in held.items()}
        feeds = {**inputs, **refining.numbers}
        session = refining.open_session(as_model(network, refining.stretch, feeds), "some of its layers")
        theirs, ours = session(feeds), found.block.run(found.weights, _channels_first(inputs))
        for name, own in ours.items():
            other = _channels_first({name: theirs[name]})[name]
            if own.shape != other.shape or not np.abs(own - other).mean() <= ROUND_OFF * np.abs(other).mean() + TINY:
                return False
        return True

    def _parts(self) -> tuple[list[Part], list[Part]]:
        """Return the samples that solve, and those that judge."""
        refining, held = self.refining, self.held
        asked = _question(refining, held, refining.stretch.outputs, refining.stretch.last)
        parts: tuple[list[Part], list[Part]] = ([], [])
        for batch, answers in refining.original.tensors(asked, self.memory):
            judges = bool(refining.sampling.judges[batch])
            for window, inputs, answer in zip(held.windows[batch], held.inputs[batch], answers, strict=True):
                targets = _channels_first(answer)
                targets |= {name: targets[name][stay] for name, stay in refining.left.items()}
                part = Part(_channels_first(inputs), targets, window.known if window else None)
                parts[judges].append(part)
        return parts


def _question(refining: Refining, held: Held, names: tuple[str, ...], behind: str | None) -> TensorsQuestion:
    seen = {batch: [window.slices if window else {} for window in own] for batch, own in held.windows.items()}
    return TensorsQuestion(names, behind, seen)


def _channels_first(values: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name: np.ascontiguousarray(own.astype(np.float32, copy=False).swapaxes(0, 1)) for name, own in values.items()
    }
