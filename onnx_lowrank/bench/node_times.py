"""The time that every node of a model takes, and the provider that runs it, from ONNX Runtime's own profile.

The nodes are those of the graph as the runtime runs it, after its fusions: a convolution with its activation is one
node, named after the activation's output. On a GPU the runtime notes how long it takes to *start* a node.
"""

import bisect
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SUFFIX = "_kernel_time"
"""The runtime ends a node's event with this, after the node's name."""


@dataclass(frozen=True)
class NodeTime:
    """One node: its name and operator, the execution provider that runs it, and the median seconds of one run."""

    name: str
    op: str
    provider: str
    seconds: float


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator together, in seconds of one run."""

    op: str
    nodes: int
    seconds: float


@dataclass(frozen=True)
class Breakdown:
    """The nodes of one model; ``seconds`` is the median of a whole run, with the time between the nodes."""

    seconds: float
    nodes: tuple[NodeTime, ...]

    @property
    def operators(self) -> tuple[OperatorTime, ...]:
        """The nodes by operator, the costliest first."""
        total: dict[str, float] = {}
        for node in self.nodes:
            total[node.op] = total.get(node.op, 0.0) + node.seconds
        count = Counter(node.op for node in self.nodes)
        return tuple(OperatorTime(op, count[op], total[op]) for op in sorted(total, key=lambda op: -total[op]))

    @property
    def providers(self) -> dict[str, int]:
        """The number of nodes that every execution provider runs, the most first."""
        return dict(Counter(node.provider for node in self.nodes).most_common())

    def costliest(self, count: int) -> tuple[NodeTime, ...]:
        """Return the nodes that take longest."""
        return tuple(sorted(self.nodes, key=lambda node: -node.seconds)[:count])


def breakdown(events: Iterable[dict[str, Any]], warmup: int = 0) -> Breakdown:
    """Add up the events of a profile by node.

    Parameters
    ----------
    events
        In the Chrome trace format: ``cat``, ``name``, ``ts`` and ``dur`` in microseconds, ``args``.
    warmup
        The number of runs at the beginning that do not count; the last run counts in any case.
    """
    events = list(events)
    runs = sorted((e["ts"], e["dur"]) for e in events if e["cat"] == "Session" and e["name"] == "model_run")
    starts = [start for start, _ in runs]
    first = min(warmup, len(runs) - 1)
    durations: dict[tuple[str, str, str], list[float]] = {}
    for event in sorted((e for e in events if _is_node(e)), key=lambda e: e["ts"]):
        run = bisect.bisect_right(starts, event["ts"]) - 1 - first
        args = event["args"]
        key = event["name"].removesuffix(SUFFIX), args["op_name"], args["provider"]
        # A node in the body of a loop runs several times.
        of_node = durations.setdefault(key, [0.0] * (len(runs) - first))
        if run >= 0:
            of_node[run] += 1e-6 * event["dur"]
    nodes = tuple(NodeTime(*key, statistics.median(of_node)) for key, of_node in durations.items())
    return Breakdown(1e-6 * statistics.median(duration for _, duration in runs[first:]), nodes)


def elsewhere(counts: Mapping[str, int], asked: str) -> str | None:
    """Return a line that says which nodes do not run on the provider asked for; None where all do.

    Parameters
    ----------
    counts
        The number of nodes by provider.
    asked
        The provider asked for.
    """
    others = {provider: count for provider, count in counts.items() if provider != asked}
    if not others:
        return None
    places = " and ".join(f"{count} on {provider}" for provider, count in others.items())
    return f"of {sum(counts.values())} nodes {counts.get(asked, 0)} run on {asked}, {places}"


def _is_node(event: Mapping[str, Any]) -> bool:
    return event["cat"] == "Node" and event["name"].endswith(SUFFIX) and "op_name" in event["args"]
