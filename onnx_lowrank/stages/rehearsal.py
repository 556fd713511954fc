"""A rehearsal: what a plan does to the outputs, from solutions that are found quickly on a few samples.

A rehearsal walks as the run itself will, but linearly and on a few samples, and runs the result on other samples. Its
errors are larger than those of the run, and tell plans apart all the same. Samples that judge take no part.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Batches, Sampling
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.edit.rewrite import rewrite_together
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import NOBODY
from onnx_lowrank.stages.difference import Difference
from onnx_lowrank.stages.narrow import narrow
from onnx_lowrank.stages.plan_widths import weight_name
from onnx_lowrank.stages.planned import Planned, planned_macs
from onnx_lowrank.stages.prepared import Basis, Prepared
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import Solution, steps

Array = NDArray[Any]

SOLVING, SCORING = 48, 32
"""The numbers of samples on which a rehearsal solves, and on which its outputs are compared."""

FEWEST_SCORING = 8
"""With fewer samples to compare on, chance decides between plans, and there is no rehearsal."""

MEMORY_SHARE = 8
"""The outputs of the original that a rehearsal keeps take at most this part of ``--memory``."""


class Rehearsal:
    """Rehearsals of plans for one network, all on the same samples.

    Parameters
    ----------
    run
        The surroundings, of which the options, the forms and the sessions matter.
    basis
        The results of the stages up to the profile.
    """

    def __init__(self, run: Run, basis: Basis) -> None:
        self._run, self._basis = run, basis
        self._solving, self._scoring = divide(basis.sampled.sampling)
        self._references: list[Mapping[str, Array]] = []

    @property
    def worthwhile(self) -> bool:
        """Whether there are enough samples to tell plans apart."""
        return sum(map(len, self._scoring)) >= FEWEST_SCORING

    def alone(self, plan: Plan) -> dict[str, float]:
        """Return the error of the outputs, by site name, where the plan's choice for this site alone is carried out."""
        errors = {}
        for solution in self._solutions(*self._prepared(plan, symmetric=True)):
            network = self._basis.read.network.copy()
            solution.apply(network)
            errors[solution.name] = self._error(network)
        for one in self._basis.widths.sets:
            network = self._basis.read.network.copy()
            rewrite_together(network, one.probe.readers)
            errors[weight_name(one.name)] = self._error(network)
        return errors

    def error(self, plan: Plan) -> float:
        """Return the error of the outputs where the whole plan is carried out."""
        return self._error(self.carried_out(plan))

    def carried_out(self, plan: Plan) -> Network:
        """Return the network in which the whole plan is carried out."""
        with contextlib.ExitStack() as stack:
            quick, prepared = self._prepared(plan, symmetric=False)
            prepared = narrow(quick, prepared, stack)
            network = prepared.read.network.copy()
            for solution in self._solutions(quick, prepared):
                solution.apply(network)
        return network

    def _prepared(self, plan: Plan, *, symmetric: bool) -> tuple[Run, Prepared]:
        """Return what a linear walk on the samples that solve needs; no fully connected layer is fitted again."""
        basis, run = self._basis, self._run
        sampling = basis.sampled.sampling
        few = replace(sampling, batches=self._solving, judges=sampling.judges[: len(self._solving)])
        targets = {name: target.of_first(few.samples) for name, target in basis.profiled.targets.items()}
        options = replace(run.options, solver="linear", symmetric=symmetric)
        quick = replace(run, request=replace(run.request, options=options), listener=NOBODY, times=StageTimes())
        prepared = replace(
            basis,
            sampled=replace(basis.sampled, sampling=few),
            counted=replace(basis.counted, dense=()),
            profiled=replace(basis.profiled, targets=targets),
        ).with_plan(Planned(plan, planned_macs(plan, basis.counted.shapes, run.forms)))
        return quick, prepared

    def _solutions(self, quick: Run, prepared: Prepared) -> list[Solution]:
        few, macs = prepared.sampled.sampling, prepared.counted.macs.all
        with open_shards(prepared.path, few, quick.open_session, macs) as shard:
            changes = [step.run(shard, quick.options.memory // 2) for step in steps(quick, prepared)]
        return [change for change in changes if isinstance(change, Solution)]

    def _error(self, network: Network) -> float:
        """Return the centred error of the outputs, averaged over those that can be compared; infinite if ruined."""
        outputs = [output.name for output in network.outputs]
        session = self._run.open_session(whole(network, outputs), "a rehearsal")
        differences = dict.fromkeys(self._outputs(), Difference())
        for batch, references in zip(self._scoring, self._references, strict=True):
            answers = session(self._basis.sampled.source.feeds(batch))
            for name, reference in references.items():
                if answers[name].shape != reference.shape:
                    return math.inf
                differences[name] = differences[name].with_batch(reference, answers[name], len(batch))
        try:
            errors = [difference.report(name).centred_error for name, difference in differences.items()]
        except ValidationError:
            return math.inf
        return float(np.mean(errors)) if errors else math.inf

    def _outputs(self) -> list[str]:
        """Return the names of the outputs that are compared, after the original has run once on the samples."""
        if not self._references:
            network = self._basis.read.network
            session = self._run.open_session(whole(network, [output.name for output in network.outputs]), "the model")
            room = self._run.options.memory // MEMORY_SHARE
            for batch in self._scoring:
                results = session(self._basis.sampled.source.feeds(batch))
                kept = {name: value for name, value in results.items() if _comparable(value)}
                room -= sum(value.nbytes for value in kept.values())
                if room < 0 and self._references:
                    break
                self._references.append(kept)
            self._scoring = self._scoring[: len(self._references)]
        return list(self._references[0])


def divide(sampling: Sampling) -> tuple[Batches, Batches]:
    """Return the batches on which rehearsals solve, the first ones of the run, and those on which they are compared.

    The latter are batches that choose, and only if these are few, others as well.
    """
    solving = min(sampling.first_batches(SOLVING), len(sampling.batches) * 3 // 5)
    later = range(solving, len(sampling.batches))
    order = sorted(later, key=lambda batch: not sampling.judges[batch])
    held = np.cumsum([len(sampling.batches[batch]) for batch in order])
    scoring = sorted(order[: int(np.searchsorted(held, SCORING)) + 1])
    return sampling.batches[:solving], tuple(sampling.batches[batch] for batch in scoring)


def _comparable(value: object) -> bool:
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
