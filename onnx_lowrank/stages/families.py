"""The rows, the evidence and the factors of sites that share a weight.

All members of a family are solved as one layer on the rows of all. Their biases may differ: the layer is solved with
the bias b of the first member, and the difference of another one's, b_m − b, joins that member's response as a shortcut
does. A solution that moves the bias to b + δ gives the member b_m + δ, and at the end ``own_bias`` of ``factorise/``
moves each member's bias once more, for its rows alone.

Maps differ in size, and so do the members' numbers of rows. If every row counted once, the large maps would decide
alone: in a detector's head, the level of the small objects. If every member counted once, the outputs as a whole would
suffer. So the rows of a member with n of them are repeated until they are about √(n n₁), where n₁ is the most that a
member has. On a head with five levels at 4× this raises the error of all outputs together by 1 %, and lowers that of
the smallest level from 0.43 to 0.15; members that count the same have 5 % and 0.017. Biases of their own bring the
smallest level to 0.0004.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import RowsQuestion, SiteRows
from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization
from onnx_lowrank.factorise.moments import RowCovariance
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.own_bias import own_bias
from onnx_lowrank.graph.edit.rewrite import Replacement
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.profile import Profiled, Targets

Array = NDArray[Any]


@dataclass(frozen=True)
class Member:
    """A site of a step.

    Attributes
    ----------
    site
        The convolution.
    macs
        The MACs of one sample that the chain will take.
    target
        The original's responses.
    first
        The number of positions of every sample that are looked at, from the first one on; None for all of them.
    """

    site: ConvSite
    macs: int
    target: Targets
    first: int | None = None

    @property
    def question(self) -> RowsQuestion:
        """The question for what the site reads."""
        return RowsQuestion(self.site, self.target.per_sample, self.first)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The number of positions of every sample that are looked at, [number of samples]."""
        return self.target.positions if self.first is None else np.minimum(self.target.positions, self.first)

    @property
    def count(self) -> int:
        """The number of rows that are looked at."""
        return int(self.positions.sum())

    @property
    def rows(self) -> Array:
        """The responses that are looked at, [n, d]."""
        targets, positions = self.target.rows, self.target.positions
        if self.first is None:
            return targets
        within = np.arange(len(targets)) - np.repeat(np.cumsum(positions) - positions, positions)
        return targets[within < self.first]


def chosen_together(families: Iterable[Family], plan: Plan) -> Iterator[tuple[SitePlan, tuple[ConvSite, ...]]]:
    """Yield the choices of the sites that are factorised, each with all sites of one weight that it is for.

    A planner has one choice for a family. The plan of a user may have several.
    """
    for family in families:
        together: dict[tuple[str | None, tuple[int, ...]], list[ConvSite]] = {}
        for site in family.members:
            choice = plan[site.name]
            together.setdefault((choice.form, choice.ranks), []).append(site)
        for (form, _), sites in together.items():
            if form:
                yield plan[sites[0].name], tuple(sites)


def family_evidence(family: Family, profiled: Profiled) -> Evidence:
    """Return the evidence on which the choice of the form of a family rests."""
    first = family.members[0]
    kernels, prepared = tuple(first.kernels), profiled.kernels[first.name]
    if first.name not in profiled.targets:
        return Evidence(kernels, prepared)
    targets = [profiled.targets[name] for name in family.names]
    if len(targets) == 1:
        return Evidence(kernels, prepared, targets[0].rows, targets[0].responses)
    times = repetitions([len(target.rows) for target in targets])
    offsets = bias_offsets(family.members)
    rows = concatenated([repeated(t.rows - b, own) for t, b, own in zip(targets, offsets, times, strict=True)])
    if not any(site.join for site in family.members):
        return Evidence(kernels, prepared, rows)
    weights = [own * len(target.rows) / len(rows) for own, target in zip(times, targets, strict=True)]
    covariances = [w * covariance(target) for w, target in zip(weights, targets, strict=True)]
    return Evidence(kernels, prepared, rows, np.asarray(np.sum(covariances, axis=0)))


def covariance(targets: Targets) -> Array:
    """Return the covariance of the responses of one site, [d, d]."""
    if targets.responses is not None:
        return targets.responses
    rows = RowCovariance()
    rows.add(targets.rows)
    return rows.covariance


