"""The steps of a walk, each of which solves one layer on the rows of a shard and changes the shard's network.

A step states the outputs of its layers, the first of which decides the order of the steps, and the bytes that it takes.
It runs once and returns a change that can be applied to any copy of the network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import RowsQuestion, Shard
from onnx_lowrank.factorise.factors import side_by_side
from onnx_lowrank.factorise.forms.form import Form, compact, from_weights
from onnx_lowrank.factorise.forms.kind import form_of
from onnx_lowrank.factorise.forms.whole import whole
from onnx_lowrank.factorise.solve.groups import Outcome, solve_groups
from onnx_lowrank.graph.edit.rewrite import Replacement, rewrite_together
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import behind, position
from onnx_lowrank.stages.by_site import by_site
from onnx_lowrank.stages.count import dense_bytes
from onnx_lowrank.stages.families import (
    Member,
    bias_shifts,
    chosen_together,
    joined_inputs,
    joined_rows,
    repetitions,
    replacements,
    shared_activation,
)
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.refined import Entered, RefinedStretch
from onnx_lowrank.stages.refit import RefitStep, Refitted
from onnx_lowrank.stages.run import Run

OVERHEAD = 700 << 20
"""The bytes that the process takes itself: for the libraries, the model, and the runtime's buffers of one batch."""

LEAST_ROOM = 256 << 20
"""The bytes that a step may take however little memory there is."""


@dataclass(frozen=True)
class Solution:
    """A factorised site, or several that share their weight and their factors.

    Attributes
    ----------
    replacements
        The sites, each with the chain of convolutions that replaces it.
    outcome
        The errors of the solution; None where no data were looked at.
    rows
        The number of rows that it was solved on.
    """

    replacements: tuple[Replacement, ...]
    outcome: Outcome | None
    rows: int

    @property
    def name(self) -> str:
        """The name of the first site."""
        return self.replacements[0].site.name

    @property
    def factorised(self) -> bool:
        """Whether a chain of several convolutions takes the place of each site, and not one with new weights."""
        return len(self.replacements[0].factorization.links) > 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all sites."""
        return tuple(replacement.site.name for replacement in self.replacements)

    def apply(self, network: Network) -> None:
        """Replace the sites in a network by the factorisation, in place."""
        rewrite_together(network, self.replacements)


Change: TypeAlias = Solution | Refitted | RefinedStretch | Entered
"""The result of a step; its ``apply`` changes a network in place."""


class Step(Protocol):
    """One step of a walk."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the tensors that the layer, or all layers of one weight, make."""

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
    members
        The convolution, or all that share its weight, in topological order.
    forms
        The form of every group.
    sampling
        The samples, which decide which rows judge.
    nonlinear
        Whether the layer is solved behind its activation (§2.3) and not only linearly.
    advances
        Whether later steps see the error of this one (asymmetric, §2.4) and not the original network (symmetric, §2.2).
    ridge
        The ridge of a solution that only rehearses; None for a solution to keep.
    """

    members: tuple[Member, ...]
    forms: tuple[Form, ...]
    sampling: Sampling
    nonlinear: bool
    advances: bool
    ridge: float | None = None

    @property
    def sites(self) -> tuple[ConvSite, ...]:
        """The convolutions."""
        return tuple(member.site for member in self.members)

    @property
    def questions(self) -> tuple[RowsQuestion, ...]:
        """The questions for what the convolutions read."""
        return tuple(member.question for member in self.members)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Step``."""
        return tuple(site.output for site in self.sites)

    @property
    def target_bytes(self) -> int:
        """See ``Step``."""
        return sum(member.target.rows.nbytes for member in self.members)

    def bytes(self) -> int:
        """See ``Step``; regressors and targets count twice, and so do the inputs where several sites are joined."""
        d, p = (int(size) for size in self.forms[0].prior.shape)
        inputs = p if self.forms[0].first is None else int(self.sites[0].kernel[0].size)
        counts = [member.count for member in self.members]
        rows = sum(n * times for n, times in zip(counts, repetitions(counts), strict=True))
        copies = len(self.forms) * min(2, len(self.members))
        return dense_bytes(self.sites[0]) + 4 * rows * (copies * inputs + 2 * p + 2 * d)

    def fitted(self, room: int) -> "SolveStep":
        """Return the step in such a way that running it takes at most ``room`` bytes, as far as possible.

        If the columns of the patches take too much, the regressors are held in their place. If these take too much as
        well, only the first positions are looked at; however few they are, they are spread over the whole map.
        """
        if self.bytes() <= room:
            return self
        step = replace(self, forms=tuple(map(compact, self.forms)))
        needed = step.bytes() - dense_bytes(self.sites[0])
        if needed <= room:
            return step
        fewer = (replace(m, first=max(1, int(m.target.per_sample * room / needed))) for m in self.members)
        return replace(step, members=tuple(fewer))

    def run(self, shard: Shard, memory: int) -> Solution:
        """See ``Step``."""
        sites, answers = self.sites, shard.rows(self.questions, self.forms, memory)
        rows = joined_rows(self.members, answers, self.sampling)
        factorization, outcome, chains = solve_groups(
            self.forms,
            joined_inputs(answers),
            rows,
            shared_activation(sites),
            nonlinear=self.nonlinear,
            ridge=self.ridge,
        )
        shifts = bias_shifts(self.members, answers, chains, self.sampling)
        rows_in_all = sum(member.count for member in self.members)
        solution = Solution(replacements(sites, factorization, shifts), outcome, rows_in_all)
        if self.advances:
            shard.advance(solution.replacements, [member.macs for member in self.members])
        return solution


