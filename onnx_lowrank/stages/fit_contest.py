"""The contest of the presets: the network's answers to the same samples under each of them, measured and compared.

Two kinds of evidence count. Batch normalisations say what their channels should be (``calibration.channel_moments``);
only the first of them are run, so that this costs little. A classifier decides most clearly on what it was trained on
(``calibration.class_contrast``); that takes whole runs, so only the presets that are still in the contest take part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.channel_moments import divergence, moments
from onnx_lowrank.calibration.class_contrast import FEWEST_CLASSES, Clarity, clarity
from onnx_lowrank.calibration.jackknife import Estimate
from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.photos.alternatives import Alternative, carried
from onnx_lowrank.data.source import Source
from onnx_lowrank.graph.find.expectations import Expectation
from onnx_lowrank.interface import Feeds

MOST_SAMPLES, FIRST_SAMPLES = 48, 8
"""The number of samples on which presets are compared, and the number after which hopeless ones drop out."""

FEWEST_SAMPLES = 8
"""The number of samples below which nothing is said."""

HOPELESS = 6.0
"""A preset drops out if it is worse than the best one by more than this number of standard errors."""

SURE_OF_NORMS, SURE_OF_CLASSES = 3.0, 2.5
"""The numbers of standard errors by which a preset is measurably better."""

NEAR = 0.5
"""The largest divergence, in nats per channel, of a preset that may be the right one. Dark, pale or gray photos reach
0.4 under the right preset, and more under all others."""

FARTHER, ORDER_FARTHER, ORDER_NEAR = 1.5, 2.0, 0.05
"""How many times the divergence of another preset is larger at least, how many times where the two differ in the order
of the channels alone, and the largest divergence that tells these apart: photos with a cast of colour confuse them."""

Answers = Sequence[NDArray[Any]]
Run = Callable[[Feeds], Answers]


@dataclass(frozen=True)
class Measured:
    """The measurements of one preset.

    Attributes
    ----------
    alternative
        The preset.
    samples
        The number of samples.
    norms
        The divergence from what the normalisations expect, negated so that higher is better.
    classes
        The clarity of the classifier.
    """

    alternative: Alternative
    samples: int = 0
    norms: Estimate | None = None
    classes: Clarity | None = None

    def better_than(self, other: "Measured") -> bool:
        """Whether this preset fits measurably better by one kind of evidence, and the other kind does not object."""
        by_norms, by_classes = norms_prefer(self, other), classes_prefer(self, other)
        if by_norms:
            return not classes_prefer(other, self)
        return by_classes and not self.farther_than(other)

    def farther_than(self, other: "Measured") -> bool:
        """Whether the normalisations speak against this preset, compared with another one."""
        if self.norms is None or other.norms is None:
            return False
        return -self.norms.value > FARTHER * max(-other.norms.value, 0.0)

    @property
    def supported(self) -> bool:
        """Whether this may be the preset of the network's training."""
        near = self.norms is not None and -self.norms.value <= NEAR
        return near or (self.norms is None and self.classes is not None and self.classes.credible)

    @property
    def rank(self) -> tuple[float, float]:
        """Orders presets by how well they fit."""
        norms = -np.inf if self.norms is None else self.norms.value
        return norms, -np.inf if self.classes is None else self.classes.estimate.value


def norms_prefer(one: Measured, other: Measured) -> bool:
    """Whether the normalisations say that one preset fits better than another."""
    if one.norms is None or other.norms is None or len(one.norms.without) != len(other.norms.without):
        return False
    ratio, near = (ORDER_FARTHER, ORDER_NEAR) if _differ_in_order(one, other) else (FARTHER, NEAR)
    nats, others = -one.norms.value, -other.norms.value
    return nats <= near and others >= ratio * nats and one.norms.above(other.norms) >= SURE_OF_NORMS


def classes_prefer(one: Measured, other: Measured) -> bool:
    """Whether the classes say that one preset fits better than another."""
    if one.classes is None or other.classes is None or not one.classes.credible:
        return False
    if len(one.classes.estimate.without) != len(other.classes.estimate.without):
        return False
    return one.classes.estimate.above(other.classes.estimate) >= SURE_OF_CLASSES


def _differ_in_order(one: Measured, other: Measured) -> bool:
    first, second = one.alternative.target, other.alternative.target
    return (
        first.order != second.order
        and np.allclose(first.scale, second.scale)
        and np.allclose(np.sort(first.mean), np.sort(second.mean))
    )


