"""No ruin is called a success: verdicts, the limit that is required, and what becomes of a result that misses it."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import contents
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import classifier, photo, plain

from onnx_lowrank import compress
from onnx_lowrank.cli import compress as cli
from onnx_lowrank.errors import ModelError, QualityError, UsageError
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.quality import BY_DEFAULT, LIMITS, Requirement, parse_requirement, verdict
from onnx_lowrank.report.output_schema import OutputReport, farthest
from onnx_lowrank.report.schema import Report

TINY = 1e-9
SAMPLES = photo(1, (60, 3, 12, 10))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (0.0, "kept"), (0.02, "kept"), (0.02 + TINY, "degraded"), (0.1, "degraded"), (0.1 + TINY, "damaged"),
        (0.5, "damaged"), (0.5 + TINY, "ruined"), (1.0, "ruined"), (1e9, "ruined"), (math.inf, "ruined"),
        (math.nan, "ruined"),
    ],
)  # fmt: skip
def test_the_limits_of_the_verdicts(error: float, expected: str) -> None:
    assert verdict(error) == expected


def test_the_page_of_the_report_names_the_limits() -> None:
    page = (Path(__file__).parents[1] / "onnx_lowrank/report/README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.split("## The verdict")[1].splitlines() if line.startswith("| ")]
    assert [(name.strip(), limit.strip()) for name, limit in rows[2:]] == [
        *((name, f"{limit:g}") for name, limit in LIMITS),
        ("ruined", "above"),
    ]


@pytest.mark.parametrize("order", [(0.01, math.nan), (math.nan, 0.01), (math.nan, 0.01, math.inf)])
def test_an_error_that_is_no_number_is_the_farthest(order: tuple[float, ...]) -> None:
    """Wherever it stands among the outputs: no output with a small error speaks for it."""
    outputs = {
        str(number): OutputReport(1, 0.0, error, None, None, 0.0, None, None, None)
        for number, error in enumerate(order)
    }
    name = farthest(outputs)
    assert name is not None and verdict(outputs[name].centred_error) == "ruined"


def test_a_refusal_survives_the_way_between_processes() -> None:
    refusal = pickle.loads(pickle.dumps(QualityError("ruined", {"verdict": "ruined"})))
    assert str(refusal) == "ruined" and refusal.report == {"verdict": "ruined"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("agreement=0.95", Requirement("agreement", 0.95)),
        ("agreement=1", Requirement("agreement", 1.0)),
        ("error=0.02", Requirement("error", 0.02)),
        ("error=0", Requirement("error", 0.0)),
        ("error=3", Requirement("error", 3.0)),
        ("accuracy=0.5", Requirement("accuracy", 0.5)),
        ("AP50=0.9", Requirement("ap50", 0.9)),
        ("psnr=42.5", Requirement("psnr", 42.5)),
        (" Error = 2e-2 ", Requirement("error", 0.02)),
        ("none", Requirement("none")),
        (None, BY_DEFAULT),
    ],
)
def test_what_may_be_required(text: str | None, expected: Requirement) -> None:
    assert parse_requirement(text) == expected == Options(require=text).requirement


@given(st.floats(0, 1e6) | st.none())
def test_a_requirement_is_written_as_it_is_read(limit: float | None) -> None:
    wanted = Requirement("none") if limit is None else Requirement("error", float(f"{limit:g}"))
    assert parse_requirement(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "give agreement=0.95, error=0.02 or the like, or none"),
        ("0.95", "give agreement=0.95, error=0.02 or the like, or none"),
        ("boxes=0.9", "give agreement=0.95, error=0.02 or the like, or none"),
        ("accuracy=-1", "give the most points that may be lost"),
        ("psnr=inf", "give the lowest signal-to-noise ratio that is accepted, in dB, such as psnr=40"),
        ("ap50=50", "give the smallest share that is accepted, between 0 and 1, such as ap50=0.9"),
        ("none=1", "give agreement=0.95, error=0.02 or the like, or none"),
        ("agreement", "give the smallest share that is accepted, between 0 and 1"),
        ("agreement=", "give the smallest share that is accepted, between 0 and 1"),
        ("agreement=95", "give the smallest share that is accepted, between 0 and 1"),
        ("agreement=95%", "give the smallest share that is accepted, between 0 and 1"),
        ("agreement=0", "give the smallest share that is accepted, between 0 and 1"),
        ("agreement=nan", "give the smallest share that is accepted, between 0 and 1"),
        ("error=-1", "give the largest centred error that is accepted"),
        ("error=inf", "give the largest centred error that is accepted"),
        ("error=nan", "give the largest centred error that is accepted"),
        ("error=low", "give the largest centred error that is accepted"),
        ("error=0.1=0.2", "give the largest centred error that is accepted"),
    ],
)
def test_what_makes_no_requirement(text: str, advice: str) -> None:
    with pytest.raises(UsageError) as refused:
        Options(require=text)
    assert str(refused.value).startswith(f"require is {text!r}: {advice}")


def test_a_requirement_is_a_text() -> None:
    wrong: Any = 0.95
    with pytest.raises(UsageError, match=r"require is 0\.95: give a text, such as agreement=0\.95"):
        Options(require=wrong)


# ---- whole runs of a network with random weights, of which low ranks keep little


def run(model: onnx.ModelProto, speedup: float, require: str | None = None) -> tuple[Report, str | None]:
    """The report, and the refusal where there is one."""
    try:
        return compress(
            model, SAMPLES, speedup, threads=1, require=require, rank_multiple=1, objective="energies"
        ).report, None
    except QualityError as refusal:
        assert isinstance(refusal.report, Report)
        return refusal.report, str(refusal)


def worst(report: Report) -> float:
    return max(output.centred_error for output in report.outputs.values())


@pytest.mark.parametrize(
    ("model", "speedup", "expected"),
    [(plain(), 1.2, "kept"), (plain(), 2, "degraded"), (plain(), 3, "damaged"), (classifier("MatMul"), 6, "ruined")],
)
def test_a_result_is_called_what_it_is(model: onnx.ModelProto, speedup: float, expected: str) -> None:
    report, refusal = run(model, speedup)
    assert report.verdict == expected == verdict(worst(report))
    assert (refusal is not None) == (report.output is None) == (expected == "ruined")
    warnings = [text for text in report.warnings if "the result is" in text]
    assert len(warnings) == (expected == "damaged")
    if expected == "damaged":
        assert warnings[0].startswith("the result is damaged: output 'y' has a centred error of ")
        assert "on 12 samples that no solver saw" in warnings[0]
    again, accepted = run(model, speedup, require="none")
    assert accepted is None and again.output is not None and again.outputs == report.outputs
    assert again.verdict == expected
    assert any(f"the result is {expected}" in text for text in again.warnings) == (expected in ("damaged", "ruined"))


@pytest.mark.parametrize(("count", "seen"), [(5, "5 samples that the solver saw"), (6, "1 sample that no solver saw")])
def test_too_few_samples_are_judged_all_the_same_and_called_what_they_are(count: int, seen: str) -> None:
    with pytest.raises(QualityError, match=f"the result is damaged: output 'y' has a centred error of .* on {seen}"):
        compress(plain(), SAMPLES[:count], 4.5, threads=1, require="error=0.05")


def test_an_offset_hides_no_ruin() -> None:
    report, refusal = run(classifier("MatMul"), 6)
    assert report.outputs["y"].relative_error < 0.01 < 0.5 < report.outputs["y"].centred_error
    assert refusal and "the result is ruined" in refusal


@pytest.mark.parametrize(("factor", "accepted"), [(0.9, False), (1.1, True)])
@pytest.mark.parametrize("speedup", [1.2, 3])
def test_the_estimate_decides_about_an_error(factor: float, accepted: bool, speedup: float) -> None:
    error = worst(run(plain(), speedup)[0])
    report, refusal = run(plain(), speedup, f"error={factor * error:.6g}")
    assert (refusal is None) == accepted == (report.output is not None)
    if refusal:
        called = report.verdict if report.verdict in ("damaged", "ruined") else "not good enough"
        assert refusal.startswith(f"the result is {called}: output ")
        assert f"at most {factor * error:.6g}"[:12] in refusal and "nothing was written" in refusal
        assert f"({report.outputs['y'].centred_low:.3g} to {report.outputs['y'].centred_high:.3g})" in refusal


def undecided() -> onnx.ModelProto:
    """A classifier whose scores lie so close together that small errors change the class."""
    model = classifier("transB 1")
    biases = next(tensor for tensor in model.graph.initializer if tensor.name == "bg")
    scores = models_for_tests.run_model(model, {"x": SAMPLES})["y"].mean(axis=0)
    values = onnx.numpy_helper.to_array(biases)
    biases.CopyFrom(onnx.numpy_helper.from_array((values - scores).astype(np.float32), "bg"))
    return model


def test_the_estimate_decides_about_an_agreement() -> None:
    """It replaces the limit of the error: what names the same classes may be as far off as it likes."""
    model = undecided()
    report, _ = run(model, 3, "none")
    scores = report.outputs["y"]
    assert scores.top1_agreement is not None and 0.2 < scores.top1_agreement < 1
    below, above = scores.top1_agreement - 0.01, scores.top1_agreement + 0.01
    assert run(model, 3, f"agreement={below:.3f}")[1] is None
    refused, refusal = run(model, 3, f"agreement={above:.3f}")
    assert refusal and refused.output is None
    low, high = (100 * (bound or 0) for bound in (scores.top1_low, scores.top1_high))
    assert f"{100 * scores.top1_agreement:.1f} % of 12 samples ({low:.1f} to {high:.1f} %)" in refusal


def test_a_given_plan_has_no_speedup_to_lower() -> None:
    planned = compress(classifier("MatMul"), SAMPLES, 6, threads=1, require="none").report
    plan = Plan(tuple(SitePlan(site.name, site.form, tuple(site.ranks.values())) for site in planned.sites))
    with pytest.raises(QualityError, match="nothing was written; raise the ranks of the plan"):
        compress(classifier("MatMul"), SAMPLES, plan=plan, threads=1)


@pytest.mark.parametrize("require", ["agreement=0.9", "error=0.1"])
def test_what_cannot_be_measured_is_refused_before_the_long_work(require: str) -> None:
    model = plain()
    if require.startswith("error"):
        model.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["n"], axis=1))
        model.graph.output.pop()
        model.graph.output.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, ["N", 1, 12, 10]))
    stages: list[str] = []
    with pytest.raises(ModelError, match=rf"--require {require} needs .*: require (an error instead, or )?none$"):
        compress(model, SAMPLES, 1.2, threads=1, require=require, progress=lambda stage, *_: stages.append(stage))
    assert "profile" not in stages


def test_what_turns_out_to_be_no_classifier_is_refused() -> None:
    """Rows [rows, 4] are declared as class scores are, and there are more of them than samples."""
    model = plain()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4]), "rows_of_four"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["y", "rows_of_four"], ["boxes"]))
    model.graph.output.pop()
    model.graph.output.append(onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, ["rows", 4]))
    needs = r"agreement=0.9 needs class scores .*, and the model has the outputs boxes: require an error instead"
    with pytest.raises(ModelError, match=needs):
        compress(model, SAMPLES, 1.2, threads=1, require="agreement=0.9")
    assert compress(model, SAMPLES, 1.2, threads=1).report.outputs["boxes"].top1_agreement is None


def test_without_outputs_to_compare_there_is_no_verdict() -> None:
    model = plain()
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["n"], axis=1))
    model.graph.output.pop()
    model.graph.output.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, ["N", 1, 12, 10]))
    report = compress(model, SAMPLES, 1.2, threads=1).report
    assert report.verdict is None and report.output is not None
    assert any("no floating-point output could be compared" in text for text in report.warnings)


# ---- the command


@pytest.fixture
def ruined(good_files: None) -> list[str]:
    """A command line whose result is ruined."""
    onnx.save(classifier("MatMul"), "in.onnx")
    np.save("data.npy", SAMPLES)
    return ["in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "6", "--threads", "1"]


def test_the_report_of_a_ruined_result_is_written_all_the_same(ruined: list[str]) -> None:
    before = contents()
    assert cli.main([*ruined, "--report", "report.json"]) == 7
    after = contents()
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert after.keys() - before.keys() == {"report.json"}
    assert report["output"] is None and report["verdict"] == "ruined"
    assert report["outputs"]["y"]["centred_error"] > 0.5 and report["sites"] and report["cost"]["seconds"]
    assert report["options"]["require"] is None


def test_what_is_accepted_is_written_with_a_warning(ruined: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ruined, "--require", "none"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("onnx-lowrank: warning: the result is ruined: ") and err.count("\n") == 1
    assert "fewer conv MACs, ruined with a centred error of " in out.splitlines()[-1]
    onnx.checker.check_model("out.onnx", full_check=True)


@pytest.mark.parametrize("line", ["--require agreement=95", "--require best", "--require=", "--dry-run --require none"])
def test_a_requirement_without_meaning_is_refused(line: str, refuses: Callable[..., str], good_files: None) -> None:
    assert "require" in refuses(2, "in.onnx", *([] if "dry" in line else ["out.onnx"]), *line.split())


def test_a_measurement_requires_nothing(refuses: Callable[..., str], good_files: None) -> None:
    line = ["in.onnx", "--measure-latency", "--latency-table", "t.json", "--require", "none"]
    assert "--measure-latency only measures: drop --require" in refuses(2, *line)
