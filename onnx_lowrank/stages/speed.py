"""The latency of both models, measured in turns."""

from collections.abc import Callable

from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import TargetError
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.stages.session_pair import SessionPair

LATENCY_BUDGET = Budget(rounds=15, seconds=1, turn=0.001)
"""The budget of an informative number; ``onnx-lowrank-bench`` measures thoroughly."""


def measure_latency(sessions: SessionPair, source: Source, batch: tuple[int, ...]) -> Latency:
    """Measure both models in turns on one batch of the source."""
    feeds = source.feeds(batch)
    times = take_turns((lambda: sessions.original(feeds), lambda: sessions.rewritten(feeds)), LATENCY_BUDGET)
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


def check_faster(
    latency: Latency, plan: Plan, options: Options, warn: Callable[[str], None], *, user_plan: bool
) -> None:
    """Refuse a result by the clock that is slower than the original, and warn if it misses the requested speedup.

    A plan that leaves all layers alone is accepted at any speed if it came from the user, or for the speedup 1.

    Parameters
    ----------
    latency
        The measured times.
    plan
        The forms and ranks of the result.
    options
        The target and the requested speedup.
    warn
        Receives the warning.
    user_plan
        Whether the plan came from the user.

    Raises
    ------
    TargetError
        If the rewritten model was measured to be slower than the original.
    """
    if options.target != "latency" or options.latency_device:
        return
    if (user_plan or options.speedup <= 1) and not any(site.form for site in plan.sites):
        return
    if latency.ratio < 1:
        raise TargetError(
            f"the rewritten model takes {latency.after_ms:.3g} ms and the original {latency.before_ms:.3g} ms: nothing "
            "was written; measure on an idle machine, or leave this model as it is"
        )
    if latency.ratio < options.speedup:
        warn(
            f"the result is {latency.ratio:.2f} times as fast ({latency.ratio_low:.2f} to {latency.ratio_high:.2f}), a "
            f"little less than the requested {options.speedup:g}, which the plan had reached before it was solved"
        )
