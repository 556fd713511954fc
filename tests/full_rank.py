"""Plans at which a factorisation loses nothing, and the comparison of outputs up to round-off."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.input import INPUT
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.forms.three_d import THREE_D
from onnx_lowrank.options import AUTO
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.count import count
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

Array = NDArray[Any]

ROUND_OFF = {np.dtype(np.float32): 2e-5, np.dtype(np.float16): 2e-2}
"""The tolerance as a share of the largest value: some dozen roundings through a dozen layers."""


def full_rank_plan(request: Request) -> Plan:
    """Return a plan that factorises every site in the form of the options, or in the next best one, at full rank.

    Raises
    ------
    LowRankError
        As the pipeline does, for example a ModelError where nothing can be factorised.
    """
    run = Run.start(request)
    network = read(run)
    shapes = count(run, network, sample(run, network).keyed(network.network.chance)).shapes
    return Plan(tuple(_site(name, shape, request.options.form) for name, shape in shapes.items()))


def _site(name: str, shape: ConvShape, form: str) -> SitePlan:
    wanted = (THREE_D, INPUT) if form == AUTO else (FORMS[form],)
    kind = next((kind for kind in wanted if kind.takes(shape)), CHANNEL)
    return SitePlan(name, kind.name, kind.highest_ranks(shape))


def differences(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    """Return one line for every output whose name, type, shape or values are not what was expected."""
    if outputs.keys() != expected.keys():
        return [f"outputs {sorted(outputs)} in place of {sorted(expected)}"]
    return [line for name, value in expected.items() for line in _difference(name, outputs[name], value)]


def _difference(name: str, value: Array, expected: Array) -> list[str]:
    if (value.dtype, value.shape) != (expected.dtype, expected.shape):
        return [f"{name}: {value.dtype} {value.shape} in place of {expected.dtype} {expected.shape}"]
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    apart = float(np.abs(value.astype(np.float64) - expected).max(initial=0)) / scale
    return [] if apart <= ROUND_OFF[expected.dtype] else [f"{name}: {apart:.2g} of its largest value away"]
