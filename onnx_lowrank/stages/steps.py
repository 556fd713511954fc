"""The steps of a walk, each of which solves one layer on the rows of a shard and changes the shard's network.

A step states the output of its layer, which decides the order of the steps, and the bytes that it takes. It runs once
and returns a change that can be applied to any copy of the network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import Form, compact, from_weights
from onnx_lowrank.factorise.forms.kind import FormKind, form_of
from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.groups import Outcome, solve_groups
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import behind, position
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.stages.count import dense_bytes
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import Targets
from onnx_lowrank.stages.refit import RefitStep, Refitted
from onnx_lowrank.stages.run import Run

Array = NDArray[Any]

OVERHEAD = 700 << 20
"""The bytes that the process takes itself: for the libraries, the model, and the runtime's buffers of one batch."""

LEAST_ROOM = 256 << 20
"""The bytes that a step may take however little memory there is."""


@dataclass(frozen=True)
class Solution:
    """A factorised site.

    Attributes
    ----------
    site
        The convolution.
    factorization
        The chain of convolutions that replaces it.
    outcome
        The errors of the solution; None where no data were looked at.
    rows
        The number of rows that it was solved on.
    """

    site: ConvSite
    factorization: Factorization
    outcome: Outcome | None
    rows: int

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    def apply(self, network: Network) -> None:
        """Replace the site in a network by the factorisation, in place."""
        rewrite(network, self.site, self.factorization)


Change: TypeAlias = Solution | Refitted
"""The result of a step; its ``apply`` changes a network in place."""


class Step(Protocol):
    """One step of a walk."""

    @property
    def output(self) -> str:
        """The name of the tensor that the layer makes."""

    @property
    def target_bytes(self) -> int:
        """The number of bytes that the targets take, which the step holds from the start of the walk."""

    def bytes(self) -> int:
        """Return the number of bytes that running the step takes besides its targets."""

    def run(self, shard: Shard, memory: int) -> Change:
        """Solve the layer and advance the shard, which may hold ``memory`` bytes of activations."""


@dataclass(frozen=True)
class SolveStep:
    """The step that factorises a convolution so that it reproduces the original's responses.

    Attributes
    ----------
    site
        The convolution.
    forms
        The form of every group.
    macs
        The MACs of one sample that the chain will take.
    target
        The original's responses.
    sampling
        The samples, which decide which rows judge.
    nonlinear
        Whether the layer is solved behind its activation (§2.3) and not only linearly.
    advances
        Whether later steps see the error of this one (asymmetric, §2.4) and not the original network (symmetric, §2.2).
    first
        The number of positions of every sample that are looked at, from the first one on; None for all of them.
    """

    site: ConvSite
    forms: tuple[Form, ...]
    macs: int
    target: Targets
    sampling: Sampling
    nonlinear: bool
    advances: bool
    first: int | None = None

    @property
    def output(self) -> str:
        """See ``Step``."""
        return self.site.output

    @property
    def target_bytes(self) -> int:
        """See ``Step``."""
        return self.target.rows.nbytes

    def bytes(self) -> int:
        """See ``Step``; the inputs count once, the regressors and targets twice."""
        d, p = (int(size) for size in self.forms[0].prior.shape)
        inputs = p if self.forms[0].first is None else int(self.site.kernel[0].size)
        rows = len(self.target.rows)
        if self.first is not None:
            rows = rows // self.target.per_sample * self.first
        return dense_bytes(self.site) + 4 * rows * (len(self.forms) * inputs + 2 * p + 2 * d)

    def fitted(self, room: int) -> "SolveStep":
        """Return the step in such a way that running it takes at most ``room`` bytes, as far as possible.

        If the columns of the patches take too much, the regressors are held in their place. If these take too much as
        well, only the first positions are looked at; however few they are, they are spread over the whole map.
        """
        if self.bytes() <= room:
            return self
        step = replace(self, forms=tuple(map(compact, self.forms)))
        needed = step.bytes() - dense_bytes(self.site)
        if needed <= room:
            return step
        return replace(step, first=max(1, int(self.target.per_sample * room / needed)))

    def run(self, shard: Shard, memory: int) -> Solution:
        """See ``Step``."""
        targets, per_sample = self.target.rows, self.target.per_sample
        if self.first is not None:
            targets = targets.reshape(-1, per_sample, targets.shape[1])[:, : self.first].reshape(-1, targets.shape[1])
        answer = shard.rows(self.site, self.forms, per_sample, memory, self.first)
        rows = Rows(targets, targets, self.sampling.judging_rows(len(targets)), answer.shortcut)
        with blas_threads.for_shape(self.forms[0].prior.shape):
            factorization, outcome = solve_groups(
                self.forms, answer.inputs, rows, self.site.activation, nonlinear=self.nonlinear
            )
        if self.advances:
            shard.advance(self.site, factorization, self.macs)
        return Solution(self.site, factorization, outcome, len(targets))


