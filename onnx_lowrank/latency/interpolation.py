"""Milliseconds at ranks that were not measured: interpolated between measured neighbours, never beyond the outermost.

A layer with more channels never takes less time; measured times do only because of noise. So they are made monotone in
the ranks first, with the least squared change (isotonic regression). A planner would choose just what was measured too
fast by chance; this averages it with its neighbours.

The forms with one rank are interpolated linearly. The 3D form has two ranks, (d'', d'), and its multiply-accumulates
are bilinear in them,

    d''·c·k·… + d''·d'·l·… + d'·d·…,

so between the four corners of a cell of the measured grid the times are interpolated bilinearly.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Array = NDArray[Any]

SWEEPS = 20
"""The number of alternating projections, which settle within a few."""


def between(measured: Mapping[tuple[int, ...], float], ranks: Array) -> Array:
    """Return the milliseconds of one form at ranks.

    Parameters
    ----------
    measured
        Measured milliseconds by ranks.
    ranks
        [m, number of ranks of the form].

    Returns
    -------
    Array
        [m], the monotone times at measured ranks, interpolated times between measured ranks, and infinity elsewhere.
    """
    measured = monotone(measured)
    if not measured:
        return np.full(len(ranks), np.inf)
    if ranks.shape[1] == 1:
        known = np.array(sorted(rank for (rank,) in measured))
        times = np.array([measured[rank,] for rank in known.tolist()])
        return np.asarray(np.interp(ranks[:, 0], known, times, left=np.inf, right=np.inf))
    result = np.full(len(ranks), np.inf)
    for cell in _cells(measured):
        (s0, s1), (r0, r1) = cell
        inside = np.flatnonzero((ranks >= (s0, r0)).all(axis=1) & (ranks <= (s1, r1)).all(axis=1))
        a, b = (ranks[inside, 0] - s0) / (s1 - s0), (ranks[inside, 1] - r0) / (r1 - r0)
        corners = [measured[s, r] for s, r in itertools.product((s0, s1), (r0, r1))]
        shares = ((1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b)
        result[inside] = sum(share * corner for share, corner in zip(shares, corners, strict=True))
    for (s, r), time in measured.items():
        result[(ranks == (s, r)).all(axis=1)] = time
    return result


def monotone(measured: Mapping[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    """Return the times with the least squared change from the measured ones that never fall as a rank rises.

    For two ranks these are found by Dykstra's alternating projections on "rises along d''" and "rises along d'" (J. P.
    Boyle and R. L. Dykstra, Advances in Order Restricted Statistical Inference, 1986, pp. 28-47).

    Parameters
    ----------
    measured
        Measured milliseconds by ranks.
    """
    ranks = sorted(measured)
    if not ranks:
        return {}
    if len(ranks[0]) == 1:
        smooth = isotonic_regression([measured[r] for r in ranks]).x
        return dict(zip(ranks, map(float, smooth), strict=True))
    times, corrections = dict(measured), [dict.fromkeys(measured, 0.0), dict.fromkeys(measured, 0.0)]
    for _ in range(SWEEPS):
        for axis, correction in enumerate(corrections):
            start = {r: times[r] + correction[r] for r in ranks}
            for fixed in {r[1 - axis] for r in ranks}:
                line = [r for r in ranks if r[1 - axis] == fixed]
                smooth = isotonic_regression([start[r] for r in line]).x
                times.update(zip(line, map(float, smooth), strict=True))
            correction.update({r: start[r] - times[r] for r in ranks})
    return times


def _cells(measured: Mapping[tuple[int, ...], float]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the grid's cells whose four corners are all measured, large ones first, so that small ones prevail."""
    cells = []
    columns = sorted({ranks[0] for ranks in measured})
    for s0, s1 in itertools.combinations(columns, 2):
        shared = sorted({r for s, r in measured if s == s0} & {r for s, r in measured if s == s1})
        cells += [((s0, s1), (r0, r1)) for r0, r1 in itertools.pairwise(shared)]
    return sorted(cells, key=lambda cell: -(cell[0][1] - cell[0][0]) * (cell[1][1] - cell[1][0]))
