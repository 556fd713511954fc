"""What a runtime wants of a network in integers."""

import platform
from dataclasses import dataclass
from pathlib import Path

from onnx_lowrank.factorise.rounding.columns import EIGHT_BITS, SEVEN_BITS
from onnx_lowrank.factorise.rounding.grid import SIGNED, UNSIGNED, Codes
from onnx_lowrank.graph.quantise.placement import around_nodes, in_front_of_layers
from onnx_lowrank.graph.quantise.stand_in import Placement

CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class IntegerTarget:
    """What a runtime wants.

    Attributes
    ----------
    codes
        The whole numbers that activations are stored in.
    placement
        Where it looks for pairs.
    most
        The largest code of weights.
    integer_biases
        Whether biases are stored as integers as well.
    """

    codes: Codes
    placement: Placement
    most: int
    integer_biases: bool


def integer_target(preset: str | None) -> IntegerTarget:
    """Return what the runtime of a preset wants; without a preset, ONNX Runtime on this machine's processor."""
    if preset in ("tensorrt", "tensorrt-int8"):
        return IntegerTarget(SIGNED, in_front_of_layers, EIGHT_BITS, integer_biases=False)
    if preset == "openvino":
        return IntegerTarget(UNSIGNED, in_front_of_layers, EIGHT_BITS, integer_biases=False)
    return IntegerTarget(UNSIGNED, around_nodes, SEVEN_BITS if products_saturate() else EIGHT_BITS, integer_biases=True)


def products_saturate() -> bool:
    """Whether this processor adds up 8-bit products in 16 bits, as x86 does without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in CPU_FACTS.read_text()
    except OSError:  # no Linux, so nobody tells: seven bits are right everywhere
        return True
