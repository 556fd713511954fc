"""The machine's own rank steps: processors compute channels in blocks, and a rank within a block costs a whole block.

A step m is free to round up to if half a step below costs what the step costs: with t the measured time of a layer
in the channel form,

    Σ_k t(k·m) − t(k·m − m/2)  /  Σ_k t(k·m) − t((k−1)·m)

is ½ where the time grows with every rank, and 0 where it stands still between two multiples of m.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.latency.layer_times import measure_layer
from onnx_lowrank.latency.table import Choice
from onnx_lowrank.runtime.session import Opener

RANK_STEPS = (16, 8, 4)
"""From the widest. Wider ones would leave layers of few channels no choice."""

FROM, TO = 32, 64
"""Ranks between which the steps are looked for."""

FREE = 0.1
"""Close to a time that stands still: a step that is too narrow costs nothing but choices that nobody needs."""

BUDGET = Budget(rounds=20, seconds=3.0, fewest=6, turn=0.002)
"""Differences of times are looked at: more rounds than a time needs."""

KNOWN_BLOCKS = {"CPUExecutionProvider": 8}
"""Channels that a provider computes at once, at least."""

TYPICAL_MACS, LAYERS = 3e8, 3
"""Layers of about this size run long enough to be measured well, and not for long; so many are looked at."""


def ranks_to_look_at() -> list[int]:
    """Every multiple of a step, and every half."""
    return sorted({rank for step in RANK_STEPS for rank in range(FROM, TO + 1, step // 2)})


def widest_free_step(times: Mapping[int, float]) -> int:
    """The widest step that is free to round up to; 1 where none is.

    Parameters
    ----------
    times
        Milliseconds by rank, for ``ranks_to_look_at()``.
    """
    growth = times[TO] - times[FROM]
    for step in RANK_STEPS:
        half = sum(times[k] - times[k - step // 2] for k in range(FROM + step, TO + 1, step))
        if growth > 0 and half < FREE * growth:
            return step
    return 1


def measure_step(geometries: Sequence[ConvGeometry], open_session: Opener, provider: str) -> int:
    """The widest step that is free on this machine, as the mean of some of the layers shows it.

    Where it shows none, the provider's known block; too wide a step costs little.

    Raises
    ------
    ModelError
        Where ONNX Runtime refuses a small model.
    """
    distinct = sorted(set(geometries), key=lambda geometry: abs(math.log(_macs(geometry) / TYPICAL_MACS)))
    looked_at = ranks_to_look_at()
    mean = dict.fromkeys(looked_at, 0.0)
    for geometry in distinct[:LAYERS]:
        choices: list[Choice] = [(CHANNEL.name, (rank,)) for rank in looked_at]
        measured = measure_layer(geometry, choices, open_session, turns=partial(take_turns, budget=BUDGET)).times
        for rank in looked_at:
            mean[rank] += measured[CHANNEL.name, (rank,)] / measured[CHANNEL.name, (TO,)]
    step = widest_free_step(mean)
    return step if step > 1 else KNOWN_BLOCKS.get(provider, 1)


def _macs(geometry: ConvGeometry) -> float:
    pixels = math.prod(geometry.input) / geometry.input[1]
    applications = pixels if geometry.output_padding is not None else pixels / math.prod(geometry.strides)
    return math.prod(geometry.weights) * applications
