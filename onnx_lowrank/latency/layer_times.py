"""Layers on the stopwatch: every form at its ranks as a small model, in turns with the layer as it is.

The time of what surrounds the layer in the small models is subtracted. Only what takes turns is disturbed alike, so a
form's time is taken relative to that of the layer as it is from the same turns: what else a machine does for some
seconds slows both down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.bench.turns import Budget, Interval, take_turns
from onnx_lowrank.factorise.forms.kind import placeholder
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.graph.layer_model import ConvGeometry, layer_input, layer_model, surrounding_model
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.table import ORIGINAL, Choice
from onnx_lowrank.runtime.session import Opener, Session

TOGETHER = 8
"""Models that take turns: each brings its own threads and buffers."""

MOST_BYTES = 1 << 30
"""Of the buffers of models that take turns, about."""

BUDGET = Budget(rounds=12, seconds=1.5, fewest=4, turn=0.002)
"""For one such group."""

WHOLE = Budget(rounds=15, seconds=8.0, fewest=5)
"""For two whole models."""

SHORTEST = 1e-4
"""Milliseconds; what is measured to take less (the surroundings are subtracted, so it may come to less than none) takes
this."""


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of a layer.

    Attributes
    ----------
    times
        Of its choices, ``ALONE`` among them, without the surroundings.
    mostly_layer
        Whether the layer as it is takes most of its small model's time: only then its own is known well enough to tell
        how slow the machine was.
    """

    times: dict[Choice, float]
    mostly_layer: bool


def measure_layer(
    geometry: ConvGeometry, wanted: Sequence[Choice], open_session: Opener, budget: Budget = BUDGET
) -> LayerTimes:
    """Milliseconds of a convolution in forms.

    Parameters
    ----------
    geometry
        Of the convolution.
    wanted
        The forms and ranks; ``ALONE`` is measured in any case.
    open_session
        As deployed: with the threads and the provider that are to be measured.
    budget
        For every few models that take turns.

    Raises
    ------
    ModelError
        Where ONNX Runtime refuses a small model.
    """
    feeds = layer_input(geometry)
    around = open_session(surrounding_model(geometry), "a measured layer's surroundings")
    untouched = open_session(layer_model(geometry, None), "a measured layer")
    size = max(1, min(TOGETHER, MOST_BYTES // max(1, geometry.bytes)) - 2)
    others = [choice for choice in wanted if choice != ORIGINAL]
    shares: dict[Choice, float] = {}  # of the time of the layer as it is
    alone, surroundings = np.inf, np.inf
    for start in range(0, max(1, len(others)), size):
        group = others[start : start + size]
        sessions = [around, untouched, *(_session(geometry, choice, open_session) for choice in group)]
        # Whatever else a machine does only ever adds: the fastest round is the one that it disturbed least.
        best = 1e3 * take_turns([_run(session, feeds) for session in sessions], budget).seconds.min(axis=0)
        alone, surroundings = min(alone, best[1]), min(surroundings, best[0] / best[1])
        shares.update(zip(group, best[2:] / best[1], strict=True))
    shares[ORIGINAL] = 1.0
    times = {choice: max(SHORTEST, float(alone * (share - surroundings))) for choice, share in shares.items()}
    return LayerTimes(times, bool(surroundings < 0.5))


def measure_models(sessions: Sequence[Session], feeds: Feeds, budget: Budget = WHOLE) -> tuple[list[float], Interval]:
    """(median milliseconds of every model, the last one's speed relative to the first) from rounds in turns."""
    times = take_turns([_run(session, feeds) for session in sessions], budget)
    return [1e3 * times.median(i) for i in range(len(sessions))], times.speed(len(sessions) - 1)


def _session(geometry: ConvGeometry, choice: Choice, open_session: Opener) -> Session:
    form, ranks = choice
    assert form is not None
    model = layer_model(geometry, placeholder(FORMS[form], geometry.weights, geometry.group, ranks))
    return open_session(model, "a measured layer")


def _run(session: Session, feeds: Feeds):  # type: ignore[no-untyped-def]
    return lambda: session(feeds)
