"""A rehearsal: what a plan does to the outputs, from solutions that are found quickly on a few samples.

A rehearsal walks as the run itself will, but linearly, with one ridge, on some rows of a few samples, and with factors
that took a fraction of their time. The result is run on other samples. Its errors are larger than those of the run, and
tell plans apart all the same. Where one layer alone is replaced, only what is behind it runs again. Samples that judge
take no part.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnx_lowrank.calibration.sampling import Batches, Sampling
from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.edit.rewrite import rewrite_together
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import behind
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import NOBODY
from onnx_lowrank.stages.narrow import narrow
from onnx_lowrank.stages.plan_widths import weight_name
from onnx_lowrank.stages.planned import Planned, planned_macs
from onnx_lowrank.stages.prepared import Basis, Prepared
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.scoring import MEMORY_SHARE, Score, Scoring
from onnx_lowrank.stages.steps import OVERHEAD, Solution, SolveStep, steps
from onnx_lowrank.stages.widths import WidthSet

FEWEST_SOLVING, MOST_SOLVING = 4, 24
"""Bounds on the number of samples on which a rehearsal solves."""

ROWS = 6_000
"""The number of rows on which a layer is solved at most, and on which each should be between the bounds."""

SCORING, FEWEST_SCORING = 24, 8
"""The number of samples on which the outputs are compared. With fewer than the latter, chance decides between plans,
and there is no rehearsal."""

ENOUGH_SCORING = 12
"""The number of samples on which outputs that are large are compared."""

ALONE, MOST_ALONE = 4, 16
"""The numbers of samples on which layers are replaced alone, where outputs are large and where they are small."""

RIDGE = 0.03
"""The ridge, between that of layers with plenty of samples and that of layers with few."""


class Rehearsal:
    """Rehearsals of plans for one network, all on the same samples.

    Parameters
    ----------
    run
        The surroundings, of which the options, the forms and the sessions matter.
    basis
        The results of the stages up to the profile. There are enough samples (``enough_samples``).
    """

    def __init__(self, run: Run, basis: Basis) -> None:
        options = replace(run.options, solver="linear")
        self._run = replace(
            run, request=replace(run.request, options=options), listener=NOBODY, times=StageTimes(), warnings=[]
        )
        brief = {
            id(prepared): tuple({kind: own.brief() for kind, own in group.items()} for group in prepared)
            for prepared in basis.profiled.kernels.values()
        }
        kernels = {name: brief[id(prepared)] for name, prepared in basis.profiled.kernels.items()}
        self._basis = replace(
            basis,
            counted=replace(basis.counted, dense=()),  # no fully connected layer is fitted again
            profiled=replace(basis.profiled, kernels=kernels),
        )
        positions = [basis.profiled.targets[name].per_sample for name in basis.counted.shapes]
        samples = min(max(-(-ROWS // min(positions)), FEWEST_SOLVING), MOST_SOLVING)
        self._solving, scoring = divide(basis.sampled.sampling, samples)
        self._scoring = Scoring(run, basis, scoring, ENOUGH_SCORING)

    def alone(self, plan: Plan) -> dict[str, float]:
        """Return the error of the outputs, by site name, where the plan's choice for this site alone is carried out.

        The sites that share a weight are replaced together, under the name of the first one. The error is infinite
        where the outputs are ruined or the factors do not fit the type of the weights.
        """
        # A layer that makes few rows would seem to lose nothing on the samples on which it was solved.
        sampling, solving = self._basis.sampled.sampling, len(self._solving)
        scoring = Scoring(self._run, self._basis, some(sampling.batches[solving:], MOST_ALONE), ALONE)
        prepared = self._prepared(plan, sampling.batches[: solving + len(scoring.batches)], solving)
        errors = {}
        for solution, shard in self._walk(prepared, symmetric=True):
            network = self._basis.path.copy()
            try:
                solution.apply(network)
            except ValidationError:
                errors[solution.name] = math.inf
                continue
            changed = behind(network, [replacement.site.output for replacement in solution.replacements])
            outputs = [name for name in scoring.outputs if name in changed]
            results = shard.results(network, outputs, solving)
            errors[solution.name] = scoring.of_results(outcome for _, outcome in results).error if outputs else 0.0
        # The maps of probes come from samples that do not choose.
        choosing = Scoring(self._run, self._basis, some(self._scoring.batches, MOST_ALONE), ALONE)
        return errors | {weight_name(one.name): self._probed(one, choosing) for one in self._basis.widths.sets}

    def _probed(self, one: WidthSet, scoring: Scoring) -> float:
        """Return the error of the outputs where the layers that read a set of channels do so with fewer of them."""
        network = self._basis.read.network.copy()
        try:
            rewrite_together(network, one.probe.readers)
        except ValidationError:
            return math.inf
        return scoring.of_network(network).error

    def score(self, plan: Plan) -> Score:
        """Return the score of the outputs where the whole plan is carried out.

        Factors that do not fit the type of the weights ruin it.
        """
        try:
            network = self.carried_out(plan)
        except ValidationError:
            return self._scoring.ruined
        return self._scoring.of_network(network)

    def carried_out(self, plan: Plan) -> Network:
        """Return the network in which the whole plan is carried out.

        Raises
        ------
        ValidationError
            If a factor does not fit the type of the weights.
        """
        with contextlib.ExitStack() as stack:
            prepared = narrow(self._run, self._prepared(plan, self._solving), stack)
            network = prepared.read.network.copy()
            for solution, _ in self._walk(prepared, symmetric=False):
                solution.apply(network)
        return network

    def _walk(self, prepared: Prepared, *, symmetric: bool) -> Iterator[tuple[Solution, Shard]]:
        """Solve all sites, and yield each solution with the shard in front of its site."""
        memory = self._run.options.memory
        options = replace(self._run.options, symmetric=symmetric)
        run = replace(self._run, request=replace(self._run.request, options=options))
        spent = OVERHEAD + memory // MEMORY_SHARE
        spent += sum(target.rows.nbytes for target in self._basis.profiled.targets.values())
        sampling = prepared.sampled.sampling
        with open_shards(prepared.path, sampling, run.open_session, prepared.counted.macs.all) as shard:
            for step in (brief_step(step, symmetric=symmetric) for step in steps(run, prepared)):
                change = step.run(shard, max(0, memory - spent - step.bytes()))
                yield change, shard

    def _prepared(self, plan: Plan, batches: Batches, solving: int | None = None) -> Prepared:
        """Return what the steps of a walk on the first batches need, of which ``solving``, or all, solve."""
        basis = self._basis
        sampling = basis.sampled.sampling
        few = replace(sampling, batches=batches, judges=np.arange(len(batches)) >= (solving or len(batches)))
        targets = {name: target.of_first(few.samples) for name, target in basis.profiled.targets.items()}
        prepared = replace(
            basis,
            sampled=replace(basis.sampled, sampling=few),
            profiled=Profiled(targets, basis.profiled.kernels),
        )
        return prepared.with_plan(Planned(plan, planned_macs(plan, basis.counted.shapes, self._run.forms)))


def brief_step(step: object, *, symmetric: bool) -> SolveStep:
    """Return the step that solves the same site in a rehearsal.

    Where the regressors are the original's responses themselves, their principal components are the solution.
    """
    assert isinstance(step, SolveStep)
    ridge = math.inf if symmetric and all(form.first is None for form in step.forms) else RIDGE
    first = -(-ROWS // step.sampling.samples)
    members = (replace(member, first=min(first, member.first or first)) for member in step.members)
    return replace(step, members=tuple(members), nonlinear=False, ridge=ridge)


def some(batches: Batches, samples: int) -> Batches:
    """Return the first batches, up to the one with which they hold so many samples."""
    held = np.cumsum([len(batch) for batch in batches])
    return batches[: int(np.searchsorted(held, samples)) + 1]


def divide(sampling: Sampling, samples: int = MOST_SOLVING) -> tuple[Batches, Batches]:
    """Return the batches on which rehearsals solve, the first ones of the run, and those on which they are compared.

    The former hold about this many samples, or fewer where that would leave too few. The latter are batches that
    choose, and only if these are few, others as well.
    """
    solving = min(sampling.first_batches(samples), len(sampling.batches) * 3 // 5)
    later = range(solving, len(sampling.batches))
    order = sorted(later, key=lambda batch: not sampling.judges[batch])
    held = np.cumsum([len(sampling.batches[batch]) for batch in order])
    scoring = sorted(order[: int(np.searchsorted(held, SCORING)) + 1])
    return sampling.batches[:solving], tuple(sampling.batches[batch] for batch in scoring)


def enough_samples(sampling: Sampling) -> bool:
    """Whether there are enough samples to tell plans apart."""
    solving, scoring = divide(sampling)
    return len(solving) > 0 and sum(map(len, scoring)) >= FEWEST_SCORING
