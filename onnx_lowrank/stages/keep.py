"""The stage that solves models of several speedups from one profile: for the fastest that keeps a quality, and a curve.

The samples that choose between solutions also choose the speedup, so those that judge say of the result what any other
samples would. Where the accuracy chooses, it does so on one half of the labelled samples, and the other half is left to
the report. A few rehearsals, which take a fraction of a solution's time, say where the search may begin.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.data.labels import Labelled
from onnx_lowrank.data.source import Subset
from onnx_lowrank.errors import TargetError, UsageError
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK
from onnx_lowrank.options import FILLED_BLOCKS
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.plan.quality_search import LEAST_SPEEDUP, MOST, QualitySearch
from onnx_lowrank.progress import NOBODY, ignore
from onnx_lowrank.quality import ACCURACY, Requirement
from onnx_lowrank.report.trade_off_schema import TradeOffPoint, TradeOffReport
from onnx_lowrank.stages.appraise import Appraisal, Appraiser
from onnx_lowrank.stages.attempt import carry_out, plan_for
from onnx_lowrank.stages.kept import told
from onnx_lowrank.stages.prepared import Basis, Prepared
from onnx_lowrank.stages.rank_blocks import lowest_macs_of_all
from onnx_lowrank.stages.rehearsal import Rehearsal, enough_samples
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.walk import Walked

START, START_BY_CLOCK = 2.0, 1.4
"""The speedup at which a search begins that knows nothing."""

FEWEST = 5
"""The number of models that make a curve."""

REHEARSALS, CLOSE_ENOUGH = 4, 1.3
"""The number of rehearsals, and how close they come to the limit."""

AROUND = (0.75, 0.5, 1.25, 1.5, 0.25, 0.9, 0.6, 0.35)
"""The other speedups of a curve, as parts of what the one that was asked for is above 1."""

BELOW_HIGHEST = 0.999
"""What is asked for is at most this share of the highest speedup, which only the lowest ranks have."""

CLOCK_OVER_MACS = 1.5
"""The ratio of times is not expected to exceed that of the MACs by more than this factor."""


@dataclass(frozen=True)
class Sought:
    """The result of the search.

    Attributes
    ----------
    run
        The surroundings, which now ask for the speedup that was chosen.
    prepared
        The plan of that speedup, and the points of the curve; without the profile.
    walked
        The model that was solved by it. Its ``macs_executed`` are those of all models.
    """

    run: Run
    prepared: Prepared
    walked: Walked


@dataclass(frozen=True)
class _Attempt:
    """A model that was solved: what asked for it, its plan, and how it fares."""

    run: Run
    prepared: Prepared
    narrowed: Prepared
    appraisal: Appraisal

    @property
    def plan(self) -> Plan:
        """Its forms and ranks."""
        return self.prepared.planned.plan


def seek(run: Run, basis: Basis) -> Sought:
    """Solve models of several speedups, and return the one that was asked for.

    Raises
    ------
    TargetError
        If no model that is faster than the original keeps the quality, or the speedup is out of reach.
    """
    required, labelled = run.options.kept, None
    if required is not None and required.measure == ACCURACY:
        basis, labelled = _halved(basis)
    if not basis.sampled.sampling.appraising:
        run.warn("too few samples to spare any: the speedups are compared on samples that the solver saw")
    attempts = _Attempts(run, basis, Appraiser(run, basis, required, labelled))
    if required is None:
        return attempts.curve_around(run.options.speedup)
    return attempts.fastest(required)


class _Attempts:
    """The models that were solved, of which only the one that may be the result is held."""

    def __init__(self, run: Run, basis: Basis, appraiser: Appraiser) -> None:
        self._run, self._basis, self._appraiser = run, basis, appraiser
        self._solved: dict[float, _Attempt] = {}
        self._held: tuple[Plan, Walked] | None = None
        self._macs_executed = 0

    def curve_around(self, asked: float) -> Sought:
        """Solve the speedup that was asked for, and others around it until there are enough for a curve."""
        self._run.progress("keep", 0, FEWEST)
        self._held = self._solve(asked)
        for speedup in self._others_around(asked):
            self._run.progress("keep", self._models, FEWEST)
            with contextlib.suppress(TargetError):
                self._solve(speedup)
        self._run.progress("keep", FEWEST, FEWEST)
        return self._sought(asked)

    def fastest(self, required: Requirement) -> Sought:
        """Search for the fastest model that keeps the quality."""
        highest = _highest(self._run, self._basis)
        search = QualitySearch(highest, self._start(highest))
        for speedup in self._proposals(search, "keep", MOST):
            self._observe(search, speedup)
        if search.result is None:
            raise self._nothing_keeps(required, search.closest)
        for speedup in self._others_around(search.result, highest):
            if speedup > search.result:
                self._observe(search, speedup)
            else:  # for the curve alone: the search has seen that faster ones keep the quality
                with contextlib.suppress(TargetError):
                    self._solve(speedup)
        return self._sought(search.result)

    def _observe(self, search: QualitySearch, speedup: float) -> None:
        """Solve the model of a speedup, tell the search, and hold the model if it may be the result."""
        try:
            solved = self._solve(speedup)
        except TargetError:
            search.observe(speedup, None)
            return
        search.observe(speedup, self._solved[speedup].appraisal.spent)
        if solved is not None and search.result == speedup:
            self._held = solved

    @property
    def _models(self) -> int:
        """The number of different models that were solved."""
        return len({each.plan for each in self._solved.values()})

    def _others_around(self, speedup: float, highest: float = math.inf) -> Iterator[float]:
        """Yield speedups around one, until there are enough models for a curve."""
        for part in AROUND:
            if self._models >= FEWEST:
                return
            other = float(f"{min(1 + part * (speedup - 1), highest):.4g}")
            if other not in self._solved and other >= LEAST_SPEEDUP:
                yield other

    def _start(self, highest: float) -> float:
        """Return the speedup that rehearsals suggest, which err on the side of caution."""
        run, basis = self._run, self._basis
        if run.options.target == "latency":
            return min(START_BY_CLOCK, highest)
        quick = replace(run.request, options=replace(run.options, objective="energies"))
        quiet = replace(run, request=quick, listener=NOBODY, times=StageTimes(), warnings=[])
        if run.options.solver == "weights" or not enough_samples(basis.sampled.sampling):
            return min(START, highest)
        rehearsal = Rehearsal(quiet, basis)
        search = QualitySearch(highest, START, most=REHEARSALS, close=CLOSE_ENOUGH)
        start = highest
        with run.times.stage("keep"):
            for speedup in self._proposals(search, "rehearse", REHEARSALS):
                spent = None
                with contextlib.suppress(TargetError):
                    plan = plan_for(quiet.asking(speedup), basis).planned.plan
                    spent = self._appraiser.of(rehearsal.carried_out(plan)).spent
                search.observe(speedup, spent)
                start = min(start, speedup)
        return search.result or start

    def _proposals(self, search: QualitySearch, stage: str, most: int) -> Iterator[float]:
        """Yield what a search proposes, and report the progress."""
        done = 0
        while (speedup := search.propose()) is not None:
            self._run.progress(stage, done, most)
            yield speedup
            done += 1
        self._run.progress(stage, most, most)

    def _solve(self, speedup: float) -> tuple[Plan, Walked] | None:
        """Solve the model of a speedup; None where its plan has been solved already.

        Raises
        ------
        TargetError
            If no choice reaches the speedup.
        """
        # What concerns the plan of one model is of interest only if it becomes the result.
        listener = replace(self._run.listener, warn=ignore)
        run = replace(self._run.asking(speedup), listener=listener, warnings=[])
        prepared = plan_for(run, self._basis)
        plan = prepared.planned.plan
        known = next((each for each in self._solved.values() if each.plan == plan), None)
        if known is not None:
            self._solved[speedup] = replace(known, run=run)
            return None
        narrowed, walked = carry_out(run, prepared)
        self._macs_executed += walked.macs_executed
        with run.times.stage("keep"):
            appraisal = self._appraiser.of(walked.network)
        self._solved[speedup] = _Attempt(run, prepared, narrowed, appraisal)
        return plan, walked

    def _sought(self, speedup: float) -> Sought:
        """Return the model of a speedup that was solved."""
        chosen, run = self._solved[speedup], self._run.asking(speedup)
        for text in chosen.run.warnings:
            run.warn(text)
        if self._held is not None and self._held[0] == chosen.plan:
            walked = self._held[1]
        else:  # a later and worse measurement has cast doubt on the one that is held
            _, walked = carry_out(run, chosen.prepared)
            self._macs_executed += walked.macs_executed
        distinct = {each.plan: asked for asked, each in sorted(self._solved.items(), reverse=True)}
        distinct[chosen.plan] = speedup
        points = tuple(self._point(asked, chosen.plan) for asked in sorted(distinct.values()))
        required, samples = self._run.options.kept, self._appraiser.samples
        trade_off = TradeOffReport(required.measure if required else None, samples, points)
        prepared = replace(chosen.narrowed, trade_off=trade_off)
        return Sought(run, prepared, replace(walked, macs_executed=self._macs_executed))

    def _point(self, speedup: float, chosen: Plan) -> TradeOffPoint:
        attempt = self._solved[speedup]
        planned, appraisal = attempt.prepared.planned, attempt.appraisal
        before = sum(attempt.narrowed.original.macs.aimed_at.values())
        return TradeOffPoint(
            speedup=speedup,
            macs=before / attempt.narrowed.macs_left,
            latency=planned.by_clock.ratio if planned.by_clock else None,
            centred_error=appraisal.centred_error,
            top1_agreement=appraisal.top1_agreement,
            value=appraisal.value,
            bound=appraisal.bound,
            keeps=appraisal.spent <= 1 if self._run.options.keep else None,
            chosen=attempt.plan == chosen,
        )

    def _nothing_keeps(self, required: Requirement, closest: float | None) -> TargetError:
        ways_out = "ask for less, give more samples, or widen --include"
        if closest is None:
            return TargetError(f"nothing faster than the original was found: {ways_out}")
        appraisal = self._solved[closest].appraisal
        if appraisal.value is None or appraisal.bound is None:
            return TargetError(
                f"nothing faster than the original keeps {required}: even a speedup of {closest:g} ruins the outputs; "
                f"{ways_out}"
            )
        value, bound = (told(required.measure, each) for each in (appraisal.value, appraisal.bound))
        seen = f"{self._appraiser.samples} samples that no solver saw"
        return TargetError(
            f"nothing faster than the original keeps {required}: a speedup of {closest:g} comes closest, with {value} "
            f"on {seen} ({bound} at the end of its one-sided 95 % interval); {ways_out}"
        )


def _highest(run: Run, basis: Basis) -> float:
    """Return the highest speedup that makes sense to ask for."""
    before = sum(basis.counted.macs.aimed_at.values())
    multiple = EVERY_RANK if run.options.resolved_rank_multiple == FILLED_BLOCKS else basis.reach.multiple
    lowest = lowest_macs_of_all(run, basis.counted, multiple, basis.reach.hidden)
    by_macs = BELOW_HIGHEST * before / max(lowest, 1)
    return max(by_macs * (CLOCK_OVER_MACS if run.options.target == "latency" else 1), LEAST_SPEEDUP)


def _halved(basis: Basis) -> tuple[Basis, Labelled]:
    """Leave every other labelled sample to the report, and return those that choose."""
    assert basis.sampled.labelled is not None  # the request has seen to it
    source, labels = basis.sampled.labelled
    if not isinstance(labels, np.ndarray):
        raise UsageError("--keep accuracy takes labels of classes: for boxes or masks, keep ap50 or miou")
    choosing, reporting = np.arange(0, len(labels), 2), np.arange(1, len(labels), 2)
    left = Subset(source, reporting), labels[reporting]
    return replace(basis, sampled=replace(basis.sampled, labelled=left)), (Subset(source, choosing), labels[choosing])
