"""One attempt: the plan for a speedup, and the walk that carries it out, from the profile that serves all attempts."""

import contextlib
from collections import deque
from dataclasses import replace

from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.stages.come_close import blocks_for, ranks_alone
from onnx_lowrank.stages.narrow import narrow
from onnx_lowrank.stages.plan import plan
from onnx_lowrank.stages.prepared import Basis, Prepared
from onnx_lowrank.stages.refining import with_refinement
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import steps
from onnx_lowrank.stages.walk import Walked, walk
from onnx_lowrank.stages.weigh import weigh


def plan_for(run: Run, basis: Basis) -> Prepared:
    """Weigh the layers and plan for the speedup that the run asks for.

    Raises
    ------
    TargetError
        If no choice reaches it.
    """
    reach = basis.reach
    if reach.integers:
        run = run.asking(reach.integers.left)
    with reach.integers.explaining() if reach.integers else contextlib.nullcontext():
        return _plan_for(run, basis)


def _plan_for(run: Run, basis: Basis) -> Prepared:
    reach = basis.reach
    if reach.deployment.options != run.options:  # the search by the clock asks the deployment
        deployment = replace(reach.deployment, options=run.options)
        clocked = replace(reach.clocked, deployment=deployment) if reach.clocked else None
        basis = replace(basis, reach=replace(reach, deployment=deployment, clocked=clocked))
    basis = replace(basis, reach=blocks_for(run, basis))
    weighed = weigh(run, basis)
    if not weighed.widths.sets:
        basis = ranks_alone(run, basis)
    return basis.with_plan(plan(run, basis, weighed.energies, weighed.importance))


def carry_out(run: Run, prepared: Prepared) -> tuple[Prepared, Walked]:
    """Walk from the network's input on, in a shard of its own, and leave the profile for further attempts.

    Returns
    -------
    prepared
        The results of the earlier stages for the network without the channels that the plan does without; without the
        profile.
    walked
        The network that was solved.
    """
    with contextlib.ExitStack() as stack:
        narrowed = narrow(run, prepared, stack)
        queue = deque(with_refinement(run, narrowed, steps(run, narrowed), stack))
        sampling, macs = narrowed.sampled.sampling, narrowed.counted.macs.all
        shard = stack.enter_context(open_shards(narrowed.path, sampling, run.open_session, macs, run.shards))
        return narrowed.without_profile(), walk(run, narrowed.read.network, queue, shard, held=prepared.target_bytes)
