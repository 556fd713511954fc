"""All weights of a block refined together, downhill on the error of what the block delivers, while the judges gain.

The weights move by Adam over small batches of the samples that solve, at a rate that falls to zero along a cosine. The
samples that judge look at the weights now and then, and the best state that they have seen is the result; the start is
one of these states.

Columns of a weight, all of whose numbers for one input channel are zero, stay zero: what reads nothing of a channel
goes on to do so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.block import Block, Part, Weights
from onnx_lowrank.factorise.solve.adam import ArrayAdam
from onnx_lowrank.factorise.workers import in_order

Array = NDArray[Any]

LOOKS = 8
"""The number of times that the judges look at the weights."""

SAMPLES = 16
"""The samples of a step."""

RATE = 1e-2
"""The rate of the first step, relative to the size of a weight."""

CACHED = 1 << 19
"""The elements of a tensor, 2 MiB, that a processor's cache holds: so many samples at a time as have no more."""

SLOWER = 0.3
"""Where the judges find no gain, the steps begin again from the best state, at this share of the rate."""

SMALLEST_UNIT_OF_BIAS = 0.1
"""The least size of a bias, relative to the spread of the response that it is added to."""


WORK = 2e9
"""Multiply-accumulates of a step beyond which it takes fewer samples."""


@dataclass(frozen=True)
class Course:
    """How long a refinement goes on.

    Attributes
    ----------
    steps
        The number of steps.
    seed
        Seed of the order of the samples.
    heard
        Hears the number of every step that is done.
    """

    steps: int
    seed: int = 0
    heard: Callable[[int], object] = int


@dataclass(frozen=True)
class Refinement:
    """The result of a refinement.

    Attributes
    ----------
    weights
        The best weights that the judges have seen; empty where these are the weights of the start.
    error_before, error_after
        The errors on the samples that judge.
    steps
        The steps that were taken.
    """

    weights: Weights
    error_before: float
    error_after: float
    steps: int