@dataclass(frozen=True)
class Samples:
    """The samples of a contest.

    Attributes
    ----------
    source
        The source, which is read again for every preset, so that no more than a batch is in memory.
    batches
        The sample numbers of every batch.
    name
        The input that takes images.
    held
        The preset under which they were given.
    """

    source: Source
    batches: Batches
    name: str
    held: Alternative

    def under(self, alternative: Alternative, batch: int) -> Feeds:
        """Return a batch under another preset."""
        feeds = self.source.feeds(self.batches[batch])
        values = carried(feeds[self.name], self.held.target, alternative.target)
        return feeds | {self.name: values}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples of every batch."""
        return tuple(map(len, self.batches))


@dataclass
class _Contest:
    """The answers of the presets so far."""

    samples: Samples
    run: Run
    answers: dict[str, list[Answers]] = field(default_factory=dict)

    def hear(self, alternative: Alternative, batches: Sequence[int]) -> bool:
        """Run some batches under a preset; False if the network's answer is not finite."""
        for batch in batches:
            answers = [np.asarray(answer) for answer in self.run(self.samples.under(alternative, batch))]
            if not all(np.isfinite(answer).all() for answer in answers):
                return False
            self.answers.setdefault(alternative.name, []).append(answers)
        return True

    def joined(self, alternative: Alternative) -> list[NDArray[Any]]:
        """Return all answers to a preset, each with the samples of all batches."""
        return [np.concatenate(parts) for parts in zip(*self.answers[alternative.name], strict=True)]


def contest(
    samples: Samples,
    alternatives: Sequence[Alternative],
    run: Run,
    estimate: Callable[[list[NDArray[Any]]], Estimate],
) -> dict[str, list[NDArray[Any]]]:
    """Run the network under every preset, and leave the hopeless ones after the first samples.

    Parameters
    ----------
    samples
        The samples.
    alternatives
        The presets; the first one never drops out.
    run
        The network's answers to a batch, with one row for each sample.
    estimate
        How well the answers fit; higher is better.

    Returns
    -------
    dict
        The answers by the preset's name, without presets under which they are not finite.
    """
    sizes = np.cumsum(samples.sizes)
    first = int(np.searchsorted(sizes, FIRST_SAMPLES)) + 1
    rounds = [range(start, stop) for start, stop in pairwise((0, min(first, len(sizes)), len(sizes)))]
    heard = _Contest(samples, run)
    left = list(alternatives)
    for batches in rounds:
        left = [alternative for alternative in left if heard.hear(alternative, batches)]
        if not left or batches.stop == len(sizes):
            break
        estimates = {alternative.name: estimate(heard.joined(alternative)) for alternative in left}
        best = max(estimates.values(), key=lambda each: each.value)
        left = [each for each in left if each is alternatives[0] or best.above(estimates[each.name]) < HOPELESS]
    return {each.name: heard.joined(each) for each in alternatives if each.name in heard.answers}


def measure_norms(
    samples: Samples, alternatives: Sequence[Alternative], run: Run, expected: Sequence[Expectation]
) -> list[Measured]:
    """Measure how far the channels are from what the normalisations expect, under every preset."""

    def reduced(feeds: Feeds) -> Answers:
        return [part for values in run(feeds) for part in moments(values)]

    def estimate(parts: list[NDArray[Any]]) -> Estimate:
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        found = divergence(pairs, [(each.mean, each.variance) for each in expected])
        return Estimate(-found.value, -found.without)

    answers = contest(samples, alternatives, reduced, estimate)
    return [
        Measured(each, len(answers[each.name][0]), norms=estimate(answers[each.name]))
        for each in alternatives
        if each.name in answers
    ]


def measure_classes(samples: Samples, measured: Mapping[str, Measured], run: Run) -> list[Measured]:
    """Measure how clearly a classifier decides, under every preset that the normalisations leave in the contest."""
    most = max(each.samples for each in measured.values())
    left = [each.alternative for each in measured.values() if each.samples == most]

    def flat(feeds: Feeds) -> Answers:
        return [values.reshape(len(values), -1) for values in run(feeds)]

    answers = contest(samples, left, flat, lambda parts: clarity(parts[0]).estimate)

    def with_classes(each: Measured) -> Measured:
        if each.alternative.name not in answers:
            return each
        (scores,) = answers[each.alternative.name]
        return Measured(each.alternative, len(scores), each.norms, clarity(scores))

    return list(map(with_classes, measured.values()))


def are_scores(values: NDArray[Any], samples: int) -> bool:
    """Whether an output has the shape of a classifier's scores, and values of both signs unlike features."""
    shape = values.shape
    return (
        values.dtype.kind == "f"
        and len(shape) >= 2
        and shape[0] == samples
        and shape[1] >= FEWEST_CLASSES
        and values.size == shape[0] * shape[1]
        and bool((values < 0).any())
    )
