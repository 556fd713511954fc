"""Factors of the right shapes whose values mean nothing, for measuring what a form costs before anything is solved."""

import numpy as np

from onnx_lowrank.factorise.factors import Factorization, Stage


def placeholder(form: str, kernel: tuple[int, ...], ranks: tuple[int, ...]) -> Factorization:
    """A factorisation in a form, at ranks from the input on, of a kernel of shape [d, c, k, l].

    The values keep responses near the size of the inputs: numbers close to zero would be slower to compute with.
    """
    d, c, height, width = kernel
    rng = np.random.default_rng(0)

    def stage(filters: int, channels: int, rows: bool, columns: bool) -> Stage:
        shape = (filters, channels, height if rows else 1, width if columns else 1)
        values = rng.random(shape, np.float32) - np.float32(0.5)
        return Stage(values * np.float32((12 / (channels * shape[2] * shape[3])) ** 0.5), rows, columns)

    if form == "channel":
        stages = (stage(ranks[0], c, True, True), stage(d, ranks[0], False, False))
    elif form == "spatial":
        stages = (stage(ranks[0], c, True, False), stage(d, ranks[0], False, True))
    else:
        first, second = ranks
        vertical, horizontal = stage(first, c, True, False), stage(second, first, False, True)
        return Factorization(form, (vertical, horizontal, stage(d, second, False, False)), np.ones(d, np.float32))
    return Factorization(form, stages, np.ones(d, np.float32))
