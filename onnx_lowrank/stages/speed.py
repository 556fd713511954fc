"""The latency of both models, measured in turns in a process of their own."""

from collections.abc import Callable, Sequence

import onnx

from onnx_lowrank.bench.fresh_process import NoMeasurementError, Task, measure_in_fresh_process
from onnx_lowrank.bench.turns import Budget, Rounds
from onnx_lowrank.errors import TargetError
from onnx_lowrank.interface import Feeds
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.runtime.providers import provider_names
from onnx_lowrank.runtime.session import opener

LATENCY_BUDGET = Budget(rounds=25, seconds=2)
"""The budget of an informative number; ``onnx-lowrank-bench`` measures thoroughly."""


def measure_latency(
    models: Sequence[onnx.ModelProto], feeds: Feeds, batch: int, options: Options, warn: Callable[[str], None]
) -> tuple[Latency, ...]:
    """Measure models in turns, with the code of ``onnx-lowrank-bench`` and as it does, in a fresh process.

    Parameters
    ----------
    models
        The original, the rewritten model, and any others.
    feeds
        What they run on.
    batch
        The number of samples in it.
    options
        The providers and threads.
    warn
        Receives a warning where this process has to measure itself.

    Returns
    -------
    tuple of Latency
        The times of the original beside those of each other model.
    """
    labels = ("the model", "the rewritten model", *(f"variant {number}" for number in range(1, len(models) - 1)))
    task = Task(labels, provider_names(options.providers), options.threads, feeds, LATENCY_BUDGET)
    fresh = True
    try:
        times = measure_in_fresh_process(models, task)
    except NoMeasurementError as error:
        warn(
            f"no process of its own measured the latency ({error}): it was measured here, where solving has left its "
            "traces; measure it with onnx-lowrank-bench"
        )
        fresh, open_as_deployed = False, opener(options.providers, options.threads, spinning=True)
        times = task.measure([open_as_deployed(*named) for named in zip(models, labels, strict=True)])
    return tuple(_latency(times, number, batch, fresh=fresh) for number in range(1, len(models)))


def _latency(times: Rounds, number: int, batch: int, *, fresh: bool) -> Latency:
    """Return the times of the original and of the model of this number."""
    speed = times.speed(number)
    return Latency(
        before_ms=round(1e3 * times.median(0), 3),
        after_ms=round(1e3 * times.median(number), 3),
        ratio=round(speed.value, 3),
        ratio_low=round(speed.low, 3),
        ratio_high=round(speed.high, 3),
        confidence=round(speed.confidence, 4),
        rounds=len(times.seconds),
        batch=batch,
        fresh_process=fresh,
    )


def check_faster(
    latency: Latency, plan: Plan, options: Options, warn: Callable[[str], None], *, user_plan: bool
) -> None:
    """Refuse a result by the clock that is slower than the original, and warn if it misses the requested speedup.

    A plan that leaves all layers alone is accepted at any speed if it came from the user, or for the speedup 1, unless
    the layers were rounded.

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
    untouched = not options.quantize and not any(site.form for site in plan.sites)
    if untouched and (user_plan or options.speedup <= 1):
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
