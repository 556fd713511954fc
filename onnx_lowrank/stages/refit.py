"""The step of a fully connected layer behind factorised ones, whose new weights correct part of their error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.factorise.solve.ridge import Refit, refit
from onnx_lowrank.graph.edit.reweight import replace_weights
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.network import Network

Array = NDArray[Any]


@dataclass(frozen=True)
class Refitted:
    """A fully connected layer that was to be fitted again.

    Attributes
    ----------
    layer
        The layer.
    fit
        The fit; None where none was tried.
    kept
        Whether the old weights stay.
    reason
        The outcome in a few words.
    """

    layer: DenseLayer
    fit: Refit | None
    kept: bool
    reason: str

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    def apply(self, network: Network) -> None:
        """Give the layer in a network its new weights, in place, unless it keeps the old ones."""
        if self.fit and not self.kept:
            replace_weights(network, self.layer, self.fit.weight, self.fit.bias)


@dataclass(frozen=True)
class RefitStep:
    """The step that fits a fully connected layer again, so that its weights correct part of the error before it.

    Attributes
    ----------
    layer
        The layer.
    targets
        The original's responses, [n, d].
    sampling
        The samples, which decide which rows judge.
    memory_limit
        The number of bytes that the fit may take.
    """

    layer: DenseLayer
    targets: Array
    sampling: Sampling
    memory_limit: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Step``."""
        return (self.layer.output,)

    @property
    def target_bytes(self) -> int:
        """See ``Step``."""
        return self.targets.nbytes

    def bytes(self) -> int:
        """See ``Step``; the inputs count once, the responses several times, and the new weights three times."""
        d, p = self.layer.shape
        n = len(self.targets)
        return int(4 * n * p + 40 * n * d + 12 * d * p)

    def run(self, shard: Shard, memory: int) -> Refitted:
        """See ``Step``; the weights change only if the judging samples gain by it."""
        layer = self.layer
        if self.bytes() > self.memory_limit:
            return Refitted(layer, None, True, "left alone: its samples take too much memory (--memory)")
        X = shard.reads(layer, memory)
        if not np.isfinite(X).all():
            return Refitted(layer, None, True, "left alone: it reads numbers that are not finite")
        judges = self.sampling.judging_rows(np.ones(len(X), np.int64))
        fit = refit(X, self.targets, judges, layer.weight, layer.bias, intercept=layer.intercept)
        if fit.ridge is None:
            return Refitted(layer, fit, True, "left alone: held-out samples gain nothing")
        if not shard.reweight(layer, fit.weight, fit.bias):
            return Refitted(layer, fit, True, "left alone: the new weights do not fit their type")
        reason = "its bias alone is new" if fit.weight is None else f"refitted, ridge {fit.ridge:g}"
        return Refitted(layer, fit, False, reason)
