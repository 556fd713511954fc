"""The stage that solves the layers one after the other, from the input on.

Asymmetric (§2.4): a shard advances as soon as a site is solved, so that later sites see its error and can correct it.
The regressors of a site, and the shortcut that is added to its responses, come from the network approximated so far;
the targets come from the original. Symmetric (§2.2): all sites are solved on the original network.
"""

from collections import deque
from dataclasses import dataclass

from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.graph.network import Network
from onnx_lowrank.stages.integers import Integers
from onnx_lowrank.stages.refined import RefinedStretch
from onnx_lowrank.stages.refit import Refitted
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import OVERHEAD, Solution, Step


@dataclass(frozen=True)
class Walked:
    """The rewritten network, and the solutions behind it.

    Attributes
    ----------
    network
        A copy of the original with all changes.
    solutions
        The factorised sites, by name; those that share a weight have the same.
    refitted
        The fully connected layers that were to be fitted again.
    refined
        The stretches of layers that were to be refined.
    macs_executed
        The MACs of all runs of the network.
    integers
        What became of it when it was rounded; None where it was not.
    """

    network: Network
    solutions: dict[str, Solution]
    refitted: tuple[Refitted, ...]
    refined: tuple[RefinedStretch, ...]
    macs_executed: int
    integers: Integers | None = None


def walk(
    run: Run, network: Network, steps: deque[Step], shard: Shard, overhead: int = OVERHEAD, held: int = 0
) -> Walked:
    """Run all steps, and apply their changes to a copy of the original network.

    Parameters
    ----------
    run
        The surroundings.
    network
        The original, which stays as it is.
    steps
        The steps in the order of the network. They are taken off the queue one by one, because each holds its targets,
        and the targets of all steps together may take half of ``--memory``.
    shard
        The samples, at the network's input.
    overhead
        The number of bytes of ``--memory`` that are spent before a shard or a step holds anything.
    held
        The number of bytes of targets that somebody else holds on to, so that no step gives up its own.
    """
    rewritten, total = network.copy(), len(steps)
    solutions: dict[str, Solution] = {}
    refitted: list[Refitted] = []
    refined: list[RefinedStretch] = []
    with run.times.stage("factorise"):
        run.progress("factorise", 0, total)
        while steps:
            targets = max(held, sum(step.target_bytes for step in steps))
            # What the shard holds until the next step has to leave room for running this one.
            step = steps.popleft()
            change = step.run(shard, max(0, run.options.memory - overhead - targets - step.bytes()))
            change.apply(rewritten)
            if isinstance(change, Solution):
                solutions |= dict.fromkeys(change.names, change)
            elif isinstance(change, Refitted):
                refitted.append(change)
            elif isinstance(change, RefinedStretch):
                refined.append(change)
            run.progress("factorise", total - len(steps), total)
    executed = shard.macs_executed + sum(stretch.macs_executed for stretch in refined)
    return Walked(rewritten, solutions, tuple(refitted), tuple(refined), executed)