def refine(
    block: Block,
    weights: Weights,
    trained: Sequence[str],
    parts: tuple[Sequence[Part], Sequence[Part]],
    course: Course,
) -> Refinement:
    """Refine some of the weights of a block.

    Parameters
    ----------
    block
        The block.
    weights
        All stored tensors that it reads, float32.
    trained
        The names of those that may change.
    parts
        The samples that solve, and those that judge.
    course
        How long it goes on.
    """
    (solving, judging), steps = parts, course.steps
    judge = _Judge(block, judging)
    start = judge.error(weights)
    best = Refinement({}, start, start, 0)
    if not solving or not np.isfinite(start):
        return best
    groups = block.groups
    masks = {name: ~empty_columns(weights[name], groups.get(name, 1)) for name in trained}
    measured = block.measure(weights, solving[0])
    units = _units(weights, trained, measured.spreads)
    samples = int(np.clip(WORK / (3 * measured.macs + 1), 1, SAMPLES))
    adam, factor = _adam(units, weights, trained), 1.0
    scales = _scales(block, solving)
    together = max(1, min(samples, CACHED // measured.largest))
    solving = [piece for part in solving for piece in part.split(together)]
    state = dict(weights)
    for step, batch in enumerate(_batches(solving, samples, course), 1):
        slopes = _slopes(block, state, trained, batch, scales)
        rate = factor * RATE * 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
        masked = [slopes[name] * masks[name] for name in trained]
        moved = adam.step([state[name] for name in trained], masked, float(rate))
        state.update(zip(trained, moved, strict=True))
        if step * LOOKS // steps > (step - 1) * LOOKS // steps:
            error = judge.error(state)
            if error < best.error_after:
                best = Refinement({name: state[name] for name in trained}, start, error, step)
            else:
                state.update(best.weights or {name: weights[name] for name in trained})
                adam = _adam(units, state, trained)
                factor *= SLOWER
    return best


def empty_columns(weight: Array, groups: int = 1) -> NDArray[np.bool_]:
    """Return where a weight [d, c of a group, ...] has a column, all numbers for one input channel, of zeros alone.

    The result has length 1 along the axes of the kernel. A vector has no columns.
    """
    if weight.ndim < 2:
        return np.zeros(weight.shape, np.bool_)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    axes = tuple(axis for axis in range(grouped.ndim) if axis not in (0, 2))
    empty = ~grouped.any(axis=axes, keepdims=True)
    return np.broadcast_to(empty, (*grouped.shape[:3], *empty.shape[3:])).reshape(
        *weight.shape[:2], *(1,) * (weight.ndim - 2)
    )


def variances(block: Block, parts: Sequence[Part]) -> dict[str, float]:
    """Return the mean square by which the targets of every output differ from their channels' means."""
    found = {}
    for name in block.outputs:
        targets = [part.targets[name].reshape(len(part.targets[name]), -1) for part in parts]
        count = sum(own.shape[1] for own in targets)
        means = sum(own.sum(axis=1, dtype=np.float64) for own in targets) / max(count, 1)
        centred = (own - means[:, None].astype(np.float32) for own in targets)
        squares = sum(float(np.square(own).sum(dtype=np.float64)) for own in centred)
        found[name] = max(squares / max(count * len(means), 1), float(np.finfo(np.float32).tiny))
    return found


class _Judge:
    """The error of a block on the samples that judge."""

    def __init__(self, block: Block, parts: Sequence[Part]) -> None:
        self._block, self._parts = block, parts
        self._variances = variances(block, parts)

    def error(self, weights: Weights) -> float:
        """Return E(w); infinite where it is not a number."""
        squares, counts = dict.fromkeys(self._block.outputs, 0.0), dict.fromkeys(self._block.outputs, 0.0)
        for own in in_order(lambda part: self._block.squares(weights, part), self._parts):
            for name, (square, count) in own.items():
                squares[name] += square
                counts[name] += count
        errors = [squares[name] / max(counts[name], 1) / self._variances[name] for name in self._block.outputs]
        mean = float(np.mean(errors))
        return mean if np.isfinite(mean) else float("inf")


def _slopes(
    block: Block, weights: Weights, trained: Sequence[str], batch: Sequence[Part], scales: Mapping[str, float]
) -> Weights:
    """Return the slopes of the loss on some parts, added up in the order of the parts."""
    total: Weights = {}
    for own in in_order(lambda part: block.slopes(weights, trained, part, scales), batch):
        for name, slope in own.items():
            total[name] = total[name] + slope if name in total else slope
    return total


def _scales(block: Block, parts: Sequence[Part]) -> dict[str, float]:
    """Return the weight of every output's squares in the loss: outputs of several sizes count alike."""
    return {
        name: 1 / (variance * parts[0].targets[name].size / parts[0].samples)
        for name, variance in variances(block, parts).items()
    }


def _units(weights: Weights, trained: Sequence[str], spreads: Mapping[str, float]) -> dict[str, np.float32]:
    """Return the size of every weight: the mean absolute entry, of a bias at least a share of its response's spread."""
    units = {}
    for name in trained:
        sizes = np.abs(weights[name][weights[name] != 0])
        own = float(sizes.mean()) if sizes.size else 0.0
        units[name] = np.float32(max(own, SMALLEST_UNIT_OF_BIAS * spreads.get(name, 0.0)))
    return units


def _adam(units: Mapping[str, np.float32], weights: Weights, trained: Sequence[str]) -> ArrayAdam:
    """Return the method at its beginning."""
    return ArrayAdam([units[name] for name in trained], [weights[name] for name in trained])


def _batches(parts: Sequence[Part], samples: int, course: Course) -> Iterator[list[Part]]:
    """Yield the parts of every step: pass after pass over all of them, each in a random order."""
    generator, waiting = np.random.default_rng(course.seed), list[int]()
    for step in range(course.steps):
        batch, taken = list[Part](), 0
        while taken < samples and len(batch) < len(parts):
            if not waiting:
                waiting = generator.permutation(len(parts)).tolist()
            batch.append(parts[waiting.pop()])
            taken += batch[-1].samples
        yield batch
        course.heard(step + 1)
