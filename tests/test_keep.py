"""A quality is asked for, and the fastest model that keeps it is what comes out, with what every speedup costs."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import classifier, photo, plain, three_convs
from progress_for_tests import Steps

from onnx_lowrank import compress
from onnx_lowrank.cli import compress as cli
from onnx_lowrank.cli.trade_off_table import trade_off_table
from onnx_lowrank.errors import ModelError, QualityError, TargetError, UsageError
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result
from onnx_lowrank.plan.quality_search import LEAST_SPEEDUP, MOST
from onnx_lowrank.report.schema import Report
from onnx_lowrank.report.trade_off_schema import TradeOffReport
from onnx_lowrank.stages.intervals import lost_interval, lost_points
from onnx_lowrank.stages.keep import FEWEST

IMAGES, DATA = 60, photo(1, (90, 3, 12, 10))
# Every rank, because the blocks that ranks fill are coarse in layers of so few channels.
FAST: dict[str, Any] = {
    "refine": 0,
    "threads": 1,
    "images": IMAGES,
    "solver": "linear",
    "require": "none",
    "rank_multiple": 1,
}


def run(model: Any = None, **options: Any) -> Result:
    return compress(plain() if model is None else model, DATA, **{**FAST, **options})


@cache
def kept(quality: str) -> Result:
    return run(keep=quality)


def trade_off(result: Result) -> TradeOffReport:
    assert result.report.trade_off is not None
    return result.report.trade_off


def labelled(folder: Path, count: int = 80) -> Path:
    """Samples whose labels are mostly what the classifier says."""
    import onnxruntime

    inputs = photo(5, (count, 3, 12, 10))
    model = classifier("MatMul").SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = np.asarray(session.run(None, {"x": inputs})[0]).argmax(axis=1)
    labels[::7] = 0
    np.savez(folder / "test.npz", x=inputs, labels=labels)
    return folder / "test.npz"


# ---- what comes out


@pytest.mark.parametrize("limit", [0.005, 0.05, 0.3])
def test_the_fastest_model_that_keeps_an_error_is_the_result(limit: float) -> None:
    result = kept(f"error={limit}")
    found = trade_off(result)
    assert FEWEST <= len(found.points) <= MOST + FEWEST
    assert [point.speedup for point in found.points] == sorted(point.speedup for point in found.points)
    (chosen,) = (point for point in found.points if point.chosen)
    assert chosen.keeps and chosen.bound is not None and chosen.value is not None and chosen.centred_error is not None
    assert chosen.value == chosen.centred_error < chosen.bound <= limit
    missed = min((point.speedup for point in found.points if not point.keeps), default=np.inf)
    assert not any(point.keeps for point in found.points if chosen.speedup < point.speedup < missed)
    assert result.report.speedup.macs == pytest.approx(chosen.macs) and result.report.speedup.requested is None
    assert chosen.speedup <= chosen.macs <= 1.02 * chosen.speedup


def test_more_error_buys_more_speed() -> None:
    strict, loose = (kept(f"error={limit}").report.speedup.macs for limit in (0.005, 0.3))
    assert strict < loose


@pytest.mark.parametrize("options", [{"keep": "error=0.05"}, {"curve": True, "speedup": 2.0}], ids=str)
def test_the_result_is_the_model_that_its_speedup_alone_would_give(options: dict[str, Any]) -> None:
    """One profile serves all models, and the samples that appraise are drawn beyond the others."""
    result = run(**options)
    alone = run(speedup=next(point.speedup for point in trade_off(result).points if point.chosen))
    assert alone.report.trade_off is None
    assert result.model.SerializeToString(deterministic=True) == alone.model.SerializeToString(deterministic=True)
    assert result.report.outputs == alone.report.outputs
    assert result.report.cost.forward_passes > alone.report.cost.forward_passes


def test_samples_that_took_no_part_judge_and_say_how_sure_they_are() -> None:
    result = kept("error=0.05")
    found, output = trade_off(result).kept, result.report.outputs["y"]
    assert found is not None and (found.measure, found.limit) == ("error", 0.05)
    assert (found.value, found.low, found.high) == (output.centred_error, output.centred_low, output.centred_high)
    assert found.samples == output.samples == 12 and trade_off(result).samples == 30
    assert found.holds == (output.centred_error <= 0.05)
    assert any("holds on the samples that chose, and not" in text for text in result.report.warnings) != found.holds
    assert json.loads(result.report.to_json())["trade_off"]["kept"]["value"] == output.centred_error


def test_an_agreement_is_kept_with_a_margin() -> None:
    result = run(classifier("MatMul"), keep="agreement=0.8")
    found = trade_off(result)
    (chosen,) = (point for point in found.points if point.chosen)
    assert chosen.top1_agreement is not None and chosen.bound is not None and chosen.value is not None
    assert chosen.top1_agreement >= chosen.bound >= 0.8 and chosen.value > chosen.bound
    assert found.kept is not None and found.kept.value == result.report.outputs["y"].top1_agreement


def test_a_measure_of_what_the_outputs_are_for_is_kept_with_a_margin() -> None:
    result = run(three_convs(), keep="cosine=0.95", task="embedding")
    found, (task,) = trade_off(result), result.report.tasks
    (chosen,) = (point for point in found.points if point.chosen)
    assert chosen.value is not None and chosen.bound is not None and 0.95 <= chosen.bound < chosen.value
    assert found.measure == "cosine" and found.kept is not None
    assert (found.kept.value, found.kept.samples) == (task.measures["cosine"].value, task.samples)
    missed = [point.bound for point in found.points if not point.keeps]
    assert all(bound is not None and bound < 0.95 for bound in missed)


def test_a_task_that_the_outputs_do_not_serve_is_refused_before_the_long_work() -> None:
    steps = Steps()
    with pytest.raises(ModelError, match=r"--keep ap50=0\.9 needs"):
        compress(plain(), DATA, keep="ap50=0.9", progress=steps, **FAST)
    assert "profile" not in steps.by_stage


def test_accuracy_chooses_on_one_half_of_the_labelled_samples_and_reports_the_other(tmp_path: Path) -> None:
    result = run(classifier("MatMul"), keep="accuracy=20", test=labelled(tmp_path, 81))
    found, accuracy = trade_off(result), result.report.accuracy
    assert accuracy is not None and found.kept is not None
    assert found.samples == 41 and accuracy.samples == found.kept.samples == 40
    assert found.kept.value == pytest.approx(100 * (accuracy.before - accuracy.after))
    assert accuracy.before - accuracy.after == pytest.approx((accuracy.lost - accuracy.gained) / 40)


def test_what_require_refuses_is_not_chosen() -> None:
    """Nothing is kept of the agreement that one asks for, but the outputs must not be ruined."""
    try:
        report = run(classifier("MatMul"), keep="agreement=0.1", require="error=0.1").report
    except QualityError as refusal:  # the samples that judge may see it otherwise
        assert isinstance(refusal.report, Report)
        report = refusal.report
    assert report.trade_off is not None
    (chosen,) = (point for point in report.trade_off.points if point.chosen)
    assert chosen.centred_error is not None and chosen.centred_error <= 0.1
    assert all(point.keeps is False for point in report.trade_off.points if (point.centred_error or 0) > 0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "weights"}, {"symmetric": True}, {"include_gemm": True}, {"objective": "outputs"},
        {"rank_multiple": 4, "ranks": "greedy"}, {"form": "channel", "refit": False}, {"memory": 1 << 20},
    ],
    ids=str,
)  # fmt: skip
def test_a_quality_goes_with_every_other_option(options: dict[str, Any]) -> None:
    result = run(classifier("MatMul"), keep="error=0.4", **options)
    chosen = next(point for point in trade_off(result).points if point.chosen)
    assert chosen.keeps and result.report.speedup.macs == pytest.approx(chosen.macs)


def test_a_curve_lies_around_the_speedup_that_was_asked_for() -> None:
    found = trade_off(run(curve=True, speedup=2.0))
    assert len(found.points) == FEWEST and found.kept is None and found.measure is None
    assert [point.speedup for point in found.points if point.chosen] == [2.0]
    errors = [point.centred_error or 0 for point in found.points]
    assert errors[0] < errors[-1] and min(p.speedup for p in found.points) < 2 < max(p.speedup for p in found.points)
    assert all(point.keeps is None and point.value is None for point in found.points)


def test_a_search_says_how_far_it_is() -> None:
    steps = Steps()
    compress(plain(), DATA, keep="error=0.05", progress=steps, **FAST)
    steps.check()
    assert steps.by_stage["keep"][0] == (0, MOST) and "rehearse" in steps.by_stage


def test_several_shards_choose_the_same() -> None:
    from onnx_lowrank.pipeline import compress as by_request
    from onnx_lowrank.stages.request import Request

    request = Request(plain(), DATA, Options(keep="error=0.05", **FAST))
    one, several = by_request(request), by_request(request, shards=3)
    assert trade_off(one) == trade_off(several)


# ---- what does not


def test_where_nothing_keeps_it_the_closest_is_named() -> None:
    with pytest.raises(
        TargetError, match=f"a speedup of {LEAST_SPEEDUP:g} comes closest, with centred error"
    ) as refused:
        run(keep="error=0")
    assert refused.value.exit_code == 4 and "\n" not in str(refused.value)


def test_an_agreement_needs_class_scores() -> None:
    with pytest.raises(ModelError, match=r"--keep agreement=0\.9 needs class scores .*: keep an error instead$"):
        run(keep="agreement=0.9")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(keep="error=0.1", speedup=2.0), "drop speedup or keep"),
        (lambda: run(keep="accuracy=1"), "give labelled samples as test"),
        (lambda: run(keep="none"), "keep is 'none': give agreement"),
        (lambda: run(keep=0.99), "keep is 0.99: give a text"),
        (lambda: run(keep="agreement=99"), "keep is 'agreement=99': give the smallest share"),
        (lambda: run(curve="yes"), "curve is 'yes': give True or False"),
    ],
)
def test_what_has_no_meaning_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        call()
    assert message in str(refused.value)


def test_on_few_samples_the_user_is_told() -> None:
    result = compress(plain(), DATA[:4], keep="error=0.5", **FAST)
    assert any("the speedups are compared on samples that the solver saw" in text for text in result.report.warnings)


# ---- the command line


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import onnx

    onnx.save(plain(), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMON = "--data data.npy --images 60 --threads 1 --solver linear --require none"


def test_a_dry_run_saves_the_plan_of_the_chosen_model_for_replay(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = COMMON.removesuffix(" --require none")
    assert cli.main(f"net.onnx --dry-run --keep error=0.05 --plan plan.json {common}".split()) == 0
    assert "What a speedup costs, on 30 samples that no solver saw" in capsys.readouterr().out
    assert not (files / "out.onnx").exists()
    assert cli.main(f"net.onnx out.onnx --plan plan.json {COMMON}".split()) == 0
    assert cli.main(f"net.onnx kept.onnx --keep error=0.05 --report r.json {COMMON}".split()) == 0
    assert "--keep error=0.05: centred error" in capsys.readouterr().out
    assert (files / "out.onnx").read_bytes() == (files / "kept.onnx").read_bytes()
    assert len(json.loads((files / "r.json").read_text())["trade_off"]["points"]) >= FEWEST


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net.onnx out.onnx --keep error=0.1 --speedup 2", "--keep asks for a quality and --speedup for a speedup"),
        ("net.onnx out.onnx --keep error=0.1 --plan p.json", "drop --keep or --plan"),
        ("net.onnx out.onnx --curve --plan p.json", "drop --curve or --plan"),
        ("net.onnx --dry-run --keep error=0.1 --test t.npz", "drop --test or --dry-run"),
        ("net.onnx --measure-latency --latency-table t.json --keep error=0.1", "drop --keep"),
        ("net.onnx out.onnx --keep speed=2", "keep is 'speed=2': give agreement=0.95, error=0.02 or the like"),
    ],
)
def test_contradictions_are_refused(line: str, message: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_table_shows_the_points() -> None:
    table = trade_off_table(trade_off(kept("error=0.05")))
    assert table.row_count == len(trade_off(kept("error=0.05")).points)


# ---- accuracy that is lost


@pytest.mark.parametrize(("lost", "gained", "samples"), [(0, 0, 100), (5, 2, 100), (0, 9, 50), (30, 0, 60)])
def test_lost_points_are_never_sure(lost: int, gained: int, samples: int) -> None:
    points, error = lost_points(lost, gained, samples)
    low, high = lost_interval(lost, gained, samples)
    assert points == pytest.approx(100 * (lost - gained) / samples) and error > 0
    assert low < high and low <= points + error and high >= points - error


def test_the_interval_of_lost_points_holds_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        lost, gained, _ = rng.multinomial(500, [0.03, 0.01, 0.96])
        low, high = lost_interval(int(lost), int(gained), 500)
        held += low <= 2.0 <= high
    assert 0.92 < held / 400 < 0.98