def bias_offsets(sites: Sequence[ConvSite]) -> list[Array]:
    """Return by how much the bias of every site exceeds that of the first, [d] each, float32."""
    return [(site.bias - sites[0].bias).astype(np.float32) for site in sites]


def shared_activation(sites: Sequence[ConvSite]) -> Activation | None:
    """Return the activation behind the sites; None where they have different ones, so that linear solutions remain."""
    first, *others = (site.activation for site in sites)
    return first if all(other == first for other in others) else None


def repetitions(counts: Sequence[int]) -> list[int]:
    """Return how many times the rows of each member count, given the number of its rows."""
    return [round(math.sqrt(max(counts) / count)) for count in counts]


def repeated(rows: Array, times: int) -> Array:
    """Return rows several times in turn; they are not copied for a single time."""
    return rows if times == 1 else np.concatenate([rows] * times)


def concatenated(parts: Sequence[Array]) -> Array:
    """Return all parts in turn; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def joined_inputs(answers: Sequence[SiteRows]) -> list[Array]:
    """Return the columns [n, s, q] that the form of every group reads, of all members in turn."""
    times = repetitions([len(answer.inputs[0]) for answer in answers])
    groups = zip(*(answer.inputs for answer in answers), strict=True)
    return [concatenated([repeated(own, n) for own, n in zip(parts, times, strict=True)]) for parts in groups]


def joined_rows(members: Sequence[Member], answers: Sequence[SiteRows], sampling: Sampling) -> Rows:
    """Return the samples of all members in turn, in the order of ``joined_inputs``; the regressors do not matter."""
    times = repetitions([member.count for member in members])

    def joined(parts: Iterable[Array]) -> Array:
        return concatenated([repeated(part, own) for part, own in zip(parts, times, strict=True)])

    targets = joined(member.rows for member in members)
    judges = joined(sampling.judging_rows(member.positions) for member in members)
    shortcuts = _shortcuts([member.site for member in members], answers)
    return Rows(targets, targets, judges, None if shortcuts is None else joined(shortcuts))


def _shortcuts(sites: Sequence[ConvSite], answers: Sequence[SiteRows]) -> list[Array] | None:
    """Return what is added to the response that the first site would make, [n, d] each; None if there is nothing."""
    offsets = bias_offsets(sites)
    if all(answer.shortcut is None for answer in answers) and not any(map(np.any, offsets)):
        return None

    def added(answer: SiteRows, offset: Array) -> Array:
        if answer.shortcut is None:
            return np.tile(offset, (len(answer.inputs[0]), 1))
        return answer.shortcut + offset if np.any(offset) else answer.shortcut

    return [added(answer, offset) for answer, offset in zip(answers, offsets, strict=True)]


def bias_shifts(
    members: Sequence[Member], answers: Sequence[SiteRows], chains: Sequence[Chain], sampling: Sampling
) -> list[Array]:
    """Return by how much the bias of every member moves, [d], besides that of the factors of every group."""
    sites = [member.site for member in members]
    if len(sites) == 1:
        return [np.zeros(len(sites[0].bias))]
    shortcuts = _shortcuts(sites, answers) or [np.zeros(1, np.float32)] * len(sites)

    def shift(member: Member, answer: SiteRows, shortcut: Array) -> Array:
        responses = [chain(columns) for chain, columns in zip(chains, answer.inputs, strict=True)]
        predictions = np.concatenate(responses, axis=1) + shortcut
        return own_bias(predictions, member.rows, sampling.judging_rows(member.positions), member.site.activation)

    return [shift(*each) for each in zip(members, answers, shortcuts, strict=True)]


def replacements(
    sites: Sequence[ConvSite], factorization: Factorization, shifts: Sequence[Array] | None = None
) -> tuple[Replacement, ...]:
    """Return the factorisations of all sites, which differ in their biases alone.

    Parameters
    ----------
    sites
        The sites.
    factorization
        That of the first site.
    shifts
        By how much the bias of every site moves, [d]; None where none does.
    """

    def own(site: ConvSite, shift: Array) -> Factorization:
        offset = site.bias - sites[0].bias + shift
        return replace(factorization, bias=factorization.bias + offset) if np.any(offset) else factorization

    pairs = zip(sites, shifts or [np.zeros(len(sites[0].bias))] * len(sites), strict=True)
    return tuple(Replacement(site, own(site, shift)) for site, shift in pairs)
