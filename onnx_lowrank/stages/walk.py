"""Walk: the layers solved one after the other, from the input on.

Asymmetric (§2.4): a shard advances as soon as a site is solved, so that later sites see its error and can undo it.
Their regressors, and what a shortcut adds to their responses, come from the network approximated so far, their targets
from the original. Symmetric (§2.2): all sites are solved on the original network.
"""

from collections import deque
from dataclasses import dataclass

from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.graph.network import Network
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.stages.refit import Refitted
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import Solution, Step

OVERHEAD = 700 << 20
"""Bytes of the process itself: the libraries, the model, and the runtime's buffers for one batch."""


@dataclass(frozen=True)
class Walked:
    """The rewritten network and how it came about.

    Attributes
    ----------
    network
        A copy of the original with all changes.
    solutions
        The factorised sites, by name.
    refitted
        The fully connected layers that could be fitted again.
    macs_executed
        The MACs that running the network has taken.
    """

    network: Network
    solutions: dict[str, Solution]
    refitted: tuple[Refitted, ...]
    macs_executed: int


@blas_threads.one_for_scipy()
def walk(run: Run, network: Network, steps: deque[Step], shard: Shard, overhead: int = OVERHEAD) -> Walked:
    """Run all steps, and apply what they find out to a copy of the original network.

    Parameters
    ----------
    run
        The surroundings.
    network
        The original, which stays as it is.
    steps
        In the order of the network. They are taken off the queue one by one, because each holds its targets, and all
        of them together may take half of ``--memory``.
    shard
        The samples, at the network's input.
    overhead
        Bytes of ``--memory`` that are spent before anything is held.
    """
    rewritten, total = network.copy(), len(steps)
    solutions: dict[str, Solution] = {}
    refitted: list[Refitted] = []
    with run.times.stage("factorise"):
        run.progress("factorise", 0, total)
        while steps:
            held = sum(step.target_bytes for step in steps)
            # What the shard holds until the next step has to leave room for running this one.
            step = steps.popleft()
            change = step.run(shard, max(0, run.options.memory - overhead - held - step.bytes()))
            change.apply(rewritten)
            if isinstance(change, Solution):
                solutions[change.name] = change
            else:
                refitted.append(change)
            run.progress("factorise", total - len(steps), total)
    return Walked(rewritten, solutions, tuple(refitted), shard.macs_executed)
