"""Both models by the clock."""

from collections.abc import Callable

from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import TargetError
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.report.schema import Latency
from onnx_lowrank.runtime.session import Session

LATENCY_BUDGET = Budget(rounds=15, seconds=1, turn=0.001)
"""Enough for an informative number; ``onnx-lowrank-bench`` measures thoroughly."""


def measure_latency(before: Session, after: Session, source: Source, batch: tuple[int, ...]) -> Latency:
    """Both models in turns on one small batch."""
    feeds = source.feeds(batch)
    times = take_turns((lambda: before(feeds), lambda: after(feeds)), LATENCY_BUDGET)
    speed = times.speed(1)
    return Latency(
        before_ms=round(1e3 * times.median(0), 3),
        after_ms=round(1e3 * times.median(1), 3),
        ratio=round(speed.value, 3),
        ratio_low=round(speed.low, 3),
        ratio_high=round(speed.high, 3),
        confidence=round(speed.confidence, 4),
        rounds=len(times.seconds),
        batch=len(batch),
    )


def check_faster(latency: Latency, plan: Plan, options: Options, note: Callable[[str], None], *, given: bool) -> None:
    """Refuse a result that was to be faster by the clock and is not; say where it is not as fast as was asked for.

    Nothing is asked of a plan that leaves all layers alone where it was given or no speedup is wanted.

    Raises
    ------
    TargetError
        Where the new model was measured to be slower than the original.
    """
    if options.target != "latency" or options.latency_device:
        return
    if (given or options.speedup <= 1) and not any(site.form for site in plan.sites):
        return
    if latency.ratio < 1:
        raise TargetError(
            f"the rewritten model takes {latency.after_ms:.3g} ms and the original {latency.before_ms:.3g} ms: nothing "
            "was written; measure on an idle machine, or leave this model as it is"
        )
    if latency.ratio < options.speedup:
        note(
            f"the result is {latency.ratio:.2f} times as fast ({latency.ratio_low:.2f} to {latency.ratio_high:.2f}), a "
            f"little less than the {options.speedup:g} that were asked for and met before it was solved"
        )
