"""Nodes that compute the noise of one random node, every element from its index, a key and the place of the node.

With the prime p = 2³¹ − 1, an element of index i is hashed by

    h₀ = (A i + k₀) mod p,    hₙ = hₙ₋₁ (hₙ₋₁ + cₙ) mod p

where A and cₙ are drawn once for every place, and k₀ and one of the cₙ come from the key by the same rounds. All
products stay below 2⁶³, so that every machine computes the same integers. From h follow a uniform number of 23 bits,
and a normal one by the transform of Box and Muller, with 16 bits for the radius and 15 for the angle. Random classes
follow from noise of the Gumbel distribution: the largest sum of a logit and its noise is a fair draw (the Gumbel-max
trick).

Only operators of opset 7 serve, as far as the node in question does not demand a later one.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_lowrank.graph.chance import KEYS
from onnx_lowrank.graph.tensors import unique

RANGE = 11
"""The opset that brought Range; ONNX Runtime has one of its own for the earlier ones."""

RUNTIME_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class NoiseNodes:
    """The nodes that stand in the place of one random node.

    Parameters
    ----------
    place
        The name of the node's output, which new names begin with and which sets its noise apart from that of others.
    opset
        The version of the standard operators.
    taken
        All names of the model, to which those of the new nodes and tensors are added.

    Attributes
    ----------
    nodes
        The nodes, in topological order.
    """

    def __init__(self, place: str, opset: int, taken: set[str]) -> None:
        self._place, self._opset, self._taken = place, opset, taken
        self._drawn = np.random.default_rng(zlib.crc32(place.encode()))
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output, which is new unless it is given."""
        name = unique(f"{self._place}/noise/{op}", self._taken)
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [output or name], name, domain=domain, **attributes))
        return output or name

    def constant(self, values: Any, dtype: type[np.generic]) -> str:
        """Add a constant and return its name."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values, dtype)))

    def integers(self, values: int | Sequence[int]) -> str:
        """Add a constant of type int64 and return its name; a single number becomes [1]."""
        return self.constant(np.atleast_1d(np.asarray(values, np.int64)), np.int64)

    def shifted_key(self, key: str, index: str) -> str:
        """Return the name of another key, for the iteration of a loop.

        Parameters
        ----------
        key
            The name of the key outside.
        index
            The name of the number of the iteration, int64 [] or [1].
        """
        step = self.add("Mul", self.add("Reshape", index, self.integers(1)), self.integers(self._draw()))
        return self._hash(self._remainder(self.add("Add", step, key)))

    def uniform(self, key: str, count: str, shape: str) -> str:
        """Return the name of uniform numbers between 0 and 1, float32, which meet neither of the two.

        Parameters
        ----------
        key
            The name of the key.
        count
            The name of the number of elements, int64 [].
        shape
            The name of the shape.
        """
        h = self._hashes(key, count)
        return self._shaped(self._centred(self.add("Div", h, self.integers(1 << 8)), 1 / (1 << 23)), shape)

    def normal(self, key: str, count: str, shape: str) -> str:
        """Return the name of normal numbers of mean 0 and variance 1, float32; parameters as for ``uniform``."""
        h, low = self._hashes(key, count), self.integers(1 << 15)
        high = self.add("Div", h, low)
        rest = self.add("Sub", h, self.add("Mul", high, low))
        logarithm = self.add("Log", self._centred(high, 1 / (1 << 16)))
        radius = self.add("Sqrt", self.add("Mul", logarithm, self.constant(-2, np.float32)))
        angle = self._centred(rest, 2 * np.pi / (1 << 15))
        return self._shaped(self.add("Mul", radius, self.add("Cos", angle)), shape)

    def gumbel(self, key: str, count: str, shape: str) -> str:
        """Return the name of numbers of the Gumbel distribution, float32; parameters as for ``uniform``."""
        inner = self.add("Neg", self.add("Log", self.uniform(key, count, shape)))
        return self.add("Neg", self.add("Log", inner))

    def ranked(self, values: str, like: str) -> str:
        """Return the name of float32 values in the shape of another tensor, which they have already.

        Shape inference does not see what Reshape makes of a computed shape, and the body of a Scan must state the ranks
        of its results. It does see that a PRelu keeps the shape of what it is applied to: here −1 in every place, whose
        negative slopes are the values.
        """
        flags = self.add("Cast", like, to=TensorProto.BOOL)
        ones = self.add("Cast", self.add("Or", flags, self.add("Not", flags)), to=TensorProto.FLOAT)
        return self.add("PRelu", self.add("Neg", ones), self.add("Neg", values))

    def _centred(self, integers: str, scale: float) -> str:
        """Return the name of (integers + ½) · scale, float32."""
        numbers = self.add("Cast", integers, to=TensorProto.FLOAT)
        return self.add(
            "Mul", self.add("Add", numbers, self.constant(0.5, np.float32)), self.constant(scale, np.float32)
        )

    def _shaped(self, values: str, shape: str) -> str:
        # Without this attribute a size of 0 would mean that the size stays as it is.
        attributes: dict[str, Any] = {"allowzero": 1} if self._opset >= 14 else {}
        return self.add("Reshape", values, shape, **attributes)

    def _hashes(self, key: str, count: str) -> str:
        """Return the name of the hashes of all elements, int64 [count]."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        index = self.add("Range", zero, count, one, domain="" if self._opset >= RANGE else RUNTIME_DOMAIN)
        start, step = self._hash(key), self.integers(self._draw())
        h = self._remainder(self.add("Add", self.add("Mul", index, step), start))
        return self._hash(self._round(h, self._hash(key)))

    def _hash(self, h: str) -> str:
        for _ in range(3):
            h = self._round(h, self.integers(self._draw()))
        return h

    def _round(self, h: str, c: str) -> str:
        return self._remainder(self.add("Mul", h, self.add("Add", h, c)))

    def _remainder(self, values: str) -> str:
        """Return the name of non-negative values modulo p; Mod itself came later than opset 7."""
        p = self.integers(KEYS)
        return self.add("Sub", values, self.add("Mul", self.add("Div", values, p), p))

    def _draw(self) -> int:
        return int(self._drawn.integers(1 << 29, KEYS))
