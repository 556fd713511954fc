"""The mildest plan by MACs whose model is measured to be as fast as asked for, for tools/latency_table.py.

The time falls about as the MACs do, so the search raises the ratio of MACs in proportion until a plan is fast enough,
and then halves the interval between the last plan that was too slow and the mildest that was fast enough.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from measuring import progress
from scoring import warn

from onnx_lowrank.errors import TargetError
from onnx_lowrank.latency.trial import WholeTrials, factors_from_weights
from onnx_lowrank.pipeline import prepare
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Listener
from onnx_lowrank.runtime.blas_threads import without_spinning
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages.choices import choose, layers_to_choose, site_energies
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run

CLOSE = 1.02
"""The excess of a measured ratio over the one asked for that ends the search."""

MOST_TRIALS = 14

SMALLEST_STEP, SMALLEST_GAP = 1.02, 1.003
"""The least factor by which the ratio of MACs is raised, and that between two ratios below which the search ends."""

BELOW_HIGHEST = 0.999
"""The share of the highest ratio of MACs that is tried at the most, because rounding may put the rest out of reach."""


@dataclass(frozen=True)
class Trial:
    """A plan by MACs, and the measured ratio of the original's time to that of its model."""

    speedup: float
    ratio: float
    plan: Plan


@without_spinning()
def plan_by_macs(request: Request, ratio: float) -> Plan:
    """Return the mildest plan by MACs whose model is measured to be ``ratio`` times as fast as the original.

    Raises
    ------
    TargetError
        If no plan by MACs is that fast.
    """
    run = Run.start(request, Listener(warn=warn))
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
    counted, profiled, reach = prepared.counted, prepared.profiled, prepared.reach
    layers = layers_to_choose(site_energies(counted, profiled, run.kinds), counted, reach.multiple)
    conv_macs = sum(counted.macs.conv.values())
    highest = conv_macs / (conv_macs - sum(layer.untouched - int(layer.costs[0]) for layer in layers))
    open_session = opener(run.options.providers, run.options.threads, spinning=True)
    trials = WholeTrials(reach.deployment, factors_from_weights(profiled.kernels, run.forms), open_session)

    def measure(speedup: float) -> Trial:
        plan = choose(layers, conv_macs, speedup, run.options.ranks)
        trial = Trial(speedup, trials.measure(plan).ratio, plan)
        progress(f"by MACs: {trial.speedup:.3f}× fewer, {trial.ratio:.2f}× faster")
        return trial

    return search(measure, ratio, BELOW_HIGHEST * highest).plan


def search(measure: Callable[[float], Trial], ratio: float, highest: float) -> Trial:
    """Return the mildest trial that reaches the ratio.

    Parameters
    ----------
    measure
        Plans for a ratio of MACs, and measures the model.
    ratio
        The ratio of times to reach.
    highest
        The highest ratio of MACs to try.

    Raises
    ------
    TargetError
        If no trial reaches the ratio.
    """
    too_slow, speedup = 1.0, ratio
    fast_enough: Trial | None = None
    for _ in range(MOST_TRIALS):
        speedup = min(speedup, highest)
        trial = measure(speedup)
        if trial.ratio < ratio:
            too_slow = speedup
            if speedup >= highest:
                break
        else:
            fast_enough = trial  # later trials lie below it, so each that is fast enough is milder
            if trial.ratio <= CLOSE * ratio:
                break
        if fast_enough is None:
            speedup *= max(SMALLEST_STEP, ratio / trial.ratio)
        elif fast_enough.speedup / too_slow < SMALLEST_GAP:
            break
        else:
            speedup = (too_slow * fast_enough.speedup) ** 0.5
    if fast_enough is None:
        raise TargetError(f"no plan by MACs is {ratio:g} times as fast")
    return fast_enough
