"""The time of a result by the clock: slower than the original is refused, less than requested is a warning."""

import pytest

from onnx_lowrank.errors import TargetError
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.stages.speed import check_faster

FACTORISED = Plan((SitePlan("a", "channel", (4,)), SitePlan("b", None)))
UNTOUCHED = Plan((SitePlan("a", None), SitePlan("b", None)))
BY_CLOCK = Options(target="latency", speedup=2.0)


def verdict(ratio: float, plan: Plan, options: Options, *, user_plan: bool) -> list[str]:
    warnings: list[str] = []
    latency = Latency(10.0, 10.0 / ratio, ratio, 0.9 * ratio, 1.1 * ratio, 0.95, 15)
    check_faster(latency, plan, options, warnings.append, user_plan=user_plan)
    return warnings


@pytest.mark.parametrize("user_plan", [False, True])
def test_a_result_that_is_slower_is_refused(user_plan: bool) -> None:
    with pytest.raises(TargetError, match=r"takes 12\.5 ms and the original 10 ms: nothing was written"):
        verdict(0.8, FACTORISED, BY_CLOCK, user_plan=user_plan)


def test_a_result_that_misses_the_speedup_by_a_little_is_a_warning() -> None:
    (warning,) = verdict(1.9, FACTORISED, BY_CLOCK, user_plan=False)
    assert "1.90 times as fast" in warning and "requested 2" in warning
    assert verdict(2.1, FACTORISED, BY_CLOCK, user_plan=False) == []


@pytest.mark.parametrize(
    ("plan", "options", "user_plan"),
    [
        (FACTORISED, Options(speedup=2.0), False),
        (FACTORISED, Options(target="latency", latency_device="elsewhere", latency_table="t.json"), False),
        (UNTOUCHED, BY_CLOCK, True),
        (UNTOUCHED, Options(target="latency", speedup=1.0), False),
    ],
    ids=["by MACs", "for another device", "the user's plan leaves all layers", "no speedup requested"],
)
def test_other_results_may_take_any_time(plan: Plan, options: Options, user_plan: bool) -> None:
    assert verdict(0.8, plan, options, user_plan=user_plan) == []