@dataclass(frozen=True)
class WeightsStep:
    """The step that factorises convolutions of one weight from this weight alone; the shard plays no part."""

    sites: tuple[ConvSite, ...]
    forms: tuple[Form, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Step``."""
        return tuple(site.output for site in self.sites)

    @property
    def target_bytes(self) -> int:
        """See ``Step``; there are no targets."""
        return 0

    def bytes(self) -> int:
        """See ``Step``; there are no rows."""
        return 0

    def run(self, shard: Shard, memory: int) -> Solution:
        """See ``Step``."""
        first = self.sites[0]
        groups = zip(self.forms, first.kernels, np.split(first.bias, first.group), strict=True)
        factorization = side_by_side([from_weights(*group) for group in groups])
        return Solution(replacements(self.sites, factorization), None, 0)


def steps(run: Run, prepared: Prepared) -> list[Step]:
    """Return the steps that a plan asks for, from the network's input on.

    Fully connected layers behind a factorised layer are fitted again.
    """
    network, plan, targets = prepared.path, prepared.planned.plan, prepared.profiled.targets
    with run.times.stage("factorise"):
        solves: list[Step] = [*_solve_steps(run, prepared), *_whole_steps(run, prepared)]
        changed = behind(network, [output for step in solves for output in step.outputs])
        factorised = {choice.name for choice in plan.sites if choice.form}
        refits: list[Step] = [
            RefitStep(layer, targets[layer.name].rows, prepared.sampled.sampling, run.options.memory // 2)
            for layer in prepared.counted.dense
            if layer.input in changed and layer.name in targets and layer.name not in factorised
        ]
        # A rewritten site makes the same tensor as before, so the order stays the same on the way.
        return sorted([*solves, *refits], key=lambda step: min(position(network, output) for output in step.outputs))


def _whole_steps(run: Run, prepared: Prepared) -> Iterator[Step]:
    """Yield the steps of the layers that read fewer channels than in the original and are not factorised."""
    planned, profiled, options = prepared.planned, prepared.profiled, run.options
    narrowed = {width.name for width in planned.plan.widths}
    readers = {reader.output for one in prepared.widths.sets if one.name in narrowed for reader in one.channels.readers}
    for site in prepared.counted.sites:
        if site.output in readers and planned.plan[site.name].form is None:
            step = SolveStep(
                members=(Member(site, planned.macs[site.name], profiled.targets[site.name]),),
                forms=tuple(whole(kernel) for kernel in site.kernels),
                sampling=prepared.sampled.sampling,
                nonlinear=options.solver == "nonlinear" and site.activation is not None,
                advances=not options.symmetric,
            )
            yield step.fitted(_room(run, prepared))


def _room(run: Run, prepared: Prepared) -> int:
    """Return the number of bytes that a step may take."""
    targets = sum(target.rows.nbytes for target in prepared.profiled.targets.values())
    return max(run.options.memory - OVERHEAD - targets, LEAST_ROOM)


def _solve_steps(run: Run, prepared: Prepared) -> Iterator[Step]:
    options, planned, profiled = run.options, prepared.planned, prepared.profiled
    room = _room(run, prepared)
    chosen = list(chosen_together(prepared.counted.families, planned.plan))
    choices = {sites[0].name: choice for choice, sites in chosen}

    def forms_of(site: ConvSite) -> tuple[Form, ...]:
        choice = choices[site.name]
        kernels = zip(site.kernels, profiled.kernels[site.name], strict=True)
        return tuple(form_of(run.forms[str(choice.form)], kernel, choice.ranks, own) for kernel, own in kernels)

    firsts = [sites[0] for _, sites in chosen]
    prepared_forms = by_site(forms_of, firsts, prepared.counted.shapes, run.forms)
    for (_, sites), forms in zip(chosen, prepared_forms, strict=True):
        if options.solver == "weights":
            yield WeightsStep(sites, forms)
            continue
        step = SolveStep(
            members=tuple(Member(site, planned.macs[site.name], profiled.targets[site.name]) for site in sites),
            forms=forms,
            sampling=prepared.sampled.sampling,
            nonlinear=options.solver == "nonlinear",
            advances=not options.symmetric,
        )
        yield step.fitted(room)
