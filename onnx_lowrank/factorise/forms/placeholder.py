"""Factors of the right shapes whose values mean nothing, for measuring what a form costs before anything is solved."""

import math

import numpy as np

from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.forms.spatial import cut_behind


def placeholder(form: str, kernel: tuple[int, ...], group: int, ranks: tuple[int, ...]) -> Factorization:
    """A factorisation in a form, at ranks from the input on, of a kernel [d, c of a group, *sizes] in groups.

    The values keep responses near the size of the inputs: numbers close to zero would be slower to compute with.
    """
    d, c, *sizes = kernel
    rng = np.random.default_rng(0)
    everywhere, nowhere = (True,) * len(sizes), (False,) * len(sizes)
    before = tuple(axis < cut_behind(sizes) for axis in range(len(sizes)))
    behind = tuple(not own for own in before)

    def link(filters: int, channels: int, carries: tuple[bool, ...], depthwise: bool = False) -> Link:
        own = tuple(size if carried else 1 for size, carried in zip(sizes, carries, strict=True))
        values = rng.random((filters, channels, *own), np.float32) - np.float32(0.5)
        return Link(values * np.float32((12 / (channels * math.prod(own))) ** 0.5), carries, depthwise)

    if form == "cp":
        (r,) = ranks
        chain = (link(r * group, c, nowhere), link(r * group, 1, everywhere, True), link(d, r, nowhere))
        return Factorization(form, chain, np.ones(d, np.float32), group)
    of_form = {"channel": (everywhere, nowhere), "spatial": (before, behind), "3d": (before, behind, nowhere)}[form]
    reads, makes = (c, *ranks), (*(rank * group for rank in ranks), d)
    links = tuple(link(filters, channels, own) for filters, channels, own in zip(makes, reads, of_form, strict=True))
    return Factorization(form, links, np.ones(d, np.float32), group)
