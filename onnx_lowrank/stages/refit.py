"""A fully connected layer behind factorised convolutions: its weights undo what error they leave."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.frontier import Frontier
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.factorise.solve.ridge import Refit, refit
from onnx_lowrank.graph.edit.reweight import replace_weights
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.network import Network
from onnx_lowrank.options import Options

Array = NDArray[Any]


@dataclass(frozen=True)
class Refitted:
    """One layer: the fit where there was one, and what became of it; ``kept`` where the old weights stay."""

    name: str
    fit: Refit | None
    kept: bool
    reason: str


def refits(options: Options) -> bool:
    """Whether layers are fitted again: where the walk sees both networks, the original and the one approximated."""
    return options.refit and options.solver != "weights" and not options.symmetric


def refit_bytes(site: DenseLayer, samples: int) -> int:
    """What fitting a layer holds at once: its inputs, its responses several times, its new weights in three copies."""
    d, p = site.shape
    return int(4 * samples * p + 40 * samples * d + 12 * d * p)


def refit_layer(
    frontier: Frontier, graph: Network, site: DenseLayer, targets: Array, sampling: Sampling, memory: int
) -> Refitted:
    """Fit a layer again and change the graph in place, if the judging samples gain by it.

    Parameters
    ----------
    frontier
        In front of the layer.
    targets
        [n, d], the original's responses.
    memory
        Bytes that the fit may take.
    """
    if refit_bytes(site, len(targets)) > memory:
        return Refitted(site.name, None, True, "left alone: its samples take too much memory (--memory)")
    X = np.concatenate([x.astype(np.float32, copy=False) for x, _ in frontier.visit(site)])
    if not np.isfinite(X).all():
        return Refitted(site.name, None, True, "left alone: it reads numbers that are not finite")
    fit = refit(X, targets, sampling.judging_rows(len(X)), site.weight, site.bias, intercept=site.intercept)
    if fit.ridge is None:
        return Refitted(site.name, fit, True, "left alone: held-out samples gain nothing")
    if not replace_weights(graph, site, fit.weight, fit.bias):
        return Refitted(site.name, fit, True, "left alone: the new weights do not fit their type")
    return Refitted(
        site.name, fit, False, "its bias alone is new" if fit.weight is None else f"refitted, ridge {fit.ridge:g}"
    )
