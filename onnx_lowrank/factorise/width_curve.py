"""The error of the layers that read some channels against the number of channels that stay.

The order in which channels go, and the maps of what stays, come from samples that solve; the errors are those of these
maps on samples that judge, so that a layer with few samples does not seem easier to narrow than it is. The judges also
choose the ridge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.elimination import ReaderMoments, Sweep, best_map, lost, sweep
from onnx_lowrank.factorise.read_columns import ReadColumns

Array = NDArray[Any]

RIDGES = (1e-2, 1e-3, 1e-1)
"""Strengths of the hold on W, in units of the columns' mean variance. The first one decides the order in which channels
go, which hardly depends on it."""


@dataclass(frozen=True)
class Reading:
    """What one layer reads of the channels.

    Attributes
    ----------
    layer
        The layer, with all its columns.
    channels
        [c, r], for every channel that may go the channels of the layer's input that belong to it: one, or several
        behind a reshape that lays out the positions side by side.
    size
        The squared size of what the layer's response becomes part of, in units of which its error counts.
    """

    layer: ReadColumns
    channels: NDArray[np.intp]
    size: float

    @property
    def columns(self) -> NDArray[np.intp]:
        """The columns of every channel that may go, [c, columns of one channel]."""
        return self.layer.columns[self.channels].reshape(len(self.channels), -1)


@dataclass(frozen=True)
class WidthCurve:
    """How the error rises as the channels become fewer.

    Attributes
    ----------
    sweep
        The order in which the channels go.
    widths
        [m], ascending numbers of channels; the last one is all of them.
    errors
        [m], the error at each width, relative to the size of the response, on samples that judge; 0 for all channels.
    ridge
        The strength of the hold on W that the judges chose.
    """

    sweep: Sweep
    widths: NDArray[np.int64]
    errors: Array
    ridge: float

    def kept(self, width: int) -> NDArray[np.intp]:
        """Return the channels that stay at a width."""
        return self.sweep.kept(int(self.widths[-1]), width)

    def error(self, width: int) -> float:
        """Return the error at a width, that of the next smaller one in ``widths`` where it is between two."""
        return float(self.errors[np.searchsorted(self.widths, width, side="right") - 1])


def width_curve(readings: Sequence[Reading], widths: Sequence[int]) -> WidthCurve:
    """Return the error at some widths.

    Parameters
    ----------
    readings
        Of every layer that reads the channels.
    widths
        Ascending; the last one is the number of channels.
    """
    count, fewest = widths[-1], widths[0]
    ridge = RIDGES[0]
    found = sweep([_with_ridge(reading, ridge) for reading in readings], fewest)
    # The judges look at one width in the middle: a ridge that suits it suits the others.
    middle = found.kept(count, widths[len(widths) // 2])
    errors = {ridge: judged(readings, middle, ridge) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)
    at_widths = [judged(readings, found.kept(count, width), best) for width in widths[:-1]]
    # A smaller width cannot be better than a larger one, which could leave the same channels unused.
    falling = np.maximum.accumulate(np.array([*at_widths, 0.0])[::-1])[::-1]
    return WidthCurve(found, np.array(widths), falling, best)


def judged(readings: Sequence[Reading], kept: NDArray[np.intp], ridge: float) -> float:
    """Return the error of the layers, fitted to the channels that are kept, on the samples that judge."""
    return sum(_judged(reading, kept, ridge) for reading in readings)


def fitted(reading: Reading, kept: NDArray[np.intp], ridge: float) -> tuple[Array, Array]:
    """Return a layer fitted to the channels that are kept.

    Returns
    -------
    tuple[Array, Array]
        The weights [filters, columns of a patch], zero for the channels that go, and what is added to the bias,
        [filters].
    """
    layer = reading.layer
    weights, before = layer.weights(_map(reading, kept, ridge)), layer.weights(layer.kernel)
    return weights, (before - weights) @ layer.mean


def _judged(reading: Reading, kept: NDArray[np.intp], ridge: float) -> float:
    layer = reading.layer
    return lost(layer.kernel, _map(reading, kept, ridge), layer.judging) / reading.size


def _map(reading: Reading, kept: NDArray[np.intp], ridge: float) -> Array:
    layer = reading.layer
    gone = np.delete(reading.columns, kept, axis=0).ravel()
    stays = np.setdiff1d(np.arange(len(layer.gram)), gone)
    return best_map(layer.kernel, _held(layer.gram, ridge), stays)


def _with_ridge(reading: Reading, ridge: float) -> ReaderMoments:
    layer = reading.layer
    response = layer.kernel.T @ layer.kernel
    return ReaderMoments(_held(layer.gram, ridge), response, reading.columns, reading.size)


def _held(gram: Array, ridge: float) -> Array:
    """Return a covariance with a ridge; one without variance, of channels that are dead, becomes a multiple of I."""
    p = len(gram)
    return np.asarray(gram + ridge * (np.trace(gram) / p or 1.0) * np.eye(p))
