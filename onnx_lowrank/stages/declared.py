"""What a model declares of the shapes of its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.interface import TensorSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class DeclaredShapes:
    """The shapes that a model declares for its outputs.

    Attributes
    ----------
    outputs
        The declared shape of every output by its name; see ``TensorSpec.shape``.
    input_symbols
        The sizes that the declared inputs name. An output dimension of the same name has a size that the input decides.
    axes
        The dimension that counts the samples, by output; None for an output that has none.
    """

    outputs: Mapping[str, tuple[int | str | None, ...] | None]
    input_symbols: frozenset[int | str]
    axes: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], axes: Mapping[str, int | None] | None = None
    ) -> "DeclaredShapes":
        """Collect the shapes from the declared inputs and outputs of a model.

        The dimensions that count the samples are those of ``axes``, and elsewhere those that are declared.
        """
        symbols = frozenset(side for spec in inputs for side in spec.shape or () if side is not None)
        declared = {spec.name: output_axis(spec.shape, inputs) for spec in outputs}
        return cls({spec.name: spec.shape for spec in outputs}, symbols, declared | dict(axes or {}))

    def samples_first(self, name: str, value: Array) -> Array:
        """Return an output with the samples along its first dimension.

        Scores of classes without a dimension for samples are those of one sample. Nothing is known of the dimensions
        of any other output without one.
        """
        axis, declared = self.axes.get(name, 0), self.outputs.get(name)
        if axis is None:
            scores = declared is not None and len(declared) == value.ndim == 1 and isinstance(declared[0], int)
            return value[None] if scores else value
        return np.moveaxis(value, axis, 0) if value.ndim > axis else value

    def broken_by(self, name: str, original: tuple[int, ...], rewritten: tuple[int, ...]) -> bool:
        """Return whether two shapes of an output differ in a dimension that the model declares."""
        declared = self.outputs.get(name)  # the parts of an output have no shapes of their own
        if declared is None or original == rewritten:  # some models violate their own declaration
            return False
        if not len(declared) == len(original) == len(rewritten):
            return True
        return any(
            one != other and (isinstance(side, int) or side in self.input_symbols)
            for side, one, other in zip(declared, original, rewritten, strict=True)
        )


def output_axis(shape: tuple[int | str | None, ...] | None, inputs: Sequence[TensorSpec]) -> int | None:
    """Return the dimension of an output that counts the samples, as its declared shape tells beside the inputs'."""
    counting = [spec for spec in inputs if spec.axis is not None and spec.shape != ()]
    if not counting:
        return None
    sizes = {spec.shape[spec.axis] for spec in counting if spec.shape and spec.axis is not None} - {None}
    if not shape or shape[0] is None or shape[0] in sizes:
        return 0
    return next((axis for axis, side in enumerate(shape) if side in sizes), 0)
