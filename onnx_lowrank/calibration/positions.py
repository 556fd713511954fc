"""Where a convolution's responses are sampled, and the input patches under those places.

A conv with kernel (kh, kw), strides (sh, sw), dilations (eh, ew) and pads (t, l, b, r) computes its response at the
output position (u, v) from the patch

    patch[c, i, j] = x[c, u·sh − t + i·eh, v·sw − l + j·ew],   zero outside x,

and likewise with any other number of spatial axes. Sampled rows are n×c×kh×kw (patches) and n×d (responses),
image-major and then by position. A position is the index into the flattened output map. The positions depend only on
the seed, the site and the batch, so the original and the approximated network are sampled at the same places.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def positions(seed: int, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
    """Choose output positions of one site for one batch, without replacement.

    Their order is random too: a prefix of them is spread over the whole map, so rows may be split anywhere.

    Parameters
    ----------
    seed
        The run's seed.
    name
        The site's name.
    batch
        The batch's number.
    size
        Of the site's output map, along every spatial axis.
    count
        How many positions; clipped to what the map has.

    Returns
    -------
    NDArray[np.int64]
        Indices into the flattened map, shape [count].
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), batch])
    all_of_them = math.prod(size)
    return generator.choice(all_of_them, size=min(count, all_of_them), replace=False).astype(np.int64)


def gather_patches(
    x: NDArray[np.floating],
    where: NDArray[np.int64],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> NDArray[np.float32]:
    """Gather the input patches that a conv sees at some output positions.

    Parameters
    ----------
    x
        The conv's input, shape [N, c, *size].
    where
        Output positions, shape [count], the same for every image.
    kernel, strides, dilations
        The conv's attributes, one number for each spatial axis.
    pads
        Zero padding as ONNX has it: in front along every axis, then behind.

    Returns
    -------
    NDArray[np.float32]
        Patches, shape [N * count, c, *kernel], C-contiguous, so that a reshape to [N * count, -1] is free.

    Raises
    ------
    ValueError
        If a position lies outside the conv's output map.
    """
    images, channels, *sizes = x.shape
    axes, count = len(sizes), len(where)
    outputs = [
        (sizes[a] + pads[a] + pads[axes + a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(axes)
    ]
    if count and (where.min() < 0 or where.max() >= math.prod(outputs)):
        raise ValueError(f"positions {where.min()}..{where.max()} lie outside the {math.prod(outputs)} outputs")
    pixel, inside = np.zeros((count, 1), np.int64), np.ones((count, 1), bool)
    for a, places in enumerate(np.unravel_index(where, outputs) if axes else ()):
        taps = places[:, None] * strides[a] - pads[a] + np.arange(kernel[a]) * dilations[a]
        within = (taps >= 0) & (taps < sizes[a])
        inside = (inside[:, :, None] & within[:, None, :]).reshape(count, -1)
        pixel = (pixel[:, :, None] * sizes[a] + np.clip(taps, 0, sizes[a] - 1)[:, None, :]).reshape(count, -1)
    # One table of addresses in the final order serves all images: each image costs one pass that writes its output
    # in sequence, with neither a padded copy of x nor a transposition. Taps outside read a neighbour, zeroed below.
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


def gather_points(y: NDArray[np.floating], where: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gather a site's responses at some output positions.

    Parameters
    ----------
    y
        Responses, shape [N, d, *size].
    where
        Output positions, shape [count].

    Returns
    -------
    NDArray[np.float32]
        Shape [N * count, d], C-contiguous, in the row order of :func:`gather_patches`.
    """
    points = y.reshape(*y.shape[:2], -1)[:, :, where].transpose(0, 2, 1)
    return np.ascontiguousarray(points, dtype=np.float32).reshape(-1, y.shape[1])
