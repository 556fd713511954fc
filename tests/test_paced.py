"""Plans by the clock in which layers may lose channels, on a clock that counts the weights of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import photo, run_model
from test_width import chain, inverted_residuals

from onnx_lowrank import compress
from onnx_lowrank.bench.turns import Interval
from onnx_lowrank.errors import TargetError
from onnx_lowrank.graph.files.load import parameters
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.deployment import Deployment
from onnx_lowrank.latency.layer_times import LayerTimes, ModelTimes
from onnx_lowrank.latency.stopwatch import Stopwatch
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.runtime.session import Opener, Session, opener

DATA = photo(1, (40, 3, 12, 10))
FEEDS = {"x": photo(99, (3, 3, 12, 10))}


class Clock:
    """A clock on which a model takes a millisecond per weight, and a layer alone ``optimism`` times as long.

    Attributes
    ----------
    slow_forms
        Whether a layer takes longer in any form than it does as it is.
    """

    def __init__(self, optimism: float = 1.0, *, slow_forms: bool = True) -> None:
        self.optimism, self.slow_forms = optimism, slow_forms
        self.weights: dict[int, int] = {}
        self.ratios: list[float] = []

    def open_session(self, model: onnx.ModelProto, what: str) -> Session:
        session = opener(("CPUExecutionProvider",), 1, spinning=False)(model, what)
        self.weights[id(session)] = parameters(model)
        return session

    def measure_models(self, sessions: Sequence[Session], feeds: Feeds) -> ModelTimes:
        times = [float(self.weights[id(session)]) for session in sessions]
        ratio = times[0] / times[-1]
        self.ratios.append(ratio)
        return ModelTimes(tuple(times), Interval(ratio, ratio, ratio, 0.95))

    def measure_layer(self, geometry: ConvGeometry, wanted: Sequence[Choice], open_session: Opener) -> LayerTimes:
        whole = self.optimism * float(np.prod(geometry.weights))
        slow = {choice: 1.5 * whole if self.slow_forms else 0.01 * sum(choice[1]) * whole for choice in wanted}
        return LayerTimes(slow | {ORIGINAL: whole}, mostly_layer=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    own: Clock = getattr(request, "param", None) or Clock()

    def open_stopwatch(deployment: Deployment) -> Stopwatch:
        setting = Setting("a clock that counts weights", "CPUExecutionProvider", "1", 1, 1)
        return Stopwatch(
            Table(), setting, own.open_session, measure_layer=own.measure_layer, measure_models=own.measure_models
        )

    def measure_latency(models: Sequence[onnx.ModelProto], *others: Any) -> tuple[Latency]:
        before, after = map(parameters, models)
        ratio = before / after
        return (Latency(float(before), float(after), ratio, ratio, ratio, 0.95, 5, 1, fresh_process=True),)

    monkeypatch.setattr(Deployment, "open_stopwatch", open_stopwatch)
    monkeypatch.setattr("onnx_lowrank.stages.measure.measure_latency", measure_latency)
    return own


def by_clock(model: onnx.ModelProto, speedup: float, **options: Any) -> Any:
    return compress(
        model, DATA, speedup, target="latency", rank_multiple=1, threads=1, require="none", images=40, **options
    )


@pytest.mark.parametrize("clock", [Clock(), Clock(2.0), Clock(0.5)], indirect=True, ids=["right", "long", "short"])
@pytest.mark.parametrize("builder", [inverted_residuals, chain])
def test_where_ranks_gain_nothing_channels_do_and_the_whole_model_tells(builder: Any, clock: Clock) -> None:
    model = builder()
    result = by_clock(model, 1.4)
    assert parameters(model) / parameters(result.model) > 1.39  # a layer that is fitted again may have a bias more
    assert result.report.widths and not any(site.form for site in result.report.sites)
    planned = result.report.latency_plan
    assert planned.trial_ratio in [pytest.approx(ratio, abs=1e-4) for ratio in clock.ratios]
    assert planned.trial_ratio >= 1.4
    before, after = run_model(model, FEEDS)["y"], run_model(result.model, FEEDS)["y"]
    assert np.square(before - after).sum() < 1e-6 * np.square(before).sum()  # half of the channels repeat the others


@pytest.mark.parametrize("clock", [Clock(slow_forms=False)], indirect=True)
def test_ranks_and_channels_are_compared_by_what_they_do_to_the_outputs(clock: Clock) -> None:
    redundant, other = by_clock(inverted_residuals(), 1.3), by_clock(inverted_residuals(halves=False), 1.3)
    alone = by_clock(inverted_residuals(halves=False), 1.3, width="none")
    assert redundant.report.widths
    assert other.report.outputs["y"].centred_error <= 1.1 * alone.report.outputs["y"].centred_error


def test_what_neither_reaches_is_refused_with_the_largest_ratio(clock: Clock) -> None:
    with pytest.raises(TargetError, match="out of reach by the clock") as refused:
        by_clock(chain(), 60)
    stated = float(str(refused.value).split(" times as fast")[0].rpartition(" ")[2])
    assert 2 < stated <= max(clock.ratios)


def test_without_width_nothing_is_taken_out(clock: Clock) -> None:
    with pytest.raises(TargetError, match="nothing was measured to make this model faster"):
        by_clock(chain(), 1.3, width="none")
