"""What gives a network its chance back: the nodes that drew random numbers before others were made to compute them.

``edit/determine.py`` puts nodes that compute noise in the place of those that draw it, so that every run of the network
and of its pieces sees the same noise. The nodes that drew it return when the network is written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from onnx_lowrank.graph.protos import all_nodes

KEYS = 2**31 - 1
"""The number of different keys; a prime."""

ALWAYS_RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
"""The operators that draw random numbers whatever they are given."""

RANDOM = (*ALWAYS_RANDOM, "Dropout")
"""The operators that can draw random numbers; a Dropout does so in training mode."""


@dataclass(frozen=True)
class Chance:
    """The nodes of the main graph that draw random numbers, or have a body that does.

    Attributes
    ----------
    key
        The name of the additional input, int64 [1], from which all noise is computed: 0..``KEYS`` - 1.
    strength
        The name of the additional input, float32 [1], that is 1 where there is noise. Where it is 0, the network stands
        still: numbers are their mean, classes the most likely ones, and nothing drops out.
    originals
        The nodes as they were, by the name of each of their outputs.
    added
        The names of the tensors that only the computation of noise makes.
    """

    key: str
    strength: str
    originals: Mapping[str, onnx.NodeProto]
    added: frozenset[str]

    def restored(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes with those that drew random numbers in their old places, and without what was added."""
        result: list[onnx.NodeProto] = []
        back: set[int] = set()
        for node in nodes:
            if not self.added.isdisjoint(node.output):
                continue
            original = next((self.originals[name] for name in node.output if name in self.originals), None)
            if original is None:
                result.append(node)
            elif id(original) not in back:
                back.add(id(original))
                result.append(original)
        return result


def random_functions(functions: Iterable[onnx.FunctionProto]) -> set[str]:
    """Return the names of the model-local functions that draw random numbers, if only by calling another one."""
    called = {function.name: {node.op_type for node in all_nodes(function)} for function in functions}
    random: set[str] = set(ALWAYS_RANDOM)
    while more := {name for name, operators in called.items() if operators & random} - random:
        random |= more
    return random - set(ALWAYS_RANDOM)
