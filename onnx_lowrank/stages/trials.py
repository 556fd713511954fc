"""Rehearsals of several plans, which choose the exponent of the weights and whether channels may go.

Where channels may go there are two courses: plans with fewer channels, and plans of ranks alone. Which of them suits a
network depends on the exponent as well: the energies say little of how the error of fewer channels compares with that
of fewer ranks, and what they know is measured one layer at a time. So no course is given up for its plan of the
energies alone, unless that is far behind.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.plan.allocate import SEARCHES, budget_for
from onnx_lowrank.plan.importance import Importance
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.choices import layers_to_choose
from onnx_lowrank.stages.come_close import ranks_alone
from onnx_lowrank.stages.plan import plan_macs
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rehearsal import Rehearsal
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.scoring import Score
from onnx_lowrank.stages.widths import Widths

GAIN = 0.05
"""The share by which a plan's error has to be below that of the energies' plan, or the latter is taken."""

NEAR = 1.25
"""A plan whose error is more times that of the energies' plan is taken as a sign that no weights help."""

FAR = 2.0
"""A course is given up if its plan of the energies has an error that is more times that of the other course's."""

MOST_TRIALS = 5
"""The most plans that are rehearsed."""


@dataclass(frozen=True)
class Terms:
    """What the plans of rehearsals are made from.

    Attributes
    ----------
    basis
        The results of the stages up to the profile.
    energies
        The log-energies that every form keeps of the sites, by site name.
    layers
        The choices of every layer, at MACs or, for a plan by the clock, at the nanoseconds that are known so far.
    total
        The MACs of the whole network that the speedup is about, or its nanoseconds.
    """

    basis: Basis
    energies: Mapping[str, Mapping[FormKind, Energies]]
    layers: Sequence[LayerChoices]
    total: int


def settle(basis: Basis, energies: Mapping[str, Mapping[FormKind, Energies]]) -> Terms:
    """Return the terms of the plans, for MACs or by the clock."""
    counted, clocked = basis.counted, basis.reach.clocked
    if clocked is None:
        layers = layers_to_choose(energies, counted, basis.reach.multiple)
        return Terms(basis, energies, layers, sum(counted.macs.aimed_at.values()))
    costs = {site.name: clocked.costs(site.name) for site in counted.sites}
    layers = layers_to_choose(energies, counted, basis.reach.multiple, costs)
    return Terms(basis, energies, layers, round(1e6 * clocked.original_ms))


def weighed_energies(
    energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance
) -> dict[str, dict[FormKind, Energies]]:
    """Return the log-energies of all forms of all layers as the planner is to see them."""
    return {
        name: {kind: importance.weighed(name, expected) for kind, expected in kinds.items()}
        for name, kinds in energies.items()
    }


@dataclass(frozen=True)
class Course:
    """Plans of the same terms, rehearsed at several exponents.

    Attributes
    ----------
    terms
        What its plans are made from.
    scores
        The scores of their rehearsals, by the exponents of the plans.
    """

    terms: Terms
    scores: dict[float, Score]

    @property
    def best(self) -> float:
        """The exponent of the plan with the lowest error."""
        return min(self.scores, key=self.error)

    def error(self, exponent: float = 0.0) -> float:
        """Return the error of a plan that was rehearsed; without an exponent, of that of the energies alone."""
        return self.scores[exponent].error


def compare(courses: Sequence[Course], rehearse: Callable[[Course, float], None]) -> tuple[Course, float]:
    """Return the course and the exponent of the best plan.

    They are those of the best plan of the energies alone, whose exponent is 0, unless another plan is clearly better.
    Where half of the weights' logarithm is better than nothing of it, all of it is tried as well, and where it is
    little worse, a quarter.

    Parameters
    ----------
    courses
        The courses, of which the plan of the energies has been rehearsed. Of equal ones the first is taken.
    rehearse
        Adds the score of the plan with an exponent to a course.
    """
    plain = min(courses, key=Course.error)
    near = [course for course in courses if not course.error() > FAR * plain.error()]
    for course in near:
        rehearse(course, 0.5)
    leading = min(near, key=lambda course: course.error(course.best))
    if leading.best:
        rehearse(leading, 1.0)
    elif leading.error(0.5) <= NEAR * leading.error():
        rehearse(leading, 0.25)
    clear = leading.scores[leading.best].clearly_below(plain.scores[0.0], GAIN)
    return (leading, leading.best) if clear else (plain, 0.0)


class Trials:
    """Rehearsals of the plans that belong to several exponents, with fewer channels and without.

    Parameters
    ----------
    run
        The surroundings, of which the options and the progress matter.
    rehearsal
        Scores the plans.
    terms
        What they are made from.
    importance
        The weights of the layers.
    """

    def __init__(self, run: Run, rehearsal: Rehearsal, terms: Terms, importance: Importance) -> None:
        self._run, self._rehearsal, self._terms, self._importance = run, rehearsal, terms, importance
        self._known: dict[Plan, Score] = {}

    def best(self) -> tuple[Importance, Widths]:
        """Return the weights with the exponent of the best plan, and the sets of channels that it may narrow."""
        course, exponent = compare(self._courses(), self._rehearse)
        errors = {tried: score.error for tried, score in sorted(course.scores.items())}
        return replace(self._importance, exponent=exponent, trials=errors), course.terms.basis.widths

    def _courses(self) -> list[Course]:
        """Return the courses, each with the score of the plan of the energies; that of ranks alone comes first."""
        courses = [self._course(self._terms)]
        run, basis = self._run, self._terms.basis
        if run.options.target == "macs" and basis.widths.sets and run.kinds.kinds:
            with contextlib.suppress(TargetError):
                courses.insert(0, self._course(replace(self._terms, basis=ranks_alone(run, basis))))
        return courses

    def _course(self, terms: Terms) -> Course:
        course = Course(terms, {})
        self._rehearse(course, 0.0)
        return course

    def _rehearse(self, course: Course, exponent: float) -> None:
        plan = self._plan(replace(self._importance, exponent=exponent), course.terms)
        if plan not in self._known:
            self._known[plan] = self._rehearsal.score(plan)
            self._run.progress("weigh", 1 + len(self._known), MOST_TRIALS + 2)
        course.scores[exponent] = self._known[plan]

    def _plan(self, importance: Importance, terms: Terms) -> Plan:
        """Return the plan with these weights; one by the clock costs what is known before whole plans are measured.

        Where layers lose channels, MACs stand for the time.
        """
        options, total = self._run.options, terms.total
        by_macs = partial(plan_macs, self._run, terms.basis, weighed_energies(terms.energies, importance), importance)
        if options.target == "macs":
            return by_macs()
        if terms.basis.widths.sets:
            with contextlib.suppress(TargetError):
                return by_macs()
        layers = [
            replace(layer, log_energies=importance.factor(layer.name) * layer.log_energies) for layer in terms.layers
        ]
        others = total - sum(layer.untouched for layer in layers)
        budget = max(budget_for(total, options.speedup) - others, sum(int(layer.costs[0]) for layer in layers))
        chosen = SEARCHES[options.ranks](layers, budget)
        return Plan(tuple(plan for layer, i in zip(layers, chosen, strict=True) for plan in layer.site_plans(i)))
