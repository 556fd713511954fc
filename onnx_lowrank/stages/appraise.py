"""The appraisal of a solved network on samples that no solver saw: the quality that was asked for, and how sure it is.

What is compared with the limit is not the estimate but the worse end of its one-sided 95 % interval, 1.645 standard
errors away. Of the models near the limit chance favours some, and those are chosen: with a single standard error, four
of five results for digits missed an agreement of 99 % on other samples.

* error: the centred error, with the standard error of its sum over batches (``intervals``);
* agreement: the one that is expected on any samples (``expected_agreement``), or the share that was counted where that
  is lower still;
* a measure of what the outputs are for (``tasks``): the standard error is that which its interval shows;
* accuracy: the points lost on labelled samples, with the standard error of a difference between paired answers.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.labels import Labelled
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.measures.task import Task
from onnx_lowrank.progress import Listener, ignore, silent
from onnx_lowrank.quality import ACCURACY, AGREEMENT, ERROR, MEASURES, Requirement
from onnx_lowrank.report.output_schema import OutputReport, farthest, least_agreeing
from onnx_lowrank.runtime.carrying_session import open_carrying
from onnx_lowrank.runtime.remembering_session import RememberingSession
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.stages.accuracy import measure_accuracy
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.demand import unmeasurable
from onnx_lowrank.stages.expected_agreement import Expected, expected_disagreement, margins
from onnx_lowrank.stages.intervals import lost_points, standard_error
from onnx_lowrank.stages.parts_of_outputs import parts
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.tasks import Tallies, find_tasks
from onnx_lowrank.stages.validate import compare_outputs

Array = NDArray[Any]

ONE_SIDED, TWO_SIDED = 1.645, 1.96
"""The numbers of standard errors between an estimate and the ends of its one-sided and its two-sided 95 % interval."""

MEMORY_SHARE = 8
"""The answers of the original take at most this part of ``--memory``."""

LEAST_LOSS = 1e-12
"""A limit or a loss below this is taken as this."""


@dataclass(frozen=True)
class Appraisal:
    """What was measured of one network.

    Attributes
    ----------
    centred_error, top1_agreement
        Those of the outputs that fare worst; None where there is nothing to compare.
    value, bound
        The measure that is asked for, and the worse end of its interval; None where nothing is asked for.
    spent
        The loss of the bound as a share of the loss at the limit; infinite for a network whose outputs are ruined.
    """

    centred_error: float | None = None
    top1_agreement: float | None = None
    value: float | None = None
    bound: float | None = None
    spent: float = math.inf


class Appraiser:
    """Appraisals of networks that answer as the original does, all on the same samples.

    Parameters
    ----------
    run
        The surroundings.
    basis
        The original, and the samples.
    required
        The quality that is asked for; None for the errors alone.
    labelled
        The labelled samples that choose, for the accuracy.
    """

    def __init__(self, run: Run, basis: Basis, required: Requirement | None, labelled: Labelled | None) -> None:
        self._run, self._basis, self._required, self._labelled = run, basis, required, labelled
        sampling = basis.sampled.sampling
        # Where there are too few samples to spare any, those that the solver saw have to do.
        self._choosing: Batches = sampling.appraising or sampling.batches
        self._declared = DeclaredShapes.of(basis.read.inputs, basis.read.outputs, basis.sampled.output_axes)
        self._scored: Mapping[str, _Scores] | None = None
        self._tasks: tuple[Task, ...] | None = None
        self._original: RememberingSession | None = None

    @property
    def samples(self) -> int:
        """The number of samples that choose."""
        if self._labelled is not None:
            return len(self._labelled[1])
        return sum(map(len, self._choosing))

    def of(self, network: Network) -> Appraisal:
        """Appraise a network.

        Raises
        ------
        ModelError
            If its outputs cannot be compared in the terms that are asked for.
        """
        original = self._original = self._original or self._remembering()
        try:
            return self._of(SessionPair(original, self._open(network, "the rewritten model")))
        finally:
            original.rest()

    def _of(self, sessions: SessionPair) -> Appraisal:
        source, tallies, quiet = self._basis.sampled.source, self._tallies(sessions.original), Listener(silent)
        try:
            outputs = compare_outputs(sessions, source, self._choosing, self._declared, quiet, tallies)
        except ValidationError:
            return Appraisal()
        far, scores = farthest(outputs), least_agreeing(outputs)
        seen = Appraisal(
            outputs[far].centred_error if far else None, outputs[scores].top1_agreement if scores else None
        )
        if self._required is None:
            return seen
        value, bound = self._measured(sessions, outputs, tallies)
        measure = MEASURES[self._required.measure]
        spent = max(measure.lost(bound), LEAST_LOSS) / max(measure.lost(self._required.limit), LEAST_LOSS)
        if far and not self._acceptable(outputs[far]):
            spent = math.inf
        return replace(seen, value=value, bound=bound, spent=spent)

    def _measured(
        self, sessions: SessionPair, outputs: Mapping[str, OutputReport], tallies: Tallies | None
    ) -> tuple[float, float]:
        """Return the measure that is asked for, and its bound."""
        assert self._required is not None
        if tallies is not None:
            return self._of_a_task(self._required, tallies)
        if self._required.measure == ACCURACY:
            assert self._labelled is not None
            accuracy = measure_accuracy(sessions, self._labelled, self._basis.sampled.sampling, silent)
            lost, error = lost_points(accuracy.lost, accuracy.gained, accuracy.samples)
            return lost, lost + ONE_SIDED * error
        if self._required.measure == AGREEMENT:
            expected = self._disagreement(sessions)
            return 1 - expected.share, 1 - expected.bound(ONE_SIDED)
        far = farthest(outputs)
        if far is None:
            raise unmeasurable(self._required, "floating-point outputs that can be compared", ())
        value, high = outputs[far].centred_error, outputs[far].centred_high
        return value, value + ONE_SIDED * standard_error(value, high, len(self._choosing))

    def _of_a_task(self, required: Requirement, tallies: Tallies) -> tuple[float, float]:
        """Return the measure of the outputs that serve their task worst, and the bound from its interval."""
        found = [
            report.measures[required.measure] for report in tallies.reports() if required.measure in report.measures
        ]
        if not found:
            raise unmeasurable(required, f"outputs of which {MEASURES[required.measure].title} can be told", ())
        worst = min(found, key=lambda each: each.value)
        error = 0.0 if worst.low is None else (worst.value - worst.low) / TWO_SIDED
        return worst.value, worst.value - ONE_SIDED * error

    def _tallies(self, original: Session) -> Tallies | None:
        """Return what measures the task that is asked about; None where it is about something else."""
        if self._required is None or not self._required.of_a_task:
            return None
        if self._tasks is None:
            self._tasks = find_tasks(original, self._basis.sampled, self._declared, self._run.options)
        return Tallies(self._tasks, self._declared, ignore)

    def _acceptable(self, output: OutputReport) -> bool:
        """Whether ``--require`` would accept the error, so that the choice is not refused in the end."""
        required = self._run.options.requirement
        return required.measure != ERROR or output.centred_error <= required.limit

    def _disagreement(self, sessions: SessionPair) -> Expected:
        """Return the disagreement that is expected of the output of class scores that fares worst."""
        scored = self._original_scores(sessions.original)
        answers: dict[str, list[Array]] = {name: [] for name in scored}
        for batch in self._choosing:
            found = self._outputs(sessions.rewritten, batch)
            for name, scores in answers.items():
                scores.append(found[name])
        worst = Expected(0.0, 0.0, 0.0)
        for name, own in scored.items():
            drops = own.margins - margins(np.concatenate(answers[name]), own.classes)
            expected = expected_disagreement(own.all_margins, own.margins, drops)
            worst = max(worst, expected, key=lambda each: each.bound(ONE_SIDED))
        return worst

    def _original_scores(self, original: Session) -> Mapping[str, "_Scores"]:
        """Run the original on all calibration samples once, and keep what is asked of its class scores."""
        if self._scored is None:
            batches = tuple(dict.fromkeys((*self._basis.sampled.sampling.batches, *self._choosing)))
            choosing, found = set(self._choosing), dict[str, list[tuple[bool, Array, Array]]]()
            for batch in batches:
                for name, scores in self._scores(original, batch):
                    top = scores.argmax(axis=1)
                    found.setdefault(name, []).append((batch in choosing, top, margins(scores, top)))
            complete = {name: each for name, each in found.items() if len(each) == len(batches)}
            if not complete:
                assert self._required is not None
                raise unmeasurable(self._required, "class scores [samples, classes]", sorted(found))
            self._scored = {name: _Scores.of(each) for name, each in complete.items()}
        return self._scored

    def _scores(self, session: Session, batch: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
        for name, value in self._outputs(session, batch).items():
            floating = isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
            if floating and value.ndim == 2 and value.shape[1] > 1 and len(value) == len(batch):
                yield name, value

    def _outputs(self, session: Session, batch: tuple[int, ...]) -> dict[str, Any]:
        found = parts(session(self._basis.sampled.source.feeds(batch)))
        arrays = (name for name, value in found.items() if isinstance(value, np.ndarray))
        return found | {name: self._declared.samples_first(name, found[name]) for name in arrays}

    def _remembering(self) -> RememberingSession:
        network, room = self._basis.read.network, self._run.options.memory // MEMORY_SHARE
        return RememberingSession(lambda: self._open(network, "the model"), room)

    def _open(self, network: Network, label: str) -> Session:
        model = whole(network, [output.name for output in network.outputs])
        return open_carrying(self._run.open_session, model, label)


@dataclass(frozen=True)
class _Scores:
    """What the agreement asks of the original's scores.

    Attributes
    ----------
    all_margins
        Those of all samples, [n].
    classes, margins
        The classes and the margins of the samples that choose, [k].
    """

    all_margins: Array
    classes: Array
    margins: Array

    @classmethod
    def of(cls, batches: list[tuple[bool, Array, Array]]) -> "_Scores":
        """Join batches, each with whether it chooses, its classes and its margins."""
        choosing = [each for each in batches if each[0]]
        return cls(*(np.concatenate(own) for own in (
            [each[2] for each in batches], [each[1] for each in choosing], [each[2] for each in choosing]
        )))  # fmt: skip
