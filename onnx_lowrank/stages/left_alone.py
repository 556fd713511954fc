"""Refusals that explain what is left alone, how much of the cost that is, and why."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.sites import Skip

MOST_NAMES, MOST_REASONS = 3, 4
"""The number of layers that a line names for one reason, and the number of reasons."""

WAYS_OUT = {
    "not named by --include": "widen --include",
    "excluded by --exclude": "narrow --exclude",
    "the first convolution": "take the first convolution with --include '.'",
}
"""The advice against a reason, by the beginning of the reason."""


@dataclass(frozen=True)
class LeftAlone:
    """The layers that no choice of ranks makes cheaper.

    Attributes
    ----------
    skipped
        The layers.
    costs
        The MACs that the speedup is about, by the output of the layer.
    """

    skipped: tuple[Skip, ...]
    costs: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """The share of the MACs that is left alone, with reasons and names; empty if nothing is left alone."""
        counted = tuple(skip for skip in self.skipped if self.costs.get(skip.output or ""))
        if not counted:
            return ""
        share = percent(sum(self.costs[skip.output or ""] for skip in counted), sum(self.costs.values()))
        return f"{share} of the MACs are left alone ({'; '.join(self._by_reason(counted))})"

    def ways_out(self, missing: int) -> tuple[str, ...]:
        """Return the advice that lets more layers take part, if these have more MACs than are missing."""
        causes = {skip.output: way for skip in self.skipped if (way := WAYS_OUT.get(short(skip.reason)))}
        released = sum(self.costs.get(output or "", 0) for output in causes)
        return tuple(dict.fromkeys(causes.values())) if released > missing else ()

    def _by_reason(self, skipped: Sequence[Skip]) -> Iterator[str]:
        """Yield a few words for each reason, the most expensive first."""
        macs: Counter[str] = Counter()
        names: dict[str, list[str]] = {}
        for skip in skipped:
            macs[short(skip.reason)] += self.costs[skip.output or ""]
            names.setdefault(short(skip.reason), []).append(skip.name)
        for reason, cost in macs.most_common(MOST_REASONS):
            yield f"{percent(cost, sum(self.costs.values()))} in {listed(names[reason])}: {reason}"
        if len(macs) > MOST_REASONS:
            yield f"the rest for {len(macs) - MOST_REASONS} other reasons"

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Add the sentence to a speedup that is refused inside.

        Raises
        ------
        TargetError
            If one is raised inside; the sentence stands behind its message.
        """
        try:
            yield
        except TargetError as error:
            raise TargetError("; ".join(filter(None, (str(error), self.sentence)))) from None


def nothing_to_factorise(skipped: Sequence[Skip], macs: Mapping[str, int], unmatched: Sequence[str] = ()) -> str:
    """Return the refusal of a model in which nothing can be factorised.

    Parameters
    ----------
    skipped
        All layers of the model.
    macs
        The multiply-accumulates of one sample, by the output of the layer; empty where they are not known.
    unmatched
        A line for every pattern that matches no layer.
    """
    reasons = Counter(skip.reason for skip in skipped)
    total = sum(macs.get(skip.output or "", 0) for skip in skipped)
    lines = []
    for reason, count in reasons.most_common():
        cost = sum(macs.get(skip.output or "", 0) for skip in skipped if skip.reason == reason)
        share = f" with {percent(cost, total)} of the MACs" if cost else ""
        lines.append(f"{reason} ({count}×){share}")
    why = "; ".join(lines) or "the model has no convolution"
    return f"nothing to factorise: {'; '.join((*unmatched, why))}"


def left_alone(skipped: Sequence[Skip], macs: Macs) -> LeftAlone:
    """Return what is skipped, at the MACs that the speedup is about."""
    return LeftAlone(tuple(skipped), macs.aimed_at)


def no_form_takes(kinds: FormTable) -> str:
    """Return why a layer is left alone that none of these kinds of form takes."""
    needs = " or ".join(dict.fromkeys(kind.needs for kind in kinds))
    return f"the form {' or '.join(kinds.names)} needs {needs}"


def short(reason: str) -> str:
    """Return what is in the way, without what that means."""
    return reason.partition(":")[0]


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    others = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {others} more" if others > 0 else "")


def percent(part: int, whole: int) -> str:
    """Return a share in percent, with a decimal where it is small."""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"
