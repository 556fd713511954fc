"""What a user requires, beside what was measured."""

from dataclasses import replace

import pytest
from cli_for_tests import REPORT

from onnx_lowrank.errors import DataError, ModelError
from onnx_lowrank.quality import MEASURES, Requirement
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.report.schema import AccuracyReport
from onnx_lowrank.report.task_schema import LabelledReport, MeasureReport, TaskReport
from onnx_lowrank.stages.demand import demand
from onnx_lowrank.stages.measure import Measured

LATENCY = Latency(2.0, 1.0, 2.0, 1.9, 2.1, 0.95, 10)


def task(output: str, **values: float) -> TaskReport:
    measures = {name: MeasureReport(value, 0.9 * value, 1.05 * value) for name, value in values.items()}
    return TaskReport("some task", None, (output,), 20, measures, {})


NOTHING = Measured(REPORT.outputs, LATENCY, None, (), None, "cpu")


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if Requirement(name, 1).of_a_task])
def test_the_value_decides(name: str) -> None:
    limit = float(MEASURES[name].example)
    measured = replace(NOTHING, tasks=(task("y", **{name: limit}),))
    for required, met in ((0.99 * limit, True), (limit, True), (1.01 * limit, False)):
        asked = demand(Requirement(name, required), measured)
        assert asked is not None and asked.met == met
        assert asked.text.startswith(f"{MEASURES[name].title} of 'y' is {MEASURES[name].shown(limit)} (")
        assert "on 20 samples, and at least" in asked.text and "\n" not in asked.text


def test_the_worst_of_several_outputs_decides() -> None:
    measured = replace(NOTHING, tasks=(task("a", miou=0.95), task("b", miou=0.7), task("c", psnr=30)))
    asked = demand(Requirement("miou", 0.8), measured)
    assert asked is not None and not asked.met and asked.text.startswith("mIoU of 'b' is 0.700")


def test_what_was_not_measured_cannot_be_required() -> None:
    with pytest.raises(ModelError, match=r"--require accuracy=0\.5 needs labelled samples"):
        demand(Requirement("accuracy", 0.5), NOTHING)
    with pytest.raises(DataError, match=r"--require ap50=0\.5 cannot be judged: .* have no AP50"):
        demand(Requirement("ap50", 0.5), NOTHING)


@pytest.mark.parametrize(("limit", "met"), [(2.1, True), (2.0, True), (1.9, False), (0.0, False)])
def test_points_that_are_lost(limit: float, met: bool) -> None:
    asked = demand(Requirement("accuracy", limit), replace(NOTHING, accuracy=AccuracyReport(100, 0.72, 0.70)))
    assert asked is not None and asked.met == met
    assert asked.text == f"top-1 accuracy fell from 72.0 to 70.0 %, and at most {limit:g} points may be lost"


@pytest.mark.parametrize(("after", "met"), [(0.61, True), (0.50, False)])
def test_points_of_boxes_that_are_lost(after: float, met: bool) -> None:
    values = ({name: MeasureReport(value, None, None)} for name, value in (("ap50", 0.60), ("ap50", after)))
    labelled = LabelledReport("detection", ("y",), 10, *values)
    asked = demand(Requirement("accuracy", 0.5), replace(NOTHING, labelled=labelled))
    assert asked is not None and asked.met == met and asked.text.startswith("AP50 fell from 60.0 to")


@pytest.mark.parametrize("name", ["error", "none"])
def test_errors_and_nothing_are_decided_elsewhere(name: str) -> None:
    assert demand(Requirement(name, 0.5), NOTHING) is None


def test_an_agreement_is_that_of_the_output_with_the_lowest() -> None:
    asked = demand(Requirement("agreement", 0.99), NOTHING)
    assert asked is not None and not asked.met
    assert asked.text.startswith("output 'logits' names the same class on 98.0 % of 100 samples (93.0 to 99.5 %),")
