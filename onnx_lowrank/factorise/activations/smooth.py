"""Curved activations, whose z-step is a safeguarded numerical one.

The cost f(z) = (t − r(z))² + λ (z − ŷ)², with t = r(y), can have several local minima: one near ŷ, others where r(z)
comes near t (twice, where r is not monotone). Which of them is the least changes abruptly with t and ŷ. But f depends
on the two numbers t and ŷ alone, so for every λ the minima are scanned for once, over a grid of z, for all cells of a
table over the (t, ŷ) plane. The plane is mapped to a square by u(x) = x / (c + |x|): fine cells where r is curved,
wide ones where it is straight. A z-step then

* starts from its cell's minimum (where the abrupt change runs nearby, from the best of the neighbours' too),
* takes one Gauss-Newton step, Δz = (r'(t − r) − λ (z − ŷ)) / (r'² + λ), exact where r is straight,
* and returns the cheapest of the start, the step, the kinks of r and ŷ itself.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Array = NDArray[Any]

CELLS = 512
"""Of the table, along t and along ŷ: a megabyte, which a processor's second-level cache holds."""

SCANNED = 1024
"""Values of z that are tried for every cell."""

SCALE = 4.0
"""c: half of the cells lie within ±c, where these functions bend."""

POLISH = 4
"""Gauss-Newton steps for every cell, after the scan."""

ABRUPT = 8
"""A difference between neighbouring cells' minima, in cells, that marks an abrupt change."""

DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""The neighbours that are asked where the minimum changes abruptly."""

CHUNK = 1 << 14
"""Values that are handled together, so that all temporary arrays stay in the cache."""


@dataclass(frozen=True)
class Smooth:
    """A function given by its values and slopes.

    Attributes
    ----------
    name
        As ONNX or the field names it.
    curve
        z, and the parameters → (r(z), r'(z)), elementwise.
    parameters
        Passed on to ``curve``.
    kinks
        Where r' jumps: a minimum may sit there.
    """

    name: str
    curve: Callable[..., tuple[Array, Array]]
    parameters: tuple[float, ...] = ()
    kinks: tuple[float, ...] = ()

    def at(self, z: Array) -> tuple[Array, Array]:
        """(r(z), r'(z))."""
        return self.curve(z, *self.parameters)

    def apply(self, y: Array) -> Array:
        """r(y); see ``Activation``."""
        if y.size <= CHUNK:
            return self.at(y)[0]
        flat, result = np.ravel(y), np.empty(y.size, y.dtype)
        for start in range(0, y.size, CHUNK):
            result[start : start + CHUNK] = self.at(flat[start : start + CHUNK])[0]
        return result.reshape(y.shape)

    def z_step(self, target: Array, prediction: Array, weight: float) -> Array:
        """Z to within a small tolerance, never worse than ŷ; see ``Activation``."""
        t, p = np.ravel(target), np.ravel(prediction)
        z = np.empty_like(p)
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            z[part] = self._minimise(t[part], p[part], weight)
        return z.reshape(prediction.shape)

    def _minimise(self, t: Array, p: Array, weight: float) -> Array:
        table = minima(self, float(weight))
        row, column = _cell(t), _cell(p)
        place = row * CELLS + column
        z, cost = self._improve(table.z[place].astype(p.dtype), t, p, weight)
        near = np.flatnonzero(table.abrupt[place])
        for down, right in DIAGONAL if len(near) else ():
            beside = np.clip(row[near] + down, 0, CELLS - 1) * CELLS + np.clip(column[near] + right, 0, CELLS - 1)
            other, its_cost = self._improve(table.z[beside].astype(p.dtype), t[near], p[near], weight)
            cheaper = its_cost < cost[near]
            z[near[cheaper]], cost[near[cheaper]] = other[cheaper], its_cost[cheaper]
        for other in (*(np.full((), kink, p.dtype) for kink in self.kinks), p):
            its_cost = np.square(t - self.apply(other)) + weight * np.square(other - p)
            np.copyto(z, other, where=its_cost < cost)
            np.minimum(cost, its_cost, out=cost)
        return z

    def _improve(self, z: Array, t: Array, p: Array, weight: float) -> tuple[Array, Array]:
        """(z, f) after a Gauss-Newton step, where that is an improvement."""
        r, slope = self.at(z)
        residual, away = t - r, z - p
        cost = residual * residual + weight * (away * away)
        step = (slope * residual - weight * away) / (slope * slope + weight)
        step += z
        stepped = np.square(t - self.apply(step)) + weight * np.square(step - p)
        better = stepped < cost
        np.copyto(z, step, where=better)
        np.copyto(cost, stepped, where=better)
        return z, cost


@dataclass(frozen=True)
class Minima:
    """The minimising z of every cell, [CELLS²], by t and then by ŷ, and whether the minimum jumps near it."""

    z: Array
    abrupt: NDArray[np.bool_]


def _warped(x: Array) -> Array:
    """Where each x lies along one side of the square, in cells."""
    u = x / (np.abs(x) + SCALE)
    u *= CELLS / 2
    u += CELLS / 2
    return np.asarray(u)


def _cell(x: Array) -> Array:
    """The number of the cell of each x, along one side."""
    return np.minimum(_warped(x).astype(np.int32), CELLS - 1)


def _centres(count: int) -> Array:
    """The middles of ``count`` cells along one side, [count]."""
    u = (2 * np.arange(count) + 1) / count - 1
    return np.asarray(SCALE * u / (1 - np.abs(u)))


@functools.lru_cache(maxsize=32)
def minima(activation: Smooth, weight: float) -> Minima:
    """The table of an activation for a λ: scanned, then polished."""
    centres = _centres(CELLS)
    grid = np.sort(np.concatenate([_centres(SCANNED), activation.kinks]))
    r = activation.apply(grid)
    # f − t² − λŷ² = (r² + λz²) − 2λŷz − 2tr: the middle of it is the same for all t.
    shared = (np.square(r) + weight * np.square(grid) - 2 * weight * np.multiply.outer(centres, grid)).astype(
        np.float32
    )
    z = np.stack([grid[np.argmin(shared - (2 * t * r).astype(np.float32), axis=1)] for t in centres])
    t, p = np.repeat(centres, CELLS), np.tile(centres, CELLS)
    flat = z.ravel()
    for _ in range(POLISH):
        flat, _ = activation._improve(flat, t, p, weight)
    u = _warped(flat).reshape(CELLS, CELLS)
    spread = scipy.ndimage.maximum_filter(u, 3) - scipy.ndimage.minimum_filter(u, 3)
    return Minima(flat.astype(np.float32), (spread > ABRUPT).ravel())
