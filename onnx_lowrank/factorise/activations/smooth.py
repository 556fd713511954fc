"""Curved activations, whose z-step is a safeguarded numerical one.

The cost f(z) = (t − r(z))² + λ (z − ŷ)², with t = r(y), can have several local minima: one near ŷ, others where r(z)
comes near t (twice, where r is not monotone). Which of them is the least changes abruptly with t and ŷ. But f depends
on the two numbers t and ŷ alone, so for every λ the minima are scanned for once, over a grid of z, for all cells of a
table over the (t, ŷ) plane. The plane is mapped to a square by u(x) = x / (c + |x|): fine cells where r is curved,
wide ones where it is straight. A z-step then

* starts from its cell's minimum (where an abrupt change runs nearby, from the best of the neighbouring cells'),
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
"""The cells of the table along t and along ŷ: a megabyte, which a processor's second-level cache holds."""

SCANNED = 1024
"""The values of z that are tried for every cell."""

SCALE = 4.0
"""The constant c: half of the cells lie within ±c, where these functions bend."""

POLISH = 4
"""The Gauss-Newton steps for every cell after the scan."""

ABRUPT = 8
"""The difference between neighbouring cells' minima, in cells, above which a change is abrupt."""

DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""The neighbours whose minima are tried where the minimum changes abruptly."""

CHUNK = 1 << 14
"""The number of values that are handled together, so that all temporary arrays stay in the cache."""


@dataclass(frozen=True)
class Smooth:
    """A function given by its values and slopes.

    Attributes
    ----------
    name
        The name that ONNX or the literature gives it.
    curve
        Maps z and the parameters to (r(z), r'(z)), elementwise.
    parameters
        The parameters of ``curve``.
    kinks
        The points where r' jumps; a minimum may lie there.
    """

    name: str
    curve: Callable[..., tuple[Array, Array]]
    parameters: tuple[float, ...] = ()
    kinks: tuple[float, ...] = ()

    def at(self, z: Array) -> tuple[Array, Array]:
        """Return (r(z), r'(z))."""
        return self.curve(z, *self.parameters)

    def apply(self, y: Array) -> Array:
        """Return r(y); see ``Activation``."""
        if y.size <= CHUNK:
            return self.at(y)[0]
        flat, result = np.ravel(y), np.empty(y.size, y.dtype)
        for start in range(0, y.size, CHUNK):
            result[start : start + CHUNK] = self.at(flat[start : start + CHUNK])[0]
        return result.reshape(y.shape)

    def z_step(self, target: Array, prediction: Array, weight: float) -> Array:
        """Return z to within a small tolerance, never worse than ŷ; see ``Activation``."""
        t, p = np.ravel(target), np.ravel(prediction)
        z = np.empty_like(p)
        for start in range(0, len(p), CHUNK):
            part = slice(start, start + CHUNK)
            z[part] = self._minimise(t[part], p[part], weight)
        return z.reshape(prediction.shape)

    def _minimise(self, t: Array, p: Array, weight: float) -> Array:
        """Return the minimising z for targets t and predictions p, [n] each, that fit the cache."""
        table = minima(self, float(weight))
        row, column = _cell(t), _cell(p)
        cell = row * CELLS + column
        z, cost = self.improved(table.z[cell].astype(p.dtype), t, p, weight)
        near = np.flatnonzero(table.abrupt[cell])
        for down, right in DIAGONAL if len(near) else ():
            beside = np.clip(row[near] + down, 0, CELLS - 1) * CELLS + np.clip(column[near] + right, 0, CELLS - 1)
            other, other_cost = self.improved(table.z[beside].astype(p.dtype), t[near], p[near], weight)
            cheaper = other_cost < cost[near]
            z[near[cheaper]], cost[near[cheaper]] = other[cheaper], other_cost[cheaper]
        for other in (*(np.full((), kink, p.dtype) for kink in self.kinks), p):
            other_cost = np.square(t - self.apply(other)) + weight * np.square(other - p)
            np.copyto(z, other, where=other_cost < cost)
            np.minimum(cost, other_cost, out=cost)
        return z

    def improved(self, z: Array, t: Array, p: Array, weight: float) -> tuple[Array, Array]:
        """Take one Gauss-Newton step from z, [n], where it lowers the cost; return z, which is overwritten, and f."""
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
    """The table of minima over the (t, ŷ) plane.

    Attributes
    ----------
    z
        [CELLS²], the minimising z of every cell, by t and then by ŷ.
    abrupt
        [CELLS²], whether the minimum changes abruptly near the cell.
    """

    z: Array
    abrupt: NDArray[np.bool_]


def _warped(x: Array) -> Array:
    """Map each x to its place along one side of the square, in cells."""
    u = x / (np.abs(x) + SCALE)
    u *= CELLS / 2
    u += CELLS / 2
    return np.asarray(u)


def _cell(x: Array) -> Array:
    """Return the number of the cell along one side in which each x lies."""
    return np.minimum(_warped(x).astype(np.int32), CELLS - 1)


def _centres(count: int) -> Array:
    """Return the middles of ``count`` cells along one side, [count]."""
    u = (2 * np.arange(count) + 1) / count - 1
    return np.asarray(SCALE * u / (1 - np.abs(u)))


@functools.lru_cache(maxsize=32)
def minima(activation: Smooth, weight: float) -> Minima:
    """Return the table of an activation for one λ, which is scanned and then polished.

    The tables of the last few pairs are kept: a run asks for the same ones in every iteration of every layer.
    """
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
        flat, _ = activation.improved(flat, t, p, weight)
    u = _warped(flat).reshape(CELLS, CELLS)
    spread = scipy.ndimage.maximum_filter(u, 3) - scipy.ndimage.minimum_filter(u, 3)
    return Minima(flat.astype(np.float32), (spread > ABRUPT).ravel())
