"""The memory that the statistics of one layer may take, and the forms that are left out because theirs take more."""

from collections.abc import Mapping

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import worthwhile
from onnx_lowrank.factorise.forms.table import FormTable

SHARE, LEAST = 4, 256 << 20
"""The statistics of a layer may take a quarter of ``--memory``, and these bytes however little memory there is."""

GIB = 1 << 30


def statistics_room(memory: int) -> int:
    """Return the bytes that the statistics of one layer may take, given those of ``--memory``."""
    return max(memory // SHARE, LEAST)


def left_out(shapes: Mapping[str, ConvShape], kinds: FormTable, memory: int) -> list[str]:
    """Return a line for every layer that does not get some form because its statistics take too much memory."""
    lines, room = [], statistics_room(memory)
    for name, shape in shapes.items():
        large = [kind for kind in worthwhile(kinds, shape) if kind.statistics_bytes(shape) > room]
        if large:
            *others, last = (kind.name for kind in large)
            names = f"forms {', '.join(others)} and {last}" if others else f"form {last}"
            least = min(kind.statistics_bytes(shape) for kind in large)
            lines.append(
                f"{name} is not considered for the {names}, whose statistics take {least / GIB:.2f} GiB: a layer "
                f"gets {room / GIB:.2f} GiB, a quarter of --memory; raise it to {SHARE * least / GIB:.2f} GiB for more"
            )
    return lines
