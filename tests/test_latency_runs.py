"""Plans by the clock through the whole program, from injected tables of a device that is not here and measured ones."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import photo, plain, three_convs
from progress_for_tests import Steps

from onnx_lowrank import compress
from onnx_lowrank.bench.turns import Interval
from onnx_lowrank.cli import compress as cli
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.errors import TargetError, UsageError
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.by_clock import LatencyPlan, choose_by_clock
from onnx_lowrank.latency.clocked import clock_layers
from onnx_lowrank.latency.deployment import model_key
from onnx_lowrank.latency.layer_times import LayerTimes, ModelTimes
from onnx_lowrank.latency.stopwatch import Stopwatch
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import compress as compress_request
from onnx_lowrank.pipeline import measure_only, plan_only, prepare
from onnx_lowrank.plan.cost import Costs
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Listener, silent
from onnx_lowrank.runtime.providers import device_name, runtime_version
from onnx_lowrank.runtime.session import Opener, Session
from onnx_lowrank.stages.count import count
from onnx_lowrank.stages.latency_report import latency_plan
from onnx_lowrank.stages.reach import deploy
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample, sample_shapes

SHAPE = (12, 3, 12, 10)
DEVICE = "a processor that is not here"


def geometry() -> ConvGeometry:
    """Of conv2 and conv3, which are alike."""
    return ConvGeometry("float32", (1, 16, 12, 10), 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(three_convs(), path)
    return path


def inject(path: Path, model: Path, times: dict[Choice, float], whole: float, device: str = DEVICE) -> None:
    """Write a table as if it had been measured on a device."""
    table = Table()
    at = table.at(Setting(device, "CPUExecutionProvider", runtime_version(), 1, 1))
    at.models[model_key(load(model), {"x": photo(0, (1, *SHAPE[1:]))})] = whole
    at.steps["float32"] = 4
    at.layers[geometry()] = times
    path.write_text(table.to_json(), encoding="utf-8")


def options(table: Path, speedup: float, **others: Any) -> Options:
    return Options(
        speedup=speedup, target="latency", threads=1, latency_table=str(table), latency_device=DEVICE, **others
    )


FASTER: dict[Choice, float] = {ORIGINAL: 4.0, ("channel", (4,)): 1.0, ("channel", (12,)): 3.0, ("spatial", (4,)): 5.0}


def test_a_plan_for_another_device_follows_its_table_and_is_replayed(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    before = table.read_text(encoding="utf-8")
    planned = plan_only(Request(model, photo(1, SHAPE), options=options(table, 1.5)))
    by_clock = planned.latency_plan
    assert by_clock and by_clock.device == DEVICE and by_clock.measurements == 0 and by_clock.trial_ms is None
    assert by_clock.before_ms == 10 and by_clock.predicted_ratio >= 1.5
    assert by_clock.predicted_ms == by_clock.from_layers_ms
    sites = {site.name: site for site in planned.sites}
    assert planned.rank_multiple == 4
    assert all(site.form in (None, "channel") for site in sites.values())  # the spatial form was slower
    saved = sum((site.ms_before or 0) - (site.ms_after or 0) for site in sites.values())
    assert 10 - saved == pytest.approx(by_clock.predicted_ms)
    for site in sites.values():
        if site.form:
            (rank,) = site.ranks.values()
            assert rank % 4 == 0 and site.ms_after == pytest.approx(1.0 + (rank - 4) / 4)
    assert table.read_text(encoding="utf-8") == before
    again = compress(model, photo(1, SHAPE), plan=Plan.from_json(planned.plan.to_json()), threads=1, require="none")
    assert {s.name: (s.form, s.ranks) for s in again.report.sites} == {s.name: (s.form, s.ranks) for s in planned.sites}


def test_a_plan_by_the_clock_is_rehearsed_at_the_times_of_its_layers(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    chosen = options(table, 1.5, objective="outputs", images=40, require="none")
    with contextlib.ExitStack() as stack:
        planned = prepare(Run.start(Request(model, photo(1, (40, *SHAPE[1:])), chosen)), stack).planned
    assert planned.by_clock and {0.0, 0.5} <= set(planned.importance.trials)
    assert planned.by_clock.found.from_layers_ms <= 10 / 1.5
    assert all(choice.form in (None, "channel") for choice in planned.plan.sites)  # the spatial form was slower


def test_what_is_measured_slower_is_left_alone(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    slower: dict[Choice, float] = {ORIGINAL: 1.0, ("channel", (4,)): 1.2, ("channel", (12,)): 2.0}
    inject(table, model, slower, 10.0)
    planned = plan_only(Request(model, photo(1, SHAPE), options=options(table, 1.0)))
    assert {site.reason for site in planned.sites} == {"left alone: measured slower in every form"}
    with pytest.raises(TargetError, match="nothing was measured to make this model faster"):
        plan_only(Request(model, photo(1, SHAPE), options=options(table, 1.2)))


def test_a_form_that_is_slower_by_the_clock_is_not_taken_though_it_saves_macs(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, {ORIGINAL: 4.0, ("channel", (4,)): 9.0, ("channel", (12,)): 9.5, ("spatial", (4,)): 1.0}, 10.0)
    planned = plan_only(Request(model, photo(1, SHAPE), options=options(table, 1.3)))
    assert {site.form for site in planned.sites} <= {None, "spatial"}


def test_the_largest_ratio_of_another_device_is_stated(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    with pytest.raises(TargetError, match=r"makes this model 2\.50 times as fast"):
        plan_only(Request(model, photo(1, SHAPE), options=options(table, 2.6)))


def test_a_table_of_another_device_is_refused_and_says_how_to_use_it(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    here = Options(speedup=1.2, target="latency", threads=1, latency_table=str(table))
    with pytest.raises(UsageError, match=f"--latency-device '{DEVICE}'"):
        plan_only(Request(model, photo(1, SHAPE), options=here))
    # What the device has not measured cannot be planned for it.
    with pytest.raises(UsageError, match="--measure-latency"):
        plan_only(Request(model, photo(1, (12, 3, 14, 10)), options=options(table, 1.2)))
    with pytest.raises(UsageError, match="batch 1"):
        plan_only(Request(model, photo(1, SHAPE), options=options(table, 1.2, latency_batch=3)))


def test_a_table_is_measured_without_data_once_and_then_read(tmp_path: Path) -> None:
    path, table = tmp_path / "net.onnx", tmp_path / "t.json"
    onnx.save(three_convs(size=SHAPE[2:]), path)
    wanted = Options(target="latency", threads=1, latency_table=str(table), rank_multiple=8, form="channel")
    first = measure_only(Request(path, options=wanted))
    assert first.measurements > 2 and first.model_ms > 0 and first.device == device_name("CPUExecutionProvider")
    assert [layer.name for layer in first.layers] == ["conv2", "conv3"]
    assert all(layer.points == first.layers[0].points > 1 for layer in first.layers)
    text = table.read_text(encoding="utf-8")
    again = measure_only(Request(path, options=wanted))
    assert again.measurements == 0 and again.layers == first.layers
    assert table.read_text(encoding="utf-8") == text
    kinds = {time["form"] for layer in json.loads(text)["settings"][0]["layers"] for time in layer["times"]}
    assert kinds == {None, "channel"}


@pytest.mark.parametrize("rank_multiple", [None, 4])
def test_every_stage_of_planning_and_measuring_begins_and_ends(
    rank_multiple: int | None, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    planning, measuring = Steps(), Steps()
    wanted = options(table, 1.5, rank_multiple=rank_multiple)
    plan_only(Request(model, photo(1, SHAPE), options=wanted), Listener(planning))
    assert list(planning.by_stage) == ["load", "data", "profile", "measure", "fit", "plan"]
    measure_only(Request(model, photo(1, SHAPE), options=wanted), Listener(measuring))
    assert list(measuring.by_stage) == ["load", "data", "profile", "measure"]
    for steps in (planning, measuring):
        steps.check()
        # The whole model, and the only layer of which there are two.
        assert steps.by_stage["measure"][-3:] == [(0, 2), (1, 2), (2, 2)]


def test_samples_whose_shapes_alone_count_fill_the_batch_that_a_model_demands() -> None:
    fixed = three_convs(size=SHAPE[2:])
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    run = Run.start(Request(fixed))
    assert len(sample_shapes(run, read(run)).sampling.single) == 16


def test_open_sizes_are_measured_as_they_are_given(tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    wanted = Options(
        target="latency", threads=1, latency_table=str(table), rank_multiple=16, form="channel",
        input_shapes={"x": (1, 3, 20, 18)},
    )  # fmt: skip
    measure_only(Request(three_convs(), options=wanted))
    layers = json.loads(table.read_text(encoding="utf-8"))["settings"][0]["layers"]
    assert layers and all(layer["input"] == [1, 16, 20, 18] for layer in layers)


def test_a_result_by_the_clock_whose_layers_stay_untouched_says_what_was_measured(tmp_path: Path) -> None:
    result = compress(
        plain(), photo(1, SHAPE), 1.0, target="latency", form="channel", rank_multiple=8, threads=1, solver="weights",
        latency_table=str(tmp_path / "t.json"),
    )  # fmt: skip
    report = result.report
    assert report.latency_plan and report.speedup.latency
    assert report.latency_plan.rounds == 0 and report.latency_plan.trial_ratio and report.latency_plan.trial_ms
    assert report.latency_plan.measurements > 2
    assert report.options["target"] == "latency" and report.rank_multiple == 8
    assert all(site.form is None and site.ms_before and site.ms_before == site.ms_after for site in report.sites)
    assert "seconds" in report.to_json() and "measure" in report.cost.seconds


@pytest.mark.slow
def test_a_result_by_the_clock_is_as_fast_as_asked_for(tmp_path: Path) -> None:
    """Real times: slow tests run on a machine that does nothing else."""
    table = tmp_path / "t.json"
    data = ArraySource({"x": photo(1, (8, 3, 40, 40))})
    result = compress(
        three_convs(64), data, 1.5, target="latency", form="channel", rank_multiple=8, threads=1, solver="weights",
        latency_table=str(table), require="none",
    )  # fmt: skip
    report = result.report
    assert report.latency_plan and report.speedup.latency
    assert report.latency_plan.trial_ratio and report.latency_plan.trial_ratio >= 1.5
    assert report.speedup.latency.ratio > 1
    assert report.latency_plan.rounds >= 1 and report.latency_plan.correction > 0
    factorised = [site for site in report.sites if site.form]
    assert factorised
    for site in factorised:
        assert site.ms_before and site.ms_after and site.ms_after < site.ms_before
        assert all(rank % 8 == 0 for rank in site.ranks.values())
    # What was chosen has been measured, not only interpolated.
    times = Table.from_json(table.read_text(encoding="utf-8"), "t").at(
        Setting(device_name("CPUExecutionProvider"), "CPUExecutionProvider", runtime_version(), 1, 1)
    )
    measured = {choice for of_layer in times.layers.values() for choice in of_layer}
    assert {(site.form, tuple(site.ranks.values())) for site in factorised} <= measured


def test_a_batch_is_measured_as_asked_for_and_refused_where_the_model_has_its_own(tmp_path: Path) -> None:
    fixed = three_convs()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(UsageError, match="the model takes batches of 2: drop --latency-batch 3"):
        plan_only(Request(fixed, photo(1, SHAPE), options=Options(target="latency", latency_batch=3, rank_multiple=8)))
    result = compress(
        three_convs(),
        photo(1, SHAPE),
        1.5,
        rank_multiple=4,
        threads=1,
        latency_batch=20,
        solver="weights",
        require="none",
    )
    assert result.report.latency_plan is None
    assert result.report.speedup.latency and result.report.speedup.latency.batch == 20


def test_the_command_plans_by_the_clock_and_measures(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", photo(1, SHAPE))
    inject(Path("t.json"), model, FASTER, 10.0)
    by_clock = ["--target=latency", "--threads=1", "--latency-table=t.json", f"--latency-device={DEVICE}"]
    line = ["net.onnx", "--data=data.npy", "--dry-run", "--plan=plan.json", "--speedup=1.5", *by_clock]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    assert "planned latency" in out and "faster by the clock" in out and "4" in out
    replay = ["net.onnx", "out.onnx", "--data=data.npy", "--plan=plan.json", "--require=none", "--threads=1", "--quiet"]
    assert cli.main(replay) == 0
    assert cli.main(["net.onnx", "out.onnx", "--data=data.npy", "--speedup=9", *by_clock]) == 4
    assert "out of reach by the clock" in capsys.readouterr().err
    onnx.save(three_convs(size=SHAPE[2:]), "fixed.onnx")
    line = ["fixed.onnx", "--measure-latency", "--latency-table=new.json", "--threads=1", "--form=channel"]
    assert cli.main(line) == 0
    (setting,) = json.loads(Path("new.json").read_text(encoding="utf-8"))["settings"]
    assert setting["steps"].keys() == {"float32"}
    out = capsys.readouterr().out
    assert "Measured milliseconds" in out and "16→16 3×3 on 12×10" in out and "new measurements in new.json" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net.onnx --measure-latency", "name it with --latency-table FILE"),
        ("net.onnx out.onnx --measure-latency --latency-table t.json", "drop OUT"),
        ("net.onnx --measure-latency --latency-table t.json --dry-run", "drop --dry-run"),
        ("net.onnx out.onnx --target watts", "'watts' is none of macs, latency"),
        ("net.onnx out.onnx --target latency --plan p.json", "drop --target or --plan"),
        ("net.onnx out.onnx --latency-device x", "name the table"),
        ("net.onnx out.onnx --target latency --include-gemm", "drop include_gemm"),
        ("net.onnx out.onnx --latency-batch 0", "latency_batch is 0"),
        ("net.onnx out.onnx --rank-multiple few", "neither a whole number nor auto"),
        ("net.onnx out.onnx --latency-table net.onnx", "the same file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    line: str, message: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    assert cli.main(line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_table_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    Path("t.json").write_text("{}", encoding="utf-8")
    np.save("data.npy", photo(1, SHAPE))
    assert cli.main(["net.onnx", "out.onnx", "--data=data.npy", "--target=latency", "--latency-table=t.json"]) == 3
    assert "t.json is no latency table of schema 1" in capsys.readouterr().err


def test_only_models_with_something_to_fold_are_measured_without_a_layer_rewritten() -> None:
    assert normalise(plain()).folded and not normalise(three_convs()).folded


class Machine:
    """A simulated machine: the original takes 10 ms, and the other models ``after_ms`` in the order of their measuring.

    A layer takes 3 ms, and in a form the longer the higher its ranks. ``known`` holds the choices that were measured;
    ``table`` is the file that keeps them.
    """

    def __init__(self, *after_ms: float, table: Path | None = None) -> None:
        self.after_ms, self.models_measured, self.table = after_ms, 0, table
        self.known = list[tuple[ConvGeometry, Choice]]()

    def measure_models(self, sessions: Sequence[Session], feeds: Feeds) -> ModelTimes:
        if len(sessions) == 1:
            return ModelTimes((10.0,), Interval(1, 1, 1, 0.95))
        after = self.after_ms[self.models_measured]
        self.models_measured += 1
        return ModelTimes((10.0, after), Interval(10 / after, 10 / after, 10 / after, 0.95))

    def measure_layer(self, geometry: ConvGeometry, wanted: Sequence[Choice], open_session: Opener) -> LayerTimes:
        self.known += [(geometry, choice) for choice in (ORIGINAL, *wanted)]
        times = {choice: 0.5 + 0.02 * sum(choice[1]) for choice in wanted}
        return LayerTimes(times | {ORIGINAL: 3.0}, mostly_layer=True)

    def plan(self, model: onnx.ModelProto, options: Options) -> tuple[Plan, LatencyPlan]:
        """Choose for a model in the channel form, at energies that fall as the ranks do."""
        run = Run.start(Request(model, photo(1, SHAPE), options))
        network = read(run)
        sampled = sample(run, network)
        counted = count(run, network, sampled)
        setting = Setting(DEVICE, "CPUExecutionProvider", runtime_version(), 1, 1)
        stopwatch = Stopwatch(
            Table(), setting, run.open_session, self.table,
            measure_layer=self.measure_layer, measure_models=self.measure_models,
        )  # fmt: skip
        shares = log_shares(0.8 ** np.arange(100))

        def choices_at(costs: Mapping[str, Costs]) -> list[LayerChoices]:
            energies: dict[FormKind, Energies] = {CHANNEL: lambda ranks: np.asarray(shares[ranks[:, 0] - 1])}
            return [
                pareto_front(name, shape, energies, RankMultiple(2), costs[name])
                for name, shape in counted.shapes.items()
            ]

        deployment = deploy(run, network, sampled, counted)
        clocked = clock_layers(deployment, FormTable((CHANNEL,)), RankMultiple(4), silent, stopwatch)
        kernels: dict[str, tuple[PreparedKernel, ...]] = {s.name: ({},) * s.group for s in counted.sites}
        return choose_by_clock(clocked, kernels, choices_at)


@pytest.mark.parametrize(("asked", "after_ms"), [(1.3, [7.0]), (1.8, [7.0, 5.0])])
def test_where_folding_is_fast_enough_no_layer_is_touched(asked: float, after_ms: list[float]) -> None:
    """The original takes 10 ms, 7 with its normalisations folded, and 5 with any plan."""
    machine = Machine(*after_ms)
    wanted = Options(speedup=asked, target="latency", threads=1, rank_multiple=4)
    plan, by_clock = machine.plan(plain(), wanted)
    assert machine.models_measured == len(after_ms)
    assert {site.form is None for site in plan.sites} == ({True} if len(after_ms) == 1 else {True, False})
    assert by_clock.found.measured and by_clock.found.measured.ratio == pytest.approx(10 / after_ms[-1])


@pytest.mark.parametrize("error", [TargetError, KeyboardInterrupt])
def test_a_search_that_fails_keeps_what_it_has_measured(error: type[BaseException], tmp_path: Path) -> None:
    class Slow(Machine):
        def measure_models(self, sessions: Sequence[Session], feeds: Feeds) -> ModelTimes:
            if error is KeyboardInterrupt and len(sessions) == 2:
                raise KeyboardInterrupt
            return super().measure_models(sessions, feeds)

    path = tmp_path / "t.json"
    machine = Slow(*[7.5] * 20, table=path)
    with pytest.raises(error):
        machine.plan(three_convs(64), Options(speedup=1.4, target="latency", threads=1))
    times = Table.from_json(path.read_text(encoding="utf-8"), str(path)).at(
        Setting(DEVICE, "CPUExecutionProvider", runtime_version(), 1, 1)
    )
    # The layer was measured again for the plans.
    assert [choice for _, choice in machine.known].count(ORIGINAL) > 1
    assert {(geometry, choice) for geometry, layer in times.layers.items() for choice in layer} == set(machine.known)


def test_a_plan_by_the_clock_says_what_was_measured_and_what_was_predicted() -> None:
    machine = Machine(6.6)
    plan, by_clock = machine.plan(three_convs(64), Options(speedup=1.5, target="latency", threads=1))
    factorised = [site for site in plan.sites if site.form]
    assert factorised
    geometries = by_clock.clocked.deployment.geometries
    for site in factorised:
        before, after = by_clock.milliseconds[site.name]
        assert before == 3 and after == pytest.approx(0.5 + 0.02 * sum(site.ranks))
        # What was chosen has been measured, not only interpolated.
        assert (geometries[site.name], (site.form, site.ranks)) in machine.known
    report = latency_plan(by_clock)
    saved = sum(before - after for before, after in by_clock.milliseconds.values())
    assert (report.before_ms, report.trial_ms) == (10, 6.6)
    assert report.trial_ratio == pytest.approx(10 / 6.6, abs=1e-4)
    assert (report.predicted_ms, report.predicted_ratio) == (report.trial_ms, report.trial_ratio)
    assert report.from_layers_ms == pytest.approx(10 - saved, abs=1e-4)
    assert report.correction == pytest.approx((10 - 6.6) / saved, abs=1e-4)
    assert report.rounds == 1 and report.measurements == len(machine.known) + 1


@pytest.mark.parametrize("limit", [0.6, 100.0])
def test_a_quality_is_kept_by_what_is_fastest_by_the_clock(limit: float, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    inject(table, model, FASTER, 10.0)
    chosen = options(table, 4.0, keep=f"error={limit}", solver="linear", images=30, require="none")
    traded = compress_request(Request(model, photo(1, (45, *SHAPE[1:])), chosen)).report.trade_off
    assert traded is not None
    (result,) = (point for point in traded.points if point.chosen)
    assert result.keeps and result.bound is not None and result.bound <= limit
    for point in traded.points:
        assert point.latency is not None and point.latency == pytest.approx(point.speedup, rel=0.2)
        assert point.latency >= point.speedup - 1e-9 and point.latency <= 2.5
    if limit == 100:  # nothing is faster than the fastest choices of the table
        assert result.speedup > 2.3 and result.speedup == max(point.speedup for point in traded.points)
