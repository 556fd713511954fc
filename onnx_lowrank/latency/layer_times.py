"""Milliseconds of layers and of whole models, measured on this machine.

A layer runs in a small model of its own, in every form and at every rank that is asked for. All these models take turns
with the untouched layer, because only models that take turns are disturbed alike: whatever else a machine does for some
seconds slows all of them down. So the time of a form is taken relative to that of the untouched layer in the same
turns. The time of what surrounds the layer in the small models is measured as well, and subtracted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from onnx_lowrank.bench.turns import Budget, Interval, Rounds, take_turns
from onnx_lowrank.factorise.forms.kind import placeholder
from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.graph.layer_model import ConvGeometry, layer_input, layer_model, surrounding_model
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.table import ORIGINAL, Choice
from onnx_lowrank.runtime.session import Opener, Session

TOGETHER = 8
"""At most this many models take turns, because each brings its own threads and buffers."""

MOST_BYTES = 1 << 30
"""The buffers of the models that take turns hold about this many bytes at most."""

LAYER_BUDGET = Budget(rounds=12, seconds=1.5, fewest=4, turn=0.002)
"""The rounds for each group of small models that take turns."""

MODEL_BUDGET = Budget(rounds=15, seconds=8.0, fewest=5)
"""The rounds for two whole models."""

SHORTEST_MS = 1e-4
"""A layer takes at least this many milliseconds: the surroundings are subtracted, so noise may leave less than none."""

MOST_SURROUNDINGS = 0.5
"""A layer's own time is known well where the surroundings take less than this share of its small model's time."""


@dataclass(frozen=True)
class LayerTimes:
    """The times of one layer.

    Attributes
    ----------
    times
        Milliseconds of the layer by its choices, without the surroundings; ``ORIGINAL`` is among them.
    mostly_layer
        Whether the untouched layer takes most of its small model's time. Only then is its own time known well enough
        to tell how slow the machine was.
    """

    times: dict[Choice, float]
    mostly_layer: bool


@dataclass(frozen=True)
class ModelTimes:
    """The times of whole models that took turns.

    Attributes
    ----------
    milliseconds
        The median of each model, in the order given.
    speed
        How many times as fast as the first model the last one is.
    """

    milliseconds: tuple[float, ...]
    speed: Interval


TakeTurns: TypeAlias = Callable[[Sequence[Callable[[], object]]], Rounds]
"""Measures functions in turns, as ``bench.turns.take_turns`` does with a budget."""

MeasureLayer: TypeAlias = Callable[[ConvGeometry, Sequence[Choice], Opener], LayerTimes]
"""Measures a layer in some choices, as ``measure_layer`` does."""

MeasureModels: TypeAlias = Callable[[Sequence[Session], Feeds], ModelTimes]
"""Measures whole models in turns, as ``measure_models`` does."""


LAYER_TURNS: TakeTurns = partial(take_turns, budget=LAYER_BUDGET)
"""Turns for every few models of one layer."""


def measure_layer(
    geometry: ConvGeometry,
    wanted: Sequence[Choice],
    open_session: Opener,
    forms: FormTable = FORMS,
    *,
    turns: TakeTurns = LAYER_TURNS,
) -> LayerTimes:
    """Measure a convolution in some of its choices.

    Parameters
    ----------
    geometry
        The convolution.
    wanted
        The choices; ``ORIGINAL`` is measured in any case.
    open_session
        Opens the small models as they are deployed: with the provider and the threads that are to be measured.
    forms
        The table of forms.
    turns
        Measures the models of a group in turns.

    Raises
    ------
    ModelError
        If ONNX Runtime refuses a small model.
    """
    feeds = layer_input(geometry)
    around = open_session(surrounding_model(geometry), "a measured layer's surroundings")
    untouched = open_session(layer_model(geometry, None), "a measured layer")
    size = max(1, min(TOGETHER, MOST_BYTES // max(1, geometry.bytes)) - 2)
    others = [choice for choice in wanted if choice != ORIGINAL]
    shares: dict[Choice, float] = {ORIGINAL: 1.0}  # of the time of the untouched layer's model
    untouched_ms, surroundings = np.inf, np.inf
    for start in range(0, max(1, len(others)), size):
        group = others[start : start + size]
        sessions = [around, untouched, *(_open_layer(geometry, choice, forms, open_session) for choice in group)]
        # Whatever else a machine does only ever adds time: the fastest round is the one that it disturbed least.
        fastest = 1e3 * turns([partial(session, feeds) for session in sessions]).seconds.min(axis=0)
        untouched_ms, surroundings = min(untouched_ms, fastest[1]), min(surroundings, fastest[0] / fastest[1])
        shares.update(zip(group, fastest[2:] / fastest[1], strict=True))
    times = {choice: max(SHORTEST_MS, float(untouched_ms * (share - surroundings))) for choice, share in shares.items()}
    return LayerTimes(times, bool(surroundings < MOST_SURROUNDINGS))


def measure_models(sessions: Sequence[Session], feeds: Feeds, budget: Budget = MODEL_BUDGET) -> ModelTimes:
    """Measure whole models on one batch, in turns."""
    rounds = take_turns([partial(session, feeds) for session in sessions], budget)
    models = range(len(sessions))
    return ModelTimes(tuple(1e3 * rounds.median(i) for i in models), rounds.speed(models[-1]))


def _open_layer(geometry: ConvGeometry, choice: Choice, forms: FormTable, open_session: Opener) -> Session:
    form, ranks = choice
    assert form is not None
    model = layer_model(geometry, placeholder(forms[form], geometry.weights, geometry.group, ranks))
    return open_session(model, "a measured layer")