@dataclass(frozen=True)
class WeightsStep:
    """The step that factorises a convolution from its weights alone; the shard plays no part."""

    site: ConvSite
    forms: tuple[Form, ...]

    @property
    def output(self) -> str:
        """See ``Step``."""
        return self.site.output

    @property
    def target_bytes(self) -> int:
        """See ``Step``; there are no targets."""
        return 0

    def bytes(self) -> int:
        """See ``Step``; there are no rows."""
        return 0

    def run(self, shard: Shard, memory: int) -> Solution:
        """See ``Step``."""
        biases = np.split(self.site.bias, self.site.group)
        groups = zip(self.forms, self.site.kernels, biases, strict=True)
        return Solution(self.site, side_by_side([from_weights(*group) for group in groups]), None, 0)


@blas_threads.one_for_scipy()
def steps(run: Run, prepared: Prepared) -> list[Step]:
    """Return the steps that a plan asks for, from the network's input on.

    Fully connected layers behind a factorised layer are fitted again.
    """
    network, targets = prepared.read.network, prepared.profiled.targets
    with run.times.stage("factorise"):
        solves: list[Step] = list(_solve_steps(run, prepared))
        changed = behind(network, [step.output for step in solves])
        factorised = {choice.name for choice in prepared.planned.plan.sites if choice.form}
        refits: list[Step] = [
            RefitStep(layer, targets[layer.name].rows, prepared.sampled.sampling, run.options.memory // 2)
            for layer in prepared.counted.dense
            if layer.input in changed and layer.name in targets and layer.name not in factorised
        ]
        # A rewritten site makes the same tensor as before, so the order stays the same on the way.
        return sorted([*solves, *refits], key=lambda step: position(network, step.output))


def _solve_steps(run: Run, prepared: Prepared) -> Iterator[Step]:
    options, planned, profiled = run.options, prepared.planned, prepared.profiled
    room = max(options.memory - OVERHEAD - sum(target.rows.nbytes for target in profiled.targets.values()), LEAST_ROOM)
    for site in prepared.counted.sites:
        choice = planned.plan[site.name]
        if not choice.form:
            continue
        forms = _forms(site, run.forms[choice.form], choice.ranks, profiled.kernels[site.name])
        if options.solver == "weights":
            yield WeightsStep(site, forms)
            continue
        step = SolveStep(
            site=site,
            forms=forms,
            macs=planned.macs[site.name],
            target=profiled.targets[site.name],
            sampling=prepared.sampled.sampling,
            nonlinear=options.solver == "nonlinear",
            advances=not options.symmetric,
        )
        yield step.fitted(room)


def _forms(
    site: ConvSite, kind: FormKind, ranks: tuple[int, ...], prepared: tuple[PreparedKernel, ...]
) -> tuple[Form, ...]:
    with blas_threads.for_shape(site.kernel.shape[:2]):
        return tuple(form_of(kind, kernel, ranks, own) for kernel, own in zip(site.kernels, prepared, strict=True))
