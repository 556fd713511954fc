"""The positions at which a convolution's responses are sampled, and the input patches that belong to them.

A conv with kernel (kh, kw), strides (sh, sw), dilations (eh, ew) and pads (t, l, b, r) computes its response at the
output position (u, v) from the patch

    patch[c, i, j] = x[c, u·sh − t + i·eh, v·sw − l + j·ew],   zero outside x,

and likewise with any other number of spatial axes. A position is an index into the flattened output map. The sampled
rows are patches, n×c×kh×kw, and responses, n×d, ordered by image and then by position. The positions depend only on the
seed, the site and the batch, so the original and the approximated network are sampled at the same ones.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def positions(seed: int, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
    """Choose output positions of one site for one batch at random, without replacement.

    Their order is random as well. So the first few of them are spread over the whole map, and rows may be split
    anywhere.

    Parameters
    ----------
    seed
        The run's seed.
    name
        The site's name.
    batch
        The batch's number.
    size
        The size of the site's output map along every spatial axis.
    count
        The number of positions; at most all positions of the map are chosen.

    Returns
    -------
    NDArray[np.int64]
        [count], indices into the flattened map.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), batch])
    total = math.prod(size)
    return generator.choice(total, size=min(count, total), replace=False).astype(np.int64)


def gather_patches(
    x: NDArray[np.floating],
    positions: NDArray[np.int64],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> NDArray[np.float32]:
    """Gather the input patches from which a convolution computes its responses at some positions.

    Parameters
    ----------
    x
        [N, c, *size], the convolution's input.
    positions
        [count], the same for every image.
    kernel, strides, dilations
        The convolution's attributes, one number for each spatial axis.
    pads
        The zero padding in ONNX's order: in front along every spatial axis, then behind.

    Returns
    -------
    NDArray[np.float32]
        [N * count, c, *kernel], C-contiguous, so that a reshape to [N * count, -1] is free.

    Raises
    ------
    ValueError
        If a position lies outside the output map.
    """
    images, channels, *sizes = x.shape
    axes, count = len(sizes), len(positions)
    outputs = [
        (sizes[a] + pads[a] + pads[axes + a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(axes)
    ]
    if count and (positions.min() < 0 or positions.max() >= math.prod(outputs)):
        lowest, highest = positions.min(), positions.max()
        raise ValueError(f"positions {lowest}..{highest} lie outside the {math.prod(outputs)} outputs")
    pixel, inside = np.zeros((count, 1), np.int64), np.ones((count, 1), bool)
    for a, places in enumerate(np.unravel_index(positions, outputs) if axes else ()):
        taps = places[:, None] * strides[a] - pads[a] + np.arange(kernel[a]) * dilations[a]
        within = (taps >= 0) & (taps < sizes[a])
        inside = (inside[:, :, None] & within[:, None, :]).reshape(count, -1)
        pixel = (pixel[:, :, None] * sizes[a] + np.clip(taps, 0, sizes[a] - 1)[:, None, :]).reshape(count, -1)
    # One table of addresses in the final order serves all images. Each image costs one pass that writes its output in
    # sequence, with neither a padded copy of x nor a transposition. Taps outside x read a neighbour and are zeroed
    # below.
    address = pixel[:, None, :] + (np.arange(channels) * math.prod(sizes))[:, None]
    patches = np.empty((images, *address.shape), np.float32)
    for image, patch in zip(x, patches, strict=True):
        if image.dtype == np.float32:
            np.take(image.reshape(-1), address, out=patch, mode="clip")  # "raise" would buffer the output
        else:
            patch[...] = np.take(image.reshape(-1), address, mode="clip")
    position, tap = np.nonzero(~inside)
    if len(position):
        patches[:, position, :, tap] = 0
    return patches.reshape(images * count, channels, *kernel)


def gather_points(y: NDArray[np.floating], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather a site's responses at some positions.

    Parameters
    ----------
    y
        [N, d, *size], the responses.
    positions
        [count], the same for every image.

    Returns
    -------
    NDArray[np.float32]
        [N * count, d], C-contiguous, in the row order of :func:`gather_patches`.
    """
    points = y.reshape(*y.shape[:2], -1)[:, :, positions].transpose(0, 2, 1)
    return np.ascontiguousarray(points, dtype=np.float32).reshape(-1, y.shape[1])
